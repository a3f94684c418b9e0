"""Add finished runs to the package's own curves: ``python tools/reference_curves.py RUN ...``.

A new run of a user's is held against these ("is my result normal?"), so each is checked first:
ended, whole tables, data and simulator that others can have, all seeds of the same settings. A seed
that is there already, of a run of the same kind, is replaced; the others stay.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

import iql_fast
from iql_fast.runs import completeness, normal, standing
from iql_fast.runs.curves import by_seed
from iql_fast.runs.schedule import Schedule
from iql_fast.runs.standing import Standing
from iql_fast.support import cli
from iql_fast.support.errors import UserError
from iql_fast.support.files import read_json, write_json
from iql_fast.tasks import reference_curves
from iql_fast.tasks.reference_curves import Curve, Kind, ReferenceCurves

FOLDER = Path(iql_fast.__file__).parent / "tasks" / "curves"
#: Of a run's record: what scores may depend on.
VERSIONS = ("iql-fast", "torch", "numpy", "gymnasium", "mujoco")


@dataclass
class Options:
    """Add the scores of finished runs to the curves that come with the package."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """folders of runs"""
    folder: Path = FOLDER
    """where the curves lie"""


def main() -> None:
    """Check all runs, then write."""
    options = tyro.cli(Options, prog="python tools/reference_curves.py")
    if not options.runs:
        raise UserError("Name the folders of one or more runs.")
    add([checked(path) for path in options.runs], options.folder)


def checked(path: Path) -> Standing:
    """A run whose scores may be a measure for others.

    Raises:
        UserError: they may not; says why.
    """
    run = standing.read(path)
    if run.state != "finished":
        raise UserError(f"{path} has not ended.")
    last = run.options.total_steps
    schedule = Schedule(run.options, scored=run.scoring.environment is not None)
    for table in (completeness.metrics, completeness.scores):
        if notes := table(run.folder, schedule, last).notes:
            raise UserError(f"{path} is not whole: {notes[0]}.")
    try:
        normal.kind(run)
    except UserError as error:
        raise UserError(f"{path} is no measure for other runs: {error}.") from None
    if not run.scores.rows:
        raise UserError(f"{path} is no measure for other runs: it has no scores.")
    return run


def add(runs: Iterable[Standing], folder: Path) -> None:
    """Write the curves of checked runs, and print which files have them.

    Raises:
        UserError: one was scored at other steps than those of its kind that are there.
    """
    known: dict[str, ReferenceCurves] = {}
    for run in runs:
        kind = normal.kind(run)
        own = curves_of(run, kind)
        found = known.get(kind.file_name) or _read(folder / kind.file_name) or own
        if found.steps != own.steps:
            raise UserError(
                f"{run.folder.path} was scored at other steps than the runs in "
                f"{folder / kind.file_name}. Train it with the same --eval-interval, or remove "
                "that file."
            )
        known[kind.file_name] = ReferenceCurves(kind, own.steps, {**found.curves, **own.curves})
    for name, curves in known.items():
        write_json(folder / name, curves.record())
        print(f"{folder / name}: seeds {', '.join(map(str, sorted(curves.curves)))}")


def curves_of(run: Standing, kind: Kind) -> ReferenceCurves:
    """Scores to a hundredth, which is far below their own spread."""
    steps, values = by_seed(run.scores.rows, "score")
    versions = {name: str(run.record["versions"][name]) for name in VERSIONS}
    curves = {
        seed: Curve(tuple(round(float(x), 2) for x in values[:, place]), versions)
        for place, seed in enumerate(run.options.seed_list)
    }
    return ReferenceCurves(kind, tuple(int(step) for step in steps), curves)


def _read(path: Path) -> ReferenceCurves | None:
    """What is there of a kind."""
    if not path.exists():
        return None
    return reference_curves.from_record(read_json(path, "These are no reference curves"))


if __name__ == "__main__":
    cli.main(main)
