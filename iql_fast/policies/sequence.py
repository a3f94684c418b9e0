"""A policy that acts by what an episode has been so far: the Decision Transformer's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from iql_fast.policies.units import Units

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class SequencePolicy:
    """A causal transformer over returns still asked for, observations and actions.

    What it computes is ``iql_fast.methods.dt.DT.predicted`` at the last step, in numpy.

    Attributes:
        weights: by their names in ``DT.parts``.
        context: steps that it reads.
        heads: of attention.
        target_return: asked of an episode, in the environment's rewards.
        return_scale: what returns are divided by.
        units: of the environment that it acts in.
    """

    weights: Mapping[str, FloatArray]
    context: int
    heads: int
    target_return: float
    return_scale: float
    units: Units = field(default_factory=Units)

    def asked_for(self, target_return: float) -> SequencePolicy:
        """The policy that is asked for another return."""
        return replace(self, target_return=float(target_return))

    def played(self, rows: int) -> Playing:
        """At the beginning of so many episodes, side by side."""
        return Playing(self, rows)


class Playing:
    """Episodes of a policy, which are all at the same step.

    Attributes:
        asked: return that is still to come, over the scale, ``[N]``.
    """

    def __init__(self, policy: SequencePolicy, rows: int) -> None:
        self._policy, self._p = policy, policy.weights
        self._blocks = sum(name.endswith(".query.weight") for name in self._p)
        self._time = 0
        self._tokens = np.zeros((rows, 0, len(self._p["embedded.bias"])), np.float32)
        self.asked = np.full(rows, policy.target_return / policy.return_scale, np.float32)

    def act(self, observations: NDArray[np.floating]) -> FloatArray:
        """Actions ``[N, A]`` for observations ``[N, O]``, both in the environment's units."""
        self._append("return", self.asked[:, None])
        self._append("state", self._policy.units.read(observations))
        # The action is still unknown, and no prediction reads it: the state's token is the last.
        self._tokens = self._tokens[:, -(3 * self._policy.context - 1) :]
        actions = np.tanh(self._linear("head", self._norm("final", self._read()[:, -1])))
        self._append("action", actions)
        self._time += 1
        return self._policy.units.act(actions)

    def observe(self, rewards: NDArray[np.floating]) -> None:
        """Take ``[N]`` of the step that was acted in off what is asked for."""
        self.asked -= np.asarray(rewards, np.float32) / np.float32(self._policy.return_scale)

    def _append(self, kind: str, values: FloatArray) -> None:
        times = self._p["time.weight"]
        embedded = self._linear(kind, values) + times[min(self._time, len(times) - 1)]
        token = self._norm("embedded", embedded)
        self._tokens = np.concatenate([self._tokens, token[:, None]], 1)

    def _read(self) -> FloatArray:
        """What the last block puts out at the last token, ``[N, 1, width]``."""
        x = self._tokens
        for i in range(self._blocks):
            block = f"blocks.{i}"
            at = slice(-1 if i == self._blocks - 1 else 0, None)
            read = self._norm(f"{block}.attended", x)
            q = self._by_head(self._linear(f"{block}.query", read[:, at]))
            k, v = map(self._by_head, np.split(self._linear(f"{block}.key_value", read), 2, -1))
            scores = q @ k.swapaxes(2, 3) * np.float32(q.shape[-1] ** -0.5)
            if q.shape[2] == k.shape[2]:  # no token sees a later one
                later = np.triu(np.ones(scores.shape[-2:], bool), 1)
                scores[..., later] = -np.inf
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            weights /= weights.sum(-1, keepdims=True)
            mixed = (weights @ v).swapaxes(1, 2).reshape(*q.shape[0:1], q.shape[2], -1)
            x = x[:, at] + self._linear(f"{block}.mixed", mixed)
            hidden = self._linear(f"{block}.expand", self._norm(f"{block}.thought", x))
            x = x + self._linear(f"{block}.contract", np.maximum(hidden, 0))
        return x

    def _by_head(self, x: FloatArray) -> FloatArray:
        """``[N, L, width]`` -> ``[N, heads, L, width / heads]``."""
        return x.reshape(*x.shape[:2], self._policy.heads, -1).swapaxes(1, 2)

    def _linear(self, name: str, x: FloatArray) -> FloatArray:
        weight = self._p[f"{name}.weight"]
        flat = x.reshape(-1, x.shape[-1]) @ weight.T + self._p[f"{name}.bias"]
        return np.asarray(flat.reshape(*x.shape[:-1], len(weight)))

    def _norm(self, name: str, x: FloatArray) -> FloatArray:
        """Layer normalisation, with torch's 1e-5."""
        centred = x - x.mean(-1, keepdims=True)
        deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + np.float32(1e-5))
        return np.asarray(centred / deviation * self._p[f"{name}.weight"] + self._p[f"{name}.bias"])


def misfit(weights: Mapping[str, FloatArray]) -> str | None:
    """The first part of a transformer that is missing or does not fit the others."""
    width = len(weights.get("embedded.bias", ()))
    act_dim = len(weights.get("head.bias", ()))
    blocks = 1 + max((int(name.split(".")[1]) for name in weights if "blocks." in name), default=0)
    #: Outputs and inputs; 0 where any number will do.
    layers: dict[str, tuple[int, ...]] = {
        "return": (width, 1),
        "state": (width, 0),
        "action": (width, act_dim),
    }
    norms = ["embedded", "final"]
    for block in (f"blocks.{i}" for i in range(blocks)):
        norms += [f"{block}.attended", f"{block}.thought"]
        layers |= {f"{block}.query": (width, width), f"{block}.key_value": (2 * width, width)}
        hidden = len(weights.get(f"{block}.expand.bias", ()))
        layers |= {f"{block}.mixed": (width, width), f"{block}.expand": (hidden, width)}
        layers |= {f"{block}.contract": (width, hidden)}
    layers |= {"head": (act_dim, width)}
    shapes: dict[str, tuple[int, ...]] = {"time.weight": (0, width)}
    shapes |= {f"{name}.{part}": (width,) for name in norms for part in ("weight", "bias")}
    for name, shape in layers.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for name, shape in shapes.items():
        found = weights[name].shape if name in weights else ()
        if len(found) != len(shape) or any(
            s not in (0, f) for s, f in zip(shape, found, strict=True)
        ):
            return name
    return None


def from_arrays(
    arrays: Mapping[str, NDArray[np.floating]],
    net: str,
    context: int,
    heads: int,
    target_return: float,
    return_scale: float,
) -> SequencePolicy:
    """The policy of one seed's arrays, by their names in an engine's ``state_dict``."""
    own = {name: x for name, x in arrays.items() if name.startswith(f"{net}.")}
    weights = {name.removeprefix(f"{net}."): x.astype(np.float32) for name, x in own.items()}
    return SequencePolicy(weights, context, heads, target_return, return_scale)
