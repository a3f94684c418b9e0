"""Regenerated datasets: D4RL's recipe, with behaviour policies that this project trained.

D4RL rolled policies, trained part-way, out in MuJoCo. Where its files cannot be had, this does the
same with the policies in ``behaviour/``: each part of a dataset is so many rows of one policy, as
``behaviour/manifest.json`` says. The result depends on the seed alone, not on the number of
workers: every trajectory has its own random stream and is rolled out on its own.
"""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iql_fast.data import behaviour_policy
from iql_fast.data.behaviour_policy import BehaviourPolicy, UniformPolicy
from iql_fast.environments import simulator
from iql_fast.environments.workers import environment as environment_of
from iql_fast.environments.workers import worker_pool
from iql_fast.support.cores import usable_cores
from iql_fast.support.errors import UserError
from iql_fast.support.files import check_writable, written_beside
from iql_fast.tasks import catalogue
from iql_fast.tasks.catalogue import Physics

BEHAVIOUR = Path(__file__).parent / "behaviour"
#: Trajectories that a worker rolls out for one message to the parent.
TRAJECTORIES_A_TASK = 4


@dataclass(frozen=True)
class Trajectory:
    """T steps of one episode.

    Attributes:
        observations: ``[T + 1, O]`` float32, the last one after the last step.
        actions: ``[T, A]`` float32.
        rewards: ``[T]`` float32.
        terminal: whether it ended in a terminal state (otherwise the time limit cut it).
    """

    observations: NDArray[np.float32]
    actions: NDArray[np.float32]
    rewards: NDArray[np.float32]
    terminal: bool


@functools.cache
def manifest() -> dict[str, Any]:
    """Dataset name -> its parts, in order: ``{"policy": file stem or "uniform", "rows": n,
    "noise": factor}``; and the returns measured when it was made."""
    return dict(json.loads((BEHAVIOUR / "manifest.json").read_text()))


def available() -> list[str]:
    """Names of the datasets that can be regenerated."""
    return [*manifest(), *filter(_is_antmaze, catalogue.names())]


def _is_antmaze(name: str) -> bool:
    """Whether ``iql_fast.data.antmaze`` makes it, which cannot be imported without a simulator."""
    return catalogue.get(name).family == "antmaze"


@functools.cache
def fingerprint(name: str) -> str:
    """Eight hexadecimal digits that change with a dataset's recipe: its parts, their policies."""
    if _is_antmaze(name):
        from iql_fast.data import antmaze

        return antmaze.fingerprint(name)
    parts = manifest()[name]["parts"]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    for part in parts:
        if part["policy"] != "uniform":
            digest.update((BEHAVIOUR / f"{part['policy']}.safetensors").read_bytes())
    return digest.hexdigest()[:8]


def regenerate(
    name: str,
    path: Path,
    *,
    physics: Physics = "d4rl",
    seed: int = 0,
    rows: int | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> None:
    """Roll the behaviour policies out and write a file in D4RL's layout.

    Args:
        name: a dataset of ``available()``.
        path: written beside it and renamed when it is whole.
        physics: whose mechanics the robot has.
        rows: transitions altogether; None takes D4RL's number. Parts shrink in proportion.
        workers: processes; None takes all cores.

    Raises:
        UserError: unknown name, no simulator, or a folder that cannot be written.
    """
    if name not in available():
        raise UserError(
            f"{name} cannot be regenerated: there is no behaviour policy for it. "
            f"These can be: {', '.join(available())}."
        )
    simulator.require(f"Regenerating {name}")
    check_writable(path)
    import gymnasium
    import h5py
    import mujoco

    gym_id = catalogue.get(name).environment_id(physics)
    if _is_antmaze(name):
        from iql_fast.data import antmaze

        # Episodes that are done are kept until the file is: walking takes many minutes.
        keep = path.with_name(f".{path.name}.episodes") if rows is None else None
        columns = antmaze.collect(
            name,
            seed=seed,
            rows=rows or antmaze.ROWS,
            workers=workers,
            progress=progress,
            keep=keep,
        )
        recipe: Any = {"walker": antmaze.POLICY.name, "noise": antmaze.NOISE}
    else:
        recipe, keep = manifest()[name], None
        parts = recipe["parts"]
        total = rows or sum(part["rows"] for part in parts)
        columns = _collect(name, gym_id, parts, total, seed, workers, progress)
    with written_beside(path) as partial, h5py.File(partial, "w") as file:
        for key, column in columns.items():
            file.create_dataset(key, data=column)
        file.attrs["task"] = name
        file.attrs["regenerated"] = True
        file.attrs["seed"] = seed
        file.attrs["physics"] = physics
        file.attrs["gymnasium"] = gymnasium.__version__
        file.attrs["mujoco"] = mujoco.__version__
        file.attrs["manifest"] = json.dumps(recipe)
    if keep is not None:
        shutil.rmtree(keep, ignore_errors=True)


def _collect(
    name: str,
    gym_id: str,
    parts: list[dict[str, Any]],
    total: int,
    seed: int,
    workers: int | None,
    progress: bool,
) -> dict[str, NDArray[Any]]:
    """The columns of the file: all parts, one after the other."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    environment = catalogue.get(name).environment
    columns: dict[str, NDArray[Any]] = {
        "observations": np.empty((total, environment.obs_dim), np.float32),
        "actions": np.empty((total, environment.act_dim), np.float32),
        "rewards": np.empty(total, np.float32),
        "next_observations": np.empty((total, environment.obs_dim), np.float32),
        "terminals": np.zeros(total, bool),
        "timeouts": np.zeros(total, bool),
    }
    planned = np.cumsum([0] + [part["rows"] for part in parts])
    bounds = np.round(planned * (total / planned[-1])).astype(int)
    bar_columns = (
        TextColumn("making {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("rows"),
        TimeRemainingColumn(),
    )
    size = workers or usable_cores()
    bar = Progress(*bar_columns, disable=not progress)
    with worker_pool(size) as pool, bar:
        task = bar.add_task(name, total=total)
        for i, part in enumerate(parts):
            row, end = int(bounds[i]), int(bounds[i + 1])
            for trajectory in _trajectories(pool, size, name, gym_id, part, (seed, i)):
                if row == end:
                    break
                count = min(len(trajectory.rewards), end - row)
                rows = slice(row, row + count)
                columns["observations"][rows] = trajectory.observations[:count]
                columns["next_observations"][rows] = trajectory.observations[1 : count + 1]
                columns["actions"][rows] = trajectory.actions[:count]
                columns["rewards"][rows] = trajectory.rewards[:count]
                row += count
                if count == len(trajectory.rewards):
                    key = "terminals" if trajectory.terminal else "timeouts"
                    columns[key][row - 1] = True
                bar.advance(task, count)
            # What follows the cut tail of a part is another policy's: the tail must not run on.
            if end < total and not columns["terminals"][end - 1]:
                columns["timeouts"][end - 1] = True
    return columns


def _trajectories(
    pool: ProcessPoolExecutor,
    size: int,
    name: str,
    gym_id: str,
    part: dict[str, Any],
    key: tuple[int, int],
) -> Iterator[Trajectory]:
    """Trajectories 0, 1, 2, ... of a part, rolled out ahead of time by the workers."""
    pending: deque[Future[list[Trajectory]]] = deque()
    first = 0
    while True:
        while len(pending) < 2 * size:
            indices = range(first, first + TRAJECTORIES_A_TASK)
            pending.append(pool.submit(_roll_out_some, name, gym_id, part, key, indices))
            first += TRAJECTORIES_A_TASK
        yield from pending.popleft().result()


def _roll_out_some(
    name: str, gym_id: str, part: dict[str, Any], key: tuple[int, int], indices: range
) -> list[Trajectory]:
    """In a worker: the trajectories of these indices."""
    task = catalogue.get(name)
    env = environment_of(gym_id)
    policy = part_policy(part, task.environment.act_dim)
    stream = zlib.crc32(name.encode())
    return [
        roll_out(env, policy, task.environment.horizon, (key[0], stream, key[1], index))
        for index in indices
    ]


def part_policy(part: dict[str, Any], act_dim: int) -> BehaviourPolicy | UniformPolicy:
    """The policy of a part of the manifest."""
    if part["policy"] == "uniform":
        return UniformPolicy(act_dim)
    return _load_policy(BEHAVIOUR / f"{part['policy']}.safetensors", part.get("noise", 1.0))


_load_policy = functools.cache(behaviour_policy.load)


def roll_out(
    env: Any, policy: BehaviourPolicy | UniformPolicy, horizon: int, key: tuple[int, ...]
) -> Trajectory:
    """One episode of at most ``horizon`` steps; ``key`` seeds the environment and the policy."""
    generator = np.random.default_rng(key)
    observation, _ = env.reset(seed=int(generator.integers(2**31)))
    observations, actions = [observation], []
    rewards: list[float] = []
    terminal = False
    while len(rewards) < horizon and not terminal:
        action = policy.sample(observation, generator)
        observation, reward, terminal, _, _ = env.step(action)
        observations.append(observation)
        actions.append(action)
        rewards.append(reward)
    return Trajectory(
        np.asarray(observations, dtype=np.float32),
        np.asarray(actions, dtype=np.float32),
        np.asarray(rewards, dtype=np.float32),
        bool(terminal),
    )
