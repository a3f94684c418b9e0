"""AWAC (Nair et al., 2020), as its two public codes have it: jaxrl's and rlkit's, the authors'."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from iql_fast.formulas.distributions import gaussian_sample
from iql_fast.formulas.losses import gaussian_log_prob
from iql_fast.methods.base import Draw, Method, Net, PerSeed, Step

#: Bounds of the log standard deviation: jaxrl clips to its own, rlkit spans its own by a sigmoid.
JAXRL_LOG_STD, RLKIT_LOG_STD = (-10.0, 2.0), (-6.0, 0.0)


@dataclass(frozen=True)
class AWAC(Method):
    """Critics by TD with the policy's own actions; the policy by regression on the data's actions,
    weighted by a softmax over the batch of their advantages.

    Attributes:
        beta: temperature of that softmax; large ones weigh all alike.
        implementation: whose differences are followed. ``"jaxrl"``: targets move and the policy
            learns after the critics, by their new values; log standard deviations begin at 0;
            decay beside Adam's step; orthogonal start. ``"rlkit"``: both learn by the critics as
            they were; log standard deviations begin at -3; an L2 penalty; rlkit's start.
        weight_decay: of the policy.
        actor_hidden: of the policy.
        hidden: of the critics.
    """

    name: ClassVar[str] = "awac"
    title: ClassVar[str] = "AWAC"
    explores: ClassVar[bool] = True
    records: ClassVar[Mapping[str, Literal["mean", "max"]]] = {
        "q": "mean",
        "target_q": "mean",
        "advantage": "mean",
        "weight_max": "max",
        "log_std": "mean",
    }

    beta: PerSeed = 2.0
    implementation: Literal["jaxrl", "rlkit"] = "jaxrl"
    weight_decay: float = 1e-4
    critic_lr: PerSeed = 3e-4
    actor_lr: PerSeed = 3e-4
    actor_hidden: tuple[int, ...] = (256, 256, 256, 256)
    hidden: tuple[int, ...] = (256, 256)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.implementation not in ("jaxrl", "rlkit"):
            raise ValueError(
                f"implementation is {self.implementation!r}; expected 'jaxrl' or 'rlkit'"
            )

    def nets(self, obs_dim: int, act_dim: int) -> tuple[Net, ...]:
        actor = (obs_dim, act_dim, self.actor_hidden, "actor_lr")
        critic = (obs_dim + act_dim, 1, self.hidden, "critic_lr")
        if self.implementation == "rlkit":
            logit, decay = {"log_std_logit": (act_dim, 0.0)}, self.weight_decay
            return (
                Net("actor", *actor, vectors=logit, start="fan_out", head=1e-3, decay=decay),
                Net("critic", *critic, ensemble=2, target="target", start="fan_out", head=3e-3),
            )
        vectors = {"log_std": (act_dim, 0.0)}
        return (
            Net(
                "actor",
                *actor,
                vectors=vectors,
                head_gain=1.0,
                decoupled_decay=self.weight_decay,
            ),
            Net("critic", *critic, ensemble=2, target="target"),
        )

    def draws(self, obs_dim: int, act_dim: int) -> dict[str, Draw]:  # noqa: ARG002
        noise = Draw("normal", (self.batch_size, act_dim))
        return {"noise": noise, "next_noise": noise}

    def step(self, on: Step) -> None:
        s, a, s_next = on.batch.observations, on.batch.actions, on.batch.next_observations
        sa = torch.cat([s, a], -1)
        mean, log_std = torch.tanh(on.net("actor", s)), self._log_std(on)
        log_prob = gaussian_log_prob(a, mean, log_std)
        with torch.no_grad():
            s_pi = torch.cat([s, gaussian_sample(mean, log_std, on.draw("noise"))], -1)

        # The critics: TD with an action of the policy, without its entropy.
        with torch.no_grad():
            mean_next = torch.tanh(on.net("actor", s_next))
            a_next = gaussian_sample(mean_next, log_std, on.draw("next_noise"))
            q_next = on.net("target", torch.cat([s_next, a_next], -1))[..., 0].amin(1)
            target = on.batch.rewards + on.setting("discount") * on.batch.masks * q_next
        qs = on.net("critic", sa)[..., 0]  # [S, 2, B]
        critic_loss = ((qs - target[:, None]) ** 2).mean(-1).sum(-1)

        # The policy: regression, weighted by the advantages over one of its own actions.
        if self.implementation == "rlkit":
            q = qs.detach().amin(1)
            v = on.net("critic", s_pi, fixed=True)[..., 0].amin(1)
            weight = self._weights(on, q - v)
            on.descend(critic=critic_loss, actor=-(weight * log_prob).mean(-1))
            on.follow("critic")
        else:
            on.descend(critic=critic_loss)
            on.follow("critic")
            both = on.net("critic", torch.cat([sa, s_pi], -2), fixed=True)[..., 0].amin(1)
            q, v = both.chunk(2, -1)
            weight = self._weights(on, q - v)
            on.descend(actor=-(weight * log_prob).mean(-1))
        on.record(q=qs.mean((1, 2)), target_q=target.mean(-1), log_std=log_std.mean((1, 2)))

    def explore(self, on: Step, observations: Tensor, noise: Tensor) -> Tensor:
        mean = torch.tanh(on.net("actor", observations))
        return gaussian_sample(mean, self._log_std(on), noise)

    def _log_std(self, on: Step) -> Tensor:
        """Of the policy, ``[S, 1, A]``."""
        if self.implementation == "rlkit":
            low, high = RLKIT_LOG_STD
            log_std = low + (high - low) * torch.sigmoid(on.vector("actor", "log_std_logit"))
        else:
            log_std = on.vector("actor", "log_std").clamp(*JAXRL_LOG_STD)
        return log_std[:, None]

    def _weights(self, on: Step, advantage: Tensor) -> Tensor:
        """Of rows with advantages ``[S, B]``; their mean is 1."""
        weight = torch.softmax(advantage / on.setting("beta"), -1) * advantage.shape[-1]
        on.record(advantage=advantage.mean(-1), weight_max=weight.amax(-1))
        return weight
