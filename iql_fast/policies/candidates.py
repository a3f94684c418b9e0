"""Policies that take the best for a critic of many sampled actions: BCQ's, and easy BCQ's."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from iql_fast.policies.units import Units

FloatArray = NDArray[np.float32]
#: (weight ``[in, out]``, bias ``[out]``) of each layer.
Layers = tuple[tuple[FloatArray, FloatArray], ...]


@dataclass(frozen=True)
class Candidates:
    """The best of ``samples`` actions of each observation.

    The samples of an observation are drawn by its own bytes, so that the policy is a function of
    it: what an episode comes to does not depend on who runs it, or beside what.

    Attributes:
        kind: ``"decoded"``: latents through a decoder, moved by a perturbation of at most ``phi``;
            ``"gaussian"``: of a policy whose outputs are mean before its tanh and log standard
            deviation before its bounds.
        maker: the decoder, or the policy.
        critic: the Q network that chooses.
        mover: the perturbation.
        latent_clip: of the latents.
        log_std_range: bounds of the log standard deviation.
        units: of the environment that it acts in.
    """

    kind: Literal["decoded", "gaussian"]
    maker: Layers
    critic: Layers
    samples: int
    mover: Layers = ()
    phi: float = 0.0
    latent_clip: float = 0.0
    log_std_range: tuple[float, float] = (0.0, 0.0)
    units: Units = field(default_factory=Units)

    def mean_action(self, observation: NDArray[np.floating]) -> FloatArray:
        """The chosen action, ``[A]`` for an observation ``[O]``, or ``[N, A]`` for ``[N, O]``; in
        the environment's units."""
        read = self.units.read(observation)
        rows = np.ascontiguousarray(np.atleast_2d(read))
        noise = np.stack([self._noise(row) for row in rows])  # [N, samples, size]
        s = np.repeat(rows[:, None], self.samples, 1)
        actions = self._decoded(s, noise) if self.kind == "decoded" else self._sampled(s, noise)
        q = _mlp(self.critic, np.concatenate([s, actions], -1))[..., 0]
        chosen = actions[np.arange(len(rows)), q.argmax(1)]
        return self.units.act(chosen if read.ndim == 2 else chosen[0])

    def _noise(self, row: FloatArray) -> FloatArray:
        key = int.from_bytes(hashlib.blake2b(row.tobytes(), digest_size=16).digest(), "little")
        size = self.maker[0][0].shape[0] - len(row) if self.kind == "decoded" else self._act_dim
        drawn = np.random.Generator(np.random.Philox(key=key)).standard_normal((self.samples, size))
        return drawn.astype(np.float32)

    @property
    def _act_dim(self) -> int:
        return len(self.maker[-1][1]) // 2

    def _decoded(self, s: FloatArray, noise: FloatArray) -> FloatArray:
        latents = np.clip(noise, -self.latent_clip, self.latent_clip)
        actions = np.tanh(_mlp(self.maker, np.concatenate([s, latents], -1)))
        move = np.tanh(_mlp(self.mover, np.concatenate([s, actions], -1)))
        return np.clip(actions + np.float32(self.phi) * move, -1, 1)

    def _sampled(self, s: FloatArray, noise: FloatArray) -> FloatArray:
        mean, log_std = np.split(_mlp(self.maker, s), 2, -1)
        low, high = self.log_std_range
        deviation = np.exp(low + 0.5 * (high - low) * (np.tanh(log_std) + 1))
        sampled = np.tanh(mean) + deviation * noise
        return np.asarray(np.clip(sampled, -1, 1), dtype=np.float32)


def _mlp(layers: Layers, x: FloatArray) -> FloatArray:
    """A ReLU MLP, ``[..., in]`` -> ``[..., out]``."""
    for i, (weight, bias) in enumerate(layers):
        x = x @ weight + bias
        if i < len(layers) - 1:
            x = np.maximum(x, 0)
    return x
