"""Train the behaviour policies that regenerated datasets are rolled out from.

    python tools/train_behaviour.py train --env Hopper --algorithm ppo --out FOLDER

trains with stable-baselines3 and writes a snapshot of the policy every few thousand steps, each a
safetensors file that ``iql_fast.data.regenerate`` can roll out. Which snapshot plays which part
(medium, expert, the mixture of medium-replay) is chosen afterwards by
``tools/select_behaviour.py`` from the returns measured there.

Needs stable-baselines3, which the package itself does not.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from safetensors.numpy import save_file
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

import iql_fast.environments  # noqa: F401  registers them


class LeanSAC(SAC):
    """SAC whose update skips work that its result does not need: no critic gradients in the
    actor's loss, and fused Adam. The update rule is unchanged."""

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        critic_parameters = list(self.critic.parameters())
        target_parameters = list(self.critic_target.parameters())
        for _ in range(gradient_steps):
            batch = self.replay_buffer.sample(batch_size)
            with torch.no_grad():
                alpha = self.log_ent_coef.exp()
                next_action, next_log_prob = self.actor.action_log_prob(batch.next_observations)
                next_q = torch.cat(self.critic_target(batch.next_observations, next_action), 1)
                next_v = next_q.amin(1, keepdim=True) - alpha * next_log_prob[:, None]
                target = batch.rewards + (1 - batch.dones) * self.gamma * next_v
            q = torch.cat(self.critic(batch.observations, batch.actions), 1)
            critic_loss = 0.5 * (q - target).square().mean(0).sum()
            self.critic.optimizer.zero_grad()
            critic_loss.backward()
            self.critic.optimizer.step()

            for parameter in critic_parameters:
                parameter.requires_grad_(False)
            action, log_prob = self.actor.action_log_prob(batch.observations)
            q = torch.cat(self.critic(batch.observations, action), 1).amin(1)
            actor_loss = (alpha * log_prob - q).mean()
            self.actor.optimizer.zero_grad()
            actor_loss.backward()
            self.actor.optimizer.step()
            for parameter in critic_parameters:
                parameter.requires_grad_(True)

            entropy_gap = log_prob.detach().mean() + self.target_entropy
            self.ent_coef_optimizer.zero_grad()
            (-self.log_ent_coef * entropy_gap).mean().backward()
            self.ent_coef_optimizer.step()
            with torch.no_grad():
                torch._foreach_lerp_(target_parameters, critic_parameters, self.tau)
        self._n_updates += gradient_steps


def sac_policy(model: SAC) -> dict[str, np.ndarray]:
    """The actor's MLP; its last layer gives mean and log-std, both of width A."""
    actor = model.actor
    linears = [module for module in actor.latent_pi if isinstance(module, nn.Linear)]
    arrays = {f"layers.{i}": layer for i, layer in enumerate(linears)}
    tensors = {f"{name}.weight": layer.weight for name, layer in arrays.items()}
    tensors |= {f"{name}.bias": layer.bias for name, layer in arrays.items()}
    last = f"layers.{len(linears)}"
    tensors[f"{last}.weight"] = torch.cat([actor.mu.weight, actor.log_std.weight])
    tensors[f"{last}.bias"] = torch.cat([actor.mu.bias, actor.log_std.bias])
    return {name: tensor.detach().numpy().copy() for name, tensor in tensors.items()}


def ppo_policy(model: PPO, normaliser: VecNormalize) -> dict[str, np.ndarray]:
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

    def __init__(self, out: Path, env: str, algorithm: str, early: int, late: int) -> None:
        super().__init__()
        self.out, self.env, self.algorithm = out, env, algorithm
        self.early, self.late = early, late
        self.next = 0

    def _on_step(self) -> bool:
        if self.num_timesteps >= self.next:
            self.write()
            spacing = self.early if self.num_timesteps < 100 * self.early else self.late
            self.next = self.num_timesteps + spacing
        return True

    def write(self) -> None:
        if self.algorithm == "sac":
            tensors = sac_policy(self.model)
            form = {"activation": "relu", "squash": "tanh"}
        else:
            tensors = ppo_policy(self.model, self.training_env)
            form = {"activation": "tanh", "squash": "clip"}
        returns = [episode["r"] for episode in self.model.ep_info_buffer]
        recent = float(np.mean(returns)) if returns else float("nan")
        metadata = {
            "env": f"{self.env}, MuJoCo 2.0's physics",
            "algorithm": self.algorithm,
            "steps": str(self.num_timesteps),
            "training_return": f"{recent:.1f}",
        } | form
        path = self.out / f"{self.num_timesteps:08d}.safetensors"
        partial = path.with_suffix(".partial")
        save_file(tensors, partial, metadata=metadata)
        partial.rename(path)
        with open(self.out / "progress.jsonl", "a") as log:
            log.write(json.dumps({"steps": self.num_timesteps, "return": recent}) + "\n")
        print(f"{self.env} {self.num_timesteps} steps, training return {recent:.0f}", flush=True)


def build(arguments: argparse.Namespace) -> Any:
    """The learner, with settings that are known to work on these environments."""
    env_id = f"iql_fast/{arguments.env.lower()}-v2"  # D4RL's mechanics
    if arguments.algorithm == "sac":
        return LeanSAC(
            "MlpPolicy",
            gymnasium.make(env_id),
            learning_rate=arguments.learning_rate or 5e-4,
            buffer_size=1_000_000,
            learning_starts=10_000,
            batch_size=256,
            policy_kwargs={"net_arch": [256, 256], "optimizer_kwargs": {"fused": True}},
            seed=arguments.seed,
        )
    envs = DummyVecEnv([lambda: gymnasium.make(env_id)] * 4)
    envs.seed(arguments.seed)
    from stable_baselines3.common.vec_env import VecMonitor

    envs = VecNormalize(VecMonitor(envs), gamma=0.99)
    start = arguments.learning_rate or 3e-4
    return PPO(
        "MlpPolicy",
        envs,
        learning_rate=lambda remaining: start * max(remaining, 0.05),
        n_steps=512,
        batch_size=64,
        n_epochs=10,
        gamma=0.99,
        gae_lambda=0.95,
        clip_range=0.2,
        ent_coef=0.0,
        policy_kwargs={"net_arch": [64, 64], "activation_fn": nn.Tanh, "log_std_init": -0.5},
        seed=arguments.seed,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(required=True)
    train = commands.add_parser("train", help="train and write snapshots")
    train.add_argument("--env", required=True, choices=["Hopper", "HalfCheetah", "Walker2d"])
    train.add_argument("--algorithm", required=True, choices=["sac", "ppo"])
    train.add_argument("--out", required=True, type=Path, help="folder for the snapshots")
    train.add_argument("--steps", type=int, default=1_000_000, help="environment steps")
    train.add_argument("--learning-rate", type=float, help="Adam's learning rate")
    train.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    early, late = (5_000, 20_000) if arguments.algorithm == "sac" else (20_000, 100_000)
    callback = Snapshots(arguments.out, arguments.env, arguments.algorithm, early, late)
    model = build(arguments)
    model.learn(arguments.steps, callback=callback)
    callback.write()


if __name__ == "__main__":
    main()
