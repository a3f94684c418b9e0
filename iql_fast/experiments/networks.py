"""The trained networks' values, from an engine's state."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from iql_fast.experiments.expectiles import Array


def outputs(state: Mapping[str, Tensor], net: str, index: int, x: Array) -> Array:
    """What a network of the ``index``-th seed says at inputs ``[N, in]``.

    Args:
        state: ``Engine.state_dict()``.
        net: ``"value"``, ``"critic"`` or ``"target"``.

    Returns:
        ``[N]``, or ``[E, N]`` of the E critics.
    """
    hidden = torch.from_numpy(np.asarray(x, dtype=np.float64))
    layers = sum(name.startswith(f"{net}.layers.") for name in state) // 2
    for i in range(layers):
        weight, bias = (
            state[f"{net}.layers.{i}.{part}"][index].double() for part in ("weight", "bias")
        )
        hidden = hidden @ weight.transpose(-1, -2) + bias.unsqueeze(-2)
        if i < layers - 1:
            hidden = torch.relu(hidden)
    return np.asarray(hidden.squeeze(-1).numpy())
