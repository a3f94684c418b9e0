"""The trained policy as plain arrays: cheap to ship to a worker process and to run there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


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
