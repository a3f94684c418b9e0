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


class Rows:
    """The dataset's rows of each seed's batch (``philox.batch_rows``).

    Args:
        count: rows of the dataset.
        native: whether the extension's operator draws them; else they are drawn for many steps at
            once.
    """

    def __init__(self, seeds: Sequence[int], size: int, count: int, native: bool) -> None:
        from iql_fast import ops  # not above: where the extension is missing its import warns

        self._seeds, self._size, self._count = list(seeds), size, count
        self._draw_ = ops.native.operator("batch_rows_") if native else None
        self._ahead = max(1, DRAWN_AT_ONCE // (len(seeds) * size))
        self._drawn = torch.empty(0)
        self._from = -1

    def at(self, step: int) -> Tensor:
        """Those of a (0-based) step, ``[S, B]``."""
        if self._draw_ is not None:
            states = [torch.tensor([seed, step]) for seed in self._seeds]
            return torch.stack([self._draw_(state, self._size, self._count) for state in states])
        begin = step - step % self._ahead
        if begin != self._from:
            seeds, steps = torch.tensor(self._seeds), torch.arange(begin, begin + self._ahead)
            self._drawn = philox.batch_rows_of(seeds, steps, self._size, self._count)
            self._from = begin
        return self._drawn[step - begin]


class Batches:
    """The batches of ``batch_at``.

    Args:
        native: whether the extension's operators draw and gather the rows.
    """

    def __init__(
        self, data: Transitions, seeds: Sequence[int], size: int, dtype: torch.dtype, native: bool
    ) -> None:
        from iql_fast import ops  # not above: where the extension is missing its import warns

        self._names = list(data.columns())
        self._columns = [torch.from_numpy(x) for x in data.columns().values()]
        self._dtype = dtype
        self._rows = Rows(seeds, size, len(data), native)
        self._gather_rows = ops.native.operator("gather_rows") if native else ops.plain.gather_rows

    def at(self, step: int) -> Batch:
        """The batch of a (0-based) step."""
        rows = self._rows.at(step)
        gathered = self._gather_rows(self._columns, rows.flatten())
        parts = {
            name: x.view(*rows.shape, *x.shape[1:]).to(self._dtype)
            for name, x in zip(self._names, gathered, strict=True)
        }
        return Batch(**parts)


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
