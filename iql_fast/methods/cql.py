"""CQL (Kumar et al., NeurIPS 2020), as the authors' code has it: version 3 of its term, CQL(H)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from iql_fast.formulas.distributions import tanh_gaussian_log_prob, tanh_gaussian_sample
from iql_fast.methods.base import Draw, Method, Net, PerSeed, Scalar, Step

#: Bounds of the policy's log standard deviation, of its mean in the data's density alone, and of
#: the multiplier (the authors' code).
LOG_STD_RANGE = (-5.0, 2.0)
MEAN_RANGE = (-9.0, 9.0)
MULTIPLIER_RANGE = (0.0, 1e6)


@dataclass(frozen=True)
class CQL(Method):
    """Soft actor-critic, whose critics are also pushed down at actions that the data lack and up at
    those that they have.

    Attributes:
        min_q_weight: of that push; the authors take 5 or 10 on locomotion.
        lagrange: whether a trained multiplier holds the weighted push at a threshold, as on
            antmaze.
        lagrange_threshold: that threshold.
        sampled_actions: of each of three kinds, at which a row's critics are pushed down: uniform
            ones, the policy's, and the policy's at the next observation.
        bc_steps: steps in which the policy is trained by behaviour cloning first.
        entropy_per_dimension: that the policy's temperature keeps it at.
    """

    name: ClassVar[str] = "cql"
    title: ClassVar[str] = "CQL"
    explores: ClassVar[bool] = True
    antmaze_rewards: ClassVar[tuple[float, float]] = (4.0, -2.0)
    policy_parts: ClassVar[int] = 2
    records: ClassVar[Mapping[str, Literal["mean", "max"]]] = {
        "q": "mean",
        "target_q": "mean",
        "push": "mean",
        "log_prob": "mean",
        "temperature": "mean",
        "multiplier": "mean",
    }

    min_q_weight: PerSeed = 5.0
    lagrange: bool = False
    lagrange_threshold: PerSeed = 5.0
    sampled_actions: int = 10
    bc_steps: int = 40_000
    entropy_per_dimension: PerSeed = -1.0
    critic_lr: PerSeed = 3e-4
    actor_lr: PerSeed = 1e-4
    hidden: tuple[int, ...] = (256, 256, 256)

    def nets(self, obs_dim: int, act_dim: int) -> tuple[Net, ...]:
        actor = (obs_dim, 2 * act_dim, self.hidden, "actor_lr")
        critic = (obs_dim + act_dim, 1, self.hidden, "critic_lr")
        return (
            Net("actor", *actor, start="fan_out", bias=0.1, head=1e-3),
            Net(
                "critic",
                *critic,
                ensemble=2,
                target="target",
                start="fan_out",
                bias=0.1,
                head=3e-3,
            ),
        )

    def scalars(self, act_dim: int) -> dict[str, Scalar]:  # noqa: ARG002
        scalars = {"log_temperature": Scalar(0.0, "actor_lr")}
        if self.lagrange:
            scalars["log_multiplier"] = Scalar(0.0, "critic_lr")
        return scalars

    def draws(self, obs_dim: int, act_dim: int) -> dict[str, Draw]:  # noqa: ARG002
        one = (self.batch_size, act_dim)
        several = (self.sampled_actions, *one)
        return {
            "noise": Draw("normal", one),
            "next_noise": Draw("normal", one),
            "uniform": Draw("uniform", several),
            "several_noise": Draw("normal", several),
            "next_several_noise": Draw("normal", several),
        }

    def branch(self, index: int) -> bool:
        """Whether the policy clones the data yet: the authors count steps from 1."""
        return index + 1 < self.bc_steps

    def step(self, on: Step) -> None:
        s, a, s_next = on.batch.observations, on.batch.actions, on.batch.next_observations
        mean, log_std = _heads(on.net("actor", s))
        pi, log_pi = tanh_gaussian_sample(mean, log_std, on.draw("noise"))
        with torch.no_grad():
            mean_next, log_std_next = _heads(on.net("actor", s_next))

        # The temperature, before all else.
        excess = log_pi.detach().mean(-1) + a.shape[-1] * on.setting("entropy_per_dimension")[:, 0]
        on.descend(log_temperature=-on.scalar("log_temperature")[:, 0] * excess)
        temperature = on.scalar("log_temperature").detach().exp()  # [S, 1]

        # The policy's loss, of the critics as they are.
        if self.branch(on.index):
            value = tanh_gaussian_log_prob(a, mean.clamp(*MEAN_RANGE), log_std)
        else:
            value = on.net("critic", torch.cat([s, pi], -1), fixed=True)[..., 0].amin(1)
        actor_loss = (temperature * log_pi - value).mean(-1)

        # The critics': TD with an action of the policy, without its entropy.
        with torch.no_grad():
            a_next, _ = tanh_gaussian_sample(mean_next, log_std_next, on.draw("next_noise"))
            q_next = on.net("target", torch.cat([s_next, a_next], -1))[..., 0].amin(1)
            target = on.batch.rewards + on.setting("discount") * on.batch.masks * q_next
            actions, log_density = self._sampled(on, (mean, log_std), (mean_next, log_std_next))
            actions = torch.cat([a[:, None], actions], 1)  # [S, K, B, A]
            x = torch.cat([s[:, None].expand(-1, actions.shape[1], -1, -1), actions], -1)
        qs = on.net("critic", x.flatten(1, 2))[..., 0]
        qs = qs.unflatten(-1, actions.shape[1:3])  # type: ignore[no-untyped-call]  # [S, 2, K, B]
        q, q_sampled = qs[:, :, 0], qs[:, :, 1:]
        error = ((q - target[:, None]) ** 2).mean(-1)  # [S, 2]

        # And their conservative term: a soft maximum over actions, by importance sampling.
        soft = torch.logsumexp(q_sampled - log_density[:, None], 2)
        push = on.setting("min_q_weight") * (soft - q).mean(-1)  # [S, 2]
        multiplier, losses = torch.ones_like(temperature), {}
        if self.lagrange:
            push = push - on.setting("lagrange_threshold")
            multiplier = on.scalar("log_multiplier").exp().clamp(*MULTIPLIER_RANGE)
            losses["log_multiplier"] = -0.5 * (multiplier * push.detach()).sum(-1)
            multiplier = multiplier.detach()
        critic_loss = (error + multiplier * push).sum(-1)
        on.descend(**losses, critic=critic_loss, actor=actor_loss)
        on.follow("critic")
        on.record(
            q=q.mean((1, 2)),
            target_q=target.mean(-1),
            push=push.mean(-1),
            log_prob=log_pi.mean(-1),
            temperature=temperature[:, 0],
            multiplier=multiplier[:, 0],
        )

    def explore(self, on: Step, observations: Tensor, noise: Tensor) -> Tensor:
        action, _ = tanh_gaussian_sample(*_heads(on.net("actor", observations)), noise)
        return action

    def _sampled(
        self, on: Step, here: tuple[Tensor, Tensor], there: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Actions ``[S, 3 n, B, A]`` at which critics are pushed down, and the logarithms of the
        densities that they were drawn from ``[S, 3 n, B]``.

        Args:
            here: mean and log standard deviation of the policy, ``[S, B, A]`` each.
            there: those at the next observations.
        """
        uniform = 2 * on.draw("uniform") - 1
        density = uniform.new_full(uniform.shape[:-1], -uniform.shape[-1] * math.log(2))
        found = [(uniform, density)]
        for (mean, log_std), noise in [(there, "next_several_noise"), (here, "several_noise")]:
            of = mean[:, None], log_std[:, None]  # the network's outputs are each row's once
            found.append(tanh_gaussian_sample(*of, on.draw(noise)))
        actions, densities = zip(*found, strict=True)
        return torch.cat(actions, 1), torch.cat(densities, 1)


def _heads(outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Mean before the tanh and log standard deviation."""
    mean, log_std = outputs.chunk(2, -1)
    return mean, log_std.clamp(*LOG_STD_RANGE)
