"""``python -m iql_fast.compare RUN RUN ...``: one picture and one table of several runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from iql_fast.environments import scoring
from iql_fast.runs import curves
from iql_fast.runs.folder import RunFolder
from iql_fast.runs.rows import read_rows
from iql_fast.runs.summary import summarise
from iql_fast.support import cli, output
from iql_fast.support.errors import UserError


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
    table = Table(title="Scores")
    for heading in ("run", "data", "steps", "seeds", "final", "best"):
        table.add_column(heading)
    drawn = []
    for path in options.runs:
        run = RunFolder(path)
        record = run.read_config()
        rows = read_rows(run.scores) if run.scores.exists() else []
        if not rows:
            raise UserError(f"{path} has no scores yet: nothing to compare.")
        summary = summarise(rows)
        where = scoring.from_record(record["scoring"])
        drawn.append((path.name, run.scores, curves.reference_lines(where, record["data"])))
        table.add_row(
            path.name,
            record["data"]["title"],
            f"{int(rows[-1]['step']):,}",
            str(record["options"]["seeds"]),
            *(f"{summary[k]['mean']:.1f} +- {summary[k]['std']:.1f}" for k in ("final", "best")),
        )
    curves.compare(options.out, drawn)
    output.console().print(table)
    print(options.out)


if __name__ == "__main__":
    cli.main(main)
