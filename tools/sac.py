"""Soft actor-critic (Haarnoja et al. 2018) over this package's operators: behaviour policies."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import Tensor, nn

from iql_fast.ops import EnsembleMLP, FusedAdam


class Learner:
    """Twin critics, a tanh-Gaussian actor, the actor's running average, and a temperature that
    holds the entropy at -1 an action's dimension.

    Args:
        polyak: step of the target critics towards the critics.
        hidden: units of each of two hidden layers.
    """

    def __init__(
        self,
        inputs: int,
        actions: int,
        *,
        rate: float,
        discount: float,
        polyak: float,
        hidden: int = 256,
    ) -> None:
        self.actions, self.discount = actions, discount
        self.actor = EnsembleMLP(1, (inputs, hidden, hidden, 2 * actions))
        self.critics, self.targets = (
            EnsembleMLP(2, (inputs + actions, hidden, hidden, 1)) for _ in range(2)
        )
        self.targets.load_state_dict(self.critics.state_dict())
        self.average = EnsembleMLP(1, self.actor.sizes)
        self.average.load_state_dict(self.actor.state_dict())
        self.log_alpha = torch.tensor(math.log(0.2), requires_grad=True)
        followers = [target.requires_grad_(False) for target in self.targets.parameters()]
        self.optimisers = [
            FusedAdam(self.critics.parameters(), rate, targets=followers, polyak=polyak),
            FusedAdam(
                self.actor.parameters(), rate, targets=self.average.parameters(), polyak=1e-3
            ),
            FusedAdam([self.log_alpha], rate),
        ]

    def sample(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Actions ``[B, A]`` and their log-densities ``[B]``."""
        mean, log_std = self.actor(states)[0].chunk(2, 1)
        log_std = log_std.clamp(-20, 2)
        normal = torch.randn_like(mean)
        raw = mean + log_std.exp() * normal
        # log of tanh's derivative, in a form that does not overflow
        squash = 2 * (math.log(2) - raw - nn.functional.softplus(-2 * raw))
        log_density = -0.5 * normal.square() - log_std - 0.5 * math.log(2 * math.pi) - squash
        return torch.tanh(raw), log_density.sum(1)

    def update(
        self, states: Tensor, actions: Tensor, rewards: Tensor, masks: Tensor, following: Tensor
    ) -> None:
        alpha = self.log_alpha.detach().exp()
        with torch.no_grad():
            next_actions, log_density = self.sample(following)
            value = worth(self.targets, following, next_actions).amin(0) - alpha * log_density
            target = rewards + self.discount * masks * value
        loss = (worth(self.critics, states, actions) - target).square().mean(1).sum()
        self._descend(0, loss)
        self.critics.requires_grad_(False)
        actions, log_density = self.sample(states)
        value = worth(self.critics, states, actions).amin(0)
        self._descend(1, (alpha * log_density - value).mean())
        self.critics.requires_grad_(True)
        self._descend(2, -self.log_alpha * (log_density.detach().mean() - self.actions))

    def _descend(self, which: int, loss: Tensor) -> None:
        self.optimisers[which].zero_grad()
        loss.backward()
        self.optimisers[which].step()

    def state(self) -> dict[str, object]:
        return {
            "actor": self.actor.state_dict(),
            "average": self.average.state_dict(),
            "critics": self.critics.state_dict(),
            "targets": self.targets.state_dict(),
            "log_alpha": self.log_alpha.detach(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
        }

    def load(self, state: dict) -> None:
        self.actor.load_state_dict(state["actor"])
        self.average.load_state_dict(state["average"])
        self.critics.load_state_dict(state["critics"])
        self.targets.load_state_dict(state["targets"])
        with torch.no_grad():
            self.log_alpha.copy_(state["log_alpha"])
        for optimiser, content in zip(self.optimisers, state["optimisers"], strict=True):
            rates = [group["lr"] for group in optimiser.param_groups]
            optimiser.load_state_dict(content)
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate  # a training may go on with another

    def write_policy(self, path: Path, **metadata: str) -> None:
        """The actor's running average, steadier than the actor, as behaviour policies are kept."""
        linears = [
            module for module in self.average.to_sequentials()[0] if hasattr(module, "weight")
        ]
        tensors = {f"layers.{i}.weight": layer.weight for i, layer in enumerate(linears)}
        tensors |= {f"layers.{i}.bias": layer.bias for i, layer in enumerate(linears)}
        arrays = {name: tensor.detach().numpy().copy() for name, tensor in tensors.items()}
        form = {"algorithm": "sac", "activation": "relu", "squash": "tanh"}
        partial = path.with_suffix(".partial")
        save_file(arrays, partial, metadata=metadata | form)
        os.replace(partial, path)


def worth(critics: EnsembleMLP, states: Tensor, actions: Tensor) -> Tensor:
    """Values ``[2, B]`` of actions by twin critics."""
    return critics(torch.cat([states, actions], 1))[..., 0]


class Replay:
    """The newest transitions: states, actions, rewards, masks, states that follow.

    Args:
        path: of the file that holds them, so that a training that goes on learns from what it had
            met: from its own policy's transitions alone, it would unlearn what it could do.

    Raises:
        OSError: the disk has no room for it.
    """

    def __init__(self, path: Path, size: int, inputs: int, actions: int) -> None:
        widths = inputs, actions, 1, 1, inputs
        numbers = size * sum(widths)
        #: Whether there was one of this size already.
        self.found = path.exists() and path.stat().st_size == 4 * numbers
        with open(path, "ab") as file:
            os.posix_fallocate(file.fileno(), 0, 4 * numbers)  # a full disk is told here
        rows = torch.from_file(str(path), shared=True, size=numbers).view(size, -1)
        self.columns = [
            part if width > 1 else part[:, 0]
            for width, part in zip(widths, rows.split(widths, 1), strict=True)
        ]
        self.size, self.written = size, 0

    def add(self, *rows: np.ndarray) -> None:
        where = torch.arange(self.written, self.written + len(rows[0])) % self.size
        for column, row in zip(self.columns, rows, strict=True):
            column[where] = torch.from_numpy(np.asarray(row, np.float32))
        self.written += len(rows[0])

    def batch(self, rows: int) -> list[Tensor]:
        where = torch.randint(min(self.written, self.size), (rows,))
        return [column[where] for column in self.columns]


def keep(path: Path, learner: Learner, replay: Replay, steps: int, seconds: float) -> None:
    """Write a checkpoint that ``resumed`` reads."""
    partial = path.with_suffix(".partial")
    content = {"learner": learner.state(), "steps": steps, "seconds": seconds}
    torch.save(content | {"replay": replay.written}, partial)
    os.replace(partial, path)


def resumed(path: Path, learner: Learner, replay: Replay) -> tuple[int, float]:
    """Load a checkpoint; steps and seconds of it, 0 where there is none.

    Raises:
        SystemExit: the replay buffer that belongs to it is missing.
    """
    if not path.exists():
        return 0, 0.0
    content = torch.load(path, weights_only=True)
    if "replay" not in content or not replay.found:
        raise SystemExit(
            f"{path} has no replay buffer beside it as it was written: bring that back, or remove "
            "the checkpoint and train anew."
        )
    learner.load(content["learner"])
    replay.written = content["replay"]
    return content["steps"], content["seconds"]
