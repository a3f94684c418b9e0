"""Table 1 of the paper with a column of our own: as Markdown, CSV and a picture."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from iql_fast.support import output
from iql_fast.support.files import written_beside
from iql_fast.tasks import published

#: Marks everything that was not trained on D4RL's own data.
REGENERATED = " (regenerated)"


@dataclass(frozen=True)
class Row:
    """One line.

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


def markdown(rows: Sequence[Row], title: str, note: str) -> str:
    """The table, with the totals, the rows of table 1 that were not trained, and the runtime."""
    lines = [f"# {title}", "", note, ""]
    lines.append("| | iql_fast | " + " | ".join(columns()) + " |")
    lines.append("|---" * (2 + len(columns())) + "|")
    for r in [*rows, *totals(rows)]:
        lines.append(_line(r.label, f"{r.mean:.1f} +- {r.std:.1f}", r.published))
    trained = {r.task for r in [*rows, *totals(rows)]} | {published.RUNTIME}
    for task in published.table1():
        if task not in trained:
            lines.append(_line(task, "-", published_for(task)))
    runtime = published_for(published.RUNTIME)
    ours = np.mean([sum(r.minutes) for r in rows])
    training = np.mean([r.minutes[0] for r in rows])
    label = "minutes a task, all seeds (training alone)"
    lines.append(_line(label, f"{ours:.1f} ({training:.1f})", runtime, 0))
    return "\n".join(lines) + "\n"


def _line(label: str, ours: str, scores: Mapping[str, float], digits: int = 1) -> str:
    numbers = [f"{scores[c]:.{digits}f}" if c in scores else "-" for c in columns()]
    return "| " + " | ".join([label, ours, *numbers]) + " |"


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """One line a task, and one a total."""
    with written_beside(path) as partial, open(partial, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        ours = ("mean", "std", "seeds", "regenerated", "training_minutes", "evaluation_minutes")
        writer.writerow(["task", *ours, *columns()])
        for r in [*rows, *totals(rows)]:
            own = [f"{r.mean:.3f}", f"{r.std:.3f}", len(r.scores), int(r.regenerated)]
            minutes = [f"{m:.3f}" for m in r.minutes]
            writer.writerow([r.label, *own, *minutes, *(r.published.get(c, "") for c in columns())])


def draw(path: Path, rows: Sequence[Row], title: str) -> None:
    """Every task a line: the published scores as dots, ours with its spread over seeds."""
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
    axes.errorbar(
        [r.mean for r in rows],
        places + 0.14,
        xerr=[r.std for r in rows],
        fmt="s",
        color="C0",
        capsize=4,
        label="iql_fast, mean +- std over seeds",
    )
    axes.set_yticks(places, [r.label for r in rows])
    axes.set(title=title, xlabel="normalised score", ylim=(-0.6, len(rows) - 0.4))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    output.save(figure, path)
