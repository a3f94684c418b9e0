"""The trained policy as plain arrays: cheap to ship to a worker process and to run there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from iql_fast.policies.units import Units

if TYPE_CHECKING:  # a worker process that only runs the policy need not load torch
    from torch import Tensor

FloatArray = NDArray[np.float32]

#: Bounds of the state-independent log standard deviation (authors' code).
LOG_STD_RANGE = (-5.0, 2.0)


@dataclass(frozen=True)
class Policy:
    """A ReLU MLP whose output passes through tanh: the mean action of the authors' policy.

    Attributes:
        weights: one array ``[in, out]`` a layer.
        biases: one array ``[out]`` a layer.
        log_std: ``[A]``, the state-independent log standard deviation, already clipped.
        units: of the environment that it acts in.
    """

    weights: tuple[FloatArray, ...]
    biases: tuple[FloatArray, ...]
    log_std: FloatArray
    units: Units = field(default_factory=Units)

    def mean_action(self, observation: NDArray[np.floating]) -> FloatArray:
        """The mean action, ``[A]`` for an observation ``[O]``, or ``[N, A]`` for ``[N, O]``.

        In the environment's units; this is the action of evaluation.
        """
        hidden = self.units.read(observation)
        last = len(self.weights) - 1
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = hidden @ weight
            hidden += bias
            if layer < last:
                np.maximum(hidden, 0, out=hidden)
        return self.units.act(np.tanh(hidden, out=hidden))


def policy_from_state(
    state: Mapping[str, Tensor], index: int, net: str = "actor", parts: int = 1
) -> Policy:
    """The policy of the ``index``-th seed in an engine's ``state_dict``; see
    ``policy_from_arrays``."""
    arrays = {
        name: tensor[index].detach().to("cpu").float().numpy()
        for name, tensor in state.items()
        if name.startswith(f"{net}.")
    }
    return policy_from_arrays(arrays, net, parts)


def policy_from_arrays(
    arrays: Mapping[str, NDArray[np.floating]], net: str = "actor", parts: int = 1
) -> Policy:
    """The policy of one seed's arrays, by their names in an engine's ``state_dict``.

    Args:
        net: the network that acts.
        parts: into which its outputs fall; the first is the mean before its tanh, a second one the
            log standard deviation, which acting does without.
    """
    layers = sum(name.startswith(f"{net}.layers.") for name in arrays) // 2
    single = {name: array.astype(np.float32) for name, array in arrays.items()}
    weights = [single[f"{net}.layers.{i}.weight"].T for i in range(layers)]
    biases = [single[f"{net}.layers.{i}.bias"] for i in range(layers)]
    act_dim = len(biases[-1]) // parts
    weights[-1], biases[-1] = weights[-1][:, :act_dim], biases[-1][:act_dim]
    log_std = single.get(f"{net}.log_std", np.zeros(act_dim, np.float32))
    return Policy(
        tuple(map(np.ascontiguousarray, weights)), tuple(biases), np.clip(log_std, *LOG_STD_RANGE)
    )
