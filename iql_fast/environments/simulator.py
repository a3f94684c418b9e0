"""The simulator: whether there is one, and which environments it makes."""

from __future__ import annotations

import json
from importlib import metadata
from typing import Any, NamedTuple

import numpy as np

from iql_fast.environments import spaces
from iql_fast.environments.spaces import ActionBounds, Part
from iql_fast.support.errors import UserError


def require(what_for: str) -> str | None:
    """Check that there is a simulator.

    Returns:
        None, or a sentence for the user where it is one that has not been tried.

    Raises:
        UserError: it is not installed, or is one that computes wrong motion.
    """
    try:
        import gymnasium  # noqa: F401
        import mujoco  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"{what_for} needs the simulator, but it cannot be imported ({error}): "
            "pip install gymnasium 'mujoco>=3.2.3,!=4.0.0' imageio packaging."
        ) from None
    from iql_fast.environments.physics import require_mujoco

    return require_mujoco()


def version() -> str:
    """MuJoCo's version, ``"none"`` where there is none; rollouts of the same policy differ between
    versions."""
    try:
        return metadata.version("mujoco")  # not by importing it: D4RL's own files need none
    except metadata.PackageNotFoundError:
        return "none"


def make(name: str) -> Any:
    """The environment of a Gymnasium id or a specification in JSON, with its wrappers."""
    import gymnasium

    gymnasium.logger.min_level = gymnasium.logger.ERROR  # -v4 is asked for on purpose
    spec = gymnasium.envs.registration.EnvSpec.from_json(name) if name[:1] == "{" else name
    return gymnasium.make(spec, disable_env_checker=True)


class Description(NamedTuple):
    """What an environment takes and gives.

    Attributes:
        parts: of its observations, in the order in which they are flattened.
        horizon: its time limit in steps; None where it has none.
        sorted_parts: of its observations, were the keys of its Dicts sorted.
        spec: Gymnasium's of it.
    """

    parts: list[Part]
    bounds: ActionBounds
    horizon: int | None
    sorted_parts: list[Part]
    spec: Any


def describe(name: str) -> Description:
    """Of the environment of that Gymnasium id.

    Raises:
        UserError: it cannot be made here, or is not one of vectors.
    """
    require(f"Evaluation in {name}")
    try:
        env = make(name)
    except Exception as error:  # of whatever the environment needs
        raise UserError(
            f"--env {name}: Gymnasium cannot make it ({type(error).__name__}: {error}). If a "
            "package registers it, write its name before the id: --env PACKAGE:ID."
        ) from None
    horizon = env.spec.max_episode_steps if env.spec else None
    parts, in_order = (
        spaces.observation_parts(space, name)
        for space in (env.observation_space, spaces.sorted_by_key(env.observation_space))
    )
    bounds = spaces.action_bounds(env.action_space, name)
    return Description(parts, bounds, horizon, in_order, env.spec)


def bare(env: Any) -> Any:
    """An environment without the wrappers that ``gymnasium.make`` adds of its own accord. It adds
    each once, so that a second one is the environment's own."""
    from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit

    for added in (TimeLimit, OrderEnforcing, PassiveEnvChecker):
        if type(env) is added:
            env = env.env
    return env


def flattened(env: Any, sort: bool = False) -> Any:
    """The environment with flat vectors as observations and actions; itself where it has them.

    Args:
        sort: take the parts of a Dict in the order of their keys, in place of the space's own.
    """
    from gymnasium.spaces import Box, flatten, flatten_space
    from gymnasium.wrappers import TransformAction, TransformObservation

    seen = env.observation_space
    if not isinstance(seen, Box) or len(seen.shape) != 1:
        own = spaces.sorted_by_key(seen) if sort else seen
        env = TransformObservation(env, lambda seen: flatten(own, seen), flatten_space(own))
    space = env.action_space
    if isinstance(space, Box) and len(space.shape) != 1:
        flat = flatten_space(space)
        env = TransformAction(env, lambda action: np.reshape(action, space.shape), flat)
    return env


def label(name: str) -> str:
    """What to call an environment: its id."""
    return str(json.loads(name)["id"]) if name[:1] == "{" else name
