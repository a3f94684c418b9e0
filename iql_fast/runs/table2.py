"""Table 2 of the paper with columns of our own: scores before and after fine-tuning.

``Ours`` is what was trained: the lines of each method, by its title in the table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from iql_fast.runs import tables
from iql_fast.runs.config import TrainConfig
from iql_fast.runs.tables import Groups, Row
from iql_fast.tasks import published

When = Literal["before", "after"]

OURS = (
    "before -> after the steps in the environment, each of one evaluation, mean +- standard "
    "deviation over seeds"
)
PUBLISHED = "before -> after, on D4RL's and AWAC's own data; totals are the sums of their rows"


@dataclass(frozen=True)
class Change:
    """One task, or one total, of one method: the same seeds before and after fine-tuning."""

    before: Row
    after: Row

    @property
    def task(self) -> str:
        return self.before.task

    @property
    def label(self) -> str:
        return self.before.label

    @property
    def minutes(self) -> tuple[float, float]:
        """Of the whole run, which both have."""
        return self.before.minutes

    @property
    def regenerated(self) -> bool:
        return self.before.regenerated


#: Title of a method -> its lines.
Ours = Mapping[str, Sequence[Change]]


def about(runs: Iterable[TrainConfig]) -> str:
    """The title of a table of these runs."""
    runs = list(runs)
    offline = " or ".join(f"{steps:,}" for steps in sorted({run.updates for run in runs}))
    online = runs[0].online.online_steps
    return (
        f"Table 2: {offline} steps offline, then {online:,} in the environment, "
        f"{runs[0].seeds} seed(s)"
    )


def line(task: str, summary: Mapping[str, Any]) -> Change:
    """Of a finished run of both stages.

    Args:
        summary: ``summary.json`` of the run.
    """

    def row(when: When) -> Row:
        scores = tuple(summary["online"][when]["per_seed"].values())
        minutes = tables.minutes(summary)
        return Row(task, summary["title"], scores, minutes, published_for(when, task))

    return Change(row("before"), row("after"))


def columns() -> list[str]:
    """Published columns: the methods of table 2."""
    return [f"{method} (paper)" for method in next(iter(published.table2("after").values()))]


def published_for(when: When, task: str) -> dict[str, float]:
    """What was published for a task; for a total, the sum of its rows."""
    table = published.table2(when)
    names = GROUPS.get(task, (task,))
    if not set(names) <= set(table):
        return {}
    return {
        f"{method} (paper)": sum(table[name][method] for name in names)
        for method in table[names[0]]
    }


def _groups() -> dict[str, tuple[str, ...]]:
    tasks = tuple(published.table2("after"))
    hands = tuple(task for task in tasks if task.endswith("-binary-v0"))
    mazes = tuple(task for task in tasks if task not in hands)
    return {"antmaze-v0 total": mazes, "hand-v0 total": hands, "total": tasks}


#: Total of table 2 -> its tasks, in the order of the table.
GROUPS: Groups = _groups()


def totals(changes: Sequence[Change]) -> list[Change]:
    """The totals of table 2 all of whose tasks are there, or that of all lines."""
    before = tables.totals([c.before for c in changes], GROUPS, partial(published_for, "before"))
    after = tables.totals([c.after for c in changes], GROUPS, partial(published_for, "after"))
    return [Change(*both) for both in zip(before, after, strict=True)]


def markdown(ours: Ours, title: str, note: str) -> str:
    """The table, with the totals, the rows of table 2 that were not trained, what the scores of
    each method come to, and the minutes."""
    lines = []
    found = tables.lines_of(ours, totals)
    for label, by_method in found.items():
        cells = [_spread(by_method[m]) if m in by_method else "-" for m in ours]
        change = next(iter(by_method.values()))
        lines.append((label, cells + _numbers(change.before.published, change.after.published)))
    trained = {change.task for by_method in found.values() for change in by_method.values()}
    for task in (*published.table2("after"), *GROUPS):
        if task not in trained:
            both = published_for("before", task), published_for("after", task)
            lines.append((task, ["-"] * len(ours) + _numbers(*both)))
    if ours:
        for when in ("before", "after"):
            middle = [tables.interquartile([getattr(c, when) for c in x]) for x in ours.values()]
            lines.append((f"{when}: {tables.INTERQUARTILE}", middle + _numbers({}, {})))
        minutes = [tables.mean_minutes(changes) for changes in ours.values()]
        lines.append((tables.MINUTES, minutes + _numbers({}, {})))
    return tables.markdown(title, note, ours, columns(), lines)


def _spread(change: Change) -> str:
    return f"{tables.spread(change.before)} -> {tables.spread(change.after)}"


def _numbers(before: Mapping[str, float], after: Mapping[str, float]) -> list[str]:
    """The cells of the published columns."""
    return [
        f"{tables.number(before, column)} -> {tables.number(after, column)}"
        if column in before
        else "-"
        for column in columns()
    ]


def write_csv(path: Path, ours: Ours) -> None:
    """One line a task and method, and one a total and method."""
    own = [f"{what}_{when}" for when in ("before", "after") for what in ("mean", "std")]
    paper = [f"{column} {when}" for column in columns() for when in ("before", "after")]
    names = (*own, "seeds", "regenerated", "training_minutes", "evaluation_minutes")
    lines = [
        [
            label,
            *(f"{x:.3f}" for r in (change.before, change.after) for x in (r.mean, r.std)),
            *(len(change.before.scores), int(change.regenerated)),
            *(f"{m:.3f}" for m in change.minutes),
            method,
            *(
                r.published.get(column, "")
                for column in columns()
                for r in (change.before, change.after)
            ),
        ]
        for label, by_method in tables.lines_of(ours, totals).items()
        for method, change in by_method.items()
    ]
    tables.write_csv(path, ["task", *names, "method", *paper], lines)


def numbers(ours: Ours) -> dict[str, Any]:
    """The rows of each method before and after, and what they come to."""
    return {
        method: {
            when: {
                "rows": [vars(getattr(change, when)) for change in changes],
                "interquartile_mean": tables.aggregate([getattr(c, when) for c in changes]),
            }
            for when in ("before", "after")
        }
        for method, changes in ours.items()
    }


def draw(path: Path, ours: Ours, title: str) -> None:
    """Every task a line, and on it every method a way from an open mark (before) to a filled one
    (after); ours with their spread over seeds."""
    labels = {change.label: change for changes in ours.values() for change in changes}
    figure, axes = tables.new_picture(list(labels), title)
    places = dict(zip(labels, np.arange(len(labels))[::-1], strict=True))
    styles = dict(zip(columns(), ("0.75", "0.5", "black"), strict=True))
    heights = np.linspace(0.3, -0.3, len(ours) + len(styles))
    for i, (method, own) in enumerate(ours.items()):
        y = [places[change.label] + heights[i] for change in own]
        color, name = f"C{i}", tables.heading(method, ours)
        for when, face in (("before", "white"), ("after", color)):
            rows = [getattr(change, when) for change in own]
            axes.errorbar(
                [row.mean for row in rows],
                y,
                xerr=[row.std for row in rows],
                fmt="s",
                markersize=5,
                color=color,
                markerfacecolor=face,
                capsize=2,
                label=f"{name}, mean +- std over seeds" if when == "after" else None,
            )
        ends = [c.before.mean for c in own], [c.after.mean for c in own]
        axes.hlines(y, ends[0], ends[1], color=color, linewidth=1)
    for i, (column, color) in enumerate(styles.items(), len(ours)):
        known = [c for c in labels.values() if column in c.before.published]
        if not known:
            continue
        y = [places[c.label] + heights[i] for c in known]
        before, after = (
            [getattr(c, w).published[column] for c in known] for w in ("before", "after")
        )
        axes.hlines(y, before, after, color=color, linewidth=1)
        axes.scatter(before, y, s=22, marker="D", facecolor="white", edgecolor=color, zorder=2)
        axes.scatter(after, y, s=22, marker="D", color=color, zorder=2, label=column)
    axes.set_xlabel("normalised score, before (open) and after (filled)")
    tables.save_picture(figure, path)
