"""``python -m iql_fast.compare RUN RUN ...``: one picture and one table of several runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from iql_fast.runs import curves, normal, sets, settings, standing, statistics
from iql_fast.runs.normal import Band
from iql_fast.runs.sets import ScoreSet
from iql_fast.runs.standing import Standing
from iql_fast.support import cli, output
from iql_fast.support.errors import UserError
from iql_fast.support.files import check_writable

#: Heads the interquartile means and their intervals.
MIDDLE = "IQM (95%)"


@dataclass
class Options:
    """Set the scores of runs side by side, and beside runs of our own of the same kind. Runs of one
    method with the same settings form a set, over tasks; an interval is that of a bootstrap over
    seeds."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """folders of runs; one that is still going on is taken as far as it is"""
    against: tuple[Path, ...] = ()
    """folders of other runs: adds the probability that the first runs' method scores higher than
    theirs, mean over the tasks that both have"""
    out: Path = Path("compare.png")
    """where the picture goes"""


def main() -> None:
    """Parse the command line, print tables, draw the picture."""
    options = tyro.cli(Options, prog="python -m iql_fast.compare")
    if not options.runs:
        raise UserError("Name the folders of one or more runs.")
    check_writable(options.out)
    against = {path.resolve() for path in options.against}
    if twice := [path for path in options.runs if path.resolve() in against]:
        raise UserError(f"{twice[0]} is named first and with --against. Name it on one side.")
    first, second = (scored(paths) for paths in (options.runs, options.against))
    runs = list({run.folder.path: run for run in (*first, *second)}.values())
    shared = sets.shared_settings(runs)
    sides = [sets.gathered(side, shared) for side in (first, second)]
    better = None
    if second:
        ends = zip(sides, ("named first", "of --against"), strict=True)
        better = improvement(*(sets.one_of(side, where) for side, where in ends))
    curves.compare(
        options.out,
        [(r.name, r.folder.scores, reference_lines(r)) for r in runs],
        bands(runs),
    )
    print_scores(runs)
    found = sets.gathered(runs, shared)
    print_sets(found)
    if shared:
        print(f"All of them: {settings.label(shared)}.")
    for run in runs:
        print(f"{run.name}: {normal.sentence(run)}")
    if better is not None:
        print(better)
    for one in (one for one in found if one.twice):
        print(
            f"warning {one.twice} score(s) of {one.label} are left out over tasks: of seeds that "
            "another run has too"
        )
    for note in (note for run in runs for note in run.scores.notes):
        print(f"warning {note}")
    print(options.out)


def scored(paths: Sequence[Path]) -> list[Standing]:
    """Runs with scores, each folder once.

    Raises:
        UserError: one is no run, or has no scores.
    """
    runs = [standing.read(path) for path in dict.fromkeys(paths)]
    for run in runs:
        if not run.final:
            raise UserError(f"{run.folder.path} has no scores yet: nothing to compare.")
    return runs


def reference_lines(run: Standing) -> dict[str, float]:
    """Scores to draw beside a run's."""
    return curves.reference_lines(run.scoring, run.record["data"], run.method)


def bands(runs: Sequence[Standing]) -> dict[str, Band]:
    """Title of the data and method -> runs of our own of the same kind."""
    found = {}
    for run in runs:
        band = normal.band_behind(run)
        if band is not None:
            found[f"{run.method}, {run.title}"] = band
    return found


def print_scores(runs: Sequence[Standing]) -> None:
    """A line a run."""
    from rich.table import Table

    table = Table(title="Scores (IQM: interquartile mean over seeds)", title_justify="left")
    for heading in ("run", "data"):
        table.add_column(heading, overflow="fold")
    for heading in ("steps", "seeds", "final", "best", MIDDLE):
        table.add_column(heading, justify="right", no_wrap=heading != MIDDLE)
    for run in runs:
        assert run.summary is not None  # they have scores
        spread = (run.summary[kind] for kind in ("final", "best"))
        table.add_row(
            *(run.name, run.title),
            f"{int(run.scores.rows[-1]['step']):,}",
            str(run.options.seeds),
            *(f"{kind['mean']:.1f} +- {kind['std']:.1f}" for kind in spread),
            statistics.middle([list(run.final.values())]).shown(),
        )
    output.console().print(table)


def print_sets(found: Sequence[ScoreSet]) -> None:
    """A line a set; nothing where each is of one task, which the table of runs tells."""
    if all(len(one.tasks) == 1 for one in found):
        return
    rows = []
    for one in found:
        middle = one.middle()
        seeds = sum(map(len, one.scores))
        shown = "returns: not on one scale" if middle is None else middle.shown()
        rows.append([one.label, str(len(one.tasks)), str(seeds), shown])
    output.print_table("Over tasks", ("method", "tasks", "scores", MIDDLE), rows)


def improvement(first: ScoreSet, second: ScoreSet) -> str:
    """A sentence.

    Raises:
        UserError: the two have no task in common.
    """
    found = sets.improvement(first, second)
    if found is None:
        raise UserError(
            "The runs named first and those of --against have no data in common: "
            f"{_listed(first)}; {_listed(second)}. Only scores on the same data, in the same "
            "physics, are compared."
        )
    said = (
        f"Probability that {first.label} scores higher than {second.label}, over "
        f"{', '.join(found.tasks)}: {found.probability.shown(2)}."
    )
    if found.left_out:
        said += f" Left out, since one side alone has them: {', '.join(found.left_out)}."
    return said


def _listed(one: ScoreSet) -> str:
    return ", ".join(problem.label for problem in one.tasks)


if __name__ == "__main__":
    cli.main(main)
