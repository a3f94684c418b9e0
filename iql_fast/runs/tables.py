"""What the tables of the paper have in common: scores of ours beside those that were published.

A table is a module (``table1``, ``table2``) with the names of ``PaperTable``. Its lines are the
tasks in the order in which they come, then totals; its columns are ours, a method each, then the
published ones.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from iql_fast.runs.config import TrainConfig
from iql_fast.runs.statistics import interquartile_mean, interval
from iql_fast.support import output
from iql_fast.support.files import written_beside

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Marks everything that was not trained on D4RL's own data.
REGENERATED = " (regenerated)"

#: Totals of a table -> the tasks that each sums.
Groups = Mapping[str, tuple[str, ...]]
#: What was published for a row of a table, by column.
Published = Callable[[str], Mapping[str, float]]


@dataclass(frozen=True)
class Row:
    """Scores of one task, or of one total, of one method.

    Attributes:
        task: its name in the paper's table.
        label: what it is called, the origin of the data included.
        scores: our score of each seed, in the order of the seeds.
        minutes: wall-clock minutes of training and of evaluation, all seeds together.
        published: column -> number, on D4RL's own data.
    """

    task: str
    label: str
    scores: tuple[float, ...]
    minutes: tuple[float, float]
    published: Mapping[str, float]

    @property
    def mean(self) -> float:
        return float(np.mean(self.scores))

    @property
    def std(self) -> float:
        """Over seeds."""
        return float(np.std(self.scores))

    @property
    def regenerated(self) -> bool:
        return self.label.endswith(REGENERATED)


class Line(Protocol):
    """A cell of a table with all that belongs to it, as a table's own module has it."""

    @property
    def task(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def minutes(self) -> tuple[float, float]: ...
    @property
    def regenerated(self) -> bool: ...


L = TypeVar("L", bound=Line)


class PaperTable(Protocol):
    """What the module of a table has. ``ours`` is what was trained: title of a method -> lines."""

    GROUPS: Groups
    #: What our numbers are, and the published ones.
    OURS: str
    PUBLISHED: str

    def about(self, runs: Iterable[TrainConfig]) -> str:
        """The title of a table of these runs."""

    def line(self, task: str, summary: Mapping[str, Any]) -> Any:
        """Of a finished run, by its ``summary.json``."""

    def markdown(self, ours: Mapping[str, Sequence[Any]], title: str, note: str) -> str: ...

    def write_csv(self, path: Path, ours: Mapping[str, Sequence[Any]]) -> None: ...

    def numbers(self, ours: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
        """Everything that is told of each method, as JSON holds it."""

    def draw(self, path: Path, ours: Mapping[str, Sequence[Any]], title: str) -> None: ...


def minutes(summary: Mapping[str, Any]) -> tuple[float, float]:
    """Of training and of evaluation, in a finished run."""
    seconds = summary["seconds"]
    return seconds["training"] / 60, seconds["evaluation"] / 60


def totals(rows: Sequence[Row], groups: Groups, published: Published) -> list[Row]:
    """The totals all of whose tasks are there; the total of all rows where there is none of
    those."""
    by_task = {r.task: r for r in rows}
    whole = [
        _sum(name, [by_task[task] for task in group], published)
        for name, group in groups.items()
        if set(group) <= set(by_task)
    ]
    return whole or [_sum(f"total of {len(rows)}", rows, published)]


def _sum(name: str, rows: Sequence[Row], published: Published) -> Row:
    """Rows of the same seeds, added up. The standard deviation is that of the sums of each seed; a
    column adds up where it has a number for every row."""
    mark = REGENERATED if any(r.regenerated for r in rows) else ""
    columns = {column: None for r in rows for column in r.published}
    return Row(
        name,
        name + mark,
        tuple(float(x) for x in np.sum([r.scores for r in rows], axis=0)),
        (sum(r.minutes[0] for r in rows), sum(r.minutes[1] for r in rows)),
        {
            column: sum(r.published[column] for r in rows)
            for column in columns
            if all(column in r.published for r in rows)
        }
        or published(name),
    )


def lines_of(
    ours: Mapping[str, Sequence[L]], summed: Callable[[Sequence[L]], Sequence[L]]
) -> dict[str, dict[str, L]]:
    """Label of a line -> method -> its cell: the tasks in the order in which they come, then
    totals.

    Args:
        summed: the totals of a method's lines.
    """
    found: dict[str, dict[str, L]] = {}
    for kind in (lambda lines: lines, summed):
        for method, lines in ours.items():
            for line in kind(lines):
                found.setdefault(line.label, {})[method] = line
    return found


def heading(method: str, ours: Mapping[str, Any]) -> str:
    """What our column of a method is called."""
    return "iql_fast" if list(ours) == ["IQL"] else f"{method} (iql_fast)"


def markdown(
    title: str,
    note: str,
    ours: Mapping[str, Sequence[L]],
    columns: Sequence[str],
    lines: Sequence[tuple[str, Sequence[str]]],
) -> str:
    """A table with its title and a note.

    Args:
        lines: label and cells: one for each of our methods, then one for each of ``columns``.
    """
    headings = ["", *(heading(method, ours) for method in ours), *columns]
    return "\n".join(
        [
            *(f"# {title}", "", note, ""),
            "| " + " | ".join(headings).lstrip() + " |",
            "|---" * len(headings) + "|",
            *("| " + " | ".join([label, *cells]) + " |" for label, cells in lines),
            "",
        ]
    )


def spread(row: Row) -> str:
    """A cell of ours: mean and standard deviation over seeds."""
    return f"{row.mean:.1f} +- {row.std:.1f}"


def number(scores: Mapping[str, float], column: str, digits: int = 1) -> str:
    """A published cell; ``"-"`` where there is none."""
    return f"{scores[column]:.{digits}f}" if column in scores else "-"


def aggregate(rows: Sequence[Row]) -> dict[str, float]:
    """Interquartile mean of all scores of a method, and the ends of its interval."""
    low, high = interval([r.scores for r in rows])
    mean = interquartile_mean([score for r in rows for score in r.scores])
    return {"mean": float(mean), "low": low, "high": high}


#: Labels of the two lines below the totals.
INTERQUARTILE = "interquartile mean (95% interval)"
MINUTES = "minutes a task, all seeds (training alone)"


def interquartile(rows: Sequence[Row]) -> str:
    """The cell of a method in the line of that name."""
    return "{mean:.1f} ({low:.1f} to {high:.1f})".format(**aggregate(rows))


def mean_minutes(lines: Sequence[Line]) -> str:
    """The cell of a method in the line of that name."""
    whole = np.mean([sum(line.minutes) for line in lines])
    return f"{whole:.1f} ({np.mean([line.minutes[0] for line in lines]):.1f})"


def write_csv(path: Path, headings: Sequence[str], lines: Iterable[Sequence[Any]]) -> None:
    """A file of comma-separated values."""
    with written_beside(path) as partial, open(partial, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(headings)
        writer.writerows(lines)


def new_picture(labels: Sequence[str], title: str) -> tuple[Figure, Axes]:
    """A figure with a line for each label, the first at the top: at ``len(labels) - 1``."""
    figure = output.new_figure(11, 2.2 + 0.55 * len(labels))
    axes = figure.subplots()
    axes.set_yticks(np.arange(len(labels))[::-1], labels)
    axes.set(title=title, xlabel="normalised score", ylim=(-0.6, len(labels) - 0.4))
    axes.grid(alpha=0.3)
    return figure, axes


def save_picture(figure: Figure, path: Path) -> None:
    """With the legend below it."""
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    output.save(figure, path)
