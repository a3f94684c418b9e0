"""Decision Transformer (Chen et al., NeurIPS 2021), as the authors' code for Gym."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from typing_extensions import Self

from iql_fast.data.dataset import Transitions
from iql_fast.methods.base import Method, PerSeed

#: Returns that a policy is asked for, and what returns are divided by, where the authors say: by a
#: word of the data's name.
TARGET_RETURNS = {"hopper": 3600.0, "halfcheetah": 6000.0, "walker2d": 5000.0}
RETURN_SCALE = 1000.0
#: First values of the weights within the transformer are normal with this deviation.
INITIAL_DEVIATION = 0.02
#: Units of a block's hidden layer, for each of the transformer's width.
EXPANSION = 4
#: Of a step's tokens - return, state, action - the one that an action is predicted at.
STATE = slice(1, None, 3)
#: In place of an action, where a window begins before its trajectory.
NO_ACTION = -10.0


@dataclass(frozen=True)
class Windows:
    """K steps of a trajectory in each row, on the right; on the left, what is missing to K.

    Attributes:
        observations: ``[..., B, K, O]``, 0 where there is no step.
        actions: ``[..., B, K, A]``, ``NO_ACTION`` there.
        returns_to_go: from the step to the end of its trajectory, over the scale; ``[..., B, K]``.
        times: steps since the trajectory's first, int64 ``[..., B, K]``.
        masks: 1 where there is a step, 0 where there is none, ``[..., B, K]``.
    """

    observations: Tensor
    actions: Tensor
    returns_to_go: Tensor
    times: Tensor
    masks: Tensor

    def to(self, device: torch.device) -> Windows:
        """The same on a device."""
        return Windows(*(getattr(self, f.name).to(device) for f in fields(self)))

    def of_seed(self, index: int) -> Windows:
        """Those of one seed, of columns that have seeds leading."""
        return Windows(*(getattr(self, f.name)[index] for f in fields(self)))


class Part(NamedTuple):
    """A tensor that is trained.

    Attributes:
        start: how it begins: ``"linear"`` and ``"embedding"`` as torch's modules do, ``"normal"``
            with deviation ``INITIAL_DEVIATION``, or filled with a number.
        inputs: of the layer that it is of, for ``"linear"``.
    """

    shape: tuple[int, ...]
    start: Literal["linear", "embedding", "normal"] | float
    inputs: int = 0


#: A tensor by its name in ``DT.parts``.
Parameters = Mapping[str, Tensor]
#: An MLP with a ReLU after every layer but the last: of rows ``[N, inputs]`` and each layer's
#: weight, as torch has it, and bias.
Mlp = Callable[..., Tensor]


def mlp_of_torch(x: Tensor, *layers: tuple[Tensor, Tensor]) -> Tensor:
    """See ``Mlp``."""
    *hidden, last = layers
    for layer in hidden:
        x = functional.linear(x, *layer).relu_()
    return functional.linear(x, *last)


@dataclass(frozen=True)
class DT(Method):
    """Prediction of the data's actions by a causal transformer over the return that is still to
    come, the state and the action of each of the last steps. It acts by being asked for a return.

    Attributes:
        context: steps that it reads.
        layers: blocks of the transformer.
        heads: attention heads of a block, a divisor of the width.
        width: numbers that a token consists of.
        weight_decay: share of every parameter that a step of rate 1 takes off.
        warmup_steps: steps over which the learning rate rises to its value.
        clip_norm: the largest norm of a gradient, which is scaled down to it.
        longest: steps since an episode's start that are told apart; later ones count as the last.
        return_scale: what returns are divided by; where none is given, 1000 for hopper, halfcheetah
            and walker2d, and the size of the data's largest return for others.
        target_return: return that the policy is asked for, in the environment's rewards; where none
            is given, 3600 for hopper, 6000 for halfcheetah (for which the authors tried 12000 too),
            5000 for walker2d, and the data's largest return for others.
    """

    name: ClassVar[str] = "dt"
    title: ClassVar[str] = "DT"
    unused: ClassVar[frozenset[str]] = frozenset({"discount", "polyak"})
    needs: ClassVar[frozenset[str]] = frozenset({"returns_to_go", "times"})
    records: ClassVar[Mapping[str, Literal["mean", "max"]]] = {"gradient_norm": "mean"}
    usual_steps: ClassVar[int] = 100_000
    evaluation: ClassVar[tuple[int, int] | None] = (100, 10_000)
    least_deviation: ClassVar[float] = 1e-6
    transforms_rewards: ClassVar[bool] = False

    batch_size: int = 64
    actor_lr: PerSeed = 1e-4
    actor_dropout: float = 0.1
    context: int = 20
    layers: int = 3
    heads: int = 1
    width: int = 128
    weight_decay: float = 1e-4
    warmup_steps: int = 10_000
    clip_norm: float = 0.25
    longest: int = 1000
    return_scale: float | None = None
    target_return: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % self.heads:
            raise ValueError(f"heads is {self.heads}; expected a divisor of width ({self.width})")

    def normalizes(self, family: str) -> bool:  # noqa: ARG002
        return True

    def for_task(self, task: str) -> Self:
        known = [target for word, target in TARGET_RETURNS.items() if word in task.lower()]
        return self._filled(RETURN_SCALE, known[0]) if known else self

    def for_data(self, data: Transitions) -> Self:
        if data.returns_to_go is None or data.times is None:
            raise ValueError(f"{self.name} needs the data's returns_to_go and times")
        returns = data.returns_to_go[data.times == 0]
        return self._filled(float(np.abs(returns).max()) or 1.0, float(returns.max()))

    def _filled(self, return_scale: float, target_return: float) -> Self:
        """With these, where none were given."""
        return replace(
            self,
            return_scale=return_scale if self.return_scale is None else self.return_scale,
            target_return=target_return if self.target_return is None else self.target_return,
        )

    def policy(self) -> dict[str, Any]:
        return {
            "kind": "sequence",
            "net": self.policy_net,
            "context": self.context,
            "heads": self.heads,
            "return_scale": self.return_scale,
            "target_return": self.target_return,
        }

    def rate(self, step: int) -> float:
        """Share of the learning rate that the (0-based) step has."""
        return min((step + 1) / self.warmup_steps, 1.0) if self.warmup_steps else 1.0

    # The network.

    def parts(self, obs_dim: int, act_dim: int) -> dict[str, Part]:
        """What is trained, in the order in which it is initialised."""
        width, hidden = self.width, EXPANSION * self.width

        def linear(
            name: str, inputs: int, outputs: int, within: bool
        ) -> Iterator[tuple[str, Part]]:
            """A layer; weights as torch has them."""
            weight, bias = ("normal", 0.0) if within else ("linear", "linear")
            yield f"{name}.weight", Part((outputs, inputs), weight, inputs)  # type: ignore[arg-type]
            yield f"{name}.bias", Part((outputs,), bias, inputs)  # type: ignore[arg-type]

        def norm(name: str) -> Iterator[tuple[str, Part]]:
            yield f"{name}.weight", Part((width,), 1.0)
            yield f"{name}.bias", Part((width,), 0.0)

        parts = {"time.weight": Part((self.longest, width), "embedding")}
        parts |= linear("return", 1, width, False)
        parts |= linear("state", obs_dim, width, False)
        parts |= linear("action", act_dim, width, False)
        parts |= norm("embedded")
        for i in range(self.layers):
            parts |= norm(f"blocks.{i}.attended")
            parts |= linear(f"blocks.{i}.query", width, width, True)
            parts |= linear(f"blocks.{i}.key_value", width, 2 * width, True)
            parts |= linear(f"blocks.{i}.mixed", width, width, True)
            parts |= norm(f"blocks.{i}.thought")
            parts |= linear(f"blocks.{i}.expand", width, hidden, True)
            parts |= linear(f"blocks.{i}.contract", hidden, width, True)
        parts |= norm("final")
        parts |= linear("head", width, act_dim, False)
        return parts

    @property
    def tokens(self) -> int:
        """Of a window: the last action is read by no prediction, and is left out."""
        return 3 * self.context - 1

    def dropped(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of what a step's dropout is applied to, in the order of ``loss``; without its
        rows."""
        shapes: list[tuple[int, ...]] = [(self.tokens, self.width)]
        for i in range(self.layers):
            at = self.context if i == self.layers - 1 else self.tokens
            shapes += [(self.heads, at, self.tokens), (at, self.width), (at, self.width)]
        return tuple(shapes)

    def loss(
        self,
        p: Parameters,
        windows: Windows,
        kept: Iterator[Tensor] | None,
        mlp: Mlp = mlp_of_torch,
    ) -> Tensor:
        """Mean squared error of the actions of one seed, over all steps that there are.

        Args:
            kept: a factor for each entry of what ``dropped`` says, 0 or the reciprocal of the share
                that is kept; None: everything is.
            mlp: what computes the layers within the transformer.
        """
        error = (self.predicted(p, windows, kept, mlp) - windows.actions) ** 2
        steps = windows.masks[..., None]
        return (error * steps).sum() / (steps.sum() * error.shape[-1])

    def predicted(
        self,
        p: Parameters,
        windows: Windows,
        kept: Iterator[Tensor] | None,
        mlp: Mlp = mlp_of_torch,
    ) -> Tensor:
        """Actions ``[B, K, A]``. Tokens are rows ``[B * L, width]`` but where they are attended to,
        so that layers are products of matrices."""

        def drop(x: Tensor) -> Tensor:
            return x if kept is None else x * next(kept).view(x.shape)

        rows = len(windows.masks)
        time = functional.embedding(windows.times, p["time.weight"])
        asked = _linear(p, "return", windows.returns_to_go[..., None]) + time
        state = _linear(p, "state", windows.observations) + time
        action = _linear(p, "action", windows.actions) + time
        x = torch.stack([asked, state, action], 2).flatten(1, 2)[:, : self.tokens].flatten(0, 1)
        x = drop(_norm(p, "embedded", x))
        barred = _barred(windows.masks)
        for i in range(self.layers):
            # Heads read the last block at the states alone, so it is computed nowhere else.
            at = STATE if i == self.layers - 1 else slice(None)
            block = f"blocks.{i}"

            def layers(x: Tensor, *names: str, block: str = block) -> Tensor:
                named = (f"{block}.{name}" for name in names)
                return mlp(x, *((p[f"{n}.weight"], p[f"{n}.bias"]) for n in named))

            read = _norm(p, f"{block}.attended", x)
            q = layers(_at(read, rows, at), "query")
            k, v = layers(read, "key_value").chunk(2, -1)
            q, k, v = (self._by_head(part, rows) for part in (q, k, v))
            of_heads = barred[:, None, at].expand(-1, self.heads, -1, -1).flatten(0, 1)
            scores = torch.baddbmm(of_heads, q, k.transpose(1, 2), alpha=q.shape[-1] ** -0.5)
            mixed = self._joined(torch.bmm(drop(functional.softmax(scores, -1)), v))
            x = _at(x, rows, at) + drop(layers(mixed, "mixed"))
            x = x + drop(layers(_norm(p, f"{block}.thought", x), "expand", "contract"))
        actions = torch.tanh(_linear(p, "head", _norm(p, "final", x)))
        return actions.view(rows, self.context, -1)

    def _by_head(self, x: Tensor, rows: int) -> Tensor:
        """``[B * L, width]`` -> ``[B * heads, L, width / heads]``."""
        each = x.view(rows, -1, self.heads, self.width // self.heads)
        return each.transpose(1, 2).flatten(0, 1)

    def _joined(self, x: Tensor) -> Tensor:
        """The inverse of ``_by_head``."""
        each = x.view(-1, self.heads, *x.shape[1:])
        return each.transpose(1, 2).reshape(-1, self.width)


def _at(x: Tensor, rows: int, tokens: slice) -> Tensor:
    """Those tokens of each row, ``[B * L, width]``."""
    return x.view(rows, -1, x.shape[-1])[:, tokens].flatten(0, 1)


def _linear(p: Parameters, name: str, x: Tensor) -> Tensor:
    return functional.linear(x, p[f"{name}.weight"], p[f"{name}.bias"])


def _norm(p: Parameters, name: str, x: Tensor) -> Tensor:
    weight = p[f"{name}.weight"]
    return functional.layer_norm(x, weight.shape, weight, p[f"{name}.bias"])


def _barred(masks: Tensor) -> Tensor:
    """What is added to the scores ``[B, L, L]`` of a query and a key: -inf where the query may not
    see the key, since it is later or of no step. Every token sees itself, so that those of no step,
    which nothing reads, are numbers too."""
    there = masks.repeat_interleave(3, -1)[:, :-1] > 0
    order = torch.arange(there.shape[-1], device=masks.device)
    seen = (order[:, None] > order) & there[:, None] | (order[:, None] == order)
    return torch.zeros_like(seen, dtype=masks.dtype).masked_fill(~seen, -math.inf)
