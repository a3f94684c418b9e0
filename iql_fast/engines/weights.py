"""Networks of one shape in one flat tensor, under the names of a state."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from iql_fast.methods.base import Net


class Weights:
    """S networks, or S ensembles of E, with everything that training them keeps.

    Attributes:
        flat: the parameters.
        first, second: Adam's moments of them.
        leaves: views of ``flat`` that gradients are taken for: each layer's weights
            ``[N, in, out]`` and biases ``[N, out]``, N being S or S * E, then the vectors
            ``[S, size]``.
        constant: the same views, that no gradients are taken for.
        moments: the same views of ``first`` and ``second``.
    """

    def __init__(self, net: Net, seeds: int, like: Tensor) -> None:
        self.net = net
        self.seeds = seeds
        self.lead = [seeds] if net.ensemble is None else [seeds, net.ensemble]
        sizes = [net.inputs, *net.hidden, net.outputs]
        self._pieces: list[tuple[str, list[int], list[int]]] = []  # name, lead, shape in ``flat``
        for i, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
            self._pieces.append((f"layers.{i}.weight", self.lead, [inputs, outputs]))
            self._pieces.append((f"layers.{i}.bias", self.lead, [outputs]))
        for name, (size, _) in net.vectors.items():
            self._pieces.append((name, [seeds], [size]))
        lengths = [math.prod(lead + shape) for _, lead, shape in self._pieces]
        self._offsets = list(itertools.accumulate(lengths, initial=0))
        self.layers = len(sizes) - 1
        self.flat, self.first, self.second = (like.new_zeros(self._offsets[-1]) for _ in range(3))
        self.leaves = [view.detach().requires_grad_() for view in self.views(self.flat)]
        self.constant = self.views(self.flat)
        self.moments = self.views(self.first), self.views(self.second)

    def views(self, flat: Tensor) -> list[Tensor]:
        """The pieces of ``flat`` or its like, as ``leaves``."""
        return [
            flat[begin:end].view(math.prod(lead), *shape)
            for (begin, end), (_, lead, shape) in zip(
                itertools.pairwise(self._offsets), self._pieces, strict=True
            )
        ]

    def named(self, flat: Tensor, name: str) -> Iterator[tuple[str, Tensor]]:
        """Views of ``flat`` or its like under the names that begin with ``name``, in the shapes of
        a state: weights as ``[S, (E,) out, in]``."""
        for (piece, lead, shape), view in zip(self._pieces, self.views(flat), strict=True):
            natural = view.transpose(1, 2) if len(shape) == 2 else view
            yield f"{name}.{piece}", natural.unflatten(0, lead)  # type: ignore[no-untyped-call]

    def weights(self, pieces: list[Tensor]) -> list[Tensor]:
        """Those of the layers, of pieces as ``leaves`` has them."""
        return pieces[: 2 * self.layers : 2]

    def biases(self, pieces: list[Tensor]) -> list[Tensor]:
        """Those of the layers, of pieces as ``leaves`` has them."""
        return pieces[1 : 2 * self.layers : 2]

    def vector(self, pieces: list[Tensor], name: str) -> Tensor:
        """One of the vectors, ``[S, size]``."""
        return pieces[2 * self.layers + list(self.net.vectors).index(name)]

    def member(self, pieces: list[Tensor], index: int) -> list[Tensor]:
        """One network of each ensemble: its weights and biases ``[S, ...]``, as ``leaves``."""
        layers = pieces[: 2 * self.layers]
        return [piece.unflatten(0, self.lead)[:, index] for piece in layers]  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def start(self, index: int, generator: torch.Generator) -> None:
        """First values of the ``index``-th seed, drawn in float64: the same in every precision."""
        for i, (_, view) in enumerate(self._of_seed(index)):
            if i >= 2 * self.layers:
                _, initial = list(self.net.vectors.values())[i - 2 * self.layers]
                view.fill_(initial)
                continue
            layer, is_bias = divmod(i, 2)
            for piece in view.unbind(0) if self.net.ensemble is not None else [view]:
                piece.copy_(self._first(layer, bool(is_bias), list(piece.shape), generator))

    def _first(
        self, layer: int, is_bias: bool, shape: list[int], generator: torch.Generator
    ) -> Tensor:
        drawn = torch.empty(shape, dtype=torch.float64)
        net, last = self.net, layer == self.layers - 1
        inputs, outputs = [net.inputs, *net.hidden, net.outputs][layer : layer + 2]
        bound = net.head if last else None
        if bound is None and net.start == "uniform":
            bound = 1 / math.sqrt(inputs)
        elif bound is None and is_bias:
            return drawn.fill_(net.bias)
        elif bound is None and net.start == "fan_out":
            bound = 1 / math.sqrt(outputs)
        if bound is not None:
            return drawn.uniform_(-bound, bound, generator=generator)
        gain = net.head_gain if last and net.head_gain is not None else math.sqrt(2)
        return torch.nn.init.orthogonal_(drawn, gain, generator=generator)

    def _of_seed(self, index: int) -> Iterator[tuple[str, Tensor]]:
        for name, view in self.named(self.flat, ""):
            yield name, view[index]
