"""The rivals of the benchmarks compute what our engines do."""

from __future__ import annotations

import contextlib
import importlib.util
import statistics

import numpy as np
import pytest
import torch

from iql_fast.data.dataset import Transitions
from iql_fast.engines import Hyperparameters, NetworkSpec, create

from .conftest import random_transitions

needs_jax = pytest.mark.skipif(not importlib.util.find_spec("jax"), reason="jax is not installed")

# Constants of the update rule that all have an effect: some weights reach the clip, and the
# learning rate of the actor falls within a few steps.
NETWORK = NetworkSpec(5, 2, (16, 12), critics=3)
HYPER = Hyperparameters(
    batch_size=32,
    expectile=0.8,
    temperature=6.0,
    discount=0.9,
    polyak=0.1,
    weight_clip=2.0,
    value_lr=1e-3,
    critic_lr=2e-3,
    actor_lr=3e-3,
    actor_schedule_steps=30,
)
# fp64: a gradient's rounding error of 1e-17, where the gradient is 0, is divided by Adam's epsilon
# of 1e-8 and moves a weight by 1e-9 of the learning rate. In fp32 it is 1e-8 and moves the weight
# by a good part of the learning rate, but few gradients are as small as that.
TOLERANCE = {torch.float64: 1e-11, torch.float32: 1e-4}


def rival(name: str, data: Transitions, dtype: torch.dtype, seeds: int = 1):
    if name == "jax":
        from bench.rivals.jax_scan import JaxIQL

        return JaxIQL(NETWORK, HYPER, data, dtype, seeds)
    if name == "compile":
        from bench.rivals.compiled import CompiledIQL

        # The graph that is compiled, without half a minute of a C++ compiler.
        return CompiledIQL(NETWORK, HYPER, data, dtype, backend="aot_eager")
    from bench.rivals.eager import EagerIQL

    return EagerIQL(NETWORK, HYPER, data, dtype)


def in_precision(name: str, dtype: torch.dtype) -> contextlib.AbstractContextManager[object]:
    if name != "jax" or dtype == torch.float32:
        return contextlib.nullcontext()
    import jax

    return jax.enable_x64(True)


def assert_same_weights(found, expected, dtype: torch.dtype) -> None:
    names = {name for name in expected if not name.startswith("adam") and name != "step"}
    assert found.keys() == names
    for name in names:
        want = expected[name]
        assert found[name].shape == want.shape, name
        assert found[name].dtype == dtype, name
        difference = float((found[name] - want).norm() / (want.norm() + 1e-20))
        assert difference < TOLERANCE[dtype], name


RIVALS = pytest.mark.parametrize(
    ("name", "seeds"),
    [
        ("eager", [3]),
        ("compile", [3]),
        pytest.param("jax", [3], marks=needs_jax),
        pytest.param("jax", [3, 8], marks=needs_jax),
    ],
)


@RIVALS
def test_a_rival_steps_as_the_reference_does(name, seeds):
    dtype = torch.float64
    data = random_transitions(400, NETWORK.obs_dim, NETWORK.act_dim)
    reference = create("reference", NETWORK, HYPER, data, seeds, precision="fp64")
    state = reference.state_dict()
    state["actor.log_std"][:] = torch.tensor([2.5, -1.0], dtype=torch.float64)  # one is clipped
    reference.load_state_dict(state)
    with in_precision(name, dtype):
        trained = rival(name, data, dtype, len(seeds))
        trained.load_weights(state)
        clipped = []
        for step in range(6):
            batch = reference.batch_at(step)
            trained.step_on(batch)
            clipped.append(reference.step_on(batch)["weight_clipped"][0])
        assert_same_weights(trained.weights(), reference.state_dict(), dtype)
    assert 0 < statistics.mean(clipped) < 1


@RIVALS
def test_a_rival_runs_as_it_steps(name, seeds):
    """In the precision that is timed. On rows all the same, it does not matter which are drawn."""
    dtype = torch.float32
    row = random_transitions(1, NETWORK.obs_dim, NETWORK.act_dim)
    data = Transitions(*(np.repeat(column, 50, axis=0) for column in row.columns().values()))
    reference = create("reference", NETWORK, HYPER, data, seeds, precision="fp64")
    with in_precision(name, dtype):
        trained = rival(name, data, dtype, len(seeds))
        trained.load_weights(reference.state_dict())
        steps = 25 // trained.unit * trained.unit
        trained.run(steps)
        reference.run(steps)
        assert_same_weights(trained.weights(), reference.state_dict(), dtype)
