"""One seed of an engine's ``state_dict`` as separate networks, and back."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

#: One network's tensors: ``layers.{i}.weight`` ``[out, in]``, ``layers.{i}.bias`` ``[out]``, and
#: the actor's ``log_std`` ``[A]``.
Net = dict[str, Tensor]


def split(state: Mapping[str, Tensor], index: int = 0) -> dict[str, Net]:
    """The networks ``value``, ``actor``, ``critic0``, ``target0``, ``critic1`` and so on of the
    ``index``-th seed."""
    nets: dict[str, Net] = {}
    for name, tensor in state.items():
        net, _, key = name.partition(".")
        if net in ("value", "actor"):
            nets.setdefault(net, {})[key] = tensor[index]
        elif net in ("critic", "target"):
            for e, one in enumerate(tensor[index]):
                nets.setdefault(f"{net}{e}", {})[key] = one
    return nets


def join(nets: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """What ``split`` took apart, copied."""
    parts: dict[str, list[Tensor]] = {}
    for net, tensors in nets.items():
        for key, tensor in tensors.items():
            parts.setdefault(f"{net.rstrip('0123456789')}.{key}", []).append(tensor.detach())
    return {
        name: torch.stack(found).unsqueeze(0)
        if name.startswith(("critic", "target"))
        else found[0].clone().unsqueeze(0)
        for name, found in parts.items()
    }
