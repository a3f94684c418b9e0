"""D4RL's AntMaze: an ant walks to a goal that it does not see, through walls that it does not see.

The robot is the ant that Gymnasium ships, edited into D4RL's (Fu et al. 2020), with a box for each
wall of a layout. Figures are D4RL's own (Farama-Foundation/D4RL at 89141a6,
``d4rl/locomotion/{ant,maze_env,goal_reaching_env,wrappers}.py``).
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import gymnasium
import mujoco
import numpy as np
from numpy.typing import NDArray

from iql_fast.environments.near_walls import AWAY, NearWalls
from iql_fast.environments.physics import (
    assets,
    normalise_quaternion,
    require_model,
    require_mujoco,
    restore_capsules,
    restore_margins,
    restores,
)
from iql_fast.support.errors import UserError
from iql_fast.tasks.catalogue import Physics

FloatArray = NDArray[np.float64]

#: Rows of cells: ``#`` wall, ``.`` free, ``S`` start, ``G`` goal of the evaluation.
LAYOUTS: Mapping[str, tuple[str, ...]] = {
    "umaze": ("#####", "#S..#", "###.#", "#G..#", "#####"),
    "medium": (
        "########",
        "#S.##..#",
        "#..#...#",
        "##...###",
        "#..#...#",
        "#.#..#.#",
        "#...#.G#",
        "########",
    ),
    "large": (
        "############",
        "#S...#.....#",
        "#.##.#.#.#.#",
        "#......#...#",
        "#.####.###.#",
        "#..#.#.....#",
        "##.#.#.#.###",
        "#..#...#.G.#",
        "############",
    ),
}
#: Side of a cell and height of a wall, in metres.
CELL, WALL_HEIGHT = 4.0, 2.0
#: Metres from the goal at which it counts as reached.
GOAL_RADIUS = 0.5
#: Physics steps of 0.02 s that one action lasts.
FRAME_SKIP = 5
#: Newton metres of an action of 1.
TORQUE = 30.0
#: Kilograms of some of the bodies of Gymnasium's ant, and of all.
MASSES = {"torso": 0.327249, "front_left_leg": 0.039158, "aux_1": 0.039158}
TOTAL_MASS = 0.910880


def find(layout: str, mark: str) -> tuple[int, int]:
    """Row and column of the one cell that is marked so."""
    return next((r, row.index(mark)) for r, row in enumerate(LAYOUTS[layout]) if mark in row)


def centre(layout: str, cell: tuple[int, int]) -> FloatArray:
    """Where the centre of a cell is, ``[2]`` in metres: the start cell's is the origin, x grows
    with the column and y with the row."""
    row, column = find(layout, "S")
    return np.array([CELL * (cell[1] - column), CELL * (cell[0] - row)])


@functools.cache
def model(layout: str | None, physics: Physics = "d4rl") -> mujoco.MjModel:
    """The compiled model of the whole maze, one a process: not to be changed.

    Args:
        layout: a key of ``LAYOUTS``; None is an open plane.
        physics: ``"gymnasium"`` leaves out the edits that make up for a newer MuJoCo.

    Raises:
        UserError: the installed MuJoCo is refused, or Gymnasium's ant is not the expected one.
    """
    return _compiled([] if layout is None else list(_walls(layout).values()), physics)


@functools.cache
def _near(physics: Physics) -> mujoco.MjModel:
    """The ant among the boxes that become the walls near it."""
    return _compiled(list(AWAY), physics)


def simulator(layout: str, physics: Physics = "d4rl") -> NearWalls:
    """What steps ants in a maze, in one thread: its walls move. Arguments and errors are those of
    ``model``."""
    made = copy.copy(_near(physics))
    corner = centre(layout, (0, 0)) - CELL / 2
    first = mujoco.mj_name2id(made, mujoco.mjtObj.mjOBJ_GEOM, "wall_0")
    return NearWalls(made, first, _walls(layout), (float(corner[0]), float(corner[1])), CELL)


def _walls(layout: str) -> dict[tuple[int, int], FloatArray]:
    """Where the middle of each wall is, by row and column."""
    return {
        (r, c): np.append(centre(layout, (r, c)), WALL_HEIGHT / 2)
        for r, row in enumerate(LAYOUTS[layout])
        for c, cell in enumerate(row)
        if cell == "#"
    }


def _compiled(walls: Sequence[FloatArray], physics: Physics) -> mujoco.MjModel:
    """The ant among walls at some places ``[3]``."""
    require_mujoco()
    path = assets("gymnasium") / "ant.xml"
    try:
        compiled = mujoco.MjModel.from_xml_string(_edited(path, walls))
    except (OSError, ValueError, ElementTree.ParseError) as error:
        raise UserError(
            f"{path} is a model file that is not the one expected ({error}): "
            "pip install --force-reinstall 'gymnasium[mujoco]'"
        ) from None
    require_model(compiled, str(path), 15, 8, MASSES, TOTAL_MASS)
    if restores(physics):
        restore_margins(compiled)
        restore_capsules(compiled)
    return compiled


def _edited(path: Path, walls: Sequence[FloatArray]) -> str:
    """Gymnasium's file as D4RL's, in MJCF: time step, contact softness, motors, walls."""
    root = ElementTree.parse(path).getroot()
    _one(root, "option").set("timestep", "0.02")
    contact = _one(root, "default/geom")
    contact.set("solimp", "0.8 0.8 0.01")
    contact.set("solref", "0.02 1")
    for motor in _one(root, "actuator"):
        motor.set("gear", "1")
        motor.set("ctrlrange", f"{-TORQUE} {TORQUE}")
    world = _one(root, "worldbody")
    half = CELL / 2
    for i, place in enumerate(walls):
        wall = {
            "name": f"wall_{i}",
            "type": "box",
            "pos": " ".join(map(str, place.tolist())),
            "size": f"{half} {half} {WALL_HEIGHT / 2}",
            "contype": "1",
            "conaffinity": "1",
            "rgba": "0.7 0.5 0.3 1",
        }
        # D4RL's order of geoms: the floor, the walls, the ant.
        index = [child.tag for child in world].index("body")
        world.insert(index, ElementTree.Element("geom", wall))
    return ElementTree.tostring(root, encoding="unicode")


def _one(root: ElementTree.Element, path: str) -> ElementTree.Element:
    element = root.find(path)
    if element is None:
        raise ValueError(f"it has no <{path}>")
    return element


def start(data: mujoco.MjData, generator: np.random.Generator) -> None:
    """Put the ant at the model's own pose, shaken: U(-0.1, 0.1) on each position, 0.1 N(0, 1) on
    each velocity (metres, radians, and these a second)."""
    mujoco.mj_resetData(data.model, data)
    data.qpos += generator.uniform(-0.1, 0.1, data.model.nq)
    data.qvel[:] = 0.1 * generator.standard_normal(data.model.nv)
    # The simulator of D4RL's data did this in place, before the first observation.
    normalise_quaternion(data.qpos, 3)


class AntMaze(gymnasium.Env[FloatArray, NDArray[np.float32]]):
    """One goal in a maze; the reward is 1 on reaching it, which ends the episode.

    Observations ``[29]``: position and joint angles ``qpos[0:15]`` (metres, a quaternion,
    radians), velocities ``qvel[0:14]``. Actions ``[8]`` in [-1, 1]: torques, 0.1 s each. The
    horizon (700 steps in the umaze, 1000 in the others) is the registration's. ``model`` and
    ``data``, which may be set, have only the walls near where the ant was stepped last; ``scene``
    has all.

    Args:
        layout: ``"umaze"``, ``"medium"`` or ``"large"``.
        fixed_goal: one goal for the environment's lifetime (D4RL's v0), rather than one an
            episode (v2).
        goal_seed: of the fixed goal; None draws it from numpy's global generator, as D4RL does.
        physics: the mechanics that D4RL's data were made in, or those of the installed MuJoCo.

    Raises:
        UserError: no such layout, a MuJoCo that is refused, or an ant that is not the expected one.
    """

    def __init__(
        self,
        layout: str = "umaze",
        *,
        fixed_goal: bool = False,
        goal_seed: int | None = None,
        physics: Physics = "d4rl",
    ) -> None:
        if layout not in LAYOUTS:
            raise UserError(f"AntMaze has no layout {layout!r}: {', '.join(LAYOUTS)}.")
        self.layout, self.physics = layout, physics
        self._simulator = simulator(layout, physics)
        self.model = self._simulator.model
        self.data = data = mujoco.MjData(self.model)
        self._whole: mujoco.MjData | None = None
        self._qpos, self._qvel, self._ctrl = data.qpos, data.qvel, data.ctrl  # views, for speed
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (29,), np.float64)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (8,), np.float32)
        self.fixed_goal = fixed_goal
        self._goal_centre = centre(layout, find(layout, "G"))
        self.goal = np.full(2, np.nan)
        if fixed_goal:
            own = None if goal_seed is None else np.random.default_rng(goal_seed)
            self.goal = jittered_goal(self._goal_centre, own.uniform if own else np.random.uniform)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[FloatArray, dict[str, Any]]:
        """Start an episode.

        Args:
            options: ``{"goal": (x, y)}`` sets the goal, in metres.
        """
        super().reset(seed=seed)
        if not self.fixed_goal:
            self.goal = jittered_goal(self._goal_centre, self.np_random.uniform)
        if options and "goal" in options:
            self.goal = np.array(options["goal"], np.float64)
        start(self.data, self.np_random)
        return self._observation(), {"goal": self.goal.copy()}

    def step(self, action: NDArray[Any]) -> tuple[FloatArray, float, bool, bool, dict[str, Any]]:
        """One action ``[8]``; torques beyond the motors' are cut by the model."""
        np.multiply(action, TORQUE, out=self._ctrl)
        self._simulator.step(self.data, self._qpos, FRAME_SKIP)
        observation = self._observation()
        dx, dy = observation[0] - self.goal[0], observation[1] - self.goal[1]
        reached = bool(dx * dx + dy * dy <= GOAL_RADIUS**2)
        return observation, float(reached), reached, False, {}

    def scene(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        """The whole maze with the ant as it is, for pictures."""
        whole = model(self.layout, self.physics)
        if self._whole is None:
            self._whole = mujoco.MjData(whole)
        self._whole.qpos[:], self._whole.qvel[:] = self._qpos, self._qvel
        mujoco.mj_forward(whole, self._whole)
        return whole, self._whole

    def _observation(self) -> FloatArray:
        return np.concatenate((self._qpos, self._qvel))


def jittered_goal(cell_centre: FloatArray, uniform: Any) -> FloatArray:
    """A goal ``[2]`` in a cell: its centre plus U(0, 1) plus U(0, 0.5) on each axis, not below 0.

    Args:
        uniform: ``uniform(low, high, size)`` of a generator.
    """
    goal: FloatArray = np.maximum(cell_centre + uniform(0, 1, 2) + uniform(0, 0.5, 2), 0.0)
    return goal
