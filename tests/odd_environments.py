"""Small environments whose observations and actions are of every kind of space."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Space, Tuple

STEPS = 12


def unit(*shape: int, low: float = -np.inf, high: float = np.inf) -> Box:
    return Box(low, high, shape, np.float32)


OBSERVATIONS: dict[str, Space[Any]] = {
    "box": unit(4),
    "matrix": unit(2, 3),
    "dict": Dict({"b": unit(2), "a": unit(1), "inner": Dict({"z": unit(2, 2)})}),
    "unsorted": Dict(b=unit(2), a=unit(1), inner=Dict(z=unit(2, 2), y=unit(1))),
    "tuple": Tuple((unit(3), unit(2))),
    "discrete": Discrete(5),
    "image": Box(0, 255, (8, 8, 3), np.uint8),
}
ACTIONS: dict[str, Space[Any]] = {
    "box": unit(2, low=-1, high=1),
    "scaled": Box(np.float32([-3, 0]), np.float32([5, 0.5]), (2,), np.float32),
    "matrix": unit(2, 2, low=-2, high=2),
    "unbounded": unit(2),
    "discrete": Discrete(3),
    "multidiscrete": MultiDiscrete([5, 5]),
}


class Odd(gymnasium.Env[Any, Any]):
    """Rewards an action for being near to three quarters of its range; observations are noise."""

    def __init__(self, observations: str = "box", actions: str = "box") -> None:
        self.observation_space = OBSERVATIONS[observations]
        self.action_space = ACTIONS[actions]
        self.seen: list[Any] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = 0.0
        if isinstance(self.action_space, Box):
            assert np.shape(action) == self.action_space.shape
            low, high = self.action_space.low, self.action_space.high
            if np.isfinite(low).all():
                share = (np.asarray(action) - low) / (high - low)
                reward = 1 - float(np.abs(share - 0.75).mean())
        return self.observation_space.sample(), reward, False, False, {}


class Unremarkable(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Changes nothing, and does not record its arguments."""


class Doubled(gymnasium.RewardWrapper[Any, Any]):
    """Changes rewards, and does not record its arguments."""

    def reward(self, reward: Any) -> Any:
        return 2 * reward


def doubled() -> gymnasium.Env[Any, Any]:
    """One whose constructor wraps it."""
    return Doubled(Odd())


class Failing(Odd):
    """Breaks down in its fourth step."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.seen.append(action)
        if len(self.seen) > 3:
            raise RuntimeError("the motor is on fire")
        return super().step(action)


# What a user's package does: ``--env tests.odd_environments:ID``.
for _id, _entry, _kwargs in (
    ("OddUnsorted-v0", "Odd", {"observations": "unsorted"}),
    ("OddBox-v0", "Odd", {}),
    ("OddDoubled-v0", "doubled", {}),
    ("OddFailing-v0", "Failing", {}),
):
    gymnasium.register(
        _id, f"tests.odd_environments:{_entry}", max_episode_steps=STEPS, kwargs=_kwargs
    )
gymnasium.register("OddCallable-v0", Odd, max_episode_steps=STEPS)


def made(observations: str = "box", actions: str = "box") -> gymnasium.Env[Any, Any]:
    """One of them, as ``gymnasium.make`` makes it."""
    spec = gymnasium.envs.registration.EnvSpec(
        "Odd-v0",
        entry_point="tests.odd_environments:Odd",
        max_episode_steps=STEPS,
        kwargs={"observations": observations, "actions": actions},
    )
    return gymnasium.make(spec)
