"""Recorded motion, and how far the environments are from it when they repeat it.

Needs numpy, MuJoCo, gymnasium and gymnasium-robotics only, so that ``tools/check_physics.py`` can
ask it in environments that hold little else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import mujoco
import numpy as np
from numpy.typing import NDArray

from iql_fast.environments import adroit, antmaze, locomotion

DATA = Path(__file__).resolve().parent / "data"
HOPPER_STEPS = DATA / "hopper_steps.npz"
#: The recordings in ``DATA``, and the environment that repeats each.
RECORDINGS = {
    "door_human": adroit.Door,
    "door_expert": adroit.Door,
    "relocate_expert": adroit.Relocate,
}


class Episode(NamedTuple):
    """Rows of one episode and the state that it starts in, as ``Adroit.set_env_state`` has it."""

    start: dict[str, NDArray[Any]]
    observations: NDArray[Any]  # [T, obs]
    actions: NDArray[Any]  # [T, act]
    rewards: NDArray[Any]  # [T]


class Difference(NamedTuple):
    """The largest over an episode."""

    observation: float
    reward: float


class MazeDifference(NamedTuple):
    """How far ants are from those in the whole maze, where a step knows the walls near them alone.

    Attributes:
        largest: in a position, a velocity or the number of contacts.
        at_walls, at_several, outside: steps against walls, against more than one, beyond the maze.
    """

    largest: float
    at_walls: int
    at_several: int
    outside: int


def recorded(name: str) -> list[Episode]:
    """The episodes of one of ``RECORDINGS``; where no start of the hand is recorded, it is at rest
    in the model's own pose, as after a reset."""
    with np.load(DATA / f"{name}.npz") as file:
        columns = {key: file[key] for key in file.files}
    starts = {key[6:]: columns[key] for key in columns if key.startswith("start_")}
    ends = np.cumsum(columns["lengths"])
    episodes = []
    for index, (end, length) in enumerate(zip(ends, columns["lengths"], strict=True)):
        rows = slice(end - length, end)
        start = {key: values[index] for key, values in starts.items()}
        episodes.append(
            Episode(start, *(columns[key][rows] for key in ("observations", "actions", "rewards")))
        )
    return episodes


def difference(
    environment: adroit.Adroit, episode: Episode, steps: int | None = None
) -> Difference:
    """Repeat an episode's actions from its start, open loop, and compare with its rows.

    Args:
        steps: as many; all where None.
    """
    at_rest = {"qpos": environment.model.qpos0, "qvel": np.zeros(environment.model.nv)}
    observation = environment.set_env_state({**at_rest, **episode.start})
    worst, worst_reward = 0.0, 0.0
    for row in range(steps or len(episode.actions)):
        worst = max(worst, float(np.abs(observation - episode.observations[row]).max()))
        observation, reward, *_ = environment.step(episode.actions[row])
        worst_reward = max(worst_reward, abs(reward - float(episode.rewards[row])))
    return Difference(worst, worst_reward)


def write_hopper_steps(path: Path = HOPPER_STEPS) -> None:
    """Record one step of the hopper from each of 200 states that random torques lead to."""
    environment = locomotion.Hopper()
    rng = np.random.default_rng(0)
    rows: dict[str, list[NDArray[Any]]] = {}
    while len(rows.get("qpos", [])) < 200:
        environment.reset(seed=len(rows.get("qpos", [])))
        for step in range(40):
            action = rng.uniform(-1.0, 1.0, 3)
            if step % 4 == 3:
                qpos, qvel = environment.data.qpos.copy(), environment.data.qvel.copy()
                environment.set_state(qpos, qvel)  # forgets the solver's warm start
                observation, reward, *_ = environment.step(action)
                for key, value in {
                    **{"qpos": qpos, "qvel": qvel, "actions": action},
                    **{"next_observations": observation, "rewards": np.float64(reward)},
                    **{"next_qpos": environment.data.qpos, "next_qvel": environment.data.qvel},
                    "contacts": np.int32(environment.data.ncon),
                }.items():
                    rows.setdefault(key, []).append(np.copy(value))
            elif environment.step(action)[2]:
                break
    np.savez_compressed(path, **{key: np.array(values[:200]) for key, values in rows.items()})


def hopper_difference() -> float:
    """The largest difference in qpos, qvel, observation or reward from the recorded steps."""
    environment = locomotion.Hopper()
    worst = 0.0
    with np.load(HOPPER_STEPS) as steps:
        for row in range(len(steps["rewards"])):
            environment.set_state(steps["qpos"][row], steps["qvel"][row])
            observation, reward, *_ = environment.step(steps["actions"][row])
            worst = max(
                worst,
                np.abs(environment.data.qpos - steps["next_qpos"][row]).max(),
                np.abs(environment.data.qvel - steps["next_qvel"][row]).max(),
                np.abs(observation - steps["next_observations"][row]).max(),
                abs(reward - steps["rewards"][row]),
            )
    return float(worst)


def maze_difference(layout: str, physics: Any = "d4rl", starts: int = 30) -> MazeDifference:
    """Ants from anywhere that are pushed about, each in both simulators."""
    whole, simulator = antmaze.model(layout, physics), antmaze.simulator(layout, physics)
    box = int(mujoco.mjtGeom.mjGEOM_BOX)
    rng = np.random.default_rng(1)
    last = len(antmaze.LAYOUTS[layout]) - 1, len(antmaze.LAYOUTS[layout][0]) - 1
    low, high = antmaze.centre(layout, (0, 0)), antmaze.centre(layout, last)
    largest, at_walls, at_several, outside = 0.0, 0, 0, 0
    for _ in range(starts):
        one, other = both = mujoco.MjData(whole), mujoco.MjData(simulator.model)
        qpos = one.qpos + rng.uniform(-0.1, 0.1, 15)
        qpos[:2] = rng.uniform(low - 6, high + 6)
        push = rng.uniform(0, 6) * rng.standard_normal(2)
        for data in both:
            data.qpos[:] = qpos
        for _ in range(40):
            torques = antmaze.TORQUE * rng.uniform(-1, 1, 8)
            for data in both:
                data.ctrl[:] = torques
                data.qvel[:2] = push
            mujoco.mj_step(whole, one, antmaze.FRAME_SKIP)
            simulator.step(other, other.qpos, antmaze.FRAME_SKIP)
            states = [np.r_[data.qpos, data.qvel, data.ncon] for data in both]
            largest = max(largest, float(np.abs(states[0] - states[1]).max()))
            pairs = [(contact.geom1, contact.geom2) for contact in one.contact[: one.ncon]]
            walls = {min(pair) for pair in pairs if box in whole.geom_type[list(pair)]}
            at_walls += bool(walls)
            at_several += len(walls) > 1
            outside += bool((qpos[:2] < low - 2).any() or (qpos[:2] > high + 2).any())
    return MazeDifference(largest, at_walls, at_several, outside)
