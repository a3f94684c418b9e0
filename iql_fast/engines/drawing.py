"""Random numbers of steps, from the counter-based generator."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iql_fast.formulas import philox
from iql_fast.methods.base import Draw

#: Draws of a method have the streams from here on, in the order in which it declares them.
METHOD_STREAM = 64


def drawn(draw: Draw, stream: int, seeds: Tensor, steps: Tensor) -> Tensor:
    """The numbers of steps ``[K]``, float64: ``[K, S, *shape]``.

    Args:
        stream: its place among the method's draws.
    """
    count = math.prod(draw.shape)
    index = torch.arange((count + 3) // 4, device=seeds.device)
    words = philox.draw(seeds[:, None], steps[:, None, None], METHOD_STREAM + stream, index)
    numbers = normals(words) if draw.kind == "normal" else [uniform(word) for word in words]
    flat = torch.stack(numbers, -1).flatten(2)[..., :count]
    return flat.reshape(len(steps), len(seeds), *draw.shape)


def explorations(seeds: Sequence[int], numbers: Sequence[int], act_dim: int) -> NDArray[np.float32]:
    """Standard normal noise of the actions that were taken as those numbers, ``[K, S, A]``."""
    index = torch.arange((act_dim + 3) // 4)
    keys, steps = torch.tensor(list(seeds))[:, None], torch.tensor(list(numbers))[:, None, None]
    words = philox.draw(keys, steps, philox.EXPLORATION, index)
    flat = torch.stack(normals(words), -1).flatten(2)[..., :act_dim]
    noise: NDArray[np.float32] = flat.float().numpy()
    return noise


def uniform(words: Tensor) -> Tensor:
    """In [0, 1)."""
    return words.double() / 2**32


def normals(words: philox.FourWords) -> list[Tensor]:
    """Four of the standard normal distribution (Box and Muller, 1958)."""
    found = []
    for first, second in (words[:2], words[2:]):
        radius = torch.sqrt(-2 * torch.log((first.double() + 1) / 2**32))
        angle = 2 * math.pi * uniform(second)
        found += [radius * torch.cos(angle), radius * torch.sin(angle)]
    return found
