"""Advantage-weighted behaviour model with MPO (Siegel et al., ICLR 2020).

No reference for it exists: its authors published no code, and their settings are for other tasks.
What the paper leaves open is chosen here, and said where it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from iql_fast.formulas.distributions import gaussian_kl, soft_clamp
from iql_fast.formulas.losses import gaussian_log_prob
from iql_fast.methods.base import Draw, Method, Net, PerSeed, Scalar, Step

#: Bounds of the log standard deviations of policy and prior; their means lie in (-1, 1).
LOG_STD_RANGE = (-5.0, 0.0)
#: Below which the temperature does not fall, where the prior's actions are all alike to the critic.
LEAST_TEMPERATURE = 1e-8


@dataclass(frozen=True)
class ABM(Method):
    """A prior cloned from the data's actions of non-negative advantage, and a policy by MPO among
    the prior's actions.

    The prior's filter is ``R >= 0`` with the return of one step, ``R = r + gamma m V(s') - V(s)``:
    a batch holds single transitions, so N = 1. Q is one network. Sampled actions are clipped to
    the box of actions. The policy that is evaluated, that the trust region is around and whose
    values filter the data is the target policy.

    Attributes:
        samples: actions of each distribution at each observation.
        weight_bound: on the divergence of the weights of the prior's actions from equal ones,
            which the weights' temperature keeps; epsilon of MPO.
        kl_bound: on the divergence of the policy from the target policy, mean and standard
            deviation together, which a multiplier keeps.
        dual_lr: of the temperature and the multiplier, both positive by a softplus; the
            rate is that of acme's MPO.
        copy_every: steps from one copy to the targets to the next; 0: they follow every step,
            by ``polyak``.
    """

    name: ClassVar[str] = "abm"
    title: ClassVar[str] = "ABM"
    policy_parts: ClassVar[int] = 2
    records: ClassVar[Mapping[str, Literal["mean", "max"]]] = {
        "q": "mean",
        "target_q": "mean",
        "accepted": "mean",
        "temperature": "mean",
        "multiplier": "mean",
        "kl": "mean",
    }

    samples: int = 20
    weight_bound: PerSeed = 0.1
    kl_bound: PerSeed = 0.01
    initial_temperature: float = 1.0
    initial_multiplier: float = 1.0
    copy_every: int = 200
    critic_lr: PerSeed = 3e-4
    prior_lr: PerSeed = 3e-4
    actor_lr: PerSeed = 3e-4
    dual_lr: PerSeed = 1e-2
    hidden: tuple[int, ...] = (256, 256)

    def nets(self, obs_dim: int, act_dim: int) -> tuple[Net, ...]:
        policy = (obs_dim, 2 * act_dim, self.hidden)
        q = (obs_dim + act_dim, 1, self.hidden, "critic_lr")
        return (
            Net("critic", *q, target="target", start="uniform"),
            Net("prior", *policy, "prior_lr", start="uniform"),
            Net("actor", *policy, "actor_lr", target="actor_target", start="uniform"),
        )

    def scalars(self, act_dim: int) -> dict[str, Scalar]:  # noqa: ARG002
        return {
            "temperature": Scalar(_inverse_softplus(self.initial_temperature), "dual_lr"),
            "multiplier": Scalar(_inverse_softplus(self.initial_multiplier), "dual_lr"),
        }

    def draws(self, obs_dim: int, act_dim: int) -> dict[str, Draw]:  # noqa: ARG002
        several = Draw("normal", (self.samples, self.batch_size, act_dim))
        return {"next": several, "now": several, "prior": several}

    def branch(self, index: int) -> bool:
        """Whether the targets become copies."""
        return bool(self.copy_every) and (index + 1) % self.copy_every == 0

    def step(self, on: Step) -> None:
        s, a, s_next = on.batch.observations, on.batch.actions, on.batch.next_observations

        # The critic, and the prior: likelihood of the actions that did no worse than the policy.
        with torch.no_grad():
            v_next, v = (
                self._q(on, x, self._sampled(on, "actor_target", x, draw)).mean(1)
                for x, draw in ((s_next, "next"), (s, "now"))
            )
            target = on.batch.rewards + on.setting("discount") * on.batch.masks * v_next
            accepted = (target - v >= 0).to(target.dtype)
        q = on.net("critic", torch.cat([s, a], -1))[..., 0]
        density = gaussian_log_prob(a, *self._policy(on, "prior", s))
        on.descend(
            critic=((q - target) ** 2).mean(-1),
            prior=-(accepted * density).mean(-1),
        )
        on.record(q=q.mean(-1), target_q=target.mean(-1), accepted=accepted.mean(-1))

        # E-step: weights of the new prior's actions; the temperature by its dual.
        with torch.no_grad():
            several = self._sampled(on, "prior", s, "prior")  # [S, K, B, A]
            q_prior = self._q(on, s, several)  # [S, K, B]
        temperature = softplus(on.scalar("temperature")) + LEAST_TEMPERATURE
        scaled = q_prior / temperature[..., None]
        log_mean = torch.logsumexp(scaled, 1) - math.log(self.samples)
        bound = on.setting("weight_bound")[:, 0]
        dual = temperature[:, 0] * (bound + log_mean.mean(-1))

        # M-step: their weighted likelihood, in a trust region around the target policy.
        weight = torch.softmax(scaled.detach(), 1)
        mean, log_std = self._policy(on, "actor", s)
        with torch.no_grad():
            old = self._policy(on, "actor_target", s)
        density = gaussian_log_prob(several, mean[:, None], log_std[:, None])
        kl = gaussian_kl(*old, mean, log_std).mean(-1)
        multiplier = softplus(on.scalar("multiplier"))[:, 0]
        likelihood = (weight * density).sum(1).mean(-1)
        on.descend(
            temperature=dual,
            actor=multiplier.detach() * kl - likelihood,
            multiplier=multiplier * (on.setting("kl_bound")[:, 0] - kl.detach()),
        )
        on.record(temperature=temperature[:, 0], multiplier=multiplier, kl=kl)
        self._move_targets(on)

    def _move_targets(self, on: Step) -> None:
        if not self.copy_every:
            on.follow("critic", "actor")
        elif self.branch(on.index):
            on.copy("critic", "target")
            on.copy("actor", "actor_target")

    def _policy(self, on: Step, net: str, s: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation, ``[S, B, A]`` each."""
        mean, log_std = on.net(net, s).chunk(2, -1)
        return torch.tanh(mean), soft_clamp(log_std, *LOG_STD_RANGE)

    def _sampled(self, on: Step, net: str, s: Tensor, draw: str) -> Tensor:
        """Actions ``[S, K, B, A]``."""
        mean, log_std = self._policy(on, net, s)
        return (mean[:, None] + torch.exp(log_std)[:, None] * on.draw(draw)).clamp(-1, 1)

    def _q(self, on: Step, s: Tensor, several: Tensor) -> Tensor:
        """The slow critic of several actions ``[S, K, B, A]`` of each row, ``[S, K, B]``."""
        rows = torch.cat([s.repeat(1, self.samples, 1), several.flatten(1, 2)], -1)
        return on.net("target", rows).reshape(several.shape[:3])


def _inverse_softplus(x: float) -> float:
    return x + math.log1p(-math.exp(-x))  # of large numbers too
