"""TensorBoard's event files, in the run's folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from iql_fast.runs.loggers.base import Begun, Row, Told


class TensorBoard:
    """See ``Logger``. It has a thread of its own for its files.

    Args:
        step: that the run goes on from; what was written after it is taken back.
    """

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # At step 0 too: a run killed before its first checkpoint left events behind.
        self._board = SummaryWriter(str(folder), purge_step=step + 1)
        self._folder = folder

    def begin(self, run: Told) -> Begun:
        return Begun(run.name, str(self._folder), goes_on=True)

    def rows(self, rows: Sequence[Row]) -> None:
        for row in rows:
            for name, value in row.values.items():
                self._board.add_scalar(name, value, row.step)

    def end(self, summary: Row | None) -> None:  # noqa: ARG002
        self._board.close()
