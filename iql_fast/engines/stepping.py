"""A method's step in torch: networks, draws and updates of S seeds, as ``methods.base.Step``."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from iql_fast.engines.drawing import drawn
from iql_fast.engines.weights import Weights
from iql_fast.methods.base import Batch, Method, Net

ADAM_BETAS = (0.9, 0.999)
ADAM_EPSILON = 1e-8
#: Random numbers that are drawn at once, for as many steps as that comes to.
DRAWN_AT_ONCE = 1 << 16


class TorchStep:
    """See ``methods.base.Step``.

    Args:
        native: whether the extension's operators compute what they can; plain torch else, which is
            the specification.

    Attributes:
        weights: of each network and of its target, by name.
        numbers: trained scalars ``[S]`` with their moments, by name.
    """

    index: int
    batch: Batch

    def __init__(
        self,
        method: Method,
        sizes: tuple[int, int],
        seeds: Sequence[int],
        like: Tensor,
        native: bool,
    ) -> None:
        from iql_fast import ops  # not above: where the extension is missing its import warns

        self._polyak_update_ = ops.polyak_update_
        self._adam_ = ops.native.operator("adam_")
        self._mlp = ops.native.operator("stacked_mlp") if native else ops.plain.stacked_mlp
        self._linear = (torch.ops.iql_fast if native else ops.plain).stacked_linear
        self._dropout_factors = (torch.ops.iql_fast if native else ops.plain).dropout_factors
        self.method, self.native, self.like = method, native, like
        self.seeds = torch.tensor(list(seeds), device=like.device)
        S = len(seeds)
        nets = method.nets(*sizes)
        self.weights = {net.name: Weights(net, S, like) for net in nets}
        self.targets = {net.name: Weights(net, S, like) for net in nets if net.target}
        self._trained_as: dict[str, list[Weights]] = {}
        for net in nets:
            self._trained_as.setdefault(net.trained_as or net.name, []).append(
                self.weights[net.name]
            )
        self._named = {**self.weights, **{w.net.target: w for w in self.targets.values()}}
        self._scalars = method.scalars(sizes[1])
        self.numbers = {name: [like.new_zeros(S) for _ in range(3)] for name in self._scalars}
        self._draws = method.draws(*sizes)
        self.numbers_drawn = S * sum(math.prod(draw.shape) for draw in self._draws.values())
        self._ahead = max(1, min(64, DRAWN_AT_ONCE // max(self.numbers_drawn, 1)))
        self._drawn: dict[str, Tensor] = {}
        self._drawn_from = -1
        settings = {
            name: torch.tensor(method.per_seed(name, S), dtype=like.dtype)
            for name in method.per_seed_names()
        }
        self._settings = {name: x.to(like.device) for name, x in settings.items()}
        # Of the settings that are the same for all seeds, their values.
        self._shared = {
            name: float(x[0]) for name, x in settings.items() if len(set(x.tolist())) == 1
        }
        self._counts = {
            w.net.name: [torch.zeros((), device=like.device) for _ in w.leaves]
            for w in self.weights.values()
        }
        self.values: dict[str, Tensor] = {}
        self.rows: dict[str, Tensor] = {}

    def begin(self, index: int, batch: Batch) -> None:
        """Make ready for a step."""
        self.index, self.batch = index, batch
        self.values, self.rows = {}, {}

    def counted(self, index: int) -> None:
        """So many steps were done before the next one."""
        self._drawn_from = -1
        for name, group in self._trained_as.items():
            for weights in group:
                for count in self._counts[weights.net.name]:
                    count.fill_(self.method.updates(name, index))

    # What a method reads.

    def setting(self, name: str) -> Tensor:
        return self._settings[name][:, None]

    def draw(self, name: str) -> Tensor:
        ahead = self._ahead
        begin = self.index - self.index % ahead
        if begin != self._drawn_from:
            steps = torch.arange(begin, begin + ahead, device=self.like.device)
            self._draw_all(steps)
            self._drawn_from = begin
        return self._drawn[name][self.index - begin]

    def _draw_all(self, steps: Tensor) -> None:
        """What the method declared, of some steps."""
        self._drawn = {
            key: drawn(draw, stream, self.seeds, steps).to(self.like.dtype)
            for stream, (key, draw) in enumerate(self._draws.items())
        }

    def net(
        self, name: str, x: Tensor, *, member: int | None = None, fixed: bool = False
    ) -> Tensor:
        weights = self._named[name]
        trained = name in self.weights and torch.is_grad_enabled() and not fixed
        pieces = weights.leaves if trained else weights.constant
        ensemble = weights.net.ensemble
        if member is not None:
            pieces, ensemble = weights.member(pieces, member), None
        if ensemble is not None and len(x) == 1:
            x = x[0]  # which all of the ensemble read as it is
        elif ensemble is not None:
            x = x.unsqueeze(1).expand(-1, ensemble, -1, -1).flatten(0, 1)
        dropout = weights.net.dropout if trained else 0.0
        if dropout:
            out = self._with_dropout(weights, pieces, x, dropout)
        else:
            out = self._mlp(x, weights.weights(pieces), weights.biases(pieces))
        return out if ensemble is None else out.unflatten(0, weights.lead)  # type: ignore[no-untyped-call]

    def _with_dropout(
        self, weights: Weights, pieces: list[Tensor], x: Tensor, probability: float
    ) -> Tensor:
        pairs = zip(weights.weights(pieces), weights.biases(pieces), strict=True)
        for i, (weight, bias) in enumerate(pairs):
            hidden = i < weights.layers - 1
            x = self._linear(x, weight, bias, hidden)
            if hidden:
                x = x * self._factors(x.detach(), i, probability)
        return x

    def _factors(self, like: Tensor, layer: int, probability: float) -> Tensor:
        """What dropout multiplies a layer's hidden units ``[S, B, U]`` by in this step."""
        factors: Tensor
        factors = self._dropout_factors(like, self.seeds, self.index, layer, probability)
        return factors

    def vector(self, net: str, name: str) -> Tensor:
        weights = self.weights[net]
        trained = torch.is_grad_enabled()
        return weights.vector(weights.leaves if trained else weights.constant, name)

    def scalar(self, name: str) -> Tensor:
        value = self.numbers[name][0]
        if torch.is_grad_enabled():
            value.requires_grad_()
        return value[:, None]

    # What a method does.

    def descend(self, **losses: Tensor) -> None:
        gradients: dict[str, Sequence[Tensor]] = {}
        for i, (name, loss) in enumerate(losses.items()):
            last = i == len(losses) - 1
            of = [leaf for weights in self._trained_as.get(name, []) for leaf in weights.leaves]
            of = of or [self.numbers[name][0]]
            gradients[name] = torch.autograd.grad(
                loss.sum(), of, retain_graph=not last, materialize_grads=True
            )
        with torch.no_grad():
            for name, gradient in gradients.items():
                if name in self.numbers:
                    self._move_scalar(name, gradient[0])
                else:
                    pieces = iter(gradient)
                    for weights in self._trained_as[name]:
                        self._move_net(name, weights, [next(pieces) for _ in weights.leaves])
        self.record(**{f"{name}_loss": loss for name, loss in losses.items()})

    def copy(self, of: str, to: str) -> None:
        self._named[to].flat.copy_(self._named[of].flat)

    def follow(self, *nets: str) -> None:
        with torch.no_grad():
            for name in nets:
                to, of = self.targets[name], self.weights[name]
                if "polyak" in self._shared:
                    alpha = self._shared["polyak"]
                    self._polyak_update_([to.flat], [of.flat], alpha, native=self.native)
                    continue
                alpha_of = self._settings["polyak"]
                pieces = zip(to.constant, of.constant, strict=True)
                for target, source in pieces:
                    target += self._each(alpha_of, target) * (source - target)

    def watch(self, **rows: Tensor) -> None:
        self.rows = {name: x.detach() for name, x in rows.items()}

    def record(self, **values: Tensor) -> None:
        for name, value in values.items():
            self.values[name] = value.detach()

    # Adam (Kingma and Ba, 2015).

    def _updates(self, name: str) -> int | Tensor:
        """Updates of what is trained under a name, this one too."""
        return self.method.updates(name, self.index) + 1

    def _left_of_rate(self, name: str, net: Net) -> float | Tensor:
        """What the schedule has left of a network's learning rate, as a share."""
        if not net.schedule:
            return 1.0
        return left_of_rate(self.method.updates(name, self.index), net.schedule)

    def _move_net(self, name: str, weights: Weights, gradients: Sequence[Tensor]) -> None:
        net = weights.net
        left = self._left_of_rate(name, net)
        if net.decoupled_decay:
            rate = self._settings[net.rate] * left
            for piece in weights.constant:
                piece *= 1 - net.decoupled_decay * self._each(rate, piece)
        if self.native and net.rate in self._shared and isinstance(left, float):
            self._adam_(
                weights.constant,
                [gradient.contiguous() for gradient in gradients],
                *weights.moments,
                self._counts[net.name],
                [],
                self._shared[net.rate] * left,
                *ADAM_BETAS,
                ADAM_EPSILON,
                net.decay,
                0.0,
            )
            return
        rate = self._settings[net.rate] * left
        count = self._updates(name)
        for piece, gradient, m, v in zip(
            weights.constant, gradients, *weights.moments, strict=True
        ):
            _adam(piece, gradient + net.decay * piece, m, v, self._each(rate, piece), count)

    def _move_scalar(self, name: str, gradient: Tensor) -> None:
        value, first, second = self.numbers[name]
        count = self._updates(name)
        rate = self._settings[self._scalars[name].rate]
        _adam(value.detach(), gradient, first, second, rate, count)

    def _each(self, values: Tensor, piece: Tensor) -> Tensor:
        """Values of each seed ``[S]`` along the first axis of a piece, which an ensemble is in."""
        each = values.repeat_interleave(len(piece) // len(values))
        return each.view(-1, *[1] * (piece.dim() - 1))


def left_of_rate(updates: int, schedule: int) -> float:
    """What a cosine to 0 over ``schedule`` updates has left of a rate after some, as a share."""
    return 0.5 * (1 + math.cos(math.pi * min(updates, schedule) / schedule))


def _adam(
    x: Tensor, gradient: Tensor, m: Tensor, v: Tensor, rate: Tensor, count: int | Tensor
) -> None:
    beta1, beta2 = ADAM_BETAS
    m += (1 - beta1) * (gradient - m)
    v += (1 - beta2) * (gradient**2 - v)
    m_hat, v_hat = m / (1 - beta1**count), v / (1 - beta2**count)
    x -= rate * m_hat / (torch.sqrt(v_hat) + ADAM_EPSILON)
