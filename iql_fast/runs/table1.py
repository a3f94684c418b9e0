"""Table 1 of the paper with columns of our own: as Markdown, CSV and a picture.

``Ours`` is what was trained: the rows of each method, by its title in the table.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from iql_fast.runs.statistics import interquartile_mean, interval
from iql_fast.support import output
from iql_fast.support.files import written_beside
from iql_fast.tasks import published

#: Marks everything that was not trained on D4RL's own data.
REGENERATED = " (regenerated)"


@dataclass(frozen=True)
class Row:
    """One task, or one total, of one method.

    Attributes:
        task: its name in table 1.
        label: what it is called, the origin of the data included.
        scores: our final score of each seed, in the order of the seeds.
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


#: Title of a method -> its rows.
Ours = Mapping[str, Sequence[Row]]


def row(task: str, summary: Mapping[str, Any]) -> Row:
    """The row of a finished run.

    Args:
        summary: ``summary.json`` of the run.
    """
    seconds = summary["seconds"]
    return Row(
        task,
        summary["title"],
        tuple(summary["scores"]["final"]["per_seed"].values()),
        (seconds["training"] / 60, seconds["evaluation"] / 60),
        published_for(task),
    )


def columns() -> list[str]:
    """Published columns: the methods of table 1, then what others report for IQL."""
    paper = [f"{method} (paper)" for method in published.methods()]
    others = {source for row in published.iql_scores().values() for source in row} - {"paper"}
    return paper + [f"IQL ({source})" for source in sorted(others)]


def published_for(task: str) -> dict[str, float]:
    """What was published for a task or, by its name, for another row of table 1."""
    paper = published.table1().get(task, {})
    scores = {f"{method} (paper)": score for method, score in paper.items()}
    others = published.iql_scores().get(task, {})
    return scores | {
        f"IQL ({source})": score for source, score in others.items() if source != "paper"
    }


def totals(rows: Sequence[Row]) -> list[Row]:
    """The totals of table 1 all of whose tasks are there; the total of all rows where there is none
    of those."""
    by_task = {r.task: r for r in rows}
    whole = [
        _sum(name, [by_task[task] for task in group])
        for name, group in GROUPS.items()
        if set(group) <= set(by_task)
    ]
    return whole or [_sum(f"total of {len(rows)}", rows)]


def _sum(name: str, rows: Sequence[Row]) -> Row:
    """Rows of the same seeds, added up. The standard deviation is that of the sums of each seed; a
    column adds up where it has a number for every row."""
    mark = REGENERATED if any(r.regenerated for r in rows) else ""
    return Row(
        name,
        name + mark,
        tuple(float(x) for x in np.sum([r.scores for r in rows], axis=0)),
        (sum(r.minutes[0] for r in rows), sum(r.minutes[1] for r in rows)),
        {
            column: sum(r.published[column] for r in rows)
            for column in columns()
            if all(column in r.published for r in rows)
        }
        or published_for(name),
    )


def _groups() -> dict[str, tuple[str, ...]]:
    """The tasks that each total of table 1 sums: those above it, or, where the table prints none
    (kitchen's and adroit's), those that the paper names."""
    unprinted = {
        "kitchen-v0 total": tuple(
            f"kitchen-{kind}-v0" for kind in ("complete", "partial", "mixed")
        ),
        "adroit-v0 total": tuple(
            f"{hand}-{kind}-v0"
            for hand in ("pen", "hammer", "door", "relocate")
            for kind in ("human", "cloned")
        ),
    }
    groups, above = {}, list[str]()
    for name in published.table1():
        if name.endswith(" total"):
            groups[name] = tuple(above) or unprinted[name]
            above = []
        else:
            above.append(name)
    return groups


#: Total of table 1 -> its tasks, in the order of the table.
GROUPS = _groups()


def heading(method: str, ours: Ours) -> str:
    """What our column of a method is called."""
    return "iql_fast" if list(ours) == ["IQL"] else f"{method} (iql_fast)"


def markdown(ours: Ours, title: str, note: str) -> str:
    """The table, with the totals, the rows of table 1 that were not trained, what the scores of
    each method come to, and the runtime."""
    lines = [f"# {title}", "", note, ""]
    headings = [heading(method, ours) for method in ours]
    lines.append("| | " + " | ".join([*headings, *columns()]) + " |")
    lines.append("|---" * (1 + len(headings) + len(columns())) + "|")
    found = lines_of(ours)
    for label, by_method in found.items():
        cells = [_cell(by_method.get(method)) for method in ours]
        any_row = next(iter(by_method.values()))
        lines.append(_line(label, cells, any_row.published))
    trained = {row.task for by_method in found.values() for row in by_method.values()}
    for task in published.table1():
        if task not in trained | {published.RUNTIME}:
            lines.append(_line(task, ["-"] * len(ours), published_for(task)))
    middle = [
        "{mean:.1f} ({low:.1f} to {high:.1f})".format(**aggregate(rows)) for rows in ours.values()
    ]
    lines.append(_line("interquartile mean (95% interval)", middle, {}))
    minutes = [
        f"{np.mean([sum(r.minutes) for r in rows]):.1f} "
        f"({np.mean([r.minutes[0] for r in rows]):.1f})"
        for rows in ours.values()
    ]
    label = "minutes a task, all seeds (training alone)"
    lines.append(_line(label, minutes, published_for(published.RUNTIME), 0))
    return "\n".join(lines) + "\n"


def lines_of(ours: Ours) -> dict[str, dict[str, Row]]:
    """Label of a line -> method -> row: the tasks in the order in which they come, then totals."""
    found: dict[str, dict[str, Row]] = {}
    for kind in (list[Row], totals):
        for method, rows in ours.items():
            for row in kind(rows):
                found.setdefault(row.label, {})[method] = row
    return found


def aggregate(rows: Sequence[Row]) -> dict[str, float]:
    """Interquartile mean of all scores of a method, and the ends of its interval."""
    low, high = interval([r.scores for r in rows])
    mean = interquartile_mean([score for r in rows for score in r.scores])
    return {"mean": float(mean), "low": low, "high": high}


def _cell(row: Row | None) -> str:
    return "-" if row is None else f"{row.mean:.1f} +- {row.std:.1f}"


def _line(label: str, ours: Sequence[str], scores: Mapping[str, float], digits: int = 1) -> str:
    numbers = [f"{scores[c]:.{digits}f}" if c in scores else "-" for c in columns()]
    return "| " + " | ".join([label, *ours, *numbers]) + " |"


def write_csv(path: Path, ours: Ours) -> None:
    """One line a task and method, and one a total and method."""
    with written_beside(path) as partial, open(partial, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        numbers = ("mean", "std", "seeds", "regenerated", "training_minutes", "evaluation_minutes")
        writer.writerow(["task", *numbers, "method", *columns()])
        for label, by_method in lines_of(ours).items():
            for method, r in by_method.items():
                own = [f"{r.mean:.3f}", f"{r.std:.3f}", len(r.scores), int(r.regenerated)]
                minutes = [f"{m:.3f}" for m in r.minutes]
                others = [r.published.get(c, "") for c in columns()]
                writer.writerow([label, *own, *minutes, method, *others])


def draw(path: Path, ours: Ours, title: str) -> None:
    """Every task a line: the published scores as dots, ours with its spread over seeds."""
    labels = {row.label: row for rows in ours.values() for row in rows}
    rows = list(labels.values())
    figure = output.new_figure(11, 2.2 + 0.55 * len(rows))
    axes = figure.subplots()
    places = np.arange(len(rows))[::-1]
    others = [c for c in columns() if c.endswith("(paper)") and c != "IQL (paper)"]
    styles: list[tuple[list[str], str, dict[str, Any]]] = [
        (others, "other methods in the paper", {"color": "0.75", "marker": "o", "s": 22}),
        ([c for c in columns() if not c.endswith("(paper)")], "IQL, other implementations",
         {"color": "C1", "marker": "x", "s": 30}),
        (["IQL (paper)"], "IQL in the paper", {"color": "black", "marker": "D", "s": 36}),
    ]  # fmt: skip
    for names, label, style in styles:
        points = [
            (r.published[name], y - 0.14)  # below ours, which else would hide them
            for r, y in zip(rows, places, strict=True)
            for name in names
            if name in r.published
        ]
        if points:
            axes.scatter(*np.array(points).T, label=label, **style)
    place_of = dict(zip(labels, places, strict=True))
    for i, (method, own) in enumerate(ours.items()):
        axes.errorbar(
            [r.mean for r in own],
            [place_of[r.label] + 0.14 + 0.24 * i / len(ours) for r in own],
            xerr=[r.std for r in own],
            fmt="s",
            markersize=6 if len(ours) == 1 else 4,
            color=f"C{i if i != 1 else 9}",  # C1 is others' implementations
            capsize=4 if len(ours) == 1 else 2,
            label=f"{heading(method, ours)}, mean +- std over seeds",
        )
    axes.set_yticks(places, [r.label for r in rows])
    axes.set(title=title, xlabel="normalised score", ylim=(-0.6, len(rows) - 0.4))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    output.save(figure, path)
