"""A CSV file that grows by whole steps and can be cut back to one."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from iql_fast.support.errors import UserError
from iql_fast.support.files import written_beside

#: What Python writes of a whole number, and of any: nothing that it would read as one besides.
_WHOLE = re.compile(r"[0-9]{1,19}")
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?(e[-+][0-9]+)?|nan|-?inf")


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
    header, *lines = text[: text.rfind("\n") + 1].split("\n")
    if not lines:
        return []
    found = tuple(header.split(","))
    if (
        found[0] != "step"
        or len(set(found)) < len(found)
        or (columns is not None and found != tuple(columns))
    ):
        raise UserError(
            f"{path} has the columns {', '.join(found)[:200]}, which are not those of a run. Was "
            "it saved by another program? Bring back the run's own file."
        )
    rows = []
    for number, line in enumerate(lines, start=2):
        if not line:
            continue
        values = line.split(",")
        if len(values) != len(found) or not all(map(_is_written, found, values)):
            raise UserError(
                f"{path} is damaged in line {number}: {line[:60]!r} is not a row of a run. Bring "
                "back the run's own file, or remove the line."
            )
        rows.append(dict(zip(found, values, strict=True)))
    return rows


def _is_written(column: str, value: str) -> bool:
    """Whether a value is one that this package writes into such a column."""
    return (_WHOLE if column in ("step", "seed") else _NUMBER).fullmatch(value) is not None


def last_step(path: Path) -> int:
    """The largest step of a whole row, 0 where there is none."""
    return max((int(row["step"]) for row in read_rows(path)), default=0)
