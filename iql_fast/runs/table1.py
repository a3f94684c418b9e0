"""Table 1 of the paper with columns of our own: training on a dataset alone.

``Ours`` is what was trained: the rows of each method, by its title in the table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from iql_fast.runs import tables
from iql_fast.runs.config import TrainConfig
from iql_fast.runs.tables import Groups, Row
from iql_fast.tasks import published

#: Title of a method -> its rows.
Ours = Mapping[str, Sequence[Row]]

OURS = (
    "mean of the last ten evaluations (or of as many as there were), +- standard deviation over "
    "seeds"
)
PUBLISHED = "of a million steps on D4RL's own data"


def about(runs: Iterable[TrainConfig]) -> str:
    """The title of a table of these runs."""
    runs = list(runs)
    steps = " or ".join(f"{steps:,}" for steps in sorted({run.updates for run in runs}))
    return f"Table 1: {steps} steps, {runs[0].seeds} seed(s)"


def line(task: str, summary: Mapping[str, Any]) -> Row:
    """The row of a finished run.

    Args:
        summary: ``summary.json`` of the run.
    """
    return Row(
        task,
        summary["title"],
        tuple(summary["scores"]["final"]["per_seed"].values()),
        tables.minutes(summary),
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
    """The totals of table 1 all of whose tasks are there, or that of all rows."""
    return tables.totals(rows, GROUPS, published_for)


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
GROUPS: Groups = _groups()


def markdown(ours: Ours, title: str, note: str) -> str:
    """The table, with the totals, the rows of table 1 that were not trained, what the scores of
    each method come to, and the runtime."""
    lines = []
    found = tables.lines_of(ours, totals)
    for label, by_method in found.items():
        cells = [tables.spread(by_method[m]) if m in by_method else "-" for m in ours]
        lines.append((label, cells + _numbers(next(iter(by_method.values())).published)))
    trained = {row.task for by_method in found.values() for row in by_method.values()}
    for task in published.table1():
        if task not in trained | {published.RUNTIME}:
            lines.append((task, ["-"] * len(ours) + _numbers(published_for(task))))
    if ours:
        middle = [tables.interquartile(rows) for rows in ours.values()]
        lines.append((tables.INTERQUARTILE, middle + _numbers({})))
    minutes = [tables.mean_minutes(rows) for rows in ours.values()]
    label = tables.MINUTES if ours else published.RUNTIME
    lines.append((label, minutes + _numbers(published_for(published.RUNTIME), 0)))
    return tables.markdown(title, note, ours, columns(), lines)


def _numbers(scores: Mapping[str, float], digits: int = 1) -> list[str]:
    """The cells of the published columns."""
    return [tables.number(scores, column, digits) for column in columns()]


def write_csv(path: Path, ours: Ours) -> None:
    """One line a task and method, and one a total and method."""
    names = ("mean", "std", "seeds", "regenerated", "training_minutes", "evaluation_minutes")
    lines = [
        [
            *(label, f"{r.mean:.3f}", f"{r.std:.3f}", len(r.scores), int(r.regenerated)),
            *(f"{m:.3f}" for m in r.minutes),
            method,
            *(r.published.get(column, "") for column in columns()),
        ]
        for label, by_method in tables.lines_of(ours, totals).items()
        for method, r in by_method.items()
    ]
    tables.write_csv(path, ["task", *names, "method", *columns()], lines)


def numbers(ours: Ours) -> dict[str, Any]:
    """The rows of each method, and what they come to."""
    return {
        method: {
            "rows": [vars(row) for row in rows],
            "interquartile_mean": tables.aggregate(rows),
        }
        for method, rows in ours.items()
    }


def draw(path: Path, ours: Ours, title: str) -> None:
    """Every task a line: the published scores as dots, ours with its spread over seeds."""
    labels = {row.label: row for rows in ours.values() for row in rows}
    rows = list(labels.values())
    figure, axes = tables.new_picture(list(labels), title)
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
            label=f"{tables.heading(method, ours)}, mean +- std over seeds",
        )
    tables.save_picture(figure, path)
