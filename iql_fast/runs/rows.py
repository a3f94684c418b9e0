"""A CSV file that grows by whole steps and can be cut back to one."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from iql_fast.support.errors import UserError
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
        rows = read_rows(self.path, self.columns)
        self._rewrite([row for row in rows if int(row["step"]) <= step])

    def _rewrite(self, rows: Sequence[Mapping[str, Any]]) -> None:
        with (
            written_beside(self.path) as partial,
            open(partial, "w", newline="") as file,
        ):
            writer = csv.DictWriter(file, self.columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def read_rows(path: Path, columns: Sequence[str] | None = None) -> list[dict[str, str]]:
    """The whole rows of a table; a last line without its end is not one.

    Args:
        columns: that it must have; None: a ``step`` alone.

    Raises:
        UserError: it is not a table that this package wrote; names the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} cannot be read ({error}). Bring back the run's own file."
        ) from None
    reader = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]))
    rows = list(reader)
    found = tuple(reader.fieldnames or ())
    if found and (found[0] != "step" or (columns is not None and found != tuple(columns))):
        raise UserError(
            f"{path} has the columns {', '.join(found)[:200]}, which are not those of a run. Was "
            "it saved by another program? Bring back the run's own file."
        )
    for number, row in enumerate(rows, start=2):
        if not _is_of_a_run(row):
            raise UserError(
                f"{path} is damaged in line {number}: {list(row.values())[:3]}... is not a row of "
                "a run. Bring back the run's own file, or remove the line."
            )
    return rows


def _is_of_a_run(row: Mapping[Any, Any]) -> bool:
    """Whether a row has a number in every column, and a step in the first."""
    if None in row or None in row.values() or not str(row["step"]).isdecimal():
        return False
    try:
        return all(float(value) is not None for value in row.values())
    except ValueError:
        return False


def last_step(path: Path) -> int:
    """The step of the last whole row, 0 where there is none."""
    rows = read_rows(path)
    return int(rows[-1]["step"]) if rows else 0
