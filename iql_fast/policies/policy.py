"""The trained policy as plain arrays: cheap to ship to a worker process and to run there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # a worker process that only runs the policy need not load torch
    from torch import Tensor

FloatArray = NDArray[np.float32]

#: Bounds of the state-independent log standard deviation (authors' code).
LOG_STD_RANGE = (-5.0, 2.0)


@dataclass(frozen=True)
class Policy:
    """A ReLU MLP whose output passes through tanh: the mean action of the authors' policy.

    Attributes:
        weights: one array ``[in, out]`` a layer.
        biases: one array ``[out]`` a layer.
        log_std: ``[A]``, the state-independent log standard deviation, already clipped.
        obs_mean, obs_scale: ``[O]``, the observation normalisation of the run
            (0 and 1 where there is none): the network reads ``(obs - obs_mean) / obs_scale``.
    """

    weights: tuple[FloatArray, ...]
    biases: tuple[FloatArray, ...]
    log_std: FloatArray
    obs_mean: FloatArray | None = None
    obs_scale: FloatArray | None = None

    def mean_action(self, observation: NDArray[np.floating]) -> FloatArray:
        """The mean action, ``[A]`` for an observation ``[O]``, or ``[N, A]`` for ``[N, O]``.

        In [-1, 1]; this is the action of evaluation.
        """
        hidden = np.asarray(observation, dtype=np.float32)
        if self.obs_mean is not None and self.obs_scale is not None:
            hidden = (hidden - self.obs_mean) / self.obs_scale
        last = len(self.weights) - 1
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = hidden @ weight
            hidden += bias
            if layer < last:
                np.maximum(hidden, 0, out=hidden)
        return np.tanh(hidden, out=hidden)


def policy_from_state(state: Mapping[str, Tensor], index: int) -> Policy:
    """The policy of the ``index``-th seed in an engine's ``state_dict``."""
    layers = sum(name.startswith("actor.layers.") for name in state) // 2
    arrays = {
        name: tensor[index].detach().to("cpu").float().numpy()
        for name, tensor in state.items()
        if name.startswith("actor.")
    }
    return Policy(
        weights=tuple(
            np.ascontiguousarray(arrays[f"actor.layers.{i}.weight"].T) for i in range(layers)
        ),
        biases=tuple(arrays[f"actor.layers.{i}.bias"].copy() for i in range(layers)),
        log_std=np.clip(arrays["actor.log_std"], *LOG_STD_RANGE),
    )


def with_normalisation(policy: Policy, mean: FloatArray, scale: FloatArray) -> Policy:
    """``policy`` for raw observations, where it was trained on ``(obs - mean) / scale``."""
    return replace(policy, obs_mean=mean, obs_scale=scale)
