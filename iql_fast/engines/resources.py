"""What training will take, known before it is taken."""

from __future__ import annotations

import itertools
import math

from iql_fast.engines.base import DTYPES, Hyperparameters, NetworkSpec, Precision
from iql_fast.methods.base import Method
from iql_fast.methods.dt import DT, EXPANSION
from iql_fast.support.cores import usable_cores
from iql_fast.support.errors import UserError
from iql_fast.support.memory import available_bytes

#: Copies of a trained parameter: itself, its gradient, Adam's two moments, its form for products,
#: and the state that checkpoints are written from.
COPIES = 6
#: Threads a core, above which nobody wants to go.
MOST_THREADS_A_CORE = 16


def needed_bytes(
    network: NetworkSpec, hyper: Hyperparameters, seeds: int, precision: Precision = "fp32"
) -> int:
    """Bytes that an engine takes at least, the dataset aside."""
    nets = {
        "value": (network.obs_dim, 1, 1),
        "actor": (network.obs_dim, network.act_dim, 1),
        "critics and targets": (network.obs_dim + network.act_dim, 1, 2 * network.critics),
    }
    parameters = 0
    for inputs, outputs, count in nets.values():
        sizes = (inputs, *network.hidden, outputs)
        parameters += count * sum((i + 1) * o for i, o in itertools.pairwise(sizes))
    rows = hyper.batch_size * (sum(network.hidden) + 2 * network.obs_dim + network.act_dim)
    return (COPIES * parameters + 2 * rows) * seeds * DTYPES[precision].itemsize


def check_method_memory(
    method: Method, obs_dim: int, act_dim: int, seeds: int, precision: Precision = "fp32"
) -> None:
    """As ``check_memory``, for any method."""
    if isinstance(method, DT):
        _require(_needed_by_sequences(method, obs_dim, act_dim, seeds, precision), method, seeds)
        return
    parameters = rows = widest = 0
    for net in method.nets(obs_dim, act_dim):
        sizes = (net.inputs, *net.hidden, net.outputs)
        count = (net.ensemble or 1) * (2 if net.target else 1)
        parameters += count * sum((i + 1) * o for i, o in itertools.pairwise(sizes))
        rows += (net.ensemble or 1) * method.batch_size * sum(sizes)
        widest = max(widest, *sizes)
    # Sampled actions are rows of some network too.
    shapes = [draw.shape for draw in method.draws(obs_dim, act_dim).values()]
    rows += widest * max((math.prod(shape[:-1]) for shape in shapes), default=0)
    size = DTYPES[precision].itemsize
    drawn = 8 * sum(math.prod(shape) for shape in shapes)  # in double precision at first
    _require(((COPIES * parameters + rows) * size + drawn) * seeds, method, seeds)


def _needed_by_sequences(
    method: DT, obs_dim: int, act_dim: int, seeds: int, precision: Precision
) -> int:
    """Bytes, of which those for a batch are needed once: one seed is trained after the other."""
    parts = method.parts(obs_dim, act_dim).values()
    parameters = sum(math.prod(part.shape) for part in parts)
    dropped = sum(math.prod(shape) for shape in method.dropped())
    hidden = method.layers * method.tokens * EXPANSION * method.width
    # Factors of dropout and what they are applied to, and the hidden layers.
    kept_for_gradients = method.batch_size * (2 * dropped + hidden)
    return (COPIES * parameters * seeds + kept_for_gradients) * DTYPES[precision].itemsize


def _require(needed: int, method: Method, seeds: int) -> None:
    """Raise a ``UserError`` where that is more than the memory that is left."""
    left = available_bytes()
    if left is not None and needed > left:
        raise UserError(
            f"{seeds} seed(s) of {method.title} need {_gib(needed)} of memory at least; "
            f"{_gib(left)} are left here. Take fewer seeds, or smaller networks or batches."
        )


def check_memory(
    network: NetworkSpec, hyper: Hyperparameters, seeds: int, precision: Precision = "fp32"
) -> None:
    """Raise a ``UserError`` where that is more than the memory that is left."""
    needed, left = needed_bytes(network, hyper, seeds, precision), available_bytes()
    if left is not None and needed > left:
        widths = " ".join(map(str, network.hidden))
        raise UserError(
            f"{seeds} seed(s) of networks with hidden layers of {widths}, {network.critics} "
            f"critics and batches of {hyper.batch_size} need {_gib(needed)} of memory at least; "
            f"{_gib(left)} are left here. Take fewer seeds, or smaller networks or batches."
        )


def check_threads(threads: int) -> str | None:
    """A sentence for the user where there are more threads than cores.

    Raises:
        UserError: there are far more.
    """
    cores = usable_cores()
    most = max(64, MOST_THREADS_A_CORE * cores)
    if threads > most:
        raise UserError(
            f"--threads is {threads}, but there are {cores} core(s) here; at most {most} threads "
            "make sense."
        )
    if threads > cores:
        return f"{threads} threads share {cores} core(s), which is slower than {cores} threads"
    return None


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size < 10 * 2**30 else f"{math.ceil(size / 2**30):,} GiB"
