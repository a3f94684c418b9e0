"""The stochastic policies that regenerated datasets are rolled out from, in plain numpy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class BehaviourPolicy:
    """A diagonal Gaussian over actions, its mean an MLP of the observation.

    Attributes:
        weights: ``[in, out]`` a layer.
        biases: ``[out]`` a layer.
        log_std: ``[A]``; None where the last layer gives mean and log-std side by side, ``[2 A]``.
        activation: of the hidden layers, ``"relu"`` or ``"tanh"``.
        squash: how a sample becomes an action in [-1, 1], ``"tanh"`` or ``"clip"``.
        noise: factor on the standard deviation.
    """

    weights: tuple[FloatArray, ...]
    biases: tuple[FloatArray, ...]
    log_std: FloatArray | None
    activation: str
    squash: str
    noise: float = 1.0

    def sample(self, observation: NDArray[Any], generator: np.random.Generator) -> FloatArray:
        """An action ``[A]`` for an observation ``[O]``."""
        hidden = observation.astype(np.float32)
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            hidden = hidden @ weight + bias
            hidden = np.maximum(hidden, 0) if self.activation == "relu" else np.tanh(hidden)
        mean = hidden @ self.weights[-1] + self.biases[-1]
        log_std = self.log_std
        if log_std is None:
            mean, log_std = np.split(mean, 2)
            log_std = np.clip(log_std, -20, 2)  # stable-baselines3's bounds for SAC
        normal = generator.standard_normal(len(mean), dtype=np.float32)
        action = mean + np.float32(self.noise) * np.exp(log_std) * normal
        return np.tanh(action) if self.squash == "tanh" else np.clip(action, -1, 1)


@dataclass(frozen=True)
class UniformPolicy:
    """Actions uniform in [-1, 1]: the behaviour of the ``random`` datasets."""

    act_dim: int

    def sample(self, observation: NDArray[Any], generator: np.random.Generator) -> FloatArray:  # noqa: ARG002
        return generator.uniform(-1, 1, self.act_dim).astype(np.float32)


def load(path: Path, noise: float = 1.0) -> BehaviourPolicy:
    """A policy from a snapshot that ``tools/train_behaviour.py`` wrote, in any float precision."""
    from safetensors import safe_open

    with safe_open(path, "numpy") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name).astype(np.float32) for name in file.keys()}  # noqa: SIM118  not a dict
    layers = sum(name.endswith(".weight") for name in tensors)
    return BehaviourPolicy(
        weights=tuple(np.ascontiguousarray(tensors[f"layers.{i}.weight"].T) for i in range(layers)),
        biases=tuple(tensors[f"layers.{i}.bias"] for i in range(layers)),
        log_std=tensors.get("log_std"),
        activation=metadata["activation"],
        squash=metadata["squash"],
        noise=noise,
    )
