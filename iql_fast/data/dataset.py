"""Transitions in memory: what every engine trains on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Transitions:
    """Contiguous float32 columns of N transitions, already transformed for training.

    Attributes:
        observations: ``[N, O]``.
        actions: ``[N, A]``, within (-1, 1) after the authors' clip.
        rewards: ``[N]``, after the task's reward transform.
        masks: ``[N]``, 0 where the transition ended in a terminal state and 1 elsewhere
            (a time limit is not terminal), the factor on the bootstrapped value.
        next_observations: ``[N, O]``.
        next_actions: ``[N, A]``, of the data's next row, for methods that need it.
        returns_to_go: ``[N]``, sum of the rewards from the row to the end of its trajectory, for
            methods that need it; as ``times``, which there is where this is.
        times: ``[N]``, rows since the first of the trajectory. Trajectories stand one after the
            other, whole and in order.
    """

    observations: FloatArray
    actions: FloatArray
    rewards: FloatArray
    masks: FloatArray
    next_observations: FloatArray
    next_actions: FloatArray | None = None
    returns_to_go: FloatArray | None = None
    times: FloatArray | None = None

    def columns(self) -> dict[str, FloatArray]:
        """Those that it has, by name."""
        return {name: column for name, column in vars(self).items() if column is not None}

    def gather(self, index: int, rows: NDArray[np.int64]) -> dict[str, FloatArray]:  # noqa: ARG002
        """The columns at some rows ``[B]``, the same for each seed."""
        return {name: column[rows] for name, column in self.columns().items()}

    def __len__(self) -> int:
        return int(self.rewards.shape[0])

    @property
    def obs_dim(self) -> int:
        return int(self.observations.shape[1])

    @property
    def act_dim(self) -> int:
        return int(self.actions.shape[1])
