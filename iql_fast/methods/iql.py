"""Implicit Q-Learning (Kostrikov, Nair, Levine, ICLR 2022), in the order of the authors' code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iql_fast.formulas.distributions import gaussian_sample
from iql_fast.formulas.losses import awr_weights, expectile_loss, gaussian_log_prob
from iql_fast.methods.base import Method, Net, PerSeed, Step
from iql_fast.policies.policy import LOG_STD_RANGE

#: The networks that are trained, in the order of their updates. ``target``, the critics' slow
#: copy, moves with the critics.
TRAINED = ("value", "actor", "critic")


@dataclass(frozen=True)
class Stage:
    """Steps that train the same networks and leave the others, bit for bit, as they are.

    Attributes:
        trains: one or more of ``"value"``, ``"actor"`` and ``"critic"``. The target critics move
            only with the critics.
        steps: how many; ``None``: all that follow.

    Raises:
        ValueError: a network does not exist or stands twice, none is named, or there are no steps.
    """

    trains: tuple[str, ...] = TRAINED
    steps: int | None = None

    def __post_init__(self) -> None:
        if unknown := [net for net in self.trains if net not in TRAINED]:
            raise ValueError(
                f"a stage cannot train {unknown[0]!r}; the networks are {', '.join(TRAINED)}"
            )
        if not self.trains or len(set(self.trains)) < len(self.trains):
            raise ValueError(
                f"a stage trains each network at most once, and one at least; "
                f"this one is to train {self.trains}"
            )
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"a stage has {self.steps} steps; it needs at least 1")


@dataclass(frozen=True)
class IQL(Method):
    """V by expectile regression on the slow critics, the critics by TD with V, the policy by
    regression on the data's actions, weighted by their advantages. Defaults are the authors' for
    locomotion.

    Those typed ``PerSeed`` may differ from seed to seed, so that one run sweeps them.

    Attributes:
        expectile: tau of the value loss (paper, equation 5).
        temperature: beta, the inverse temperature of the policy extraction (equation 7).
        weight_clip: upper bound on exp(beta * advantage).
        value_lr, critic_lr, actor_lr: Adam's learning rates.
        actor_schedule_steps: the actor's learning rate follows a cosine from ``actor_lr`` to 0 over
            this many steps; 0 keeps it constant.
        actor_dropout: probability of dropping a hidden unit of the actor, in training only.
        value_order: ``"new"`` (the authors': V is updated first, and the actor and the critics read
            the new V) or ``"old"`` (every loss reads the V from before the step; a departure).
        deterministic_policy: regress tanh(mean) on the actions with the same weights instead of
            maximising a Gaussian likelihood (a departure).
        stages: which networks are trained when; the last stage has no end. Adam and the actor's
            schedule count the updates of their own network. Two stages,
            ``(Stage(("value", "critic"), n), Stage(("actor",)))``, extract the policy when V and Q
            are done, as the paper's algorithm 1 is written; V and Q are the same either way, since
            they never read the policy.
    """

    name: ClassVar[str] = "iql"
    explores: ClassVar[bool] = True
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
    value_order: str = "new"
    deterministic_policy: bool = False
    stages: tuple[Stage, ...] = (Stage(),)
    hidden: tuple[int, ...] = (256, 256)
    critics: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.value_order not in ("new", "old"):
            raise ValueError(f"value_order is {self.value_order!r}; expected 'new' or 'old'")
        endless = [stage.steps is None for stage in self.stages]
        if endless != [False] * (len(endless) - 1) + [True]:
            raise ValueError("the last of the stages, and no other, has no number of steps")

    def nets(self, obs_dim: int, act_dim: int) -> tuple[Net, ...]:
        critic = (obs_dim + act_dim, 1, self.hidden, "critic_lr")
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
            Net("critic", *critic, ensemble=self.critics, target="target"),
        )

    def branch(self, index: int) -> tuple[str, ...]:
        """Which networks are trained."""
        return self.stage_at(index).trains

    def step(self, on: Step) -> None:
        s, a, s_next = on.batch.observations, on.batch.actions, on.batch.next_observations
        sa, trains = torch.cat([s, a], -1), self.branch(on.index)
        reads_old = "value" not in trains or self.value_order == "old"
        with torch.no_grad():
            q = on.net("target", sa)[..., 0].amin(1)  # [S, B]
            v, v_next = _values(on, s, s_next) if reads_old else (q, q)

        # V: expectile regression on the slow critics (equation 5).
        value = v
        if "value" in trains:
            value = on.net("value", s)[..., 0]
            on.descend(value=expectile_loss(q - value, on.setting("expectile")).mean(-1))
        if not reads_old:
            with torch.no_grad():
                v, v_next = _values(on, s, s_next)
        if {"value", "actor"} & set(trains):
            on.record(value=value.mean(-1), q=q.mean(-1))

        # The policy: advantage-weighted regression with the V just updated (equation 7).
        advantage, clip = q - v, on.setting("weight_clip")
        weight = awr_weights(advantage, on.setting("temperature"), clip)
        losses = {}
        if "actor" in trains:
            losses["actor"] = -(weight * self._fit(on, s, a)).mean(-1)
            on.record(
                advantage=advantage.mean(-1),
                advantage_square=(advantage.double() ** 2).mean(-1),
                weight=weight.mean(-1),
                weight_max=weight.amax(-1),
                weight_clipped=(weight >= clip).double().mean(-1),
            )

        # The critics: TD with it (equation 6); summed over critics, not halved.
        if "critic" in trains:
            target = on.batch.rewards + on.setting("discount") * on.batch.masks * v_next
            difference = on.net("critic", sa)[..., 0] - target[:, None]  # [S, E, B]
            losses["critic"] = (difference**2).mean(-1).sum(-1)
        on.watch(q=q, v=v)
        on.descend(**losses)
        if "critic" in trains:
            on.follow("critic")

    def _fit(self, on: Step, s: Tensor, a: Tensor) -> Tensor:
        """How well the policy explains actions, ``[S, B]``."""
        mean = torch.tanh(on.net("actor", s))
        if self.deterministic_policy:
            return -((mean - a) ** 2).sum(-1)
        return gaussian_log_prob(a, mean, _log_std(on))

    def explore(self, on: Step, observations: Tensor, noise: Tensor) -> Tensor:
        mean = torch.tanh(on.net("actor", observations))
        return gaussian_sample(mean, _log_std(on), noise)

    def measured(self, means: dict[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
        variance = means.pop("advantage_square") - means["advantage"] ** 2
        return means | {"advantage_std": np.sqrt(np.maximum(variance, 0))}

    def stage_at(self, step: int) -> Stage:
        """The stage of a (0-based) step."""
        for stage in self.stages:
            if stage.steps is None or step < stage.steps:
                return stage
            step -= stage.steps
        raise AssertionError("the last stage has no end")

    @property
    def trains_all(self) -> bool:
        """Whether every step trains all networks."""
        return all(set(stage.trains) == set(TRAINED) for stage in self.stages)

    def updates(self, name: str, steps: int) -> int:
        return self.steps_with((name,), steps)

    def steps_with(self, nets: tuple[str, ...], steps: int) -> int:
        """How many of the first ``steps`` steps train one of the networks."""
        count = 0
        for stage in self.stages:
            own = steps if stage.steps is None else min(steps, stage.steps)
            count += own if set(nets) & set(stage.trains) else 0
            steps -= own
        return count


def _log_std(on: Step) -> Tensor:
    """Of the policy, ``[S, 1, A]``."""
    return on.vector("actor", "log_std").clamp(*LOG_STD_RANGE)[:, None]


def _values(on: Step, s: Tensor, s_next: Tensor) -> tuple[Tensor, Tensor]:
    """V of a batch's states and of those that follow, ``[S, B]`` each."""
    v, v_next = on.net("value", torch.cat([s, s_next], 1))[..., 0].chunk(2, -1)
    return v, v_next
