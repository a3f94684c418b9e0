"""The engine of any method on the CPU: one step after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from iql_fast.data.dataset import Transitions
from iql_fast.data.replay import Replay
from iql_fast.engines.base import Metrics, Precision
from iql_fast.engines.sampling import Batches, batch_statistics
from iql_fast.engines.torch_engine import TorchEngine
from iql_fast.methods.base import Batch, Method
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


class GenericEngine(TorchEngine):
    """See ``iql_fast.engines.torch_engine.TorchEngine``."""

    def __init__(
        self,
        method: Method,
        data: Transitions,
        seeds: Sequence[int],
        precision: Precision = "fp32",
        *,
        native: bool = False,
    ) -> None:
        super().__init__(method, data, seeds, precision, native, "cpu")
        self._batches = Batches(data, self.seeds, method.batch_size, self.dtype, native)
        self._unmeasured: list[_Done] = []

    def _advance(self, steps: int) -> None:
        done = self._unmeasured
        for count in range(1, steps + 1):
            met = isinstance(self.data, Replay)
            batch = self.batch_at(self.step) if met else self._batches.at(self.step)
            self._step(batch, done, given=False)
            if count % LOOKED_AT == 0:
                self._stop_if_not_finite(done[-LOOKED_AT:])
        self._stop_if_not_finite(done[-(steps % LOOKED_AT) :] if steps % LOOKED_AT else [])

    def _advance_on(self, batch: Batch) -> Metrics:
        done: list[_Done] = []
        self._step(batch, done, given=True)
        self._stop_if_not_finite(done)
        return self._metrics(done)

    def _taken(self) -> Metrics:
        done, self._unmeasured = self._unmeasured, []
        return self._metrics(done)

    def _forget(self) -> None:
        self._unmeasured = []

    def _step(self, batch: Batch, done: list[_Done], given: bool) -> None:
        self.on.begin(self.step, batch)
        self.method.step(self.on)
        self.step += 1
        kept = batch if given else None
        done.append(_Done(self.step, kept, self.on.values, self.on.rows))

    def _metrics(self, done: Sequence[_Done]) -> Metrics:
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
