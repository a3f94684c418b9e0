"""Train the behaviour policies that regenerated datasets are rolled out from.

    python tools/train_behaviour.py train --env Hopper --algorithm ppo --out FOLDER

trains (``ppo``: with stable-baselines3, which the package itself does not need; ``sac``: over this
package's operators) and writes a snapshot of the policy every few thousand steps, each a
safetensors file that ``iql_fast.data.regenerate`` can roll out. Which snapshot plays which part
(medium, expert, the mixture of medium-replay) is chosen afterwards by
``tools/select_behaviour.py`` from the returns measured there.

A training by ``sac`` that is killed goes on from ``FOLDER/checkpoint.pt`` and its replay buffer,
``FOLDER/replay.bin``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import deque
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import gymnasium
import numpy as np
import torch
from sac import Learner, Replay, keep, resumed

import iql_fast.environments  # noqa: F401  registers them

#: Steps of random actions, before anything is learned.
WARM_UP = 10_000


def snapshot(out: Path, env: str, steps: int, returns: Iterable[float]) -> tuple[Path, dict]:
    """Say how far a training is; where its policy belongs, and what that says of itself.

    Args:
        returns: of the last episodes.
    """
    recent = float(np.mean(list(returns) or [np.nan]))
    with open(out / "progress.jsonl", "a") as log:
        log.write(json.dumps({"steps": steps, "return": recent}) + "\n")
    print(f"{env} {steps:,} steps, training return {recent:.0f}", flush=True)
    about = {
        "env": f"{env}, MuJoCo 2.0's physics",
        "steps": str(steps),
        "training_return": f"{recent:.1f}",
    }
    return out / f"{steps:08d}.safetensors", about


class Met:
    """Environments side by side, and the returns of the episodes that ended last."""

    def __init__(self, env_id: str, count: int, seed: int) -> None:
        self.envs = [gymnasium.make(env_id) for _ in range(count)]
        self.observations = np.stack(
            [env.reset(seed=seed + i)[0] for i, env in enumerate(self.envs)]
        )
        self.sums = np.zeros(count)
        self.returns: deque[float] = deque(maxlen=20)

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, ...]:
        """Transitions: states, actions, rewards, masks, states that follow."""
        before = self.observations.copy()
        after = np.empty_like(before)
        rewards, masks = np.empty((2, len(self.envs)))
        for i, env in enumerate(self.envs):
            after[i], rewards[i], terminal, truncated, _ = env.step(actions[i])
            masks[i] = not terminal
            self.sums[i] += rewards[i]
            self.observations[i] = after[i]
            if terminal or truncated:
                self.returns.append(self.sums[i])
                self.sums[i] = 0
                self.observations[i] = env.reset()[0]
        return before, actions, rewards, masks, after


def train_sac(arguments: argparse.Namespace) -> None:
    """As its authors do: an update a step."""
    out, env = arguments.out, arguments.env
    met = Met(f"iql_fast/{env.lower()}-v2", arguments.envs, arguments.seed)
    inputs, actions = met.observations.shape[1], met.envs[0].action_space.shape[0]
    learner = Learner(
        inputs, actions, rate=arguments.learning_rate or 3e-4, discount=0.99, polyak=0.005
    )
    checkpoint = out / "checkpoint.pt"
    replay = Replay(out / "replay.bin", 1_000_000, inputs, actions)
    begun, spent = resumed(checkpoint, learner, replay)
    generator = np.random.default_rng(arguments.seed + begun)
    torch.manual_seed(arguments.seed + begun)
    began, due = time.monotonic(), begun + 5_000 * bool(begun)
    for steps in range(begun, arguments.steps, arguments.envs):
        if replay.written < WARM_UP:
            chosen = generator.uniform(-1, 1, (arguments.envs, actions)).astype(np.float32)
        else:
            with torch.no_grad():
                chosen = learner.sample(torch.from_numpy(met.observations).float())[0].numpy()
        replay.add(*met.step(chosen))
        if replay.written >= WARM_UP:
            for _ in range(arguments.envs):
                learner.update(*replay.batch(256))
        if steps >= due:
            due = steps + (20_000 if steps >= 500_000 else 5_000)
            path, about = snapshot(out, env, steps, met.returns)
            learner.write_policy(path, **about)
            keep(checkpoint, learner, replay, steps, spent + time.monotonic() - began)
    if begun < arguments.steps:
        path, about = snapshot(out, env, arguments.steps, met.returns)
        learner.write_policy(path, **about)
        keep(checkpoint, learner, replay, arguments.steps, spent + time.monotonic() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(required=True)
    train = commands.add_parser("train", help="train and write snapshots")
    train.add_argument("--env", required=True, choices=["Hopper", "HalfCheetah", "Walker2d"])
    train.add_argument("--algorithm", required=True, choices=["sac", "ppo"])
    train.add_argument("--out", required=True, type=Path, help="folder for the snapshots")
    train.add_argument("--steps", type=int, default=1_000_000, help="environment steps")
    train.add_argument("--learning-rate", type=float, help="Adam's learning rate")
    train.add_argument("--envs", type=int, default=4, help="environments side by side (sac)")
    train.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.algorithm == "sac":
        train_sac(arguments)
        return
    import ppo

    ppo.train(
        f"iql_fast/{arguments.env.lower()}-v2",
        arguments.steps,
        arguments.learning_rate or 3e-4,
        arguments.seed,
        partial(snapshot, arguments.out, arguments.env),
    )


if __name__ == "__main__":
    main()
