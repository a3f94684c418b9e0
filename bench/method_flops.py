"""The arithmetic that a step of each method needs: matrix products whose results are read, once."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from iql_fast.methods.base import Method
from iql_fast.methods.dt import DT, EXPANSION


class Products:
    """Operations of the matrix products of a method's networks, of one seed.

    A pass forward, a pass back to the weights (from which the data's own gradient is left out),
    and a pass back to the inputs alone.
    """

    def __init__(self, method: Method, obs_dim: int, act_dim: int) -> None:
        self.batch = method.batch_size
        self.nets = {net.name: net for net in method.nets(obs_dim, act_dim)}

    def _layers(self, name: str) -> list[int]:
        net = self.nets[name]
        sizes = (net.inputs, *net.hidden, net.outputs)
        return [2 * self.batch * i * o for i, o in itertools.pairwise(sizes)]

    def forward(self, name: str, times: float = 1) -> float:
        """Of one network of an ensemble, on so many batches."""
        return times * sum(self._layers(name))

    def to_weights(self, name: str, times: float = 1) -> float:
        layers = self._layers(name)
        return times * (2 * sum(layers) - layers[0])

    def to_inputs(self, name: str, times: float = 1) -> float:
        return times * sum(self._layers(name))

    def trained(self, name: str, times: float = 1) -> float:
        return self.forward(name, times) + self.to_weights(name, times)


def _iql(p: Products, m: Any) -> float:
    critics = m.critics * (p.forward("critic") + p.trained("critic"))
    return p.trained("value") + p.forward("value", 2) + p.trained("actor") + critics


def _bc(p: Products, _: Any) -> float:
    return p.trained("actor")


def _td3_bc(p: Products, m: Any) -> float:
    critics = p.forward("actor") + 2 * p.forward("critic") + 2 * p.trained("critic")
    policy = p.trained("actor") + p.forward("critic") + p.to_inputs("critic")
    return critics + policy / m.policy_every


def _awac(p: Products, _: Any) -> float:
    critics = p.forward("actor") + 2 * p.forward("critic") + 2 * p.trained("critic")
    return critics + p.trained("actor") + 4 * p.forward("critic")


def _cql(p: Products, m: Any) -> float:
    policy = p.trained("actor") + 2 * (p.forward("critic") + p.to_inputs("critic"))
    target = p.forward("actor") + 2 * p.forward("critic")
    return policy + target + 2 * p.trained("critic", 1 + 3 * m.sampled_actions)


def _bcq(p: Products, m: Any) -> float:
    # The latents' gradient reaches the encoder through the decoder's first layer.
    vae = p.trained("encoder") + p.trained("decoder") + p._layers("decoder")[0]
    proposed = p.forward("decoder") + p.forward("actor")
    target = m.samples * (proposed + 2 * p.forward("critic"))
    policy = p.forward("decoder") + p.trained("actor") + p.forward("critic")
    return vae + target + 2 * p.trained("critic") + policy + p.to_inputs("critic")


_NEEDED: dict[str, Callable[[Products, Any], float]] = {
    "iql": _iql,
    "bc": _bc,
    "td3_bc": _td3_bc,
    "awac": _awac,
    "cql": _cql,
    "bcq": _bcq,
}
#: Methods whose arithmetic is stated here.
NAMES = (*_NEEDED, "dt")


def needed(method: Method, obs_dim: int, act_dim: int) -> float:
    """Floating-point operations of a step, a multiplication and an addition counted as two."""
    if isinstance(method, DT):
        return _dt(method, obs_dim, act_dim)
    return _NEEDED[method.name](Products(method, obs_dim, act_dim), method)


def _dt(m: DT, obs_dim: int, act_dim: int) -> float:
    """Of its layers by what they read, and of attention; forward, and back to weights and inputs,
    or to the weights alone where the inputs are the data."""

    def trained(tokens: int, inputs: int, outputs: int, passes: int = 3) -> float:
        return passes * 2 * m.batch_size * tokens * inputs * outputs

    total = sum(trained(m.context, inputs, m.width, 2) for inputs in (1, obs_dim, act_dim))
    for block in range(m.layers):
        read = m.context if block == m.layers - 1 else m.tokens  # of the last, the states alone
        total += trained(m.tokens, m.width, 2 * m.width)  # keys and values
        total += 2 * trained(read, m.width, m.width)  # queries, and what heads are mixed by
        total += 2 * trained(read, m.tokens, m.width)  # scores, and sums of values
        total += 2 * trained(read, m.width, EXPANSION * m.width)
    return total + trained(m.context, m.width, act_dim)
