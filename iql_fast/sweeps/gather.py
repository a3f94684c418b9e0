"""What a sweep came to: one row for each setting, as a table, CSV, JSON and a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from iql_fast import methods
from iql_fast.runs import tables
from iql_fast.runs.folder import RunFolder
from iql_fast.runs.rows import read_rows
from iql_fast.runs.summary import task_label
from iql_fast.support import output
from iql_fast.support.files import write_json, written_beside
from iql_fast.sweeps.packing import Packed
from iql_fast.sweeps.spec import Options

#: What scores of a run are shown, by their names in its summary.
SCORES = ("final", "last", "best")


@dataclass(frozen=True)
class Row:
    """A setting of a task and method.

    Attributes:
        job: that trained it.
        label: of the data, their origin included.
        method: its title.
        setting: what the sweep varies.
        seeds: of the setting.
        state: ``"finished"``, ``"pruned"``, ``"failed"`` or ``"unfinished"``.
        step: that it was trained to; None where that is not known.
        scores: kind -> of each seed; empty where nothing was scored.
        losses: name -> of each seed, over the last interval of the log.
        minutes: of training and evaluation of its job, which other settings may share.
    """

    job: str
    label: str
    method: str
    setting: Options
    seeds: tuple[int, ...]
    state: str
    step: int | None = None
    scores: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    losses: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    minutes: tuple[float, float] = (0.0, 0.0)

    @property
    def told(self) -> str:
        """The setting, for people."""
        parts = (f"{name} {_short(value)}" for name, value in self.setting.items())
        return ", ".join(parts)


def rows(
    jobs: Sequence[Packed], folder: Path, states: Mapping[str, str] | None = None
) -> list[Row]:
    """The rows of all settings, in the order of the sweep.

    Args:
        folder: of the jobs' runs.
        states: of jobs that are not finished.
    """
    return [row for job in jobs for row in _of_job(job, folder / job.name, states or {})]


def _of_job(job: Packed, path: Path, states: Mapping[str, str]) -> list[Row]:
    run = RunFolder(path)
    state = states.get(job.name, "unfinished")
    summary: dict[str, Any] = {}
    if run.summary.exists():
        summary, state = run.read_summary(), "finished"
    last = _last(run)
    found = []
    for setting, member in zip(job.settings, job.members, strict=True):
        of_seeds = {
            kind: tuple(float(told["per_seed"][str(seed)]) for seed in member.seed_list)
            for kind, told in summary.get("scores", {}).items()
        }
        found.append(
            Row(
                job.name,
                task_label(job.task, summary.get("title", job.task)),
                methods.get(member.method).title,
                setting,
                member.seed_list,
                state,
                summary.get("training_steps") or last.get("step"),
                of_seeds,
                {
                    name: tuple(values[seed] for seed in member.seed_list)
                    for name, values in last.get("losses", {}).items()
                },
                tables.minutes(summary) if summary else (0.0, 0.0),
            )
        )
    return found


def _last(run: RunFolder) -> dict[str, Any]:
    """Step and losses of the last rows of a run's metrics."""
    table = read_rows(run.metrics) if run.metrics.exists() else []
    if not table:
        return {}
    step = int(table[-1]["step"])
    losses: dict[str, dict[int, float]] = {}
    for row in table:
        if int(row["step"]) == step:
            for name, value in row.items():
                if name.endswith("_loss"):
                    losses.setdefault(name, {})[int(row["seed"])] = float(value)
    return {"step": step, "losses": losses}


def write(folder: Path, title: str, found: Sequence[Row]) -> None:
    """``results.md``, ``.csv``, ``.json`` and ``.png``."""
    with written_beside(folder / "results.md") as partial:
        partial.write_text(markdown(title, found))
    _write_csv(folder / "results.csv", found)
    write_json(
        folder / "results.json",
        {"title": title, "rows": [_numbers(row) for row in found]},
    )
    _draw(folder / "results.png", title, found)


def markdown(title: str, found: Sequence[Row]) -> str:
    """The table; each task's settings by their score, the best first."""
    scored = any(row.scores for row in found)
    losses = list(dict.fromkeys(name for row in found for name in row.losses))
    kinds = SCORES if scored else losses
    headings = ["task", "method", "setting", "seeds", *kinds, "minutes of the job"]
    lines = [
        "| " + " | ".join(headings) + " |",
        "|---" * 3 + "|---:" * (len(headings) - 3) + "|",
    ]
    for row in _ordered(found):
        values = row.scores if scored else row.losses
        cells = [_spread(values[kind]) if kind in values else "-" for kind in kinds]
        mark = "" if row.state == "finished" else f" ({row.state})"
        told = [row.label, row.method + mark, row.told or "-", str(len(row.seeds))]
        lines.append(
            "| " + " | ".join(map(_cell, [*told, *cells, f"{sum(row.minutes):.1f}"])) + " |"
        )
    of = (
        "Scores: mean of the last ten evaluations (final), the last and the best one"
        if scored
        else "Nothing was scored; losses over the last interval of the log"
    )
    note = f"{of}; mean +- standard deviation over seeds."
    return "\n".join([f"# {title}", "", note, "", *lines, ""])


def _ordered(found: Sequence[Row]) -> list[Row]:
    """Tasks as they come, and within each the best final score first."""
    tasks = list(dict.fromkeys(row.label for row in found))

    def key(row: Row) -> tuple[int, float]:
        final = row.scores.get("final")
        return tasks.index(row.label), -float(np.mean(final)) if final else np.inf

    return sorted(found, key=key)


def _write_csv(path: Path, found: Sequence[Row]) -> None:
    """One line a seed of each setting."""
    varied = list(dict.fromkeys(name for row in found for name in row.setting))
    losses = list(dict.fromkeys(name for row in found for name in row.losses))
    lines = [
        [
            *(row.job, row.label, row.method, seed, row.state, row.step),
            *(_text(row.setting[name]) if name in row.setting else "" for name in varied),
            *(row.scores[kind][i] if kind in row.scores else "" for kind in SCORES),
            *(row.losses[name][i] if name in row.losses else "" for name in losses),
        ]
        for row in found
        for i, seed in enumerate(row.seeds)
    ]
    headings = ["job", "task", "method", "seed", "state", "step", *varied]
    tables.write_csv(path, [*headings, *SCORES, *losses], lines)


def _numbers(row: Row) -> dict[str, Any]:
    """A row as JSON holds it."""
    told = vars(row) | {"seeds": list(row.seeds), "minutes": list(row.minutes)}
    for name in ("scores", "losses"):
        told[name] = {
            kind: [value if np.isfinite(value) else None for value in values]
            for kind, values in told[name].items()
        }
    return told


def _draw(path: Path, title: str, found: Sequence[Row]) -> None:
    """Every setting a line, in the order of the table: its final scores, or its losses."""
    rows = _ordered(found)
    labels = [", ".join(part for part in (row.label, row.method, row.told) if part) for row in rows]
    figure, axes = tables.new_picture(labels, title)
    scored = any(row.scores for row in rows)
    kinds = ["final"] if scored else sorted({name for row in rows for name in row.losses})
    axes.set_xlabel("final score" if scored else "loss")
    for color, kind in enumerate(kinds):
        for at, row in zip(range(len(rows))[::-1], rows, strict=True):
            values = (row.scores if scored else row.losses).get(kind)
            if values is None:
                continue
            told = kind if scored is False else "mean +- std over seeds"
            mean, std, hue = float(np.mean(values)), float(np.std(values)), f"C{color}"
            axes.errorbar(mean, at, xerr=std, fmt="s", capsize=3, color=hue)
            axes.plot(values, [at] * len(values), ".", alpha=0.5, label=told, color=hue)
    handles, texts = axes.get_legend_handles_labels()
    unique = dict(zip(texts, handles, strict=True))
    if unique:
        figure.legend(
            unique.values(), unique.keys(), loc="outside lower center", ncols=3, frameon=False
        )
    output.save(figure, path)


def _spread(values: Sequence[float]) -> str:
    return f"{np.mean(values):.4g} +- {np.std(values):.2g}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _short(value: Any) -> str:
    if isinstance(value, list):
        return "x".join(map(_short, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _text(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value
