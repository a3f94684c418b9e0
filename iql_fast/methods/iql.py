"""Implicit Q-Learning (Kostrikov, Nair, Levine, ICLR 2022), in the order of the authors' code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from iql_fast.formulas.losses import awr_weights, expectile_loss, gaussian_log_prob
from iql_fast.methods.base import Method, Net, PerSeed, Step
from iql_fast.policies.policy import LOG_STD_RANGE


@dataclass(frozen=True)
class IQL(Method):
    """V by expectile regression on the slow critics, the critics by TD with V, the policy by
    regression on the data's actions, weighted by their advantages."""

    name: ClassVar[str] = "iql"
    title: ClassVar[str] = "IQL"
    records: ClassVar[Mapping[str, Literal["mean", "max"]]] = {
        "value": "mean",
        "q": "mean",
        "advantage": "mean",
        "advantage_square": "mean",
        "weight": "mean",
        "weight_max": "max",
        "weight_clipped": "mean",
    }

    expectile: PerSeed = 0.7
    temperature: PerSeed = 3.0
    weight_clip: PerSeed = 100.0
    value_lr: PerSeed = 3e-4
    critic_lr: PerSeed = 3e-4
    actor_lr: PerSeed = 3e-4
    actor_schedule_steps: int = 1_000_000
    actor_dropout: float = 0.0
    hidden: tuple[int, ...] = (256, 256)
    critics: int = 2

    def nets(self, obs_dim: int, act_dim: int) -> tuple[Net, ...]:
        sizes = (obs_dim + act_dim, 1, self.hidden)
        return (
            Net("value", obs_dim, 1, self.hidden, "value_lr"),
            Net(
                "actor",
                obs_dim,
                act_dim,
                self.hidden,
                "actor_lr",
                vectors={"log_std": (act_dim, 0.0)},
                dropout=self.actor_dropout,
                schedule=self.actor_schedule_steps,
            ),
            Net("critic", *sizes, "critic_lr", ensemble=self.critics, target="target"),
        )

    def step(self, on: Step) -> None:
        s, a, s_next = on.batch.observations, on.batch.actions, on.batch.next_observations
        sa = torch.cat([s, a], -1)

        # V: expectile regression on the slow critics (equation 5).
        with torch.no_grad():
            q = on.net("target", sa)[..., 0].amin(1)  # [S, B]
        v = on.net("value", s)[..., 0]
        on.descend(value=expectile_loss(q - v, on.setting("expectile")).mean(-1))
        on.record(value=v.mean(-1), q=q.mean(-1))

        # The policy: advantage-weighted regression with the V just updated (equation 7).
        with torch.no_grad():
            v, v_next = (on.net("value", x)[..., 0] for x in (s, s_next))
            advantage, clip = q - v, on.setting("weight_clip")
            weight = awr_weights(advantage, on.setting("temperature"), clip)
        mean = torch.tanh(on.net("actor", s))
        log_std = on.vector("actor", "log_std").clamp(*LOG_STD_RANGE)[:, None]
        actor_loss = -(weight * gaussian_log_prob(a, mean, log_std)).mean(-1)

        # The critics: TD with it (equation 6); summed over critics, not halved.
        target = on.batch.rewards + on.setting("discount") * on.batch.masks * v_next
        difference = on.net("critic", sa)[..., 0] - target[:, None]  # [S, E, B]
        on.descend(actor=actor_loss, critic=(difference**2).mean(-1).sum(-1))
        on.follow("critic")
        on.record(
            advantage=advantage.mean(-1),
            advantage_square=(advantage.double() ** 2).mean(-1),
            weight=weight.mean(-1),
            weight_max=weight.amax(-1),
            weight_clipped=(weight >= clip).double().mean(-1),
        )

    def measured(self, means: dict[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
        variance = means.pop("advantage_square") - means["advantage"] ** 2
        return means | {"advantage_std": np.sqrt(np.maximum(variance, 0))}
