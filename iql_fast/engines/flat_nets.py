"""Nets of one shape in one flat tensor, under the names of a state."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from iql_fast.engines.base import NetworkSpec
from iql_fast.engines.parameters import parameter_shapes


class Nets:
    """N nets of one shape with P parameters each, so that an update is one pass over them.

    N is S for V and for the actor; E * S for critics, the seeds fastest.

    Attributes:
        flat: the parameters, ``[N, P]``.
        first, second: Adam's moments of them.
        direction: what Adam moves at rate 1, and then the parameters at their seeds' own rates;
            zero between steps.
        leaves: views of ``flat`` that gradients are taken for, layer by layer: weights
            ``[N, in, out]``, biases ``[N, out]``; the actor's log-std ``[N, A]`` is the last.
    """

    def __init__(self, net: str, network: NetworkSpec, seeds: int, like: Tensor) -> None:
        shapes = list(parameter_shapes(net, network, seeds))
        self._lead = shapes[0][1][:-2]  # [S] or [S, E]
        self._pieces = [(name, shape[len(self._lead) :]) for name, shape in shapes]
        sizes = [math.prod(shape) for _, shape in self._pieces]
        self._offsets = list(itertools.accumulate(sizes, initial=0))
        self.flat = like.new_zeros(math.prod(self._lead), self._offsets[-1])
        self.direction, self.first, self.second = (torch.zeros_like(self.flat) for _ in range(3))
        self.leaves = [piece.detach().requires_grad_() for piece in self._views(self.flat)]

    def _views(self, flat: Tensor) -> list[Tensor]:
        views = []
        for i, (_, shape) in enumerate(self._pieces):
            piece = flat[:, self._offsets[i] : self._offsets[i + 1]]
            views.append(piece.view(len(flat), *shape[::-1]))  # weights as [in, out]
        return views

    def named(self, flat: Tensor) -> dict[str, Tensor]:
        """Views of ``flat`` or its like under the names and in the shapes of a state."""
        named = {}
        for (name, shape), piece in zip(self._pieces, self._views(flat), strict=True):
            natural = piece.transpose(1, 2) if len(shape) == 2 else piece
            if len(self._lead) == 2:
                natural = natural.unflatten(0, self._lead[::-1]).transpose(0, 1)  # type: ignore[no-untyped-call]
            named[name] = natural
        return named
