"""The policy whole with its units, as the arrays that every file format holds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from iql_fast.policies.policy import Policy

Array = NDArray[np.float64]
FloatArray = NDArray[np.float32]

#: A key of every exported file's metadata, by which it is known for one.
MARK = "iql_fast_version"


@dataclass(frozen=True)
class Portable:
    """A policy from an environment's observations to its mean actions.

    It is computed in float64 and rounded once, here and by every file. In float32 an action would
    differ in its sixth digit from one BLAS to another, and between a row and a batch; so all give
    the same number, but for that last rounding. The arrays are float64 with values of float32.

    Attributes:
        layers: a (weight ``[out, in]``, bias ``[out]``) each, as torch has them; a ReLU between
            two of them, and tanh after the last.
        obs_mean, obs_scale: ``[O]``; the first layer reads ``(observation - mean) / scale``.
        act_middle, act_half: ``[A]``; the action is ``middle + half * tanh(output)``.
        log_std: ``[A]``, of the Gaussian that was trained, before the last step.
    """

    layers: tuple[tuple[Array, Array], ...]
    obs_mean: Array
    obs_scale: Array
    act_middle: Array
    act_half: Array
    log_std: Array

    def __call__(self, observations: FloatArray) -> FloatArray:
        """``[..., A]`` for ``[..., O]``."""
        hidden = (observations - self.obs_mean) / self.obs_scale
        last = len(self.layers) - 1
        for i, (weight, bias) in enumerate(self.layers):
            hidden = hidden @ weight.T + bias
            hidden = np.tanh(hidden) if i == last else np.maximum(hidden, 0)
        return np.asarray(self.act_middle + self.act_half * hidden, dtype=np.float32)


def portable(policy: Policy) -> Portable:
    """``policy`` with its units spelt out, those that change nothing too: x - 0, x / 1."""
    units, obs_dim, act_dim = policy.units, len(policy.weights[0]), len(policy.biases[-1])

    def column(given: FloatArray | None, size: int, otherwise: float) -> Array:
        return np.full(size, otherwise) if given is None else given.astype(np.float64)

    middle, half = units.action_line or (None, None)
    return Portable(
        tuple(
            (np.ascontiguousarray(weight.T, np.float64), bias.astype(np.float64))
            for weight, bias in zip(policy.weights, policy.biases, strict=True)
        ),
        column(units.obs_mean, obs_dim, 0.0),
        column(units.obs_scale, obs_dim, 1.0),
        column(middle, act_dim, 0.0),
        column(half, act_dim, 1.0),
        policy.log_std.astype(np.float64),
    )
