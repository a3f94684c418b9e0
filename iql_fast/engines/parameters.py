"""Names, shapes and initial values of an engine's state."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from iql_fast.engines.base import NetworkSpec
from iql_fast.methods.iql import TRAINED


def layer_sizes(net: str, network: NetworkSpec) -> list[tuple[int, int]]:
    """(inputs, outputs) of each layer of a network."""
    inputs = network.obs_dim + (network.act_dim if net in ("critic", "target") else 0)
    outputs = network.act_dim if net == "actor" else 1
    widths = [inputs, *network.hidden, outputs]
    return list(itertools.pairwise(widths))


def parameter_shapes(net: str, network: NetworkSpec, seeds: int) -> Iterator[tuple[str, list[int]]]:
    """(name, shape) of each parameter of a network, the seeds leading."""
    lead = [seeds, network.critics] if net in ("critic", "target") else [seeds]
    for i, (inputs, outputs) in enumerate(layer_sizes(net, network)):
        yield f"{net}.layers.{i}.weight", [*lead, outputs, inputs]
        yield f"{net}.layers.{i}.bias", [*lead, outputs]
    if net == "actor":
        yield "actor.log_std", [seeds, network.act_dim]


def state_shapes(network: NetworkSpec, seeds: int) -> dict[str, list[int]]:
    """Every tensor of ``Engine.state_dict`` but ``step``, with its shape."""
    trained = [pair for net in TRAINED for pair in parameter_shapes(net, network, seeds)]
    shapes = dict(trained)
    shapes |= dict(parameter_shapes("target", network, seeds))
    for moment in ("m", "v"):
        shapes |= {f"adam.{moment}.{name}": shape for name, shape in trained}
    return shapes


def initial_state(
    network: NetworkSpec, seeds: Sequence[int], dtype: torch.dtype
) -> dict[str, Tensor]:
    """The authors' initialisation: orthogonal weights with gain sqrt(2) on every layer, outputs
    included, zero biases, log-std 0, the target a copy of the critics, Adam's moments zero.

    Drawn in float64 from each seed's own generator, so that a seed starts from the same weights
    whatever the precision and whichever seeds train beside it.
    """
    state = {
        name: torch.zeros(shape, dtype=dtype)
        for name, shape in state_shapes(network, len(seeds)).items()
    }
    for s, seed in enumerate(seeds):
        generator = torch.Generator().manual_seed(seed)
        for net in TRAINED:
            for name, shape in parameter_shapes(net, network, 1):
                if not name.endswith("weight"):
                    continue
                for matrix in state[name][s].view(-1, *shape[-2:]):
                    weight = torch.empty(matrix.shape, dtype=torch.float64)
                    torch.nn.init.orthogonal_(weight, math.sqrt(2), generator=generator)
                    matrix.copy_(weight)
    for name, _ in parameter_shapes("target", network, len(seeds)):
        state[name].copy_(state[name.replace("target", "critic", 1)])
    state["step"] = torch.zeros((), dtype=torch.int64)
    return state


def check_state(state: Mapping[str, Tensor], network: NetworkSpec, seeds: int) -> None:
    """``check_shapes`` of IQL's state."""
    check_shapes(state, state_shapes(network, seeds))


def check_shapes(state: Mapping[str, Tensor], of: Mapping[str, list[int]]) -> None:
    """Raise ``ValueError`` naming the first tensor that is missing, unknown or misshapen.

    Args:
        of: the shape of each tensor but ``step``.
    """
    shapes: dict[str, list[int]] = {**of, "step": []}
    for name, shape in shapes.items():
        if name not in state:
            raise ValueError(f"the state has no {name!r}")
        if list(state[name].shape) != shape:
            raise ValueError(f"{name!r} has shape {list(state[name].shape)}, expected {shape}")
    if unknown := sorted(set(state) - set(shapes)):
        raise ValueError(f"the state has an unknown tensor {unknown[0]!r}")
