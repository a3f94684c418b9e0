"""Behaviour cloning, as jaxrl's ``bc`` with its deterministic policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from iql_fast.methods.base import Method, Net, PerSeed, Step


@dataclass(frozen=True)
class BC(Method):
    """Regression of the data's actions.

    Attributes:
        actor_schedule_steps: over which the rate falls to 0 along a cosine; 0 keeps it constant.
    """

    name: ClassVar[str] = "bc"
    title: ClassVar[str] = "BC"
    unused: ClassVar[frozenset[str]] = frozenset({"discount", "polyak"})

    actor_lr: PerSeed = 1e-3
    actor_schedule_steps: int = 1_000_000
    actor_dropout: float = 0.1
    hidden: tuple[int, ...] = (256, 256)

    def nets(self, obs_dim: int, act_dim: int) -> tuple[Net, ...]:
        return (
            Net(
                "actor",
                obs_dim,
                act_dim,
                self.hidden,
                "actor_lr",
                dropout=self.actor_dropout,
                schedule=self.actor_schedule_steps,
            ),
        )

    def step(self, on: Step) -> None:
        pi = torch.tanh(on.net("actor", on.batch.observations))
        on.descend(actor=((pi - on.batch.actions) ** 2).mean((-1, -2)))


@dataclass(frozen=True)
class TopBC(BC):
    """Behaviour cloning of the best trajectories alone.

    Attributes:
        top: share of the trajectories that are kept, those of the highest undiscounted returns.
    """

    name: ClassVar[str] = "10bc"
    title: ClassVar[str] = "10%BC"

    top: float = 0.1

    def share_of_trajectories(self) -> float:
        return self.top
