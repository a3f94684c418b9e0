"""TD3+BC (Fujimoto and Gu, NeurIPS 2021), as the authors' code has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from iql_fast.methods.base import Draw, Method, Net, PerSeed, Step


@dataclass(frozen=True)
class TD3BC(Method):
    """TD3, whose policy is also drawn to the data's actions.

    Attributes:
        alpha: weight of the critic's judgement against that of the data.
        policy_noise, noise_clip: of the target policy's actions.
        policy_every: steps from one update of the policy, and of all targets, to the next.
        normalize: scale observations to mean 0 and standard deviation 1 over the dataset (not on
            antmaze, as the authors).
    """

    name: ClassVar[str] = "td3_bc"
    title: ClassVar[str] = "TD3+BC"
    records: ClassVar[Mapping[str, Literal["mean", "max"]]] = {
        "q": "mean",
        "target_q": "mean",
        "bc_error": "mean",
        "q_weight": "mean",
    }

    alpha: PerSeed = 2.5
    policy_noise: PerSeed = 0.2
    noise_clip: PerSeed = 0.5
    policy_every: int = 2
    normalize: bool = True
    critic_lr: PerSeed = 3e-4
    actor_lr: PerSeed = 3e-4
    hidden: tuple[int, ...] = (256, 256)

    def normalizes(self, family: str) -> bool:
        return self.normalize and family != "antmaze"

    def nets(self, obs_dim: int, act_dim: int) -> tuple[Net, ...]:
        actor = (obs_dim, act_dim, self.hidden, "actor_lr")
        critic = (obs_dim + act_dim, 1, self.hidden, "critic_lr")
        return (
            Net("actor", *actor, target="actor_target", start="uniform"),
            Net("critic", *critic, ensemble=2, target="target", start="uniform"),
        )

    def draws(self, obs_dim: int, act_dim: int) -> dict[str, Draw]:  # noqa: ARG002
        return {"noise": Draw("normal", (self.batch_size, act_dim))}

    def updates(self, name: str, steps: int) -> int:
        return steps // self.policy_every if name == "actor" else steps

    def branch(self, index: int) -> bool:
        """Whether the policy learns."""
        return (index + 1) % self.policy_every == 0

    def step(self, on: Step) -> None:
        s, a, s_next = on.batch.observations, on.batch.actions, on.batch.next_observations
        sa = torch.cat([s, a], -1)

        # The critics: clipped double Q-learning with a smoothed target policy.
        with torch.no_grad():
            clip = on.setting("noise_clip")[..., None]
            noise = on.setting("policy_noise")[..., None] * on.draw("noise")
            a_next = torch.tanh(on.net("actor_target", s_next))
            a_next = (a_next + torch.clamp(noise, -clip, clip)).clamp(-1, 1)
            q_next = on.net("target", torch.cat([s_next, a_next], -1))[..., 0].amin(1)
            target = on.batch.rewards + on.setting("discount") * on.batch.masks * q_next
        qs = on.net("critic", sa)[..., 0]  # [S, 2, B]
        on.descend(critic=((qs - target[:, None]) ** 2).mean(-1).sum(-1))
        on.record(q=qs.mean((1, 2)), target_q=target.mean(-1))

        # The policy, with the critic just updated; the targets move with it.
        if not self.branch(on.index):
            return
        pi = torch.tanh(on.net("actor", s))
        q = on.net("critic", torch.cat([s, pi], -1), member=0, fixed=True)[..., 0]
        weight = on.setting("alpha")[:, 0] / q.detach().abs().mean(-1)
        error = ((pi - a) ** 2).mean((-1, -2))
        on.descend(actor=error - weight * q.mean(-1))
        on.follow("critic", "actor")
        on.record(bc_error=error, q_weight=weight)
