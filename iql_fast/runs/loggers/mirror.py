"""The loggers of one run: what its tables hold, shown elsewhere too."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from iql_fast.runs import loggers
from iql_fast.runs.folder import RunFolder
from iql_fast.runs.loggers import background, base
from iql_fast.runs.loggers.background import Arrived, Background
from iql_fast.runs.loggers.base import Row, Told
from iql_fast.runs.loggers.tensorboard import TensorBoard
from iql_fast.runs.rows import read_rows
from iql_fast.support.errors import UserError
from iql_fast.support.files import read_json, write_json


class Mirror:
    """TensorBoard, and the trackers that are asked for.

    A tracker that knows the run goes on with it; what it has not had of the tables yet, it is sent.

    Args:
        names: of the trackers.
        folder: of the run, whose tables end where it goes on from.
        step: there.
        say: shows a line to the user.
    """

    def __init__(
        self, names: Sequence[str], folder: RunFolder, step: int, say: Callable[[str], None]
    ) -> None:
        self._board = TensorBoard(folder.tensorboard, step)
        self._trackers: list[Background] = []
        self._ended = False
        if not names:
            return
        marks, settings, history = Marks(folder.logged), _settings(folder), _history(folder)
        for name in names:
            run, arrived = marks.of(name)
            told = Told(folder.path.absolute().name, folder.path, settings, run)
            tracker = loggers.get(name)()
            mark = marks.marking(name)
            self._trackers.append(Background(name, tracker, told, history, arrived, mark, say))

    def rows(self, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Show rows that a table was given; waits for nothing."""
        made = list(base.rows_of(table, rows))
        self._board.rows(made)
        for tracker in self._trackers:
            tracker.rows(made)

    def end(self, summary: Mapping[str, Any] | None = None) -> None:
        """Let all finish, in bounded time.

        Args:
            summary: of the run; None where it was stopped. A second call does nothing.
        """
        if self._ended:
            return
        self._ended = True
        results = None if summary is None else base.results(summary)
        try:
            self._board.end(results)
        except OSError:
            if summary is not None:  # of a run that was stopped, what stopped it is to be heard
                raise
        finally:
            until = time.monotonic() + background.PATIENCE
            for tracker in self._trackers:
                tracker.end(results)
            for tracker in self._trackers:
                tracker.wait(until)


class Marks:
    """The file that says what each tracker calls the run, and what has arrived there."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        try:
            self._content = read_json(path, "") if path.exists() else {}
        except UserError:  # it is all there again, once more in each tracker
            self._content = {}

    def of(self, name: str) -> tuple[str | None, Arrived]:
        """The run in that tracker, and the last step of each table that it has."""
        mark = self._content.get(name)
        if not isinstance(mark, dict) or not isinstance(mark.get("run"), str):
            return None, {}
        return mark["run"], {k: v for k, v in mark.items() if k != "run" and isinstance(v, int)}

    def marking(self, name: str) -> Callable[[str, Arrived], None]:
        """What writes that down."""

        def mark(run: str, arrived: Arrived) -> None:
            with self._lock:
                self._content[name] = {"run": run, **arrived}
                write_json(self._path, self._content)

        return mark


def _settings(folder: RunFolder) -> dict[str, Any]:
    return base.settings(folder.read_config())


def _history(folder: RunFolder) -> list[Row]:
    """What the tables hold, in the order of steps."""
    rows: list[Row] = []
    for table in ("metrics", "scores", "episodes"):
        path: Path = getattr(folder, table)
        if path.exists():
            rows += base.rows_of(table, read_rows(path))
    return sorted(rows, key=lambda row: row.step)
