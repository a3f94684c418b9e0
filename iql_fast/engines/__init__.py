"""The training engines and the one place that chooses among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from iql_fast.data.dataset import Transitions
from iql_fast.engines import kernel_choice, resources
from iql_fast.engines.base import (
    DTYPES,
    METRICS,
    PER_SEED,
    PRECISIONS,
    Engine,
    Hyperparameters,
    Metrics,
    NetworkSpec,
    Precision,
)
from iql_fast.engines.kernel_choice import KernelChoice
from iql_fast.methods.base import Batch, Method
from iql_fast.methods.dt import DT
from iql_fast.methods.iql import TRAINED, Stage
from iql_fast.support import extension
from iql_fast.support.cores import usable_cores
from iql_fast.support.errors import UserError

__all__ = [
    "METRICS",
    "PER_SEED",
    "PRECISIONS",
    "TRAINED",
    "Batch",
    "Device",
    "Engine",
    "Hyperparameters",
    "KernelChoice",
    "Metrics",
    "NetworkSpec",
    "Precision",
    "Stage",
    "available",
    "available_for",
    "check",
    "check_online",
    "choose",
    "choose_for",
    "create",
    "default_device",
    "device_of",
    "for_method",
]

#: Where torch computes.
Device = Literal["cpu", "cuda"]
NAMES = ("cuda", "graph", "cpu", "reference")  # in order of preference


def available(
    precision: Precision = "fp32",
    network: NetworkSpec | None = None,
    hyper: Hyperparameters | None = None,
) -> dict[str, str]:
    """Engine name -> ``""`` where it can be used here in that precision, and for that network and
    those hyperparameters where they are given; else why it cannot."""
    from iql_fast.engines import cpu, cuda, graph, reference

    return {
        "cuda": cuda.unavailable_reason(precision, network, hyper),
        "graph": graph.unavailable_reason(precision, hyper),
        "cpu": cpu.unavailable_reason(precision),
        "reference": reference.unavailable_reason(precision),
    }


def check(
    name: str,
    precision: Precision = "fp32",
    network: NetworkSpec | None = None,
    hyper: Hyperparameters | None = None,
) -> dict[str, str]:
    """``available``, where ``name`` (or ``"auto"``) is among what can be used.

    Raises:
        UserError: the engine does not exist, or cannot be used here, with the reason.
    """
    reasons = available(precision, network, hyper)
    _check_usable(name, reasons)
    return reasons


def _check_usable(name: str, reasons: Mapping[str, str]) -> None:
    if not any(reason == "" for reason in reasons.values()):
        listed = "; ".join(f"{engine}: {reason}" for engine, reason in reasons.items())
        raise UserError(f"No engine can do that here ({listed}).")
    if name not in ("auto", *reasons):
        raise UserError(f"There is no engine {name!r}. Use one of: auto, {', '.join(NAMES)}.")
    if reasons.get(name):
        usable = ", ".join(engine for engine in NAMES if not reasons[engine])
        raise UserError(
            f"The engine {name!r} cannot be used here: {reasons[name]}. Usable engines: {usable}; "
            "`python -m iql_fast.info` says more."
        )


def for_method(
    method: Method,
    data: Transitions,
    seeds: Sequence[int],
    *,
    name: str = "auto",
    precision: Precision = "fp32",
    threads: int = 0,
    device: Device | None = None,
) -> Engine:
    """An engine for any method, with freshly initialised networks.

    Rows and observations are trained on as they are: to choose the best trajectories, or to scale
    observations, is the caller's (``iql_fast.data.transform``).

    Args:
        name: ``"graph"`` (over this package's operators, on a CUDA device under CUDA graphs where
            there is one; for DT, over torch's fused ones, without graphs), ``"reference"`` (plain
            torch on the CPU, the specification), or ``"auto"``: the first that can be used.
        precision: ``"fp32"`` or ``"fp64"``.
        threads: CPU threads; 0 takes all cores that this process may use.
        device: of the engine ``"graph"``; None: a CUDA device where there is one.

    Raises:
        UserError: the engine has not the method or the precision, or needs more memory or threads
            than there are.
        ValueError: seeds or columns are not what they should be.
    """
    import torch

    from iql_fast.engines.captured import CapturedEngine
    from iql_fast.engines.generic import GenericEngine
    from iql_fast.engines.graph import native_kernels
    from iql_fast.engines.sequence import SequenceEngine

    _check_seeds(seeds)
    _check_columns(data, NetworkSpec(data.obs_dim, data.act_dim))
    if threads < 0:
        raise ValueError(f"threads is {threads}; expected 0 or more")
    resources.check_threads(threads)
    device = device or default_device()
    chosen, _ = choose_for(method, name, precision, device)
    resources.check_method_memory(method, data.obs_dim, data.act_dim, len(seeds), precision)
    torch.set_num_threads(threads or usable_cores())
    at = torch.device("cpu")
    if chosen == "graph" and device == "cuda":
        at = torch.device("cuda", torch.cuda.current_device())
    if isinstance(method, DT):
        native = chosen == "graph"
        return SequenceEngine(method, data, seeds, precision, native=native, device=at)
    if at.type == "cuda":
        native = native_kernels(at)
        return CapturedEngine(method, data, seeds, precision, native=native, device=at)
    return GenericEngine(method, data, seeds, precision, native=chosen == "graph")


def available_for(
    method: Method, precision: Precision = "fp32", device: Device | None = None
) -> dict[str, str]:
    """As ``available``, for a method that is not IQL.

    Args:
        device: of ``"graph"``; None: as ``for_method``.
    """
    from iql_fast.engines import graph, sequence

    only = f"it trains IQL alone, and the method is {method.name}"
    on_cuda = (device or default_device()) == "cuda"
    missing = graph.NO_DEVICE if on_cuda and default_device() == "cpu" else ""
    if isinstance(method, DT):
        return {
            "cuda": only,
            "graph": sequence.unavailable_reason(precision, native=True) or missing,
            "cpu": only,
            "reference": sequence.unavailable_reason(precision),
        }
    other = "" if precision in ("fp32", "fp64") else f"it has no {precision} precision"
    missing = missing if on_cuda else extension.unavailable_reason()
    return {"cuda": only, "graph": other or missing, "cpu": only, "reference": other}


def default_device() -> Device:
    """Where the engine ``"graph"`` of any method trains, unless told."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def device_of(engine: Engine) -> Device:
    """Where an engine trains."""
    at = getattr(engine, "device", None)
    return "cuda" if engine.name == "cuda" or (at is not None and at.type == "cuda") else "cpu"


def check_online(name: str) -> None:
    """Raise a ``UserError`` where an engine of that name cannot meet transitions while it trains.

    IQL's own engines of that kind are ``cuda``, ``cpu`` and ``reference``; those of any method all
    are.
    """
    if name == "graph":
        raise UserError(
            "The engine 'graph' trains IQL on a dataset that stays as it is. Fine-tune with "
            "--engine cuda, cpu or reference."
        )


def choose_for(
    method: Method, name: str, precision: Precision = "fp32", device: Device | None = None
) -> tuple[str, str]:
    """As ``choose``, for a method that is not IQL; ``device`` as ``available_for``."""
    return _first(name, available_for(method, precision, device))


def _first(name: str, reasons: Mapping[str, str]) -> tuple[str, str]:
    _check_usable(name, reasons)
    if name != "auto":
        return name, "asked for"
    chosen = next(engine for engine in NAMES if not reasons[engine])
    passed = [f"{e}: {reasons[e]}" for e in NAMES[: NAMES.index(chosen)]]
    return chosen, "; ".join(passed) or "the fastest engine is usable"


def choose(
    name: str,
    precision: Precision = "fp32",
    network: NetworkSpec | None = None,
    hyper: Hyperparameters | None = None,
) -> tuple[str, str]:
    """The engine that ``name`` means and why: ``auto`` takes the first that can be used.

    Raises:
        UserError: see ``check``.
    """
    return _first(name, check(name, precision, network, hyper))


def create(
    name: str,
    network: NetworkSpec,
    hyper: Hyperparameters,
    data: Transitions,
    seeds: Sequence[int],
    *,
    precision: Precision = "fp32",
    threads: int = 0,
    kernels: KernelChoice | None = None,
) -> Engine:
    """An engine with freshly initialised networks.

    Args:
        name: ``"auto"``, ``"cuda"``, ``"graph"``, ``"cpu"`` or ``"reference"``.
        precision: ``"fp32"``, ``"fp64"``, ``"mixed"``, ``"bf16x3"`` or ``"tf32"``; not every engine
            has each (``PRECISIONS``).
        threads: CPU threads; 0 takes all cores that this process may use.
        kernels: of the engine ``"cpu"``; None takes those that are fastest here
            (``kernel_choice.choose``).

    Raises:
        UserError: the engine cannot be used here, or needs more memory or threads than there are.
        ValueError: seeds or columns are not what they should be.
    """
    import torch

    if precision not in DTYPES:
        raise ValueError(f"precision is {precision!r}; expected one of {', '.join(DTYPES)}")
    _check_seeds(seeds)
    _check_columns(data, network)
    if threads < 0:
        raise ValueError(f"threads is {threads}; expected 0 or more")
    resources.check_threads(threads)
    name, _ = choose(name, precision, network, hyper)
    if name in ("cpu", "reference"):
        resources.check_memory(network, hyper, len(seeds), precision)
    if name == "cuda":
        from iql_fast.engines.cuda import CudaEngine

        return CudaEngine(network, hyper, data, seeds, precision)
    if name == "graph":
        from iql_fast.engines.graph import GraphEngine

        return GraphEngine(network, hyper, data, seeds, precision)
    if name == "cpu":
        from iql_fast.engines.cpu import CpuEngine

        kernels = kernels or kernel_choice.choose(precision, network, hyper.batch_size)
        return CpuEngine(network, hyper, data, seeds, precision, threads, kernels)
    from iql_fast.engines.reference import ReferenceEngine

    if threads:
        torch.set_num_threads(threads)
    return ReferenceEngine(network, hyper, data, seeds, precision)


def _check_seeds(seeds: Sequence[int]) -> None:
    wrong = [s for s in seeds if isinstance(s, bool) or s != int(s) or not 0 <= s < 2**63]
    if not len(seeds) or wrong:
        raise ValueError(f"seeds are {list(seeds)[:8]}; expected whole numbers of 0 to 2^63 - 1")


def _check_columns(data: Transitions, network: NetworkSpec) -> None:
    rows, wide = len(data), (network.obs_dim, network.act_dim)
    shapes = {
        "observations": (rows, wide[0]),
        "actions": (rows, wide[1]),
        "rewards": (rows,),
        "masks": (rows,),
        "next_observations": (rows, wide[0]),
    }
    optional = {"next_actions": (rows, wide[1]), "returns_to_go": (rows,), "times": (rows,)}
    shapes |= {name: optional[name] for name in optional.keys() & data.columns().keys()}
    for name, shape in shapes.items():
        column = getattr(data, name)
        if column.shape != shape or column.dtype != np.float32 or not column.flags.c_contiguous:
            raise ValueError(
                f"{name} is {column.dtype} {column.shape}; expected contiguous float32 {shape}"
            )
    if not rows:
        raise ValueError("there are no transitions to train on")
