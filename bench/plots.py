"""Pictures of benchmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.contenders import KINDS
from bench.results import Point, Row
from iql_fast.support.files import written_beside

COLOURS = {"ours": "C0", "rival": "0.65"}


def throughput(path: Path, table: Sequence[Row], title: str, footnote: str) -> None:
    """Bars of the medians from the lowest to the highest round, a panel a number of threads."""
    from matplotlib.figure import Figure

    counts = sorted({row.contender.threads for row in table})
    groups = {n: [row for row in table if row.contender.threads == n] for n in counts}
    heights = [1 + sum(not row.contender.bounds for row in groups[n]) for n in counts]
    figure = Figure(figsize=(9, 1.6 + 0.5 * sum(heights)), layout="constrained")
    panels = figure.subplots(
        len(counts), 1, squeeze=False, sharex=True, height_ratios=heights
    ).ravel()
    figure.suptitle(title)
    for axes, n in zip(panels, counts, strict=True):
        bars = sorted(
            (row for row in groups[n] if not row.contender.bounds), key=lambda r: r.median
        )
        for place, row in enumerate(bars):
            error = [[row.median - row.low], [row.high - row.median]]
            colour = COLOURS[KINDS[row.contender.kind].role]
            axes.barh(place, row.median, xerr=error, color=colour, capsize=4, ecolor="black")
            # At the foot of the bar, where no error bar runs through it.
            colour = "white" if KINDS[row.contender.kind].role == "ours" else "black"
            axes.text(0, place, f"  {row.median:.0f}", va="center", color=colour, weight="bold")
        axes.set_yticks(range(len(bars)), [_label(row) for row in bars])
        floors = {"floor": ("C3", "every product by sgemm"), "peak": ("C4", "at the FMA peak")}
        for floor in (row for row in groups[n] if row.contender.bounds):
            colour, label = floors[floor.contender.kind]
            axes.axvspan(floor.low, floor.high, color=colour, alpha=0.15, linewidth=0, zorder=0)
            axes.axvline(floor.median, color=colour, linestyle="--", label=label)
            axes.legend(loc="lower right", bbox_to_anchor=(1, 1), frameon=False, fontsize=8)
        axes.set_title("1 thread" if n == 1 else f"{n} threads", loc="left", fontsize=10)
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)
    panels[-1].set(xlabel="training steps a second over all seeds (median, min to max)")
    noisy = any(row.disturbed for row in table)
    figure.supxlabel(footnote + ("; (!): the machine was too noisy" if noisy else ""), fontsize=8)
    with written_beside(path) as partial:
        figure.savefig(partial, format=path.suffix.lstrip("."), dpi=130)


def _label(row: Row) -> str:
    contender = row.contender
    seeds = f", {contender.seeds} seeds" if contender.seeds > 1 else ""
    mark = " (!)" if row.disturbed else ""
    return f"{contender.title}, {contender.precision}{seeds}{mark}"


def scaling(
    path: Path, axes_points: Mapping[str, Sequence[Point]], title: str, footnote: str
) -> None:
    """A column for each axis: steps a second above, operations a second below."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1 + 2.6 * len(axes_points), 6), layout="constrained")
    grid = figure.subplots(2, len(axes_points), squeeze=False, sharey="row", sharex="col")
    figure.suptitle(title)
    for (above, below), (axis, points) in zip(grid.T, axes_points.items(), strict=True):
        values = [point.value for point in points]
        for axes, scale in (
            (above, [1.0 for _ in points]),
            (below, [point.row.gflop_per_s / point.row.median for point in points]),
        ):
            scaled = list(zip((point.row for point in points), scale, strict=True))
            error = [
                [(row.median - row.low) * factor for row, factor in scaled],
                [(row.high - row.median) * factor for row, factor in scaled],
            ]
            medians = [row.median * factor for row, factor in scaled]
            axes.errorbar(values, medians, yerr=error, marker="o", capsize=3)
            axes.grid(alpha=0.3)
        floors = [point.row.gflop_per_s / point.to_floor for point in points if point.to_floor]
        if len(floors) == len(points):
            below.plot(values, floors, color="C3", linestyle="--", label="sgemm 256^3")
        above.set(title=axis, xscale="log")
        below.set_xticks(values, [_short(value) for value in values], fontsize=8, rotation=60)
        below.minorticks_off()
    grid[0, 0].set(ylabel="training steps a second", yscale="log")
    grid[0, 0].yaxis.set_major_formatter("{x:g}")
    grid[0, 0].yaxis.set_minor_formatter("")
    grid[1, 0].set(ylabel="GFLOP/s of matrix products")
    grid[1, 0].set_ylim(bottom=0)  # only now, for it ends the automatic limits of the row
    grid[1, 0].legend(fontsize=8, loc="best")
    noisy = any(point.row.disturbed for points in axes_points.values() for point in points)
    figure.supxlabel(footnote + ("; the machine was too noisy" if noisy else ""), fontsize=8)
    with written_beside(path) as partial:
        figure.savefig(partial, format=path.suffix.lstrip("."), dpi=130)


def _short(value: int) -> str:
    """For a tick."""
    return f"{value:.0e}".replace("e+0", "e") if value >= 100_000 else str(value)
