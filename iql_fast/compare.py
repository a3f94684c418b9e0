"""``python -m iql_fast.compare RUN RUN ...``: one picture and one table of several runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from iql_fast import methods
from iql_fast.environments import scoring
from iql_fast.runs import completeness, config, curves
from iql_fast.runs.config import TrainConfig
from iql_fast.runs.folder import RunFolder
from iql_fast.runs.rows import last_step
from iql_fast.runs.schedule import Schedule
from iql_fast.runs.summary import summarise
from iql_fast.support import cli, output
from iql_fast.support.errors import UserError
from iql_fast.support.files import check_writable


@dataclass
class Options:
    """Set the scores of runs side by side."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """folders of runs; one that is still going on is taken as far as it is"""
    out: Path = Path("compare.png")
    """where the picture goes"""


def main() -> None:
    """Parse the command line, print a table, draw the picture."""
    from rich.table import Table

    options = tyro.cli(Options, prog="python -m iql_fast.compare")
    if not options.runs:
        raise UserError("Name the folders of one or more runs.")
    check_writable(options.out)
    table = Table(title="Scores")
    for heading in ("run", "data", "steps", "seeds", "final", "best"):
        table.add_column(heading)
    drawn, notes = [], list[str]()
    for path in options.runs:
        run = RunFolder(path)
        record = run.read_config()
        where = scoring.from_record(record["scoring"])
        reached = last_step(run.scores) if run.scores.exists() else 0
        of_run = config.of_record(record["options"])
        trained = config.with_options(TrainConfig(), of_run, str(run.config))
        schedule = Schedule(trained, scored=where.environment is not None)
        scores = completeness.scores(run, schedule, reached)
        if not scores.rows:
            raise UserError(f"{path} has no scores yet: nothing to compare.")
        notes += scores.notes
        summary = summarise(scores.rows, scores.due)
        title = methods.get(trained.method).title
        drawn.append((path.name, run.scores, curves.reference_lines(where, record["data"], title)))
        table.add_row(
            path.name,
            record["data"]["title"],
            f"{int(scores.rows[-1]['step']):,}",
            str(record["options"]["seeds"]),
            *(f"{summary[k]['mean']:.1f} +- {summary[k]['std']:.1f}" for k in ("final", "best")),
        )
    curves.compare(options.out, drawn)
    output.console().print(table)
    for note in notes:
        print(f"warning {note}")
    print(options.out)


if __name__ == "__main__":
    cli.main(main)
