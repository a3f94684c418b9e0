"""AntMaze's regenerated datasets: an ant that can walk to a place is led through a maze.

D4RL's generator (Farama-Foundation/D4RL at 89141a6, ``scripts/generation/
generate_ant_maze_datasets.py`` and ``relabel_antmaze_rewards.py``) with a walker that this project
trained (``tools/train_ant.py``). Each step, a search over the maze's cells gives the next cell on
the way to the episode's goal; the walker heads for a place in it. Episodes are long and do not end
at the goal, and the rewards are those of one other goal, an evaluation's: what is to be learned is
to put pieces of such walks together.

Episodes are walked each from a random stream of its own, so that a dataset depends on its name and
seed alone, not on the number of workers. v0 and v2 have the same rows, as D4RL's have; both get
v2's timeouts, which stand where episodes end.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from iql_fast.data import behaviour_policy
from iql_fast.data.behaviour_policy import BehaviourPolicy
from iql_fast.environments import antmaze
from iql_fast.environments.antmaze import CELL, GOAL_RADIUS, LAYOUTS
from iql_fast.environments.workers import worker_pool
from iql_fast.support.cores import usable_cores
from iql_fast.support.errors import UserError
from iql_fast.support.files import written_beside

FloatArray = NDArray[np.float64]
Cell = tuple[int, int]

POLICY = Path(__file__).parent / "behaviour" / "ant-goal.safetensors"
#: Rows of a dataset and of an episode: D4RL counts a step after it compares with its limit of 1000.
ROWS, EPISODE_ROWS = 1_000_000, 1001
#: Standard deviation of the noise on the walker's actions.
NOISE = 0.2
#: Metres that no ant covers in a step: a larger change of place is the start of an episode.
JUMP = 5.0
#: Episodes that a worker walks side by side, for one message to the parent.
EPISODES_A_TASK = 8
#: Cells (row, column) of the goals of ``play``.
PLAY_GOALS: dict[str, tuple[Cell, ...]] = {
    "umaze": ((3, 1),),
    "medium": ((2, 6), (5, 1), (6, 5)),
    "large": ((1, 6), (3, 5), (3, 10), (5, 2), (7, 4), (7, 6), (7, 9)),
}


# --- What a dataset is -----------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """How the episodes of a dataset begin.

    Attributes:
        layout: of the maze.
        starts: cells of the start; None is the maze's own start, exactly.
        goals: cells of the goal.
    """

    layout: str
    starts: tuple[Cell, ...] | None
    goals: tuple[Cell, ...]


@functools.cache
def recipe(name: str) -> Recipe:
    """Of a dataset such as ``antmaze-large-diverse-v2``.

    ``play`` has chosen goals, and starts in any other cell; ``diverse`` has both anywhere (Fu et
    al. 2020). D4RL's released script would draw the goals of both alike.

    Raises:
        UserError: no such dataset.
    """
    if name not in names():
        raise UserError(f"There is no AntMaze dataset {name!r}. These are: {', '.join(names())}.")
    layout, *kind = name.split("-")[1:-1]
    free = free_cells(layout)
    if kind == ["diverse"]:
        return Recipe(layout, free, free)
    goals = PLAY_GOALS[layout]
    others = tuple(cell for cell in free if cell not in goals)
    return Recipe(layout, others if kind == ["play"] else None, goals)


def names() -> list[str]:
    """Of all datasets."""
    kinds = ["umaze", "umaze-diverse"]
    kinds += [f"{layout}-{kind}" for layout in ("medium", "large") for kind in ("play", "diverse")]
    return [f"antmaze-{kind}-{version}" for kind in kinds for version in ("v0", "v2")]


def free_cells(layout: str) -> tuple[Cell, ...]:
    """The cells without a wall, row by row."""
    rows = LAYOUTS[layout]
    return tuple((r, c) for r, row in enumerate(rows) for c, mark in enumerate(row) if mark != "#")


def fingerprint(name: str) -> str:
    """Eight hexadecimal digits that change with the recipe and the walker."""
    content = json.dumps([dataclasses.asdict(recipe(name)), NOISE, EPISODE_ROWS])
    return hashlib.sha256(content.encode() + POLICY.read_bytes()).hexdigest()[:8]


# --- The way through the maze ----------------------------------------------------------------


def cell_of(layout: str, place: Sequence[float]) -> Cell:
    """The cell (row, column) that D4RL's generator takes a place for, metres.

    Cells are counted from the middle of the start's, not from its corner: an ant that walks
    towards smaller coordinates is told of a corner too early, and slides along it.
    """
    rows = LAYOUTS[layout]
    row = int(1 + max(place[1], 1e-4) / CELL)
    column = int(1 + max(place[0], 1e-4) / CELL)
    return min(row, len(rows) - 1), min(column, len(rows[0]) - 1)


@functools.cache
def next_cells(layout: str, target: Cell) -> dict[Cell, Cell]:
    """For each cell from which the target can be reached, the next on a shortest way to it.

    Cells of walls are among them, since ``cell_of`` can give one, but no way leads through them.
    """
    rows = LAYOUTS[layout]
    following: dict[Cell, Cell] = {target: target}
    reached = deque([target])
    while reached:
        cell = reached.popleft()
        if rows[cell[0]][cell[1]] == "#":
            continue
        for dr, dc in ((0, 1), (1, 0), (0, -1), (-1, 0)):
            neighbour = (cell[0] + dr, cell[1] + dc)
            inside = 0 <= neighbour[0] < len(rows) and 0 <= neighbour[1] < len(rows[0])
            if inside and neighbour not in following:
                following[neighbour] = cell
                reached.append(neighbour)
    return following


def waypoint(
    layout: str, place: Sequence[float], goal: FloatArray, generator: np.random.Generator
) -> FloatArray:
    """Where to head for, ``[2]`` in metres: a random place in the next cell, or the goal itself in
    its own."""
    target = cell_of(layout, (goal[0], goal[1]))
    cell = next_cells(layout, target).get(cell_of(layout, place), target)
    jitter = generator.uniform(0, 1, 2)  # drawn each step, in D4RL too
    here = cell_of(layout, place) == target
    return goal if here else antmaze.centre(layout, cell) + jitter


# --- What the walker sees --------------------------------------------------------------------

#: Width of the walker's inputs.
INPUTS = 29
#: Sign that makes a positive ankle angle lower the foot, of legs 1 to 4.
_ANKLE_SIGNS = np.array([1.0, -1.0, -1.0, 1.0])
#: The leg of each pair of motors, counted from 0.
_MOTOR_LEGS = np.array([3, 0, 1, 2])


class Frame:
    """States of N ants as the walker sees them: its direction ahead.

    A plane looks the same from four sides, and the ant the same from each of its legs. So the world
    is turned by quarters until the direction is within 45 degrees of +x, and the ant's legs are
    counted from there: all that is to be learned is to walk ahead, and somewhat aside, while the
    body points the way it did at the start.

    Args:
        positions: ``[N, 15]``, qpos.
        velocities: ``[N, 14]``, qvel.
        directions: ``[N, 2]``, of any length above 0.
    """

    def __init__(
        self, positions: FloatArray, velocities: FloatArray, directions: FloatArray
    ) -> None:
        self._positions, self._velocities = positions, velocities
        heading = np.arctan2(directions[:, 1], directions[:, 0])
        self._turn = np.rint(heading / (np.pi / 2)) * (np.pi / 2)
        self._aside = heading - self._turn
        self._quarters = np.rint(-self._turn / (np.pi / 2)).astype(int)

    def inputs(self) -> NDArray[np.float32]:
        """``[N, 29]``: height, quaternion, joint angles (hip and ankle a leg), the torso's velocity
        and spin, joint velocities: of the ant's 29 observations all but its place, in whose stead
        there is the direction, of length 1."""
        body = self._quarters * (np.pi / 2)
        legs = (np.arange(4) - self._quarters[:, None]) % 4
        qpos, qvel = self._positions, self._velocities
        columns = [
            qpos[:, 2:3],
            _turned_quaternion(qpos[:, 3:7], -self._turn, -body),
            _counted(qpos[:, 7:], legs),
            _turned(qvel[:, 0:3], -self._turn),
            _turned(qvel[:, 3:6], body),  # MuJoCo gives a free body's spin in the body's own axes
            _counted(qvel[:, 6:], legs),
            np.stack([np.cos(self._aside), np.sin(self._aside)], 1),
        ]
        return np.concatenate(columns, 1).astype(np.float32)

    def actions(self, chosen: NDArray[np.floating]) -> FloatArray:
        """The ant's actions ``[N, 8]`` from the walker's ``[N, 8]``."""
        legs = (np.arange(4) + self._quarters[:, None]) % 4
        own = np.take_along_axis(chosen.reshape(-1, 4, 2), legs[..., None], 1).astype(np.float64)
        own[..., 1] *= _ANKLE_SIGNS
        return own[:, _MOTOR_LEGS].reshape(-1, 8)


def _counted(joints: FloatArray, legs: NDArray[np.int_]) -> FloatArray:
    """Joint values ``[N, 8]`` with the legs in another order and ankles of one sign."""
    values = joints.reshape(-1, 4, 2) * np.stack([np.ones(4), _ANKLE_SIGNS], 1)
    return np.take_along_axis(values, legs[..., None], 1).reshape(-1, 8)


def _turned(vectors: FloatArray, angles: FloatArray) -> FloatArray:
    """Vectors ``[N, 3]`` turned about z."""
    cosine, sine = np.cos(angles), np.sin(angles)
    x, y, z = vectors.T
    return np.stack([cosine * x - sine * y, sine * x + cosine * y, z], 1)


def _turned_quaternion(quaternions: FloatArray, world: FloatArray, body: FloatArray) -> FloatArray:
    """``turn(world) q turn(body)``, both about z, with a real part that is not negative."""
    w, x, y, z = quaternions.T
    plus, minus = (world + body) / 2, (world - body) / 2
    # About one axis, turns on both sides add for (w, z) and subtract for (x, y).
    w, z = np.cos(plus) * w - np.sin(plus) * z, np.cos(plus) * z + np.sin(plus) * w
    x, y = np.cos(minus) * x - np.sin(minus) * y, np.cos(minus) * y + np.sin(minus) * x
    sign = np.where(w < 0, -1.0, 1.0)
    return np.stack([w, x, y, z], 1) * sign[:, None]


# --- Episodes --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Walk:
    """T steps of one episode.

    Attributes:
        states: ``[T + 1, 29]`` float32, qpos and qvel: the observations, and what came of the last.
        actions: ``[T, 8]`` float32, noise included.
        goal: ``[2]`` float32, where it was led.
    """

    states: NDArray[np.float32]
    actions: NDArray[np.float32]
    goal: NDArray[np.float32]


class Ant:
    """One ant on its way."""

    def __init__(self, recipe: Recipe, key: tuple[int, ...]) -> None:
        self.recipe = recipe
        self.generator = generator = np.random.default_rng(key)
        self._simulator = antmaze.simulator(recipe.layout)
        self.data = mujoco.MjData(self._simulator.model)
        antmaze.start(self.data, generator)
        if recipe.starts is not None:
            cell = recipe.starts[generator.integers(len(recipe.starts))]
            place = antmaze.centre(recipe.layout, cell) + generator.uniform(0, 1, 2)
            self.data.qpos[:2] = np.maximum(place, 0)
        cell = recipe.goals[generator.integers(len(recipe.goals))]
        self.goal = antmaze.jittered_goal(antmaze.centre(recipe.layout, cell), generator.uniform)
        self.qpos, self.qvel = self.data.qpos, self.data.qvel  # views

    def direction(self) -> FloatArray:
        """``[2]``, to the waypoint."""
        place: FloatArray = self.qpos[:2]
        return waypoint(self.recipe.layout, place.tolist(), self.goal, self.generator) - place

    def step(self, action: FloatArray) -> FloatArray:
        """Take the walker's action ``[8]`` with noise; returns what was done, cut to [-1, 1]."""
        noisy = np.clip(action + NOISE * self.generator.standard_normal(8), -1, 1)
        self.data.ctrl[:] = antmaze.TORQUE * noisy
        self._simulator.step(self.data, self.qpos, antmaze.FRAME_SKIP)
        return noisy


def walk(
    recipe: Recipe, policy: BehaviourPolicy, keys: Sequence[tuple[int, ...]], rows: int
) -> list[Walk]:
    """Episodes of so many rows, side by side.

    Args:
        keys: one an episode, the seed of its random stream.
    """
    ants = [Ant(recipe, key) for key in keys]
    states = np.empty((len(ants), rows + 1, 29), np.float32)
    actions = np.empty((len(ants), rows, 8), np.float32)
    qpos, qvel = np.empty((len(ants), 15)), np.empty((len(ants), 14))
    for t in range(rows + 1):
        for i, ant in enumerate(ants):
            qpos[i], qvel[i] = ant.qpos, ant.qvel
        states[:, t, :15], states[:, t, 15:] = qpos, qvel
        if t < rows:
            frame = Frame(qpos, qvel, np.array([ant.direction() for ant in ants]))
            inputs = frame.inputs()
            chosen = np.array(
                [policy.sample(row, ant.generator) for row, ant in zip(inputs, ants, strict=True)]
            )
            for i, action in enumerate(frame.actions(chosen)):
                actions[i, t] = ants[i].step(action)
    return [Walk(states[i], actions[i], ant.goal.astype(np.float32)) for i, ant in enumerate(ants)]


_load_policy = functools.cache(behaviour_policy.load)


def stream(name: str) -> int:
    """A number of the dataset, in the seeds of its streams; v0 and v2 share it."""
    return zlib.crc32(name.rpartition("-")[0].encode())


def _walk_some(
    name: str, policy: Path, seed: int, indices: range, rows: int, keep: Path | None
) -> list[Walk]:
    """In a worker: the episodes of these indices, or what an earlier run kept of them."""
    kept = keep and keep / f"episodes-{indices.start}-{indices.stop}-{rows}.npz"
    if kept and kept.exists():
        with np.load(kept) as file:
            columns = [file["states"], file["actions"], file["goals"]]
        return [Walk(*parts) for parts in zip(*columns, strict=True)]
    keys = [(seed, stream(name), index) for index in indices]
    walks = walk(recipe(name), _load_policy(policy), keys, rows)
    if kept:
        with written_beside(kept) as partial, open(partial, "wb") as file:
            np.savez(
                file,
                states=np.stack([w.states for w in walks]),
                actions=np.stack([w.actions for w in walks]),
                goals=np.stack([w.goal for w in walks]),
            )
    return walks


def walks(
    pool: ProcessPoolExecutor,
    workers: int,
    name: str,
    seed: int,
    rows: int,
    *,
    policy: Path = POLICY,
    keep: Path | None = None,
) -> Iterator[Walk]:
    """Episodes 0, 1, 2, ... of so many rows altogether, walked ahead of time by the workers.

    Args:
        keep: a folder of this dataset, seed and fingerprint alone, where finished episodes are
            kept, so that a run that is killed goes on; None keeps nothing.
    """
    whole = rows // EPISODE_ROWS
    starts = range(0, whole, EPISODES_A_TASK)
    tasks = [(range(i, min(i + EPISODES_A_TASK, whole)), EPISODE_ROWS) for i in starts]
    if rows % EPISODE_ROWS:  # the last episode is cut
        tasks.append((range(whole, whole + 1), rows % EPISODE_ROWS))
    pending: deque[Future[list[Walk]]] = deque()
    for indices, length in tasks:
        pending.append(pool.submit(_walk_some, name, policy, seed, indices, length, keep))
        if len(pending) == 2 * workers:
            yield from pending.popleft().result()
    while pending:
        yield from pending.popleft().result()


# --- Columns ---------------------------------------------------------------------------------


def collect(
    name: str,
    *,
    seed: int = 0,
    rows: int = ROWS,
    workers: int | None = None,
    progress: bool = True,
    policy: Path = POLICY,
    keep: Path | None = None,
) -> dict[str, NDArray[Any]]:
    """Walk a dataset; the arguments are those of ``walks``, the result that of ``columns``.

    Args:
        workers: processes; None takes all cores.

    Raises:
        UserError: no such dataset; MuJoCo or the model is not the expected one.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    # What is wrong with it is to be said here, not in a worker.
    antmaze.simulator(recipe(name).layout)
    bar = Progress(
        TextColumn("making {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("rows"),
        TimeRemainingColumn(),
        disable=not progress,
    )
    size = workers or usable_cores()
    with worker_pool(size) as pool, bar:
        task = bar.add_task(name, total=rows)

        def counted() -> Iterator[Walk]:
            for episode in walks(pool, size, name, seed, rows, policy=policy, keep=keep):
                bar.advance(task, len(episode.actions))
                yield episode

        return columns(name, seed, rows, counted())


def columns(name: str, seed: int, rows: int, episodes: Iterator[Walk]) -> dict[str, NDArray[Any]]:
    """The columns of D4RL's file, float32 and bool.

    ``infos/qpos`` and ``infos/qvel`` are those after the step, as D4RL's are; ``infos/goal`` is the
    episode's, which the rewards have nothing to do with.
    """
    observations = np.empty((rows, 29), np.float32)
    reached = np.empty((rows, 29), np.float32)
    actions = np.empty((rows, 8), np.float32)
    goals = np.empty((rows, 2), np.float32)
    timeouts = np.zeros(rows, bool)
    row = 0
    for episode in episodes:
        here = slice(row, row + len(episode.actions))
        observations[here], reached[here] = episode.states[:-1], episode.states[1:]
        actions[here], goals[here] = episode.actions, episode.goal
        row = here.stop
        timeouts[row - 1] = len(episode.actions) == EPISODE_ROWS
    assert row == rows
    rewards = relabelled(observations, target(name, seed))
    return {
        "observations": observations,
        "actions": actions,
        "rewards": rewards,
        "terminals": rewards > 0,
        "timeouts": timeouts,
        "infos/goal": goals,
        "infos/qpos": reached[:, :15].copy(),
        "infos/qvel": reached[:, 15:].copy(),
    }


def target(name: str, seed: int) -> FloatArray:
    """The goal ``[2]`` that all rewards of a dataset are of: one drawn as an evaluation's."""
    layout = recipe(name).layout
    generator = np.random.default_rng((seed, stream(name)))
    cell = antmaze.find(layout, "G")
    return antmaze.jittered_goal(antmaze.centre(layout, cell), generator.uniform)


def relabelled(observations: NDArray[np.float32], goal: FloatArray) -> NDArray[np.float32]:
    """Rewards ``[N]``: 1 where the next row's ant is at the goal, the last row's 0.

    The next row may be the next episode's first, as in D4RL: the row is one whose timeout is set.
    """
    at_goal = np.linalg.norm(observations[:, :2] - goal, axis=1) <= GOAL_RADIUS
    return np.append(at_goal[1:], False).astype(np.float32)


@dataclass(frozen=True)
class Summary:
    """What is in a dataset.

    Attributes:
        episodes: that were not cut.
        success: share of them whose ant came to its goal.
        steps_to_goal: their mean number of steps, of those that came.
        steps_at_goal: mean rows of an episode spent there, of all.
        fallen: share of episodes that end with the ant on its back.
        speed: mean metres a second over all rows, whatever the direction.
        rewarded: share of episodes that pass the goal that rewards are of.
        reward_rows: rows with a reward.
        jumps: rows without terminal or timeout after which the ant is more than ``JUMP`` away.
    """

    episodes: int
    success: float
    steps_to_goal: float
    steps_at_goal: float
    fallen: float
    speed: float
    rewarded: float
    reward_rows: int
    jumps: int


def summary(columns: dict[str, NDArray[Any]]) -> Summary:
    """Of a dataset with D4RL's columns and the right timeouts."""
    places = columns["observations"][:, :2].astype(np.float64)
    moved = np.linalg.norm(np.diff(places, axis=0), axis=1)
    ends = columns["timeouts"] | columns["terminals"].astype(bool)
    away = np.linalg.norm(columns["infos/qpos"][:, :2] - columns["infos/goal"], axis=1)
    at_goal, reward = away <= GOAL_RADIUS, columns["rewards"] > 0
    stops = np.flatnonzero(columns["timeouts"]) + 1
    episodes = [slice(stop - EPISODE_ROWS, stop) for stop in stops]
    came = [int(np.argmax(at_goal[rows])) + 1 for rows in episodes if at_goal[rows].any()]
    x, y = columns["infos/qpos"][stops - 1, 4:6].T
    return Summary(
        episodes=len(episodes),
        success=len(came) / max(len(episodes), 1),
        steps_to_goal=float(np.mean(came)) if came else float("nan"),
        steps_at_goal=float(np.mean([at_goal[rows].sum() for rows in episodes] or [0.0])),
        fallen=float(np.mean(1 - 2 * (x * x + y * y) < 0)) if episodes else 0.0,
        speed=10 * float(moved[~columns["timeouts"][:-1]].mean()),
        rewarded=float(np.mean([float(reward[rows].any()) for rows in episodes] or [0.0])),
        reward_rows=int(reward.sum()),
        jumps=int((moved[~ends[:-1]] > JUMP).sum()),
    )
