"""Several MLPs of one shape, computed at once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from iql_fast.ops import native as _native
from iql_fast.ops import plain

_stacked_mlp = _native.operator("stacked_mlp")


class EnsembleMLP(nn.Module):
    """E MLPs with ReLU between their layers, such as twin critics, as one batched product a layer.

    Each starts out as E ``nn.Sequential`` of ``nn.Linear`` and ``nn.ReLU`` would.

    Args:
        ensemble: E.
        sizes: of the input, of each hidden layer, of the output.

    Attributes:
        weights: of layer i, [E, sizes[i], sizes[i + 1]].
        biases: of layer i, [E, sizes[i + 1]].
    """

    def __init__(self, ensemble: int, sizes: Sequence[int], *, native: bool = True) -> None:
        if ensemble < 1 or len(sizes) < 2:
            raise ValueError(f"no ensemble of {ensemble} MLPs with the sizes {list(sizes)}")
        super().__init__()
        self.sizes = tuple(sizes)
        self.native = native
        pairs = list(itertools.pairwise(self.sizes))
        self.weights = nn.ParameterList(torch.empty(ensemble, i, o) for i, o in pairs)
        self.biases = nn.ParameterList(torch.empty(ensemble, o) for _, o in pairs)
        self.load_sequentials([_sequential(self.sizes) for _ in range(ensemble)])

    @classmethod
    def from_sequentials(cls, mlps: Sequence[nn.Sequential], *, native: bool = True) -> EnsembleMLP:
        """The ensemble of some ``nn.Sequential(Linear, ReLU, ..., Linear)`` of one shape.

        Raises:
            ValueError: they are not of that kind, or differ in shape.
        """
        first = _linears(mlps[0])
        sizes = [first[0].in_features, *(layer.out_features for layer in first)]
        ensemble = cls(len(mlps), sizes, native=native)
        ensemble.to(first[0].weight)  # its dtype and device
        ensemble.load_sequentials(mlps)
        return ensemble

    @torch.no_grad()
    def load_sequentials(self, mlps: Sequence[nn.Sequential]) -> None:
        """Copies the weights of E MLPs.

        Raises:
            ValueError: there are not E, or they differ in shape.
        """
        if len(mlps) != len(self.biases[0]):
            raise ValueError(f"{len(mlps)} MLPs for an ensemble of {len(self.biases[0])}")
        for e, mlp in enumerate(mlps):
            layers = _linears(mlp)
            sizes = (layers[0].in_features, *(layer.out_features for layer in layers))
            if sizes != self.sizes:
                raise ValueError(f"MLP {e} has the sizes {sizes}; the ensemble has {self.sizes}")
            for weight, bias, layer in zip(self.weights, self.biases, layers, strict=True):
                weight[e] = layer.weight.T
                bias[e] = layer.bias

    @torch.no_grad()
    def to_sequentials(self) -> list[nn.Sequential]:
        """E MLPs with copies of the weights."""
        mlps = []
        for e in range(len(self.biases[0])):
            mlp = _sequential(self.sizes).to(self.biases[0])
            for weight, bias, layer in zip(self.weights, self.biases, _linears(mlp), strict=True):
                layer.weight.copy_(weight[e].T)
                layer.bias.copy_(bias[e])
            mlps.append(mlp)
        return mlps

    def forward(self, x: Tensor) -> Tensor:
        """[E, B, sizes[-1]].

        Exported, traced or in float16 it is plain torch.

        Args:
            x: [B, sizes[0]] for all MLPs, or [E, B, sizes[0]].
        """
        native = self.native and _native.AVAILABLE
        tracing = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        if tracing or _computed_in(x) == torch.float16:
            native = False
        mlp = _stacked_mlp if native else plain.stacked_mlp
        out: Tensor = mlp(x, list(self.weights), list(self.biases))
        return out


def _computed_in(x: Tensor) -> torch.dtype:
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def _sequential(sizes: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i, o in itertools.pairwise(sizes):
        layers += [nn.Linear(i, o), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _linears(mlp: nn.Sequential) -> list[nn.Linear]:
    """The linear layers, of what must be Linear, ReLU, ..., Linear."""
    layers = list(mlp)
    linears = [layer for layer in layers[::2] if isinstance(layer, nn.Linear)]
    relus = [layer for layer in layers[1::2] if isinstance(layer, nn.ReLU)]
    if (
        len(layers) % 2 == 0
        or len(linears) + len(relus) != len(layers)
        or any(layer.bias is None for layer in linears)
    ):
        raise ValueError(f"not Linear, ReLU, ..., Linear with biases: {mlp}")
    return linears
