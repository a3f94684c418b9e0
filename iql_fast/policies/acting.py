"""What acts, made from the arrays of a state as a run's record says: any method's policy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from iql_fast.policies import sequence
from iql_fast.policies.candidates import Candidates, Layers
from iql_fast.policies.policy import Policy, policy_from_arrays
from iql_fast.policies.sequence import SequencePolicy
from iql_fast.policies.units import Units

if TYPE_CHECKING:  # a worker process that only runs the policy need not load torch
    from torch import Tensor

#: What acts, by a record that says nothing: of before there were methods.
IQLS: Mapping[str, Any] = {"kind": "mlp", "net": "actor", "parts": 1}
#: A policy that is a function of one observation.
Memoryless = Policy | Candidates
Acting = Memoryless | SequencePolicy
ActingOf = TypeVar("ActingOf", Policy, Candidates, SequencePolicy, Acting)


class Player(Protocol):
    """A policy in N episodes that run side by side, from their beginning on."""

    def act(self, observations: NDArray[np.floating]) -> NDArray[np.float32]:
        """Actions ``[N, A]`` for observations ``[N, O]``."""

    def observe(self, rewards: NDArray[np.floating]) -> None:
        """Be told what the step brought, ``[N]``."""


class _Memoryless:
    """See ``Player``."""

    def __init__(self, policy: Memoryless) -> None:
        self.act = policy.mean_action

    def observe(self, rewards: NDArray[np.floating]) -> None:
        pass


def played(policy: Acting, rows: int) -> Player:
    """A policy at the beginning of so many episodes. What it is to remember of them is the
    player's, so that the policy stays as it is."""
    if isinstance(policy, SequencePolicy):
        return policy.played(rows)
    return _Memoryless(policy)


def nets_of(told: Mapping[str, Any]) -> tuple[str, ...]:
    """The networks that a policy consists of."""
    return tuple(told[role] for role in ("net", "maker", "mover", "critic") if told.get(role))


def from_arrays(arrays: Mapping[str, NDArray[np.floating]], told: Mapping[str, Any]) -> Acting:
    """The policy of one seed's arrays, by their names in an engine's ``state_dict``.

    Args:
        told: ``kind`` and what belongs to it: for ``"mlp"`` see ``policy_from_arrays``; for
            ``"decoded"`` and ``"gaussian"`` see ``Candidates``, whose networks are told by name.
            The first of an ensemble of critics chooses. For ``"sequence"`` see
            ``SequencePolicy``.
    """
    if told["kind"] == "mlp":
        return policy_from_arrays(arrays, told["net"], told["parts"])
    if told["kind"] == "sequence":
        numbers = ("context", "heads", "target_return", "return_scale")
        return sequence.from_arrays(arrays, told["net"], *(told[name] for name in numbers))
    return Candidates(
        told["kind"],
        _layers(arrays, told["maker"]),
        _layers(arrays, told["critic"]),
        told["samples"],
        _layers(arrays, told["mover"]) if "mover" in told else (),
        float(told.get("phi", 0.0)),
        float(told.get("latent_clip", 0.0)),
        tuple(told.get("log_std_range", (0.0, 0.0))),
    )


def from_state(state: Mapping[str, Tensor], index: int, told: Mapping[str, Any]) -> Acting:
    """The policy of the ``index``-th seed in an engine's ``state_dict``.

    Args:
        told: as for ``from_arrays``, where what may differ by seed may be a list.
    """
    nets = nets_of(told)
    arrays = {
        name: tensor[index].detach().to("cpu").float().numpy()
        for name, tensor in state.items()
        if name.startswith(tuple(f"{net}." for net in nets))
    }
    return from_arrays(arrays, of_seed(told, index))


def of_seed(told: Mapping[str, Any], index: int) -> dict[str, Any]:
    """``told`` with the ``index``-th seed's value of what differs by seed."""
    return {
        name: value[index if len(value) > 1 else 0] if name in ("phi", "latent_clip") else value
        for name, value in told.items()
    }


def with_units(policy: ActingOf, units: Units) -> ActingOf:
    """``policy``, which was trained in the networks' units, in those of an environment."""
    return replace(policy, units=units)


def _layers(arrays: Mapping[str, NDArray[np.floating]], net: str) -> Layers:
    count = sum(name.startswith(f"{net}.layers.") for name in arrays) // 2
    return tuple(
        (
            np.ascontiguousarray(_single(arrays[f"{net}.layers.{i}.weight"], 2).T, np.float32),
            _single(arrays[f"{net}.layers.{i}.bias"], 1).astype(np.float32),
        )
        for i in range(count)
    )


def _single(array: NDArray[np.floating], dims: int) -> NDArray[np.floating]:
    """That network's, or the first one's of an ensemble."""
    return array[0] if array.ndim > dims else array


def listed(values: float | Iterable[float]) -> list[float]:
    """One value, or one for each seed, as a list."""
    return [float(values)] if isinstance(values, int | float) else [float(x) for x in values]
