"""The units of an environment, and those that networks train in."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Units:
    """How an environment's numbers and those of the networks correspond.

    Attributes:
        obs_mean, obs_scale: ``[O]``; networks read ``(observation - mean) / scale``. None where
            they read observations as they are.
        act_low, act_high: ``[A]``; an action of -1 of the networks is ``low``, one of 1 is
            ``high``, and it is linear between. None where the environment's actions have these
            bounds themselves.
    """

    obs_mean: FloatArray | None = None
    obs_scale: FloatArray | None = None
    act_low: FloatArray | None = None
    act_high: FloatArray | None = None

    def read(self, observations: NDArray[np.floating]) -> FloatArray:
        """Observations ``[..., O]`` as networks read them."""
        inputs = np.asarray(observations, dtype=np.float32)
        if self.obs_mean is None or self.obs_scale is None:
            return inputs
        return np.asarray((inputs - self.obs_mean) / self.obs_scale)

    @functools.cached_property
    def action_line(self) -> tuple[FloatArray, FloatArray] | None:
        """(middle, half) ``[A]`` each: the environment's action is ``middle + half * output``,
        within its bounds however it is rounded."""
        if self.act_low is None or self.act_high is None:
            return None
        low, high = self.act_low.astype(np.float64), self.act_high.astype(np.float64)
        middle = ((low + high) / 2).astype(np.float32)
        reach = np.minimum(high - middle, middle - low)
        half = reach.astype(np.float32)
        return middle, np.where(half > reach, np.nextafter(half, np.float32(0)), half)

    def act(self, outputs: FloatArray) -> FloatArray:
        """Actions ``[..., A]`` in [-1, 1] as the environment takes them."""
        if (line := self.action_line) is None:
            return outputs
        middle, half = line
        return np.asarray(middle + half * outputs)

    def logged(self, actions: NDArray[np.floating]) -> FloatArray:
        """The inverse of ``act``: actions of the environment as networks are trained on them."""
        if (line := self.action_line) is None:
            return np.asarray(actions, dtype=np.float32)
        middle, half = (part.astype(np.float64) for part in line)
        return np.asarray((actions - middle) / half, dtype=np.float32)

    def record(self) -> dict[str, Any]:
        """What a run's record says about them."""

        def pair(one: FloatArray | None, other: FloatArray | None) -> list[list[float]] | None:
            return None if one is None or other is None else [one.tolist(), other.tolist()]

        return {
            "observation_scaling": pair(self.obs_mean, self.obs_scale),
            "action_bounds": pair(self.act_low, self.act_high),
        }


def from_record(record: Mapping[str, Any]) -> Units:
    """Of a run: the inverse of ``Units.record``; a record older than one of its keys has none of
    what that says."""
    columns: list[FloatArray | None] = []
    for name in ("observation_scaling", "action_bounds"):
        columns += [np.array(column, np.float32) for column in record.get(name) or ()] or [None] * 2
    return Units(*columns)
