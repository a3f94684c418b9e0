"""A CSV file that grows by whole steps and can be cut back to one."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from iql_fast.support.files import written_beside


class StepTable:
    """Rows whose first column is the training step, in increasing order."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path = path
        self.columns = ("step", *columns)
        if not path.exists():
            self._rewrite([])

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add the rows of one step in one write, and bring them to the disk."""
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, lineterminator="\n")
        writer.writerows(rows)
        with open(self.path, "a", newline="") as file:
            file.write(text.getvalue())
            file.flush()
            os.fsync(file.fileno())

    def cut_after(self, step: int) -> None:
        """Drop what was written after ``step``, and a last row that a crash left unfinished."""
        self._rewrite([row for row in read_rows(self.path) if int(row["step"]) <= step])

    def _rewrite(self, rows: Sequence[Mapping[str, Any]]) -> None:
        with (
            written_beside(self.path) as partial,
            open(partial, "w", newline="") as file,
        ):
            writer = csv.DictWriter(file, self.columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def read_rows(path: Path) -> list[dict[str, str]]:
    """The whole rows of a table; a last line without its end is not one."""
    text = path.read_text()
    return list(csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1])))
