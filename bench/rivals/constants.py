"""The update rule's constants for a single seed."""

from __future__ import annotations

from typing import NamedTuple

from iql_fast.engines import Hyperparameters

ADAM_BETA1, ADAM_BETA2, ADAM_EPSILON = 0.9, 0.999, 1e-8
LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0


class Constants(NamedTuple):
    """See ``iql_fast.engines.Hyperparameters``."""

    expectile: float
    temperature: float
    discount: float
    polyak: float
    weight_clip: float
    value_lr: float
    critic_lr: float
    actor_lr: float
    actor_schedule_steps: int


def constants(hyper: Hyperparameters) -> Constants:
    """Those of a run with one seed."""

    def single(name: str) -> float:
        return float(hyper.per_seed(name, 1)[0])

    return Constants(
        expectile=single("expectile"),
        temperature=single("temperature"),
        discount=single("discount"),
        polyak=single("polyak"),
        weight_clip=single("weight_clip"),
        value_lr=single("value_lr"),
        critic_lr=single("critic_lr"),
        actor_lr=single("actor_lr"),
        actor_schedule_steps=hyper.actor_schedule_steps,
    )
