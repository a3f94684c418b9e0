"""Published scores, to stand beside ours."""

from __future__ import annotations

import csv
import functools
from importlib import resources
from typing import Literal

#: Row name -> column name -> number; what was not published is left out.
Table = dict[str, dict[str, float]]

#: Table 1's row of minutes for a million steps.
RUNTIME = "runtime minutes"


@functools.cache
def table1() -> Table:
    """Table 1 of the paper: tasks, totals (``locomotion-v2 total``), and ``RUNTIME``, by method."""
    return _read("paper_table1.csv")


@functools.cache
def table2(when: Literal["before", "after"]) -> Table:
    """Table 2 of the paper: tasks, by method, before or after fine-tuning."""
    ending = f" {when}"
    return {
        row: {
            column.removesuffix(ending): score
            for column, score in scores.items()
            if column.endswith(ending)
        }
        for row, scores in _read("paper_table2.csv").items()
    }


@functools.cache
def iql_scores() -> Table:
    """Scores of IQL by task: the paper's, and what other implementations report."""
    paper = {row: {"paper": scores["IQL"]} for row, scores in table1().items() if _is_task(row)}
    others = _read("published.csv")
    return {row: paper.get(row, {}) | others.get(row, {}) for row in paper | others}


def methods() -> list[str]:
    """The methods of table 1, in its order."""
    return list(next(iter(table1().values())))


def _is_task(row: str) -> bool:
    return row != RUNTIME and not row.endswith(" total")


def _read(name: str) -> Table:
    text = resources.files("iql_fast.tasks").joinpath(name).read_text()
    rows = csv.reader(line for line in text.splitlines() if not line.startswith("#"))
    heading = next(rows)
    return {
        row[0]: {column: float(x) for column, x in zip(heading[1:], row[1:], strict=True) if x}
        for row in rows
    }
