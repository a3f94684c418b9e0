"""The batches that every engine draws, and what to say of one that went wrong."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from iql_fast.data.dataset import Transitions
from iql_fast.data.replay import Replay
from iql_fast.formulas import philox
from iql_fast.methods.base import Batch

#: Rows that are drawn at once, for as many steps as that comes to.
DRAWN_AT_ONCE = 1 << 14


def batch_at(
    data: Transitions | Replay, seeds: Sequence[int], step: int, size: int, dtype: torch.dtype
) -> Batch:
    """Each seed's batch at a (0-based) step of ``run``."""
    columns = [
        data.gather(index, philox.batch_rows(seed, step, size, len(data)))
        for index, seed in enumerate(seeds)
    ]
    return Batch(
        **{
            name: torch.from_numpy(np.stack([of[name] for of in columns])).to(dtype)
            for name in columns[0]
        }
    )


class Batches:
    """The batches of ``batch_at``, whose rows are drawn for many steps at once.

    Args:
        native: whether the extension's operator gathers the rows.
    """

    def __init__(
        self, data: Transitions, seeds: Sequence[int], size: int, dtype: torch.dtype, native: bool
    ) -> None:
        from iql_fast import ops  # not above: where the extension is missing its import warns

        self._names = list(data.columns())
        self._columns = [torch.from_numpy(x) for x in data.columns().values()]
        self._seeds, self._size = torch.tensor(list(seeds)), size
        self._dtype, self._native = dtype, native
        if native:
            self._gather_rows = ops.native.operator("gather_rows")
            self._batch_rows_ = ops.native.operator("batch_rows_")
        self._ahead = max(1, DRAWN_AT_ONCE // (len(seeds) * size))
        self._rows = torch.empty(0)
        self._from = -1

    def at(self, step: int) -> Batch:
        """The batch of a (0-based) step."""
        rows = self._rows_at(step)
        if self._native:
            gathered = self._gather_rows(self._columns, rows)
        else:
            gathered = [column[rows] for column in self._columns]
        lead = (len(self._seeds), self._size)
        parts = {
            name: x.view(*lead, *x.shape[1:]).to(self._dtype)
            for name, x in zip(self._names, gathered, strict=True)
        }
        return Batch(**parts)

    def _rows_at(self, step: int) -> Tensor:
        """The dataset's rows of a step's batches, one seed's after the other, ``[S * B]``."""
        count = len(self._columns[0])
        if self._native:
            drawn = [
                self._batch_rows_(torch.tensor([seed, step]), self._size, count)
                for seed in self._seeds.tolist()
            ]
            return drawn[0] if len(drawn) == 1 else torch.cat(drawn)
        begin = step - step % self._ahead
        if begin != self._from:
            steps = torch.arange(begin, begin + self._ahead)
            self._rows = philox.batch_rows_of(self._seeds, steps, self._size, count)
            self._from = begin
        return self._rows[step - begin].flatten()


def batch_statistics(batch: Batch, index: int) -> dict[str, float]:
    """The range of the columns of the ``index``-th seed's batch."""
    columns = {
        "observation": batch.observations,
        "action": batch.actions,
        "reward": batch.rewards,
        "next observation": batch.next_observations,
    }
    statistics = {}
    for name, column in columns.items():
        statistics[f"{name} min"] = float(column[index].min())
        statistics[f"{name} max"] = float(column[index].max())
    return statistics
