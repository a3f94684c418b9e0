"""``python -m iql_fast.report RUN ...``: one page about runs, or about a sweep, for any browser."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from iql_fast.reports import jobs, page
from iql_fast.runs.folder import RunFolder
from iql_fast.support import cli, output
from iql_fast.support.errors import UserError
from iql_fast.support.files import check_writable


@dataclass
class Options:
    """Write one HTML file that tells of runs what there is to tell: scores beside published ones,
    curves, settings, data, versions, commands, a picture of an episode. It needs no network. Runs
    that go on or that failed are shown as far as they are."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """folders of runs, or of a sweep"""
    out: Path | None = None
    """the file (default: report.html in the folder, or here where there are several). A former
    report is replaced, any other file is not"""
    films: int = page.FILMS
    """of how many runs, the first ones, an episode is played and filmed; 0: of none"""


def main() -> None:
    """Parse the command line, and write the page."""
    options = tyro.cli(Options, prog="python -m iql_fast.report")
    if not options.runs:
        raise UserError("Name the folders of one or more runs, or that of a sweep.")
    if options.films < 0:
        raise UserError(f"--films is {options.films}; expected a number of at least 0.")
    found = jobs.of_paths(options.runs)
    single = options.runs[0] if len(set(options.runs)) == 1 else None
    out = options.out or (Path("report.html") if single is None else RunFolder(single).report)
    page.check(out)
    check_writable(out)
    with output.console().status("reading runs, filming episodes"):
        page.write(out, title(options.runs), found, options.films)
    print(out)


def title(paths: tuple[Path, ...]) -> str:
    """What the page is called."""
    names = list(dict.fromkeys(path.absolute().name for path in paths))
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


if __name__ == "__main__":
    cli.main(main)
