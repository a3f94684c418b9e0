"""Proximal policy optimisation by stable-baselines3, for behaviour policies."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import gymnasium
import numpy as np
from safetensors.numpy import save_file
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize
from torch import nn


def policy(model: PPO, normaliser: VecNormalize) -> dict[str, np.ndarray]:
    """The policy's MLP with the observation normalisation folded into its first layer."""
    policy = model.policy
    linears = [m for m in policy.mlp_extractor.policy_net if isinstance(m, nn.Linear)]
    linears.append(policy.action_net)
    tensors = {}
    for i, layer in enumerate(linears):
        tensors[f"layers.{i}.weight"] = layer.weight.detach().numpy().astype(np.float64)
        tensors[f"layers.{i}.bias"] = layer.bias.detach().numpy().astype(np.float64)
    mean = normaliser.obs_rms.mean
    scale = np.sqrt(normaliser.obs_rms.var + normaliser.epsilon)
    first = tensors["layers.0.weight"] / scale
    tensors["layers.0.bias"] = tensors["layers.0.bias"] - first @ mean
    tensors["layers.0.weight"] = first
    tensors["log_std"] = policy.log_std.detach().numpy()
    return {name: array.astype(np.float32) for name, array in tensors.items()}


class Snapshots(BaseCallback):
    """Writes the policy at steps spaced closely at first, where it changes fast."""

    def __init__(self, snapshot: Callable[[int, list[float]], tuple[Path, dict]]) -> None:
        super().__init__()
        self.snapshot = snapshot
        self.next = 0

    def _on_step(self) -> bool:
        if self.num_timesteps >= self.next:
            self.write()
            self.next = self.num_timesteps + (20_000 if self.num_timesteps < 2_000_000 else 100_000)
        return True

    def write(self) -> None:
        returns = [episode["r"] for episode in self.model.ep_info_buffer]
        path, metadata = self.snapshot(self.num_timesteps, returns)
        metadata |= {"algorithm": "ppo", "activation": "tanh", "squash": "clip"}
        partial = path.with_suffix(".partial")
        save_file(policy(self.model, self.training_env), partial, metadata=metadata)
        os.replace(partial, path)


def train(
    env_id: str,
    steps: int,
    rate: float,
    seed: int,
    snapshot: Callable[[int, list[float]], tuple[Path, dict]],
) -> None:
    """With settings that are known to work on locomotion.

    Args:
        snapshot: of steps and the returns of the last episodes: a snapshot's path and metadata.
    """
    envs = DummyVecEnv([lambda: gymnasium.make(env_id)] * 4)
    envs.seed(seed)
    envs = VecNormalize(VecMonitor(envs), gamma=0.99)
    model = PPO(
        "MlpPolicy",
        envs,
        learning_rate=lambda remaining: rate * max(remaining, 0.05),
        n_steps=512,
        batch_size=64,
        n_epochs=10,
        gamma=0.99,
        gae_lambda=0.95,
        clip_range=0.2,
        ent_coef=0.0,
        policy_kwargs={"net_arch": [64, 64], "activation_fn": nn.Tanh, "log_std_init": -0.5},
        seed=seed,
    )
    callback = Snapshots(snapshot)
    model.learn(steps, callback=callback)
    callback.write()
