"""Whether a run's tables hold the rows that it wrote: all of them, each once, and no others."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from iql_fast.runs.folder import RunFolder
from iql_fast.runs.rows import read_rows
from iql_fast.runs.schedule import Schedule


class Compared(NamedTuple):
    """A table beside the rows that a run writes.

    Attributes:
        rows: those of the run, in order.
        due: how many each seed should have.
        notes: a sentence for each thing that is not as it should be.
    """

    rows: list[dict[str, str]]
    due: int
    notes: list[str]


def metrics(run: RunFolder, schedule: Schedule, last: int) -> Compared:
    """metrics.csv up to the step ``last``."""
    return _compare(run.metrics, list(schedule.ends(last)), schedule, last)


def scores(run: RunFolder, schedule: Schedule, last: int) -> Compared:
    """scores.csv up to the step ``last``."""
    due = [step for step in schedule.ends(last) if schedule.evaluates(step)]
    return _compare(run.scores, due, schedule, last)


def _compare(path: Path, due: list[int], schedule: Schedule, last: int) -> Compared:
    rows = [row for row in read_rows(path) if int(row["step"]) <= last] if path.exists() else []
    written = {(step, seed) for step in due for seed in schedule.options.seed_list}
    own = {key: row for row in rows if (key := (int(row["step"]), int(row["seed"]))) in written}
    found = Counter((int(row["step"]), int(row["seed"])) for row in rows)
    kinds = {
        "lacks": written - found.keys(),
        "has rows that this run did not write,": found.keys() - written,
        "has rows more than once,": {key for key, count in found.items() if count > 1},
    }
    notes = []
    for what, keys in kinds.items():
        if keys:
            step, seed = min(keys)
            notes.append(
                f"{path} {what} {len(keys):,} of {len(written):,}: the first is of step {step:,} "
                f"and seed {seed}"
            )
    return Compared([own[key] for key in sorted(own)], len(due), notes)
