"""IQL in JAX: the dataset resident, sampling inside, many steps a call under ``lax.scan``; several
seeds at once by ``vmap``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax import Array, lax
from torch import Tensor

from bench.rivals.constants import (
    ADAM_BETA1,
    ADAM_BETA2,
    ADAM_EPSILON,
    LOG_STD_MAX,
    LOG_STD_MIN,
    Constants,
    constants,
)
from bench.rivals.state import join, split
from iql_fast.data.dataset import Transitions
from iql_fast.engines import Batch, Hyperparameters, NetworkSpec
from iql_fast.engines.parameters import initial_state

#: One network's arrays under the names of ``bench.rivals.state.Net``, but weights ``[in, out]``.
Net = dict[str, Array]


class State(NamedTuple):
    """All that a step changes. The networks are named ``value``, ``critic0`` and so on."""

    nets: dict[str, Net]
    first: dict[str, Net]  # Adam's moments of the networks that are trained
    second: dict[str, Net]
    step: Array
    key: Array


def mlp(net: Net, x: Array, layers: int) -> Array:
    """Linear layers with ReLU between them."""
    for i in range(layers):
        x = x @ net[f"layers.{i}.weight"] + net[f"layers.{i}.bias"]
        if i < layers - 1:
            x = jax.nn.relu(x)
    return x


def towards(share: float, old: Net, new: Net) -> Net:
    """An exponential moving average's step from ``old`` to ``new``."""
    moved: Net = jax.tree.map(lambda a, b: a + share * (b - a), old, new)
    return moved


def update(network: NetworkSpec, h: Constants, state: State, batch: list[Array]) -> State:
    """One update: V; the actor and the critics with the new V; Polyak."""
    s, a, r, mask, s_next = batch
    nets, first, second = dict(state.nets), dict(state.first), dict(state.second)
    layers = len(network.hidden) + 1
    t = (state.step + 1).astype(s.dtype)
    correction1, correction2 = 1 - ADAM_BETA1**t, 1 - ADAM_BETA2**t
    sa = jnp.concatenate([s, a], -1)

    def descend(name: str, gradients: Net, rate: float | Array) -> None:
        def adam(w: Array, m: Array, v: Array) -> Array:
            return w - rate * (m / correction1) / (jnp.sqrt(v / correction2) + ADAM_EPSILON)

        squares = jax.tree.map(jnp.square, gradients)
        first[name] = towards(1 - ADAM_BETA1, first[name], gradients)
        second[name] = towards(1 - ADAM_BETA2, second[name], squares)
        nets[name] = jax.tree.map(adam, nets[name], first[name], second[name])

    def scalar(net: Net, x: Array) -> Array:
        return mlp(net, x, layers)[:, 0]

    # The critics one by one, not as one batched product.
    ensemble = range(network.critics)
    q = jnp.stack([scalar(nets[f"target{e}"], sa) for e in ensemble]).min(0)

    def value_loss(net: Net) -> Array:
        u = q - scalar(net, s)
        return jnp.mean(jnp.where(u < 0, 1 - h.expectile, h.expectile) * u**2)

    descend("value", jax.grad(value_loss)(nets["value"]), h.value_lr)
    advantage = q - scalar(nets["value"], s)
    weight = jnp.minimum(jnp.exp(h.temperature * advantage), h.weight_clip)
    target = r + h.discount * mask * scalar(nets["value"], s_next)

    def actor_loss(net: Net) -> Array:
        log_std = jnp.clip(net["log_std"], LOG_STD_MIN, LOG_STD_MAX)
        z = (a - jnp.tanh(mlp(net, s, layers))) * jnp.exp(-log_std)
        log_prob = jnp.sum(-0.5 * z**2 - log_std - 0.5 * math.log(2 * math.pi), -1)
        return -jnp.mean(weight * log_prob)

    progress = jnp.minimum(state.step.astype(s.dtype) / h.actor_schedule_steps, 1)
    rate = h.actor_lr * 0.5 * (1 + jnp.cos(math.pi * progress))
    descend("actor", jax.grad(actor_loss)(nets["actor"]), rate)

    def critic_loss(net: Net) -> Array:
        return jnp.mean((scalar(net, sa) - target) ** 2)

    for e in ensemble:
        descend(f"critic{e}", jax.grad(critic_loss)(nets[f"critic{e}"]), h.critic_lr)
        nets[f"target{e}"] = towards(h.polyak, nets[f"target{e}"], nets[f"critic{e}"])
    return State(nets, first, second, state.step + 1, state.key)


class JaxIQL:
    """See ``bench.rivals.Rival``. For fp64, JAX's ``jax_enable_x64`` must be on.

    Args:
        seeds: S. All of the state has a leading axis of it, unless it is 1.
    """

    unit = 25

    def __init__(
        self,
        network: NetworkSpec,
        hyper: Hyperparameters,
        data: Transitions,
        dtype: torch.dtype = torch.float32,
        seeds: int = 1,
    ) -> None:
        self.seeds = seeds
        self.dtype = {torch.float32: np.float32, torch.float64: np.float64}[dtype]
        columns = data.columns().values()
        self.columns = [jnp.asarray(column.astype(self.dtype)) for column in columns]
        self.state: State
        self.load_weights(initial_state(network, range(seeds), dtype))
        one = partial(update, network, constants(hyper))

        def many(state: State, columns: list[Array]) -> State:
            def body(state: State, _: None) -> tuple[State, None]:
                key, draw = jax.random.split(state.key)
                rows = jax.random.randint(draw, (hyper.batch_size,), 0, len(columns[0]))
                # Drawn within bounds: XLA need not clamp them again.
                batch = [column.at[rows].get(mode="promise_in_bounds") for column in columns]
                return one(state._replace(key=key), batch), None

            return lax.scan(body, state, None, length=self.unit)[0]

        def over_seeds(function: Callable[..., State], batch_axis: int | None) -> Any:
            return jax.vmap(function, in_axes=(0, batch_axis)) if seeds > 1 else function

        # Donated, the old state's memory becomes the new one's.
        self._one = jax.jit(over_seeds(one, 0), donate_argnums=0)
        self._many = jax.jit(over_seeds(many, None), donate_argnums=0)

    def run(self, steps: int) -> None:
        for _ in range(steps // self.unit):
            self.state = self._many(self.state, self.columns)
        jax.block_until_ready(self.state)  # type: ignore[no-untyped-call]  # a call returns before its work is done

    def step_on(self, batch: Batch) -> None:
        columns = [jnp.asarray(x.numpy().astype(self.dtype)) for x in batch.columns().values()]
        if self.seeds == 1:
            columns = [column[0] for column in columns]
        self.state = self._one(self.state, columns)

    def load_weights(self, state: Mapping[str, Tensor]) -> None:
        states = [self._begin(split(state, s), s) for s in range(self.seeds)]
        self.state = states[0]
        if self.seeds > 1:
            self.state = jax.tree.map(lambda *each: jnp.stack(each), *states)

    def _begin(self, weights: Mapping[str, Mapping[str, Tensor]], seed: int) -> State:
        """One seed's state with those weights."""
        nets = {
            name: {
                # A copy: JAX may otherwise train in the tensor's own memory.
                key: jnp.array(tensor.numpy().astype(self.dtype).T, copy=True)
                for key, tensor in net.items()
            }
            for name, net in weights.items()
        }
        first, second = (
            {
                name: jax.tree.map(jnp.zeros_like, net)
                for name, net in nets.items()
                if not name.startswith("target")
            }
            for _ in range(2)
        )
        return State(nets, first, second, jnp.zeros((), jnp.int32), jax.random.key(seed))

    def weights(self) -> dict[str, Tensor]:
        nets = self.state.nets
        if self.seeds == 1:
            nets = jax.tree.map(lambda array: array[None], nets)
        each = [
            join(
                {
                    name: {key: torch.from_numpy(np.array(x[s].T)) for key, x in net.items()}
                    for name, net in nets.items()
                }
            )
            for s in range(self.seeds)
        ]
        return {name: torch.cat([one[name] for one in each]) for name in each[0]}
