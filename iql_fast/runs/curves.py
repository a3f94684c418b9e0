"""Pictures of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from iql_fast.environments.scoring import Scoring
from iql_fast.runs.folder import RunFolder
from iql_fast.runs.normal import Band
from iql_fast.runs.rows import read_rows
from iql_fast.support.files import written_beside

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rows = Sequence[Mapping[str, str]]
#: Places and values of points.
Points = tuple[NDArray[np.float64], NDArray[np.float64]]
#: Episodes that a point is the mean of, of those that were acted in during training.
EPISODES_TOGETHER = 20


def by_seed(rows: Rows, column: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Steps ``[T]`` and values ``[T, seeds]`` of a column; steps that lack a seed are left out."""
    seeds = sorted({int(row["seed"]) for row in rows})
    table: dict[int, dict[int, float]] = {}
    for row in rows:
        table.setdefault(int(row["step"]), {})[int(row["seed"])] = float(row[column])
    steps = sorted(step for step, values in table.items() if len(values) == len(seeds))
    values = [[table[step][seed] for seed in seeds] for step in steps]
    return np.array(steps, dtype=float), np.array(values).reshape(len(steps), len(seeds))


def plot_spread(axes: Axes, rows: Rows, column: str, label: str, **style: Any) -> None:
    """Mean over seeds as a line, from the lowest to the highest seed as a band."""
    steps, values = by_seed(rows, column)
    if len(steps) == 0:
        return
    (line,) = axes.plot(steps, values.mean(1), label=label, **style)
    if values.shape[1] > 1:
        axes.fill_between(steps, values.min(1), values.max(1), alpha=0.2, color=line.get_color())


def _legend(axes: Axes, twin: Axes | None = None, columns: int = 2) -> None:
    """Below the axes, where it hides no curve; the lines of both scales in one."""
    bands = [band for band in axes.collections if not str(band.get_label()).startswith("_")]
    lines = [*axes.get_lines(), *(twin.get_lines() if twin is not None else []), *bands]
    labels = [str(line.get_label()) for line in lines]
    axes.legend(
        lines,
        labels,
        fontsize=8,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.13),
        ncols=columns,
        frameon=False,
    )


def steps_axis(axes: Axes) -> None:
    """Numbers of steps as 50k and 1M, which do not run into each other."""
    from matplotlib.ticker import EngFormatter

    axes.set_xlabel("training steps")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


#: How the line looks where training goes on in the environment.
SEAM: dict[str, Any] = {"color": "0.4", "linewidth": 1, "linestyle": ":"}


def draw(
    path: Path,
    title: str,
    metrics: Path,
    scores: Path,
    reference_lines: Mapping[str, float],
    score_label: str,
    method: str = "IQL",
    seam: int | None = None,
    acted: Points | None = None,
    ours: Band | None = None,
) -> None:
    """Write a run's curves: scores, losses, and what else the method measures.

    Args:
        ours: runs of our own of the same kind, a band behind the scores.
        acted: steps and scores of episodes that were acted in during training.
        seam: the step after which training went on in the environment, a line in every panel.
        method: what it is called.
        reference_lines: label -> score, each a dashed line (the paper's, the behaviour policy's).
    """
    metric_rows = read_rows(metrics)
    score_rows = read_rows(scores) if scores.exists() else []
    measured = [*metric_rows[0]][2:-1] if metric_rows else []
    if metric_rows and "weight_clipped" not in measured:
        figure = _of_any_method(title, metric_rows, measured)
    else:
        figure = _of_iql(title, metric_rows)
    _draw_scores(
        figure.axes[0], score_rows, reference_lines, score_label, method, seam, acted, ours
    )
    for axes in figure.axes:
        if axes.get_subplotspec() is not None and axes.get_label() != "twin":
            steps_axis(axes)
            axes.grid(alpha=0.3)
            if seam is not None and axes is not figure.axes[0]:
                axes.axvline(seam, **SEAM)
    with written_beside(path) as partial:
        figure.savefig(partial, format="png", dpi=110)


def _draw_scores(
    score_axes: Axes,
    score_rows: Rows,
    reference_lines: Mapping[str, float],
    score_label: str,
    method: str,
    seam: int | None,
    acted: Points | None,
    ours: Band | None,
) -> None:
    if score_rows:
        if ours is not None:
            _behind(score_axes, ours, int(score_rows[-1]["step"]), ours.label)
        label = f"{method}, mean and range over seeds"
        plot_spread(score_axes, score_rows, "score", label, marker=".")
        if seam is not None:
            score_axes.axvline(seam, **SEAM, label="the environment joins in")
        if acted is not None and len(acted[0]) >= EPISODES_TOGETHER:
            steps, means = (together(x) for x in acted)
            label = f"sampled actions in training, means of {EPISODES_TOGETHER} episodes"
            score_axes.plot(steps, means, color="0.6", linewidth=1, label=label)
        for i, (label, score) in enumerate(reference_lines.items()):
            score_axes.axhline(score, linestyle="--", color=f"C{i + 1}", label=label)
        _legend(score_axes, columns=1)
    else:
        score_axes.text(0.5, 0.5, "not evaluated", ha="center", transform=score_axes.transAxes)
        score_axes.set(xticks=[], yticks=[])
    score_axes.set(title="Score", ylabel=score_label)


def acted_scores(run: RunFolder, scoring: Scoring) -> Points | None:
    """Steps and scores of the episodes that were acted in during training; None where there are
    none, or where returns are not what is scored."""
    if not run.episodes.exists() or scoring.measure != "return":
        return None
    rows = read_rows(run.episodes)
    steps, totals = (np.array([float(row[name]) for row in rows]) for name in ("step", "return"))
    return steps, np.array([scoring.score(total) for total in totals])


def _behind(axes: Axes, ours: Band, last: float, label: str) -> None:
    """Runs of our own as a band up to the last step of the run's, one evaluation beyond."""
    shown = slice(0, int(np.searchsorted(ours.steps, last)) + 1)
    edges = (ours.low[shown], ours.high[shown])
    axes.fill_between(ours.steps[shown], *edges, color="0.85", zorder=0, label=label)


def together(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means of ``EPISODES_TOGETHER`` neighbours each."""
    return np.convolve(values, np.full(EPISODES_TOGETHER, 1 / EPISODES_TOGETHER), "valid")


def _of_any_method(title: str, rows: Rows, measured: Sequence[str]) -> Figure:
    """Room for the scores, and a panel for each quantity, whose scales differ."""
    from matplotlib.figure import Figure

    measured = [name for name in measured if any(row[name] != "nan" for row in rows)]
    columns = 3
    lines = -(-(1 + len(measured)) // columns)
    figure = Figure(figsize=(12, 3.6 * lines), layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for name, axes in zip(measured, panels[1:], strict=False):
        known = [row for row in rows if row[name] != "nan"]
        plot_spread(axes, known, name, name, marker="." if len(known) < 20 else "")
        axes.set(title=name.replace("_", " "))
    for spare in panels[1 + len(measured) :]:
        spare.remove()
    return figure


def _of_iql(title: str, metric_rows: Rows) -> Figure:
    """Room for the scores; losses, values and advantages, weights."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 8), layout="constrained")
    (_, loss_axes), (value_axes, weight_axes) = figure.subplots(2, 2)
    figure.suptitle(title)

    for column, label in {"value_loss": "V", "critic_loss": "Q (summed over critics)"}.items():
        plot_spread(loss_axes, metric_rows, column, label)
    loss_axes.set(title="Losses", yscale="log", ylabel="V and Q loss (log scale)")
    actor_axes = loss_axes.twinx()
    plot_spread(actor_axes, metric_rows, "actor_loss", "policy (right axis)", color="C2")
    actor_axes.set(ylabel="policy loss")
    _legend(loss_axes, actor_axes)

    for column, label in {"value": "V(s)", "q": "min target Q(s, a)"}.items():
        plot_spread(value_axes, metric_rows, column, label)
    advantage_axes = value_axes.twinx()
    plot_spread(advantage_axes, metric_rows, "advantage", "advantage (right axis)", color="C2")
    plot_spread(advantage_axes, metric_rows, "advantage_std", "its std (right axis)", color="C3")
    advantage_axes.set(ylabel="advantage")
    _legend(value_axes, advantage_axes)
    value_axes.set(title="Values and advantages", ylabel="value (scaled rewards)")

    plot_spread(weight_axes, metric_rows, "weight", "mean")
    plot_spread(weight_axes, metric_rows, "weight_max", "largest")
    weight_axes.set(title="Weights exp(beta A), clipped", yscale="log", ylabel="weight (log scale)")
    share_axes = weight_axes.twinx()
    plot_spread(share_axes, metric_rows, "weight_clipped", "share at the clip", color="C2")
    share_axes.set(ylabel="share at the clip", ylim=(0, None))
    _legend(weight_axes, share_axes)
    for twin in (actor_axes, advantage_axes, share_axes):
        twin.set_label("twin")
    return figure


def compare(
    path: Path,
    runs: Sequence[tuple[str, Path, Mapping[str, float]]],
    ours: Mapping[str, Band] | None = None,
) -> None:
    """Write the score curves of several runs into one picture.

    Args:
        runs: (label, scores.csv, reference lines) of each.
        ours: label -> runs of our own of the same kind as some of these.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    references: dict[str, float] = {}
    for label, scores, lines in runs:
        plot_spread(axes, read_rows(scores), "score", label, marker=".")
        references |= lines
    furthest = max(int(read_rows(scores)[-1]["step"]) for _, scores, _ in runs)
    for label, band in (ours or {}).items():
        _behind(axes, band, furthest, f"{label}: {band.label}")
    for i, (label, score) in enumerate(references.items()):
        axes.axhline(score, linestyle="--", color=f"C{len(runs) + i}", label=label)
    axes.set(title="Scores, mean and range over seeds", ylabel="score")
    steps_axis(axes)
    axes.grid(alpha=0.3)
    _legend(axes)
    with written_beside(path) as partial:
        figure.savefig(partial, format="png", dpi=110)


def reference_lines(
    scoring: Scoring, data_record: Mapping[str, Any], method: str = "IQL"
) -> dict[str, float]:
    """Scores to draw beside a run's: the paper's, and the mean of the data."""
    lines = {}
    if data_record["return_mean"] is not None and scoring.measure == "return":
        behaviour = scoring.score(float(data_record["return_mean"]))
        lines[f"mean return of the data ({data_record['title']})"] = behaviour
    if "paper" in scoring.published:
        where = "" if data_record["origin"] == "d4rl" else " on D4RL's own data"
        lines[f"{method} in the paper{where}"] = scoring.published["paper"]
    return lines
