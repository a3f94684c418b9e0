"""The engine of any method: its step in torch, seeds leading."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from iql_fast.data.dataset import FloatArray, Transitions
from iql_fast.data.replay import Replay
from iql_fast.engines.base import DTYPES, Metrics, Precision, check_steps
from iql_fast.engines.exclusive import Exclusive, exclusive
from iql_fast.engines.parameters import check_shapes
from iql_fast.engines.sampling import Batches, batch_at, batch_statistics
from iql_fast.engines.stepping import TorchStep
from iql_fast.formulas import philox
from iql_fast.methods.base import Batch, Method, recorded
from iql_fast.policies.acting import Acting, from_state
from iql_fast.support.errors import NonFiniteLoss

#: Steps after which losses are looked at.
LOOKED_AT = 50


class _Done(NamedTuple):
    """A step, for the log: how many there were, and what it recorded. Its batch is kept where it
    cannot be drawn again."""

    number: int
    given: Batch | None
    values: dict[str, Tensor]
    rows: dict[str, Tensor]


class GenericEngine(Exclusive):
    """See ``iql_fast.engines.base.Engine``.

    Args:
        native: whether the extension's operators compute what they can; else everything is plain
            torch, which is the specification.
    """

    data_on_host = False

    def __init__(
        self,
        method: Method,
        data: Transitions,
        seeds: Sequence[int],
        precision: Precision = "fp32",
        *,
        native: bool = False,
    ) -> None:
        super().__init__()
        self.method, self.seeds = method, tuple(seeds)
        self.data: Transitions | Replay = data
        self.name = "graph" if native else "reference"
        self.dtype = DTYPES[precision]
        like = torch.zeros(0, dtype=self.dtype)
        self.on = TorchStep(method, (data.obs_dim, data.act_dim), self.seeds, like, native)
        self._recorded = recorded(method, data.obs_dim, data.act_dim)
        self.metrics = tuple(method.measured(dict.fromkeys(self._recorded, np.zeros(1))))
        self._batches = Batches(data, self.seeds, method.batch_size, self.dtype, native)
        self._unmeasured: list[_Done] = []
        self.step = 0
        self._start()

    @exclusive
    def run(self, steps: int) -> Metrics:
        self.advance(steps)
        done, self._unmeasured = self._unmeasured, []
        return self._metrics(done)

    @exclusive
    def advance(self, steps: int) -> None:
        """See ``iql_fast.engines.base.OnlineEngine``."""
        check_steps(steps)
        done = self._unmeasured
        for count in range(1, steps + 1):
            met = isinstance(self.data, Replay)
            batch = self.batch_at(self.step) if met else self._batches.at(self.step)
            self._step(batch, done, given=False)
            if count % LOOKED_AT == 0:
                self._stop_if_not_finite(done[-LOOKED_AT:])
        self._stop_if_not_finite(done[-(steps % LOOKED_AT) :] if steps % LOOKED_AT else [])

    @exclusive
    def step_on(self, batch: Batch) -> Metrics:
        done: list[_Done] = []
        columns = {name: x.to(self.dtype) for name, x in batch.columns().items()}
        self._step(Batch(**columns), done, given=True)
        self._stop_if_not_finite(done)
        return self._metrics(done)

    @exclusive
    def meet(self, replay: Replay) -> None:
        self.data = replay

    @exclusive
    def draws_next(self, place: int) -> bool:
        """See ``iql_fast.engines.base.OnlineEngine``."""
        return any(
            place in philox.batch_rows(seed, self.step, self.method.batch_size, len(self.data))
            for seed in self.seeds
        )

    @exclusive
    @torch.no_grad()
    def explore(self, observations: FloatArray, noise: FloatArray) -> FloatArray:
        seen, drawn = (torch.from_numpy(x[:, None]).to(self.dtype) for x in (observations, noise))
        actions: FloatArray = self.method.explore(self.on, seen, drawn)[:, 0].float().numpy()
        return actions

    def batch_at(self, step: int) -> Batch:
        """The batch that ``run`` trains on at a (0-based) step."""
        return batch_at(self.data, self.seeds, step, self.method.batch_size, self.dtype)

    @exclusive
    def state_dict(self) -> dict[str, Tensor]:
        state = {name: tensor.detach().contiguous().clone() for name, tensor in self._state()}
        return state | {"step": torch.tensor(self.step, dtype=torch.int64)}

    @exclusive
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        own = dict(self._state())
        check_shapes(state, {name: list(tensor.shape) for name, tensor in own.items()})
        for name, tensor in own.items():
            tensor.copy_(state[name])
        self.step = int(state["step"])
        self._unmeasured = []
        self.on.counted(self.step)

    @exclusive
    def policy(self, index: int) -> Acting:
        state = {name: tensor.detach() for name, tensor in self._state()}
        return from_state(state, index, self.method.policy())

    def _step(self, batch: Batch, done: list[_Done], given: bool) -> None:
        self.on.begin(self.step, batch)
        self.method.step(self.on)
        self.step += 1
        kept = batch if given else None
        done.append(_Done(self.step, kept, self.on.values, self.on.rows))

    def _start(self) -> None:
        for s, seed in enumerate(self.seeds):
            generator = torch.Generator().manual_seed(seed)
            for weights in self.on.weights.values():
                weights.start(s, generator)
        for name, target in self.on.targets.items():
            target.flat.copy_(self.on.weights[name].flat)
        for name, scalar in self.method.scalars(self.data.act_dim).items():
            self.on.numbers[name][0].fill_(scalar.initial)
        self.on.counted(0)

    def _state(self) -> Iterator[tuple[str, Tensor]]:
        """Views of everything that training changes, by their names in a state."""
        for name, weights in self.on.weights.items():
            yield from weights.named(weights.flat, name)
            yield from weights.named(weights.first, f"adam.m.{name}")
            yield from weights.named(weights.second, f"adam.v.{name}")
        for target in self.on.targets.values():
            yield from target.named(target.flat, target.net.target)
        for name, (value, first, second) in self.on.numbers.items():
            yield name, value.detach()
            yield f"adam.m.{name}", first
            yield f"adam.v.{name}", second

    def _metrics(self, done: Sequence[_Done]) -> Metrics:
        """What the steps recorded, averaged over those that recorded it; NaN where none did."""
        found: Metrics = {}
        for name in self._recorded:
            values = [step.values[name] for step in done if name in step.values]
            if not values:
                found[name] = np.full(len(self.seeds), np.nan)
                continue
            rows = torch.stack(values).double()  # [K, S]
            largest = self.method.records.get(name) == "max"
            found[name] = (rows.amax(0) if largest else rows.mean(0)).cpu().numpy()
        return self.method.measured(found)

    def _stop_if_not_finite(self, done: Sequence[_Done]) -> None:
        """Raise ``NonFiniteLoss`` of the first loss of some steps that is not."""
        losses = [
            (step, name.removesuffix("_loss"), loss)
            for step in done
            for name, loss in step.values.items()
            if name.endswith("_loss")
        ]
        if not losses or bool(torch.isfinite(torch.stack([loss for *_, loss in losses])).all()):
            return
        for step, net, loss in losses:
            bad = ~torch.isfinite(loss)
            if bool(bad.any()):
                index = int(bad.nonzero()[0])
                batch = step.given or self.batch_at(step.number - 1)
                statistics = batch_statistics(batch, index)
                for name, rows in step.rows.items():
                    statistics[f"{name} min"] = float(rows[index].min())
                    statistics[f"{name} max"] = float(rows[index].max())
                raise NonFiniteLoss(step.number, self.seeds[index], net, statistics)
