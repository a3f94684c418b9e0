"""How many hidden units are active, which the speed of our engine depends on.

Its products skip the zeros that come out of a ReLU; those of the rivals do not.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from iql_fast.engines import Batch


def active_share(state: Mapping[str, Tensor], batch: Batch) -> float:
    """Share of the hidden activations of the trained networks that are not zero, on a batch."""
    s, a = batch.observations, batch.actions
    sa = torch.cat([s, a], -1)[:, None]  # for the critics' axis
    active = total = 0
    for net, x in {"value": s, "actor": s, "critic": sa}.items():
        layers = sum(name.startswith(f"{net}.layers.") for name in state) // 2
        for i in range(layers - 1):
            weight, bias = (state[f"{net}.layers.{i}.{part}"] for part in ("weight", "bias"))
            x = torch.relu(x @ weight.transpose(-1, -2) + bias.unsqueeze(-2))
            active += int((x > 0).sum())
            total += x.numel()
    return active / total
