"""Batch-Constrained deep Q-learning (Fujimoto, Meger, Precup, ICML 2019), as the authors' code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from iql_fast.methods.base import Draw, Method, Net, PerSeed, Step
from iql_fast.policies.acting import listed

#: Bounds of the encoder's log standard deviation.
LOG_STD_RANGE = (-4.0, 15.0)
#: Actions among which it chooses when it acts.
ACTING_SAMPLES = 100


@dataclass(frozen=True)
class BCQ(Method):
    """Q-learning among actions that a variational autoencoder of the data makes, each moved a
    little by a perturbation that the critic trains. It acts by the best for the first critic of
    100 such actions.

    Attributes:
        phi: the largest perturbation.
        latent_clip: of the latents that actions are decoded from, other than the data's own.
        minimum_weight: of the smaller of two critics in a target; the larger one has the rest.
        kl_weight: of the divergence, averaged over latents, against the error of reconstruction.
        samples: actions of each next observation, the best of which is the target's.
    """

    name: ClassVar[str] = "bcq"
    title: ClassVar[str] = "BCQ"
    records: ClassVar[Mapping[str, Literal["mean", "max"]]] = {
        "reconstruction_error": "mean",
        "kl": "mean",
        "q": "mean",
        "target_q": "mean",
    }

    batch_size: int = 100
    phi: PerSeed = 0.05
    latent_clip: PerSeed = 0.5
    minimum_weight: PerSeed = 0.75
    kl_weight: PerSeed = 0.5
    samples: int = 10
    vae_lr: PerSeed = 1e-3
    critic_lr: PerSeed = 1e-3
    actor_lr: PerSeed = 1e-3
    hidden: tuple[int, ...] = (400, 300)
    vae_hidden: tuple[int, ...] = (750, 750)

    def nets(self, obs_dim: int, act_dim: int) -> tuple[Net, ...]:
        both, latents = obs_dim + act_dim, 2 * act_dim
        encoder = (both, 2 * latents, self.vae_hidden, "vae_lr", "vae")
        decoder = (obs_dim + latents, act_dim, self.vae_hidden, "vae_lr", "vae")
        actor = (both, act_dim, self.hidden, "actor_lr")
        critic = (both, 1, self.hidden, "critic_lr")
        return (
            Net("actor", *actor, target="actor_target", start="uniform"),
            Net("critic", *critic, ensemble=2, target="target", start="uniform"),
            Net("encoder", *encoder, start="uniform"),
            Net("decoder", *decoder, start="uniform"),
        )

    def draws(self, obs_dim: int, act_dim: int) -> dict[str, Draw]:  # noqa: ARG002
        latents = (self.batch_size, 2 * act_dim)
        return {
            "encoded": Draw("normal", latents),
            "next": Draw("normal", (self.samples, *latents)),
            "decoded": Draw("normal", latents),
        }

    def policy(self) -> dict[str, Any]:
        return {
            "kind": "decoded",
            "maker": "decoder",
            "mover": "actor",
            "critic": "critic",
            "samples": ACTING_SAMPLES,
            "phi": listed(self.phi),
            "latent_clip": listed(self.latent_clip),
        }

    def step(self, on: Step) -> None:
        s, a, s_next = on.batch.observations, on.batch.actions, on.batch.next_observations
        sa = torch.cat([s, a], -1)

        # The autoencoder: the latents of the data's own actions are not clipped.
        mean, log_std = on.net("encoder", sa).chunk(2, -1)
        log_std = log_std.clamp(*LOG_STD_RANGE)
        z = mean + torch.exp(log_std) * on.draw("encoded")
        error = ((self._decoded(on, s, z) - a) ** 2).mean((-1, -2))
        kl = -0.5 * (1 + 2 * log_std - mean**2 - torch.exp(2 * log_std)).mean((-1, -2))
        on.descend(vae=error + on.setting("kl_weight")[:, 0] * kl)
        on.record(reconstruction_error=error, kl=kl)

        # The critics: softly clipped double Q-learning, maximised over actions as the data's.
        with torch.no_grad():
            clip = on.setting("latent_clip")[..., None]
            z = on.draw("next").flatten(1, 2).clamp(-clip, clip)
            rows = s_next.repeat(1, self.samples, 1)  # [S, K * B, O], as the latents
            a_next = self._perturbed(on, "actor_target", rows, self._decoded(on, rows, z))
            qs = on.net("target", torch.cat([rows, a_next], -1))[..., 0]  # [S, 2, K * B]
            least = on.setting("minimum_weight")
            q_next = least * qs.amin(1) + (1 - least) * qs.amax(1)
            q_next = q_next.reshape(len(s), self.samples, -1).amax(1)
            target = on.batch.rewards + on.setting("discount") * on.batch.masks * q_next
        qs = on.net("critic", sa)[..., 0]  # [S, 2, B]
        on.descend(critic=((qs - target[:, None]) ** 2).mean(-1).sum(-1))
        on.record(q=qs.mean((1, 2)), target_q=target.mean(-1))

        # The perturbation, with the first critic just updated, which it leaves as it is.
        with torch.no_grad():
            clip = on.setting("latent_clip")[..., None]
            decoded = self._decoded(on, s, on.draw("decoded").clamp(-clip, clip))
        pi = self._perturbed(on, "actor", s, decoded)
        q = on.net("critic", torch.cat([s, pi], -1), member=0, fixed=True)[..., 0]
        on.descend(actor=-q.mean(-1))
        on.follow("critic", "actor")

    def _decoded(self, on: Step, s: Tensor, z: Tensor) -> Tensor:
        """Actions as the data's, of latents."""
        return torch.tanh(on.net("decoder", torch.cat([s, z], -1)))

    def _perturbed(self, on: Step, actor: str, s: Tensor, a: Tensor) -> Tensor:
        """Actions, each moved by at most phi."""
        move = torch.tanh(on.net(actor, torch.cat([s, a], -1)))
        return (a + on.setting("phi")[..., None] * move).clamp(-1, 1)
