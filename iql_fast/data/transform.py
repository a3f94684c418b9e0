"""What the authors do to logged transitions before training on them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from iql_fast.data.d4rl import LoggedTransitions, trajectory_returns
from iql_fast.data.dataset import FloatArray, Transitions
from iql_fast.support.errors import UserError

#: Actions are clipped to +-(1 - ACTION_MARGIN), so that a Gaussian policy's mean can reach them.
ACTION_MARGIN = 1e-5


def to_training(
    logged: LoggedTransitions, family: str, where: str
) -> tuple[Transitions, dict[str, Any]]:
    """The authors' action clip, masks and reward transform; with a record of the transform.

    Locomotion's rewards are scaled so that the best and the worst trajectory differ by 1000 (the
    partial tail counted); AntMaze's are lowered by 1; Kitchen's and Adroit's stay as they are.

    Raises:
        UserError: the transform is not possible on this dataset.
    """
    if bool((logged.ends | logged.terminals).all()):
        raise UserError(
            f"{where}: every transition ends a trajectory, so there is nothing to learn values "
            "from. Are the rows in the order in which they were logged?"
        )
    rewards = logged.rewards
    record: dict[str, Any] = {
        "reward_scale": 1.0,
        "reward_shift": 0.0,
        # Of all components: what the authors' clip changes by more than its margin.
        "actions_clipped": float((np.abs(logged.actions) > 1).mean()),
    }
    if family == "locomotion":
        returns = trajectory_returns(rewards, logged.ends)
        spread = float(returns.max() - returns.min())
        if spread == 0:
            raise UserError(
                f"{where}: all trajectories have the same return ({returns[0]:.4g}), so rewards "
                "cannot be scaled by the spread of returns as locomotion tasks do."
            )
        record["reward_scale"] = 1000.0 / spread
        rewards = (rewards * record["reward_scale"]).astype(np.float32)
    elif family == "antmaze":
        record["reward_shift"] = -1.0
        rewards = rewards - np.float32(1.0)
    limit = np.float32(1 - ACTION_MARGIN)
    return Transitions(
        observations=np.ascontiguousarray(logged.observations, dtype=np.float32),
        actions=np.ascontiguousarray(np.clip(logged.actions, -limit, limit)),
        rewards=np.ascontiguousarray(rewards, dtype=np.float32),
        masks=np.ascontiguousarray(~logged.terminals, dtype=np.float32),
        next_observations=np.ascontiguousarray(logged.next_observations, dtype=np.float32),
    ), record


#: Added to the standard deviation of a column, which may be 0 (TD3+BC's value).
LEAST_DEVIATION = 1e-3


def normalised(transitions: Transitions) -> tuple[Transitions, FloatArray, FloatArray]:
    """Observations with mean 0 and standard deviation 1 over the dataset (a departure), and the
    mean and the scale ``[O]`` of ``(observation - mean) / scale``."""
    # Sums in double precision: a million rows near 1000 lose the deviation in single.
    mean = transitions.observations.mean(0, dtype=np.float64).astype(np.float32)
    deviation = np.empty(len(mean))
    for column, center in enumerate(mean):
        deviation[column] = np.std(transitions.observations[:, column] - center, dtype=np.float64)
    scale = (deviation + LEAST_DEVIATION).astype(np.float32)
    return (
        replace(
            transitions,
            observations=(transitions.observations - mean) / scale,
            next_observations=(transitions.next_observations - mean) / scale,
        ),
        mean,
        scale,
    )
