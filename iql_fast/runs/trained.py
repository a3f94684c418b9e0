"""The policy that a run has trained, read by numpy alone: whoever uses it may have no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iql_fast import __version__
from iql_fast.policies import observations, units
from iql_fast.policies.acting import IQLS, with_units
from iql_fast.policies.policy import policy_from_arrays
from iql_fast.policies.portable import MARK, Portable, portable
from iql_fast.runs import checkpoint
from iql_fast.runs.folder import RunFolder
from iql_fast.support.errors import UserError

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class TrainedPolicy:
    """A function from an environment's observations to its actions: the mean action, as evaluated.

    Attributes:
        whole: what computes it.
        task: that it was trained for.
        data: title of the data that it was trained on.
        seed: of its training.
        step: training steps done.
        layout: the arrays that an observation consists of; None where it is one array.
    """

    whole: Portable
    task: str
    data: str
    seed: int
    step: int
    layout: observations.Layout | None = None

    @property
    def obs_dim(self) -> int:
        return len(self.whole.obs_mean)

    @property
    def act_dim(self) -> int:
        return len(self.whole.act_half)

    def __call__(self, observation: Any) -> FloatArray:
        """The action ``[A]`` for an observation ``[O]``, or ``[N, A]`` for ``[N, O]``.

        Where there is a layout, an observation may also be a mapping of its arrays
        (``iql_fast.policies.observations.flat``).

        Raises:
            ValueError: the observation has another shape.
        """
        return self.whole(observations.flat(observation, self.obs_dim, self.layout))


def seeds(record: Mapping[str, Any]) -> range:
    """The training seeds of a run, in the order of its state."""
    first = record["options"]["seed"]
    return range(first, first + record["options"]["seeds"])


def acting(record: Mapping[str, Any]) -> dict[str, Any]:
    """What acts in a run; see ``iql_fast.policies.acting.from_arrays``."""
    return dict(IQLS) | dict(record.get("policy") or {})


def load(path: Path, seed: int | None = None, step: int | None = None) -> TrainedPolicy:
    """The policy of a seed (None: the first) at a checkpoint (None: the last).

    Raises:
        UserError: this is no run, it has no such seed or checkpoint, its policy was not trained by
            then, or its record does not fit its weights.
    """
    run = RunFolder(path)
    record = run.read_config()
    options, held = record["options"], seeds(record)
    if seed is None:
        seed = held[0]
    if seed not in held:
        listed = ", ".join(map(str, held)) if len(held) <= 10 else f"{held[0]} to {held[-1]}"
        raise UserError(f"{path} has no seed {seed} (it has: {listed}).")
    told = acting(record)
    if told["kind"] != "mlp":
        raise UserError(
            f"The policy of {path} (--method {options['method']}) chooses among sampled actions, "
            "which is no function that could be exported; `python -m iql_fast.evaluate` scores it."
        )
    step, arrays = checkpoint.actor(run.checkpoints, record, held.index(seed), step, told["net"])
    begins = options["steps"] if options.get("extraction") == "after" else 0
    if step <= begins:
        raise UserError(
            f"The checkpoint of step {step} in {path} holds no trained policy: its training begins "
            f"after step {begins}. Train on with --resume {path}, or take a later checkpoint."
        )
    _check_layers(arrays, f"The checkpoint of step {step} in {run.checkpoints}")
    policy = with_units(
        policy_from_arrays(arrays, told["net"], told["parts"]), units.from_record(record)
    )
    obs_dim, act_dim = len(policy.weights[0]), len(policy.biases[-1])
    layout = record.get("observation_layout")
    for key, found, size in [
        *_lengths(record, "observation_scaling", obs_dim),
        *_lengths(record, "action_bounds", act_dim),
        ("observation_layout", sum(part[1] for part in layout) if layout else obs_dim, obs_dim),
    ]:
        if found != size:
            raise UserError(
                f'{run.config}: "{key}" is for {found} numbers, but the weights of the policy are '
                f"for {size}. Restore the record that the run began with."
            )
    return TrainedPolicy(
        portable(policy),
        options["task"],
        record["data"]["title"],
        seed,
        step,
        tuple((str(where), int(size)) for where, size in layout) if layout else None,
    )


def _check_layers(arrays: Mapping[str, NDArray[np.floating]], where: str) -> None:
    """Raise a ``UserError`` where a network's arrays are not layers that follow each other."""
    net = next(iter(arrays), "").partition(".")[0]
    width = None
    for i in range(max(1, (sum(".layers." in name for name in arrays) + 1) // 2)):
        name = f"{net}.layers.{i}"
        weight, bias = (arrays.get(f"{name}.{part}") for part in ("weight", "bias"))
        if (
            weight is None
            or bias is None
            or weight.ndim != 2
            or bias.shape != weight.shape[:1]
            or width not in (None, weight.shape[1])
        ):
            raise UserError(
                f"{where} holds no whole policy: layer {i} is missing or does not fit. Bring back "
                "the run's own file, or remove the checkpoint."
            )
        width = len(bias)


def _lengths(record: Mapping[str, Any], key: str, size: int) -> list[tuple[str, int, int]]:
    """(key, length, size) of each column of a pair in a record, which people edit."""
    return [(key, len(column), size) for column in record.get(key) or ()]


def about(policy: TrainedPolicy) -> dict[str, str]:
    """What a file says about the policy in it, beyond its numbers."""
    layout = {} if policy.layout is None else {"observation_layout": json.dumps(policy.layout)}
    return {
        "task": policy.task,
        "data": policy.data,
        "seed": str(policy.seed),
        "step": str(policy.step),
        MARK: __version__,
        **layout,
    }
