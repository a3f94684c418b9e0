"""The tasks of the paper: sizes, reference scores, files, and the authors' settings for each."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from iql_fast.support.errors import UserError
from iql_fast.tasks import presets, published
from iql_fast.tasks.presets import Family

#: Whose mechanics score a policy: those of the MuJoCo that made D4RL's data and reference returns,
#: or those that the installed MuJoCo computes from the model files as Gymnasium ships them.
Physics = Literal["d4rl", "gymnasium"]


@dataclass(frozen=True)
class Environment:
    """What the tasks on one environment share.

    ``min_score`` and ``max_score`` are D4RL's reference returns (a random and an expert policy), or
    of a binary task the least and the largest that there can be. ``binary``: the reward is 0 where
    the goal is met and -1 elsewhere, and episodes end at the horizon alone.
    """

    obs_dim: int
    act_dim: int
    horizon: int
    min_score: float
    max_score: float
    binary: bool = False


ENVIRONMENTS = {
    "halfcheetah": Environment(17, 6, 1000, -280.178953, 12135.0),
    "hopper": Environment(11, 3, 1000, -20.272305, 3234.3),
    "walker2d": Environment(17, 6, 1000, 1.629008, 4592.3),
    "antmaze-umaze": Environment(29, 8, 700, 0.0, 1.0),
    "antmaze-medium": Environment(29, 8, 1000, 0.0, 1.0),
    "antmaze-large": Environment(29, 8, 1000, 0.0, 1.0),
    "kitchen": Environment(60, 9, 280, 0.0, 4.0),
    "pen": Environment(45, 24, 100, 96.262799, 3076.8331017826877),
    "hammer": Environment(46, 26, 200, -274.856578, 12794.134825156867),
    "door": Environment(39, 28, 200, -56.512833, 2880.5693087298737),
    "relocate": Environment(39, 30, 200, -6.425911, 4233.877797728884),
    "pen-binary": Environment(45, 24, 100, -100.0, 0.0, binary=True),
    "door-binary": Environment(39, 28, 200, -200.0, 0.0, binary=True),
    "relocate-binary": Environment(39, 30, 200, -200.0, 0.0, binary=True),
}


@dataclass(frozen=True)
class Task:
    """A dataset of the paper and the environment that scores it.

    ``d4rl_file`` is its place among D4RL's files; ``""`` where D4RL has none, and only a user can
    bring the data.
    """

    name: str
    family: Family
    env: str
    d4rl_file: str
    gym_ids: Mapping[Physics, str]
    published: Mapping[str, float]

    @property
    def environment(self) -> Environment:
        return ENVIRONMENTS[self.env]

    def environment_id(self, physics: Physics = "d4rl") -> str:
        """The Gymnasium id of the environment that scores the task.

        Raises:
            UserError: there is none of that physics.
        """
        if physics not in self.gym_ids:
            raise UserError(
                f"{self.name} is scored in {' or '.join(self.gym_ids)} physics only, not in "
                f"{physics}'s: leave out --physics."
            )
        return self.gym_ids[physics]

    @property
    def preset(self) -> Mapping[str, Any]:
        """The authors' values of ``Hyperparameters`` fields."""
        return presets.PRESETS[self.family]

    @property
    def evaluation(self) -> tuple[int, int]:
        """The authors' (episodes, interval in steps)."""
        return presets.EVALUATION[self.family]


@functools.cache
def _tasks() -> dict[str, Task]:
    tasks: dict[str, Task] = {}

    def add(name: str, family: Family, env: str, file: str, **gym_ids: str) -> None:
        scores = published.iql_scores().get(name, {})
        tasks[name] = Task(name, family, env, file, cast(Mapping[Physics, str], gym_ids), scores)

    # D4RL's -v2 data fit Gymnasium's -v4: -v5 changed the healthy reward and a friction.
    robots = {"halfcheetah": "HalfCheetah", "hopper": "Hopper", "walker2d": "Walker2d"}
    for env, gym_name in robots.items():
        for kind in ("random", "medium", "medium-replay", "medium-expert", "expert"):
            file = f"gym_mujoco_v2/{env}_{kind.replace('-', '_')}-v2.hdf5"
            ids = {"d4rl": f"iql_fast/{env}-v2", "gymnasium": f"{gym_name}-v4"}
            add(f"{env}-{kind}-v2", "locomotion", env, file, **ids)
    mazes = {"umaze": "u-maze", "medium": "big-maze", "large": "hardest-maze"}
    for size, maze in mazes.items():
        kinds = ("", "-diverse") if size == "umaze" else ("-play", "-diverse")
        for kind in kinds:
            diverse = kind == "-diverse"
            start = diverse if size == "umaze" else True
            stem = f"Ant_maze_{maze}_noisy_multistart_{start}_multigoal_{diverse}_sparse"
            env = f"antmaze-{size}"
            for version, file in {
                "v0": f"ant_maze_new/{stem}.hdf5",
                "v2": f"ant_maze_v2/{stem}_fixed.hdf5",
            }.items():
                add(
                    f"{env}{kind}-{version}", "antmaze", env, file, d4rl=f"iql_fast/{env}-{version}"
                )
    kitchen = {
        "complete": "mini_kitchen_microwave_kettle_light_slider-v0",
        "partial": "kitchen_microwave_kettle_light_slider-v0",
        "mixed": "kitchen_microwave_kettle_bottomburner_light-v0",
    }
    for kind, stem in kitchen.items():
        name = f"kitchen-{kind}-v0"
        add(name, "kitchen", "kitchen", f"kitchen/{stem}.hdf5", d4rl=f"iql_fast/{name}")
    for env in ("pen", "hammer", "door", "relocate"):
        gym_id = f"iql_fast/{env}-v0"  # v1's files hold other flags; the environment is the same
        files = {
            "human": f"{env}-v0_demos_clipped",
            "cloned": f"{env}-demos-v0-bc-combined",
            "expert": f"{env}-v0_expert_clipped",
        }
        for kind, file in files.items():
            add(f"{env}-{kind}-v0", "adroit", env, f"hand_dapg/{file}.hdf5", d4rl=gym_id)
        for kind in ("human", "cloned", "expert"):
            file = f"hand_dapg_v1/{env}-{kind}-v1.hdf5"
            add(f"{env}-{kind}-v1", "adroit", env, file, d4rl=gym_id)
    for hand in ("pen", "door", "relocate"):
        name = f"{hand}-binary-v0"
        add(name, "adroit-binary", f"{hand}-binary", "", d4rl=f"iql_fast/{name}")
    return tasks


def names() -> list[str]:
    """The names of all tasks."""
    return list(_tasks())


def get(name: str) -> Task:
    """The task of that name.

    Raises:
        UserError: there is none; the message gives the nearest names.
    """
    task = _tasks().get(name)
    if task is None:
        near = difflib.get_close_matches(name, names(), n=3, cutoff=0.4)
        hint = f"The nearest names: {', '.join(near)}. " if near else ""
        raise UserError(
            f"There is no task {name!r}. {hint}`python -m iql_fast.data list` shows all; a dataset "
            "of your own is trained on with --dataset FILE and the task it resembles."
        )
    return task
