"""The ways that policies took through a maze, drawn over its walls."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from iql_fast.support import output

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw(
    path: Path,
    title: str,
    layout: str,
    seeds: Sequence[int],
    paths: Sequence[Sequence[NDArray[np.float32]]],
    returns: NDArray[np.float64],
) -> None:
    """Write a picture with one maze a seed.

    Args:
        layout: a key of ``antmaze.LAYOUTS``.
        seeds: what to call the policies.
        paths: ``[T + 1, 2]`` in metres, of every episode of every policy.
        returns: ``[policies, episodes]``; an episode that reached its goal has 1.
    """
    columns = min(3, len(seeds))
    rows = -(-len(seeds) // columns)
    tall = _shape(layout)[0] / _shape(layout)[1]
    figure = output.new_figure(5.5 * columns, 0.4 + (1.0 + 4.6 * tall) * rows)
    figure.suptitle(title, fontsize="medium", wrap=True)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[len(seeds) :]:
        axes.set_axis_off()
    for axes, seed, walks, reached in zip(grid, seeds, paths, returns, strict=False):
        _walls(axes, layout)
        for walk, score in zip(walks, reached, strict=True):
            color = "C0" if score > 0 else "C3"
            axes.plot(walk[:, 0], walk[:, 1], color=color, alpha=0.35, linewidth=0.8)
            axes.plot(*walk[-1], ".", color=color, markersize=3)
        axes.set_title(f"seed {seed}: {int((reached > 0).sum())} of {len(walks)} reach the goal")
        axes.set(xlabel="x (m)", ylabel="y (m)", aspect="equal")
        axes.invert_yaxis()  # rows of the maze downwards, as it is written
    output.save(figure, path)


def _shape(layout: str) -> tuple[int, int]:
    """Rows and columns of a maze's cells."""
    from iql_fast.environments import antmaze  # imports the simulator

    cells = antmaze.LAYOUTS[layout]
    return len(cells), len(cells[0])


def _walls(axes: Axes, layout: str) -> None:
    from matplotlib.patches import Rectangle

    from iql_fast.environments import antmaze  # imports the simulator

    half = antmaze.CELL / 2
    cells = antmaze.LAYOUTS[layout]
    for row, line in enumerate(cells):
        for column, cell in enumerate(line):
            x, y = antmaze.centre(layout, (row, column))
            if cell in "#G":
                color = "0.8" if cell == "#" else "#ffe08a"
                corner = (x - half, y - half)
                axes.add_patch(Rectangle(corner, antmaze.CELL, antmaze.CELL, color=color))
    (left, top) = antmaze.centre(layout, (0, 0)) - half
    (right, bottom) = antmaze.centre(layout, (len(cells) - 1, len(cells[0]) - 1)) + half
    axes.set(xlim=(left, right), ylim=(top, bottom))
