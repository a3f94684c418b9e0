"""One-step RL (Brandfonbrener, Whitney, Ranganath, Bruna, NeurIPS 2021), as the authors' code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from typing_extensions import Self

from iql_fast.formulas.distributions import soft_clamp
from iql_fast.formulas.losses import awr_weights, gaussian_log_prob
from iql_fast.methods.base import Draw, Method, Net, PerSeed, Step

#: Bounds of the log standard deviations of both policies; their means lie in (-1, 1).
LOG_STD_RANGE = (-5.0, 0.0)
#: Steps of the authors' phases.
PHASES = (500_000, 2_000_000, 100_000)
#: Actions whose density is weighted are clipped to this.
STABLE_ACTION = 1 - 1e-4
#: Of beta, among which easy BCQ chooses (the authors take 10 to 100).
ACTING_SAMPLES = 100


@dataclass(frozen=True)
class Onestep(Method):
    """The data's policy beta by behaviour cloning, its Q by SARSA, and one step of improvement
    upon it; one after the other. The last phase goes on for as long as it is run.

    Both policies are Gaussians that are not truncated: the authors' policy is a copy of beta with
    its kind of distribution, whatever their configuration says.

    Attributes:
        improvement: ``"reverse_kl"``: high Q, held to beta; ``"exp_weight"``: regression of the
            data's actions, weighted by their advantages; ``"easy_bcq"``: no policy is trained, it
            acts by the best for Q of some samples of beta.
        alpha: weight of the divergence from beta. The paper's is tuned for each dataset, in 0.03,
            0.1, 0.3, 1, 3, 10.
        temperature: of the advantages' weights; tuned likewise, in 0.1, ..., 30.
        weight_clip: the largest weight.
        samples: of a policy at each observation, for the divergence or for V.
        beta_steps, q_steps, policy_steps: of the phases; where none is given, these in proportion
            to the steps of the run. The policy's goes on to the run's end in any case.
        target_every: steps from one update of Q's target to the next.
    """

    name: ClassVar[str] = "onestep"
    title: ClassVar[str] = "Onestep RL"
    policy_parts: ClassVar[int] = 2
    needs: ClassVar[frozenset[str]] = frozenset({"next_actions"})
    records: ClassVar[Mapping[str, Literal["mean", "max"]]] = {
        "q": "mean",
        "target_q": "mean",
        "policy_q": "mean",
        "kl": "mean",
        "advantage": "mean",
        "weight": "mean",
        "weight_max": "max",
    }

    batch_size: int = 512
    improvement: Literal["reverse_kl", "exp_weight", "easy_bcq"] = "reverse_kl"
    alpha: PerSeed = 1.0
    temperature: PerSeed = 1.0
    weight_clip: PerSeed = 100.0
    samples: int = 10
    beta_steps: int = PHASES[0]
    q_steps: int = PHASES[1]
    policy_steps: int = PHASES[2]
    target_every: int = 2
    beta_lr: PerSeed = 1e-4
    critic_lr: PerSeed = 1e-4
    actor_lr: PerSeed = 1e-4
    hidden: tuple[int, ...] = (1024, 1024)

    @property
    def steps(self) -> int:
        """Of all phases."""
        return self.beta_steps + self.q_steps + self._trains_policy * self.policy_steps

    @property
    def _trains_policy(self) -> bool:
        return self.improvement != "easy_bcq"

    def over(self, steps: int) -> Self:
        """Phases that were not given are the authors' in proportion."""
        if (self.beta_steps, self.q_steps, self.policy_steps) != PHASES:
            return self
        beta, q, policy = (max(1, steps * phase // sum(PHASES)) for phase in PHASES)
        return replace(self, beta_steps=beta, q_steps=q, policy_steps=policy)

    def nets(self, obs_dim: int, act_dim: int) -> tuple[Net, ...]:
        policy = (obs_dim, 2 * act_dim, self.hidden)
        q = (obs_dim + act_dim, 1, self.hidden, "critic_lr")
        actor = Net("actor", *policy, "actor_lr", start="uniform")
        return (
            Net("critic", *q, target="target", start="uniform"),
            Net("beta", *policy, "beta_lr", start="uniform"),
            *([actor] if self._trains_policy else []),
        )

    def draws(self, obs_dim: int, act_dim: int) -> dict[str, Draw]:  # noqa: ARG002
        several = Draw("normal", (self.samples, self.batch_size, act_dim))
        return {
            "reverse_kl": {"pi": Draw("normal", (self.batch_size, act_dim)), "kl": several},
            "exp_weight": {"value": several},
            "easy_bcq": {},
        }[self.improvement]

    def policy(self) -> dict[str, Any]:
        if self._trains_policy:
            return super().policy()
        return {
            "kind": "gaussian",
            "maker": "beta",
            "critic": "critic",
            "samples": ACTING_SAMPLES,
            "log_std_range": list(LOG_STD_RANGE),
        }

    def updates(self, name: str, steps: int) -> int:
        of_q = max(steps - self.beta_steps, 0)
        if name == "beta":
            return min(steps, self.beta_steps)
        if name == "critic":
            return min(of_q, self.q_steps) if self._trains_policy else of_q
        return max(of_q - self.q_steps, 0) if self._trains_policy else 0

    def acts(self, steps: int) -> bool:
        return self.updates("actor" if self._trains_policy else "critic", steps) > 0

    def branch(self, index: int) -> tuple[str, bool]:
        """The phase, and whether a target moves or a policy begins."""
        of_q = index - self.beta_steps
        if of_q < 0:
            return "beta", False
        if of_q < self.q_steps or not self._trains_policy:
            return "critic", (of_q + 1) % self.target_every == 0
        return "actor", of_q == self.q_steps

    def step(self, on: Step) -> None:
        phase, moves = self.branch(on.index)
        if phase == "beta":
            self._clone(on)
        elif phase == "critic":
            self._evaluate(on, moves)
        else:
            if moves:
                on.copy("beta", "actor")
            self._improve(on)

    def _clone(self, on: Step) -> None:
        """Beta by maximum likelihood."""
        density = gaussian_log_prob(on.batch.actions, *self._policy(on, "beta"))
        on.descend(beta=-density.mean(-1))

    def _evaluate(self, on: Step, moves: bool) -> None:
        """Q by SARSA on the data's own next actions."""
        a_next = on.batch.next_actions
        if a_next is None:
            raise ValueError(f"{self.name} needs the batch's next_actions")
        with torch.no_grad():
            q_next = on.net("target", torch.cat([on.batch.next_observations, a_next], -1))[..., 0]
            target = on.batch.rewards + on.setting("discount") * on.batch.masks * q_next
        q = on.net("critic", torch.cat([on.batch.observations, on.batch.actions], -1))[..., 0]
        on.descend(critic=((q - target) ** 2).mean(-1))
        on.record(q=q.mean(-1), target_q=target.mean(-1))
        if moves:
            on.follow("critic")

    def _improve(self, on: Step) -> None:
        """The policy; Q and beta stay as they are."""
        if self.improvement == "reverse_kl":
            self._reverse_kl(on)
        else:
            self._exp_weight(on)

    def _reverse_kl(self, on: Step) -> None:
        s = on.batch.observations
        mean, log_std = self._policy(on, "actor")
        pi = mean + torch.exp(log_std) * on.draw("pi")
        q = on.net("critic", torch.cat([s, pi], -1), fixed=True)[..., 0]

        # The divergence is an average over actions of the policy, beta's density at which depends
        # on the policy too.
        mean, log_std = mean[:, None], log_std[:, None]
        several = mean + torch.exp(log_std) * on.draw("kl")  # [S, K, B, A]
        with torch.no_grad():
            beta_mean, beta_log_std = (x[:, None] for x in self._policy(on, "beta"))
        density = gaussian_log_prob(several, mean, log_std)
        kl = (density - gaussian_log_prob(several, beta_mean, beta_log_std)).mean(1)
        on.descend(actor=(on.setting("alpha") * kl - q).mean(-1))
        on.record(policy_q=q.mean(-1), kl=kl.mean(-1))

    def _exp_weight(self, on: Step) -> None:
        s, a = on.batch.observations, on.batch.actions
        with torch.no_grad():
            q = on.net("critic", torch.cat([s, a], -1))[..., 0]
            mean, log_std = (x[:, None] for x in self._policy(on, "beta"))
            several = (mean + torch.exp(log_std) * on.draw("value")).flatten(1, 2)
            rows = torch.cat([s.repeat(1, self.samples, 1), several], -1)  # [S, K * B, O + A]
            v = on.net("critic", rows).reshape(len(s), self.samples, -1).mean(1)
            clip = on.setting("weight_clip")
            weight = awr_weights(q - v, on.setting("temperature"), clip)
        stable = a.clamp(-STABLE_ACTION, STABLE_ACTION)
        density = gaussian_log_prob(stable, *self._policy(on, "actor"))
        on.descend(actor=-(weight * density).mean(-1))
        on.record(advantage=(q - v).mean(-1), weight=weight.mean(-1), weight_max=weight.amax(-1))

    def _policy(self, on: Step, net: str) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation at the batch's observations, ``[S, B, A]`` each."""
        mean, log_std = on.net(net, on.batch.observations).chunk(2, -1)
        return soft_clamp(mean, -1, 1), soft_clamp(log_std, *LOG_STD_RANGE)
