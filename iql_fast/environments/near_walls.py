"""A maze's simulator that has no more walls than those around the robot.

MuJoCo looks at every wall in every step, which takes a quarter of an ant's step in a large maze.
Those that cannot be touched change nothing: contacts are found pair by pair in the order of the
geoms, so with the others in their order the motion is the same, bit for bit
(``tests/test_antmaze.py``).
"""

from __future__ import annotations

import itertools
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
        rows, columns = zip(*walls, strict=True)
        # Of the cells around the maze, too; beyond, there is nothing near.
        around = [range(min(of) - REACH, max(of) + REACH + 1) for of in (rows, columns)]
        keys = itertools.product(*around)
        self._around = {(float(r), float(c)): self._near(walls, r, c) for r, c in keys}

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

    def step(self, data: mujoco.MjData, qpos: NDArray[np.float64], steps: int) -> None:
        """So many physics steps.

        Args:
            qpos: of the data, which take long to give it.
        """
        x, y = self._corner
        cell = (qpos.item(1) - y) // self._cell, (qpos.item(0) - x) // self._cell
        self._boxes[:] = self._around.get(cell, AWAY)
        mujoco.mj_step(self.model, data, steps)
