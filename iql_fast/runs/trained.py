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
from iql_fast.policies import observations, sequence, units
from iql_fast.policies.acting import IQLS, from_arrays, with_units
from iql_fast.policies.candidates import Candidates
from iql_fast.policies.policy import Policy
from iql_fast.policies.portable import MARK, Portable, portable
from iql_fast.policies.sequence import SequencePolicy
from iql_fast.runs import checkpoint, hub_folder
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


class TrainedSequence:
    """A policy that acts by what its episode has been so far, in the environment's own units::

        policy.reset()
        action = policy(observation)    # and after the environment's step with it:
        policy.observe(reward)

    Attributes:
        task, data, seed, step, layout: see ``TrainedPolicy``.
        target_return: asked of an episode where ``reset`` is told no other.
    """

    def __init__(
        self,
        whole: SequencePolicy,
        task: str,
        data: str,
        seed: int,
        step: int,
        layout: observations.Layout | None = None,
    ) -> None:
        self._whole = whole
        self.task, self.data, self.seed, self.step, self.layout = task, data, seed, step, layout
        self.target_return = whole.target_return
        self._rewarded = True
        self.reset()

    @property
    def obs_dim(self) -> int:
        return int(self._whole.weights["state.weight"].shape[1])

    @property
    def act_dim(self) -> int:
        return len(self._whole.weights["head.bias"])

    def reset(self, target_return: float | None = None) -> None:
        """Begin an episode.

        Args:
            target_return: asked of it, in the environment's rewards.
        """
        asked = self.target_return if target_return is None else target_return
        self._playing = self._whole.asked_for(asked).played(1)
        self._rewarded = True

    def __call__(self, observation: Any) -> FloatArray:
        """The action ``[A]`` for the observation ``[O]`` of the episode's next step.

        Raises:
            ValueError: the observation has another shape, or is a batch.
            RuntimeError: ``observe`` was not told what the last action brought.
        """
        if not self._rewarded:
            raise RuntimeError(
                "tell observe(reward) what the last action brought, or reset() at the beginning of "
                "an episode: this policy acts by the return that is still to come"
            )
        row = observations.flat(observation, self.obs_dim, self.layout)
        if row.ndim != 1:
            raise ValueError(
                f"expected one observation [{self.obs_dim}]; this has the shape {list(row.shape)}. "
                "Load a policy for each episode"
            )
        self._rewarded = False
        return np.asarray(self._playing.act(row[None])[0])

    def observe(self, reward: float) -> None:
        """Be told the reward of the last action's step."""
        self._playing.observe(np.array([reward]))
        self._rewarded = True


def seeds(record: Mapping[str, Any]) -> range:
    """The training seeds of a run, in the order of its state."""
    first = record["options"]["seed"]
    return range(first, first + record["options"]["seeds"])


def acting(record: Mapping[str, Any]) -> dict[str, Any]:
    """What acts in a run; see ``iql_fast.policies.acting.from_arrays``."""
    return dict(IQLS) | dict(record.get("policy") or {})


def load(
    path: Path, seed: int | None = None, step: int | None = None
) -> TrainedPolicy | TrainedSequence:
    """The policy of a seed (None: the first) at a checkpoint (None: the last).

    ``path`` is a run's folder, or one of ``export --to hub-folder``, which holds one policy.

    Raises:
        UserError: this is no run, it has no such seed or checkpoint, its policy was not trained by
            then, or its record does not fit its weights.
    """
    if hub_folder.is_one(path):
        return _exported(path, seed, step)
    run = RunFolder(path)
    record = run.read_config()
    options, held = record["options"], seeds(record)
    if seed is None:
        seed = held[0]
    if seed not in held:
        listed = ", ".join(map(str, held)) if len(held) <= 10 else f"{held[0]} to {held[-1]}"
        raise UserError(f"{path} has no seed {seed} (it has: {listed}).")
    told = acting(record)
    if told["kind"] not in ("mlp", "sequence"):
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
    where = f"The checkpoint of step {step} in {run.checkpoints}"
    if told["kind"] == "mlp":
        _check_layers(arrays, where)
    policy = with_units(from_arrays(arrays, told), units.from_record(record))
    assert not isinstance(policy, Candidates)  # of which kind it is not
    if isinstance(policy, SequencePolicy):
        _check_sequence(policy, where)
    obs_dim, act_dim = _sizes(policy)
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
    parts = tuple((str(part), int(size)) for part, size in layout) if layout else None
    about = (options["task"], record["data"]["title"], seed, step, parts)
    if isinstance(policy, SequencePolicy):
        return TrainedSequence(policy, *about)
    return TrainedPolicy(portable(policy), *about)


def _exported(path: Path, seed: int | None, step: int | None) -> TrainedPolicy:
    held = hub_folder.read(path)
    for what, asked, own in (("seed", seed, held.seed), ("checkpoint", step, held.step)):
        if asked not in (None, own):
            raise UserError(f"{path} has no {what} {asked}: it holds one policy, of {what} {own}.")
    return TrainedPolicy(*held)


def _sizes(policy: Policy | SequencePolicy) -> tuple[int, int]:
    """Of its observations and its actions."""
    if isinstance(policy, SequencePolicy):
        return policy.weights["state.weight"].shape[1], len(policy.weights["head.bias"])
    return len(policy.weights[0]), len(policy.biases[-1])


def _check_sequence(policy: SequencePolicy, where: str) -> None:
    """Raise a ``UserError`` where a transformer's parts are missing or do not fit each other."""
    if name := sequence.misfit(policy.weights):
        raise UserError(
            f"{where} holds no whole policy: {name} is missing or does not fit. Bring back the "
            "run's own file, or remove the checkpoint."
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
    told = {
        "task": policy.task,
        "data": policy.data,
        "seed": str(policy.seed),
        "step": str(policy.step),
        MARK: __version__,
        **layout,
    }
    # Names of files may hold half a character, which no format does.
    return {name: text.encode("utf-8", "replace").decode() for name, text in told.items()}
