"""The engine of the Decision Transformer: one seed after the other, on torch's own operators.

A transformer's products fill a core as they are, so that nothing is won by seeds side by side; what
is saved is work whose results nothing reads (``iql_fast.methods.dt``). On the CPU the layers within
the transformer and its dropout are this package's operators, which other methods have too.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.optim.adamw import adamw

from iql_fast.data.dataset import Transitions
from iql_fast.engines.base import DTYPES, Metrics, Precision, check_steps
from iql_fast.engines.exclusive import Exclusive, exclusive
from iql_fast.engines.parameters import check_shapes
from iql_fast.engines.windows import WindowBatches, window_statistics
from iql_fast.methods.dt import DT, INITIAL_DEVIATION, Part, Windows, mlp_of_torch
from iql_fast.policies.acting import Acting, from_state
from iql_fast.support.errors import NonFiniteLoss

ADAM_BETAS = (0.9, 0.999)
ADAM_EPSILON = 1e-8
#: Steps after which losses are looked at.
LOOKED_AT = 10


def unavailable_reason(precision: Precision = "fp32", *, native: bool = False) -> str:
    """Why the engine cannot be used in that precision; empty where it can."""
    has = ("fp32",) if native else ("fp32", "fp64")
    return "" if precision in has else f"it has no {precision} precision for this method"


class Learner:
    """What one seed trains: parameters, gradient and AdamW's moments, flat, and views by name.

    Attributes:
        leaves: of the parameters; their gradients are views of ``gradient``.
    """

    def __init__(self, parts: Mapping[str, Part], seed: int, like: Tensor) -> None:
        lengths = [math.prod(part.shape) for part in parts.values()]
        ends = list(itertools.accumulate(lengths, initial=0))
        self._places = {
            name: (slice(begin, end), part.shape)
            for (name, part), (begin, end) in zip(
                parts.items(), itertools.pairwise(ends), strict=True
            )
        }
        self.flat, self.gradient, self.first, self.second = (
            like.new_zeros(ends[-1]) for _ in range(4)
        )
        self.count = torch.zeros((), device=like.device)
        generator = torch.Generator().manual_seed(seed)
        for name, view in self.views(self.flat).items():
            view.copy_(_first(parts[name], generator))
        gradients = self.views(self.gradient)
        self.leaves = {}
        for name, view in self.views(self.flat).items():
            self.leaves[name] = leaf = view.detach().requires_grad_()
            leaf.grad = gradients[name]

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """The parts of ``flat`` or its like."""
        return {name: flat[place].view(shape) for name, (place, shape) in self._places.items()}


def _first(part: Part, generator: torch.Generator) -> Tensor:
    """First values, drawn in float64: the same in every precision."""
    values = torch.empty(part.shape, dtype=torch.float64)
    if part.start == "linear":
        bound = 1 / math.sqrt(part.inputs)
        return values.uniform_(-bound, bound, generator=generator)
    if part.start == "embedding":
        return values.normal_(generator=generator)
    if part.start == "normal":
        return values.normal_(0, INITIAL_DEVIATION, generator=generator)
    return values.fill_(part.start)


class _Done(NamedTuple):
    """A step, for the log: ``[S]`` each. Its windows are kept where they cannot be drawn again."""

    number: int
    given: Windows | None
    losses: Tensor
    norms: Tensor


class SequenceEngine(Exclusive):
    """See ``iql_fast.engines.base.Engine``.

    Args:
        native: whether AdamW is torch's fused one, and layers and dropout, on the CPU, this
            package's operators; plain operations else.
        device: of the networks and the data; dropout is drawn on the host.

    Attributes:
        learners: one for each seed.
        batches: what they are trained on.
    """

    data_on_host = False

    def __init__(
        self,
        method: DT,
        data: Transitions,
        seeds: Sequence[int],
        precision: Precision = "fp32",
        *,
        native: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        from iql_fast import ops  # not above: where the extension is missing its import warns

        super().__init__()
        self._factors = (torch.ops.iql_fast if native else ops.plain).dropout_factors
        self.method, self.data, self.seeds = method.for_data(data), data, tuple(seeds)
        self.name = "graph" if native else "reference"
        self.dtype, self._native = DTYPES[precision], native
        self.metrics = (f"{method.policy_net}_loss", *method.records)
        parts = method.parts(data.obs_dim, data.act_dim)
        like = torch.zeros(0, dtype=self.dtype, device=device)
        self.device = like.device
        self._mlp = _mlp_of_operators if native and like.device.type == "cpu" else mlp_of_torch
        self.learners = [Learner(parts, seed, like) for seed in self.seeds]
        self._rates = self.method.per_seed("actor_lr", len(self.seeds)).tolist()
        self.batches = WindowBatches(self.method, data, self.seeds, like)
        self._keys = torch.tensor(self.seeds)[:, None]
        self.step = 0

    @exclusive
    def run(self, steps: int) -> Metrics:
        check_steps(steps)
        done: list[_Done] = []
        for count in range(1, steps + 1):
            done.append(self._step(self.batch_at(self.step), given=False))
            if count % LOOKED_AT == 0:
                self._stop_if_not_finite(done[-LOOKED_AT:])
        self._stop_if_not_finite(done[-(steps % LOOKED_AT) :] if steps % LOOKED_AT else [])
        return self._means(done)

    @exclusive
    def step_on(self, batch: Windows) -> Metrics:
        done = [self._step(batch.to(self.device), given=True)]
        self._stop_if_not_finite(done)
        return self._means(done)

    def batch_at(self, step: int) -> Windows:
        """The windows that ``run`` trains on at a (0-based) step."""
        return self.batches.at(step)

    def kept(self, index: int, step: int) -> list[Tensor] | None:
        """The factors of dropout of the ``index``-th seed at a (0-based) step, in the order of
        ``DT.dropped``; None where nothing is dropped."""
        probability = self.method.actor_dropout
        if not probability:
            return None
        factors = []
        for layer, shape in enumerate(self.method.dropped()):
            like = torch.empty(1, self.method.batch_size, math.prod(shape), dtype=self.dtype)
            drawn = self._factors(like, self._keys[index], step, layer, probability)
            factors.append(drawn.view(-1, *shape).to(self.device))
        return factors

    @exclusive
    def state_dict(self) -> dict[str, Tensor]:
        state = {name: torch.stack(tensors).cpu() for name, tensors in self._state()}
        return state | {"step": torch.tensor(self.step, dtype=torch.int64)}

    @exclusive
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        own = dict(self._state())
        check_shapes(state, {name: [len(x), *x[0].shape] for name, x in own.items()})
        for name, tensors in own.items():
            for s, tensor in enumerate(tensors):
                tensor.copy_(state[name][s])
        self.step = int(state["step"])
        for learner in self.learners:
            learner.count.fill_(self.step)

    @exclusive
    def policy(self, index: int) -> Acting:
        state = {name: tensors[index][None].cpu() for name, tensors in self._state()}
        return from_state(state, 0, self.method.policy())

    def _step(self, windows: Windows, given: bool) -> _Done:
        losses, norms = zip(
            *map(self._descend, range(len(self.seeds)), _each(windows)), strict=True
        )
        self.step += 1
        stacked = torch.stack(losses), torch.stack(norms)
        return _Done(self.step, windows if given else None, *stacked)

    def _descend(self, index: int, windows: Windows) -> tuple[Tensor, Tensor]:
        """One step of AdamW (Loshchilov and Hutter, 2019) of a seed; the loss, and the norm of its
        gradient before it was cut to ``clip_norm``."""
        method, learner = self.method, self.learners[index]
        factors = self.kept(index, self.step)
        learner.gradient.zero_()
        kept = None if factors is None else iter(factors)
        loss = method.loss(learner.leaves, windows, kept, self._mlp)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.linalg.vector_norm(learner.gradient)
        learner.gradient *= (method.clip_norm / (norm + 1e-6)).clamp(max=1)
        adamw(
            [learner.flat],
            [learner.gradient],
            [learner.first],
            [learner.second],
            [],
            [learner.count],
            foreach=False,
            fused=self._native,
            amsgrad=False,
            beta1=ADAM_BETAS[0],
            beta2=ADAM_BETAS[1],
            lr=self._rates[index] * method.rate(self.step),
            weight_decay=method.weight_decay,
            eps=ADAM_EPSILON,
            maximize=False,
        )
        return loss.detach(), norm

    def _state(self) -> Iterator[tuple[str, list[Tensor]]]:
        """Views of everything that training changes, of each seed, by their names in a state."""
        net = self.method.policy_net
        for prefix, part in (("", "flat"), ("adam.m.", "first"), ("adam.v.", "second")):
            views = [learner.views(getattr(learner, part)) for learner in self.learners]
            for name in views[0]:
                yield f"{prefix}{net}.{name}", [view[name] for view in views]

    def _means(self, done: Sequence[_Done]) -> Metrics:
        """What the steps recorded, averaged over them; NaN where there were none."""
        if not done:
            return {name: np.full(len(self.seeds), np.nan) for name in self.metrics}
        columns = [
            torch.stack([getattr(step, part) for step in done]) for part in ("losses", "norms")
        ]
        means = [column.double().mean(0).cpu().numpy() for column in columns]
        return dict(zip(self.metrics, means, strict=True))

    def _stop_if_not_finite(self, done: Sequence[_Done]) -> None:
        """Raise ``NonFiniteLoss`` of the first loss of some steps that is not."""
        for step in done:
            bad = ~torch.isfinite(step.losses)
            if bool(bad.any()):
                index = int(bad.nonzero()[0])
                windows = step.given or self.batch_at(step.number - 1)
                raise NonFiniteLoss(
                    step.number,
                    self.seeds[index],
                    self.method.policy_net,
                    window_statistics(windows, index),
                )


def _mlp_of_operators(x: Tensor, *layers: tuple[Tensor, Tensor]) -> Tensor:
    """See ``iql_fast.methods.dt.Mlp``."""
    weights, biases = zip(*layers, strict=True)
    out: Tensor = torch.ops.iql_fast.stacked_mlp(
        x[None], [weight.T[None] for weight in weights], [bias[None] for bias in biases]
    )
    return out[0]


def _each(windows: Windows) -> list[Windows]:
    """Those of each seed."""
    return [windows.of_seed(index) for index in range(len(windows.masks))]
