"""OGBench's single tasks as logged transitions, by their names, through OGBench's own package.

It downloads the files, cuts trajectories apart, and computes a task's rewards (success - 1) and
masks (1 - success) from the states. What is learned there is scored by success.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from iql_fast.data.logged import LoggedTransitions
from iql_fast.environments import spaces
from iql_fast.environments.scoring import Scoring
from iql_fast.environments.spaces import ActionBounds
from iql_fast.support.errors import UserError

_NAME = re.compile(
    r"(?:visual-)?(?:(?:pointmaze|antmaze|humanoidmaze|antsoccer)-(?:medium|large|giant|teleport|"
    r"arena)-(?:navigate|stitch|explore)|(?:cube-(?:single|double|triple|quadruple|octuple)|scene|"
    r"puzzle-\dx\d)-(?:play|noisy))(?P<single>-singletask(?:-task\d)?)?-v\d+"
)
FOLDER = Path("~/.ogbench/data")  # where the package keeps its files


def is_name(name: str) -> bool:
    """Whether a task's name is one of OGBench's, such as ``cube-single-play-singletask-v0``."""
    return _NAME.fullmatch(name) is not None


def load(name: str, offline: bool = False) -> tuple[LoggedTransitions, ActionBounds, Scoring]:
    """The training set of a single task, the bounds of its actions, and where it is scored.

    Raises:
        UserError: OGBench is not installed, the file cannot be had, or the name is not that of a
            task with rewards and vectors as observations.
    """
    match = _NAME.fullmatch(name)
    if match is None or match["single"] is None:
        stem, _, version = name.rpartition("-")
        raise UserError(
            f"{name} has goals in place of rewards. OGBench's single tasks have rewards: "
            f"{stem}-singletask-{version}, or one of its tasks, {stem}-singletask-task1-{version} "
            "to task5."
        )
    if name.startswith("visual-"):
        raise UserError(f"{name} has images as observations; there is no image encoder here.")
    try:
        import ogbench
    except ImportError as error:
        raise UserError(
            f"{name} is a task of OGBench, which cannot be imported ({error}): pip install ogbench."
        ) from None
    stem = name.replace(match["single"], "")
    file = FOLDER.expanduser() / f"{stem}.npz"
    if offline and not file.exists():
        raise UserError(f"{file} is not there, and downloads were switched off.")
    try:
        env, train, _ = ogbench.make_env_and_datasets(name)
    except Exception as error:  # of its storage, its simulator, its registry
        raise UserError(
            f"OGBench could not make {name} ({type(error).__name__}: {error}). Its files lie in "
            f"{file.parent}."
        ) from None
    bounds = spaces.action_bounds(env.action_space, name)
    spaces.observation_parts(env.observation_space, name)
    logged = LoggedTransitions(
        np.asarray(train["observations"], np.float32),
        np.asarray(train["actions"], np.float32),
        np.asarray(train["rewards"], np.float32),
        np.asarray(train["masks"]) == 0,
        np.asarray(train["next_observations"], np.float32),
        np.asarray(train["terminals"]) != 0,
        tail_is_whole=True,
    )
    spec = env.spec
    scoring = Scoring(
        spec.to_json(), "", int(spec.max_episode_steps), None, measure="success"
    )  # fmt: skip
    return logged, bounds, scoring
