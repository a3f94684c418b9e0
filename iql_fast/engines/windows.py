"""The batches of a method that reads trajectories: windows of their steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from iql_fast.data.dataset import Transitions
from iql_fast.engines.sampling import Rows
from iql_fast.methods.dt import DT, NO_ACTION, Windows


class WindowBatches:
    """Each seed's windows at a step, in the dtype and on the device of ``like``.

    The authors draw a trajectory in proportion to its length, and then one of its rows to begin at:
    that is any row, each as likely, as other engines draw theirs.
    """

    def __init__(self, method: DT, data: Transitions, seeds: Sequence[int], like: Tensor) -> None:
        if data.returns_to_go is None or data.times is None:
            raise ValueError(f"{method.name} needs the data's returns_to_go and times")
        self._context, self._last = method.context, method.longest - 1
        self._dtype, self._device = like.dtype, like.device
        columns = data.observations, data.actions, data.returns_to_go, data.times
        self._observations, self._actions, togo, times = (
            torch.from_numpy(column).to(self._device) for column in columns
        )
        self._togo, self._times = togo / float(method.return_scale or 1.0), times.long()
        rows = len(self._times)
        starts = np.append(np.flatnonzero(data.times == 0), rows)
        ends = torch.from_numpy(np.repeat(starts[1:], np.diff(starts)))
        #: Rows of the trajectory from each one on.
        self._left = (ends - torch.arange(rows)).to(self._device)
        self._rows = Rows(seeds, method.batch_size, rows, native=False)

    def at(self, step: int) -> Windows:
        """Those of a (0-based) step, ``[S, B, K, ...]``."""
        return self.beginning_at(self._rows.at(step).to(self._device))

    def beginning_at(self, rows: Tensor) -> Windows:
        """Those that begin at rows ``[S, B]`` of the data."""
        length = self._left[rows].clamp(max=self._context)[..., None]
        steps = torch.arange(self._context, device=self._device)
        place = steps - (self._context - length)  # [S, B, K]
        there = place >= 0
        rows = rows[..., None] + place.clamp(min=0)

        def pick(column: Tensor, missing: float = 0.0) -> Tensor:
            found = column[rows]
            mask = ~there.view(*there.shape, *[1] * (found.dim() - there.dim()))
            return found.masked_fill(mask, missing)

        return Windows(
            pick(self._observations).to(self._dtype),
            pick(self._actions, NO_ACTION).to(self._dtype),
            pick(self._togo).to(self._dtype),
            pick(self._times).clamp(max=self._last),
            there.to(self._dtype),
        )


def window_statistics(windows: Windows, index: int) -> dict[str, float]:
    """The range of the columns of the ``index``-th seed's windows, where there are steps."""
    own = windows.of_seed(index)
    there = own.masks > 0
    columns = {
        "observation": own.observations,
        "action": own.actions,
        "return to go": own.returns_to_go,
    }
    statistics = {}
    for name, column in columns.items():
        statistics[f"{name} min"] = float(column[there].min())
        statistics[f"{name} max"] = float(column[there].max())
    return statistics
