"""What a benchmark shows in the terminal while it runs and when it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from bench import results
from bench.contenders import Contender
from bench.results import Point, Row
from bench.workload import Workload

#: Columns of a table that is not written to a terminal.
FILE_WIDTH = 150
#: Rows whose disturbances are printed; the JSON file has them all.
REMARKS = 12


def console() -> Console:
    """Standard output, wide enough for a table where it is a file."""
    terminal = Console()
    return terminal if terminal.is_terminal else Console(width=FILE_WIDTH)


@contextmanager
def progress(total: int, what: str) -> Iterator[Callable[..., None]]:
    """A bar on stderr; the function that is given moves it on and says what comes next.

    Drawn only when it moves, so that drawing does not compete with what is being timed.
    """
    columns = (
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    bar = Progress(*columns, console=Console(stderr=True), auto_refresh=False, transient=True)
    with bar:
        task = bar.add_task("", total=total)
        bar.refresh()
        done = -1

        def advance(description: str = "") -> None:
            nonlocal done
            done += 1
            bar.update(task, completed=done, description=description, refresh=True)

        advance()
        yield advance


def number(value: float | None, digits: int = 2) -> str:
    """For a cell."""
    return "-" if value is None else f"{value:,.{digits}f}"


def percent(value: float | None) -> str:
    """For a cell."""
    return "-" if value is None else f"{value:.0%}"


def throughput_table(table: Sequence[Row], title: str) -> Table:
    """All contenders, by the number of threads."""
    shown = Table(title=title, title_justify="left")
    shown.add_column("", no_wrap=True)
    for heading in (
        "threads",
        "seeds",
        "precision",
        "steps/s",
        "min",
        "max",
        "spread",
        "to floor",
        "to eager",
        "to best rival",
        "active",
        "cores used",
        "others",
    ):
        shown.add_column(heading, justify="right")
    threads = None
    for row in table:
        contender = row.contender
        is_floor = contender.bounds
        if threads not in (None, contender.threads):
            shown.add_section()
        threads = contender.threads
        shown.add_row(
            contender.title + (" (!)" if row.disturbed else ""),
            str(contender.threads),
            str(contender.seeds),
            contender.precision,
            number(row.median, 1),
            number(row.low, 1),
            number(row.high, 1),
            percent(row.spread),
            number(results.ratio_to_floor(row, table)),
            number(None if is_floor else results.ratio(row, results.eager_of(row, table))),
            number(None if is_floor else results.ratio(row, results.best_rival_of(row, table))),
            percent(row.active),
            number(row.cores_used),
            percent(row.others),
        )
    return shown


def scaling_table(axes: Mapping[str, Sequence[Point]], title: str) -> Table:
    """A section for each axis."""
    shown = Table(title=title, title_justify="left")
    shown.add_column("", no_wrap=True)
    for heading in (
        "value",
        "steps/s",
        "min",
        "max",
        "spread",
        "GFLOP/s",
        "to floor",
        "active",
        "cores used",
        "others",
        "sampler",
    ):
        shown.add_column(heading, justify="right")
    for axis, points in axes.items():
        for point in points:
            row = point.row
            shown.add_row(
                axis + (" (!)" if row.disturbed else ""),
                f"{point.value:,}",
                number(row.median, 1),
                number(row.low, 1),
                number(row.high, 1),
                percent(row.spread),
                number(row.gflop_per_s, 1),
                number(point.to_floor),
                percent(row.active),
                number(row.cores_used),
                percent(row.others),
                "-" if point.sampler is None else f"{point.sampler:.1%}",
            )
        shown.add_section()
    return shown


def remarks(
    table: Sequence[Row], left_out: Mapping[Contender, str], usual: Workload
) -> Iterator[str]:
    """What is missing and what is not to be trusted, in lines."""
    reasons: dict[str, list[str]] = {}
    for contender, reason in left_out.items():
        reasons.setdefault(reason, []).append(results.describe(contender, usual))
    for reason, names in reasons.items():
        yield f"Left out: {'; '.join(names)}: {reason}."
    if any(row.others is None for row in table):
        yield "What other processes did meanwhile cannot be told here; the spread must do."
    disturbed = [
        f"  {results.describe(row.contender, usual)}: {', '.join(row.disturbed)}"
        for row in table
        if row.disturbed
    ]
    if disturbed:
        yield "The machine was too noisy to trust the rows marked (!):"
        different = list(dict.fromkeys(disturbed))
        yield from different[:REMARKS]
        if len(different) > REMARKS:
            yield f"  and {len(different) - REMARKS} more"
