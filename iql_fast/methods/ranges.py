"""The values that settings may have, wherever they come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np


class Range(NamedTuple):
    """Which numbers a setting may be, and how to say so."""

    holds: Callable[[float], bool]
    expected: str


_POSITIVE = Range(lambda x: x > 0, "positive")
_NOT_NEGATIVE = Range(lambda x: x >= 0, "at least 0")
_COUNT = Range(lambda x: x >= 1, "a positive number")
_SHARE = Range(lambda x: 0 <= x <= 1, "between 0 and 1")
_FINITE = Range(np.isfinite, "a finite number")

RANGES = {
    "expectile": Range(lambda x: 0 < x < 1, "between 0 and 1, both excluded"),
    "temperature": _NOT_NEGATIVE,
    "discount": _SHARE,
    "polyak": _SHARE,
    "weight_clip": _POSITIVE,
    "value_lr": _NOT_NEGATIVE,
    "critic_lr": _NOT_NEGATIVE,
    "actor_lr": _NOT_NEGATIVE,
    "actor_dropout": Range(lambda x: 0 <= x < 1, "at least 0 and below 1"),
    "actor_schedule_steps": _NOT_NEGATIVE,
    "batch_size": _COUNT,
    "alpha": _NOT_NEGATIVE,
    "policy_noise": _NOT_NEGATIVE,
    "noise_clip": _NOT_NEGATIVE,
    "policy_every": _COUNT,
    "top": Range(lambda x: 0 < x <= 1, "above 0 and at most 1"),
    "phi": _NOT_NEGATIVE,
    "latent_clip": _NOT_NEGATIVE,
    "minimum_weight": _SHARE,
    "kl_weight": _NOT_NEGATIVE,
    "vae_lr": _NOT_NEGATIVE,
    "vae_hidden": _COUNT,
    "samples": _COUNT,
    "beta_steps": _NOT_NEGATIVE,
    "q_steps": _NOT_NEGATIVE,
    "policy_steps": _NOT_NEGATIVE,
    "target_every": _COUNT,
    "beta_lr": _NOT_NEGATIVE,
    "weight_bound": _POSITIVE,
    "kl_bound": _POSITIVE,
    "initial_temperature": _POSITIVE,
    "initial_multiplier": _POSITIVE,
    "copy_every": _NOT_NEGATIVE,
    "prior_lr": _NOT_NEGATIVE,
    "dual_lr": _NOT_NEGATIVE,
    "beta": _POSITIVE,
    "weight_decay": _NOT_NEGATIVE,
    "actor_hidden": _COUNT,
    "min_q_weight": _NOT_NEGATIVE,
    "lagrange_threshold": _FINITE,
    "sampled_actions": _COUNT,
    "bc_steps": _NOT_NEGATIVE,
    "entropy_per_dimension": _FINITE,
    "critics": _COUNT,
    "hidden": _COUNT,
    "context": _COUNT,
    "layers": _COUNT,
    "heads": _COUNT,
    "width": _COUNT,
    "warmup_steps": _NOT_NEGATIVE,
    "clip_norm": _POSITIVE,
    "longest": _COUNT,
    "return_scale": _POSITIVE,
    "target_return": _FINITE,
    "obs_dim": _COUNT,
    "act_dim": _COUNT,
}
#: Settings that count something.
WHOLE = frozenset(
    {
        "actor_schedule_steps",
        "batch_size",
        "policy_every",
        "vae_hidden",
        "samples",
        "beta_steps",
        "q_steps",
        "policy_steps",
        "target_every",
        "copy_every",
        "actor_hidden",
        "sampled_actions",
        "bc_steps",
        "critics",
        "hidden",
        "context",
        "layers",
        "heads",
        "width",
        "warmup_steps",
        "longest",
        "obs_dim",
        "act_dim",
    }
)


#: Settings that are several numbers.
SEVERAL = frozenset({"hidden", "actor_hidden", "vae_hidden"})
#: Settings that the data decide where none is given.
LEFT_TO_DATA = frozenset({"return_scale", "target_return"})


def fault(name: str, value: Any) -> str | None:
    """What is wrong with a value, or with one of several; None where nothing is."""
    if value is None and name in LEFT_TO_DATA:
        return None
    values = np.asarray(value)
    kinds = "iu" if name in WHOLE else "iuf"
    if values.size == 0 or (name in SEVERAL and values.ndim == 0):
        return "expected one or more whole numbers"
    if values.dtype.kind not in kinds:
        return f"expected {'whole numbers' if name in WHOLE else 'numbers'}"
    if not np.isfinite(values).all():
        return "expected finite numbers"
    expected = RANGES[name]
    if not all(map(expected.holds, values.reshape(-1).tolist())):
        return f"expected {expected.expected}"
    return None


def check(settings: Mapping[str, Any]) -> None:
    """Raise a ``ValueError`` that names the first setting out of its range, of those that have
    one."""
    for name, value in settings.items():
        if name in RANGES and (wrong := fault(name, value)):
            raise ValueError(f"{name} is {value!r}; {wrong}")
