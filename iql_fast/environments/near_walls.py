"""A maze's simulator that has no more walls than those around the robot.

MuJoCo looks at every wall in every step, which takes a third of an ant's step in a large maze.
Those that cannot be touched change nothing: contacts are found pair by pair in the order of the
geoms, so with the others in their order the motion is the same, bit for bit
(``tests/test_antmaze.py``).
"""

from __future__ import annotations

from collections.abc import Mapping

import mujoco
import numpy as np
from numpy.typing import NDArray

#: Cells around the robot's own on each side, and boxes for the walls that they may be.
REACH = 1
BOXES = (2 * REACH + 1) ** 2
#: Where a box is that is no wall now, in metres: below everything, not above each other.
AWAY = np.array([[100.0 + 10 * i, 100.0, -100.0] for i in range(BOXES)])


class NearWalls:
    """Steps robots of one model, each among the walls of its own cell and the eight around it.

    A robot must not reach further than a cell from where its first two coordinates are, with what
    it moves in a step.

    Args:
        model: has ``BOXES`` boxes of a wall's size, which are moved about.
        first: the first of these geoms.
        walls: where each wall is, ``[3]`` in metres, by row and column.
        corner: the least x and y of the cell in row 0 and column 0.
        cell: side of a cell.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        first: int,
        walls: Mapping[tuple[int, int], NDArray[np.float64]],
        corner: tuple[float, float],
        cell: float,
    ) -> None:
        self.model = model
        # World against robot, pair by pair: a tree of bounding boxes would be the compiled places'.
        model.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_MIDPHASE)
        self._boxes = model.geom_pos[first : first + BOXES]  # a view
        self._corner, self._cell = corner, cell
        # Of the cells around the maze, too: beyond, there is nothing near.
        self._last = max(row for row, _ in walls) + REACH + 1, max(c for _, c in walls) + REACH + 1
        rows, columns = (range(-REACH - 1, last + 1) for last in self._last)
        self._around = {(r, c): self._near(walls, r, c) for r in rows for c in columns}

    def _near(
        self, walls: Mapping[tuple[int, int], NDArray[np.float64]], row: int, column: int
    ) -> NDArray[np.float64]:
        """Places of the boxes ``[BOXES, 3]`` for a robot in a cell."""
        places = AWAY.copy()
        near = range(-REACH, REACH + 1)
        found = [walls[key] for r in near for c in near if (key := (row + r, column + c)) in walls]
        if found:
            places[: len(found)] = found
        return places

    def step(self, data: mujoco.MjData, steps: int) -> None:
        """So many physics steps."""
        x, y = data.qpos[:2].tolist()
        row, column = (
            min(max(int((at - least) // self._cell), -REACH - 1), last)
            for at, least, last in zip((y, x), self._corner[::-1], self._last, strict=True)
        )
        self._boxes[:] = self._around[row, column]
        mujoco.mj_step(self.model, data, steps)
