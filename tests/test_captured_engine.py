"""Methods under CUDA graphs, of which the CPU goes the same way without graphs, against the engine
that takes one step after the other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from iql_fast.data.replay import Met, Replay
from iql_fast.engines import captured
from iql_fast.engines.captured import CapturedEngine
from iql_fast.engines.generic import GenericEngine
from iql_fast.engines.graph import native_kernels
from iql_fast.methods.abm import ABM
from iql_fast.methods.awac import AWAC
from iql_fast.methods.bc import BC
from iql_fast.methods.bcq import BCQ
from iql_fast.methods.cql import CQL
from iql_fast.methods.iql import IQL, Stage
from iql_fast.methods.onestep import Onestep
from iql_fast.methods.td3_bc import TD3BC
from iql_fast.support.errors import NonFiniteLoss

from .conftest import random_transitions
from .plain_nets import assert_close, assert_close_in_size

SEEDS = (3, 8)
CHUNK = 4
SMALL = {"batch_size": 8, "hidden": (16, 12)}
PHASES = {"beta_steps": 9, "q_steps": 14, "target_every": 3, "samples": 3}
#: Each kind of decision that a method makes by a step's number, and each kind of rate and decay.
METHODS = {
    "td3_bc": TD3BC(**SMALL, policy_every=3, actor_lr=(2e-3, 1e-3)),
    "bc": BC(**SMALL, actor_schedule_steps=15, actor_dropout=0.2),
    "awac": AWAC(**SMALL, beta=(1.0, 2.0), weight_decay=0.1, actor_hidden=(16, 12)),
    "awac of rlkit": AWAC(**SMALL, implementation="rlkit", weight_decay=0.1, actor_hidden=(16, 12)),
    "cql": CQL(**SMALL, bc_steps=10, lagrange=True, sampled_actions=3),
    "onestep": Onestep(**SMALL, **PHASES),
    "onestep by weights": Onestep(**SMALL, **PHASES, improvement="exp_weight"),
    "onestep that chooses": Onestep(**SMALL, **PHASES, improvement="easy_bcq"),
    "bcq": BCQ(**SMALL, vae_hidden=(16, 12), samples=3),
    "abm": ABM(**SMALL, samples=3, copy_every=0),
    "abm that copies": ABM(**SMALL, samples=3, copy_every=5),
    "iql": IQL(**SMALL, actor_schedule_steps=15, actor_dropout=0.2, polyak=(0.1, 0.3)),
    "iql in stages": IQL(**SMALL, stages=(Stage(("value", "critic"), 13), Stage(("actor",)))),
}
on_device = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def devices():
    return ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, on_device])]


@pytest.fixture(autouse=True)
def _short_graphs(monkeypatch):
    monkeypatch.setattr(captured, "GRAPH_STEPS", CHUNK)


def data_for(method, act_dim=3):
    data = random_transitions(100, 5, act_dim)
    if "next_actions" in method.needs:
        data = replace(data, next_actions=data.actions[::-1].copy())
    return data


def both(method, precision="fp64", device="cpu", native=False):
    data = data_for(method)
    return (
        CapturedEngine(method, data, SEEDS, precision, native=native, device=device),
        GenericEngine(method, data, SEEDS, precision),
    )


@pytest.mark.parametrize("device", devices())
@pytest.mark.parametrize("name", METHODS)
def test_steps_are_those_that_are_taken_one_by_one(name, device):
    under_graphs, plain = both(METHODS[name], device=device)
    for steps in (9, 20, 12):  # parts of a graph, and several
        found, expected = under_graphs.run(steps), plain.run(steps)
        assert found.keys() == expected.keys()
        for key, values in expected.items():
            np.testing.assert_allclose(found[key], values, 1e-9, 1e-9, err_msg=key)
        assert under_graphs.step == plain.step
        assert_close(under_graphs, plain)
    assert any(under_graphs._graphs.values())


@pytest.mark.parametrize("device", devices())
@pytest.mark.parametrize("name", METHODS)
def test_the_operators_compute_the_same(name, device):
    native = native_kernels(torch.device(device))
    under_graphs, plain = both(METHODS[name], "fp32", device, native)
    for engine in (under_graphs, plain):
        engine.run(29)
    assert_close_in_size(under_graphs, plain, 2e-3)


@pytest.mark.parametrize("device", devices())
def test_a_state_is_gone_on_with_whatever_was_captured(device):
    """Graphs of other steps, and a state from another engine."""
    method = METHODS["td3_bc"]
    whole, _ = both(method, device=device)
    whole.run(40)
    first, other = (both(method, device=device)[0] for _ in range(2))
    first.run(17)
    other.advance(30)  # whose records are of a state that is given up
    other.load_state_dict(first.state_dict())
    found, expected = other.run(23), first.run(23)
    assert_close(other, whole)
    for key, values in expected.items():
        np.testing.assert_allclose(found[key], values, 1e-9, 1e-9, err_msg=key)


@pytest.mark.parametrize("device", devices())
def test_given_batches_and_what_was_met(device):
    under_graphs, plain = both(METHODS["cql"], device=device)
    for engine in (under_graphs, plain):
        engine.run(20)
    batch = plain.batch_at(3)
    found, expected = under_graphs.step_on(batch), plain.step_on(batch)
    for key, values in expected.items():
        np.testing.assert_allclose(found[key], values, 1e-9, 1e-9, err_msg=key)
    r = np.random.default_rng(0).standard_normal
    rows = {name: r(shape).astype(np.float32) for name, shape in (("s", (2, 5)), ("a", (2, 3)))}
    np.testing.assert_allclose(
        under_graphs.explore(rows["s"], rows["a"]), plain.explore(rows["s"], rows["a"]), 1e-6
    )
    for engine in (under_graphs, plain):
        replay = Replay(data_for(engine.method), 2, 101, 9)
        engine.meet(replay)
        replay.write(0, Met(rows["s"], rows["a"], np.ones(2, np.float32), *_rest(rows["s"])))
        replay.met_rows = 1
        engine.advance(6)
    assert_close(under_graphs, plain)


def _rest(states):
    return np.ones(2, np.float32), states + 1


@pytest.mark.parametrize("device", devices())
@pytest.mark.parametrize(("before", "steps"), [(0, 7), (2, 7), (30, 40), (32, 40)])
def test_a_loss_that_is_not_finite_is_named(device, before, steps):
    """At the step where the other engine finds it, before and after there are graphs; of a step in
    which the policy learns, after the critics, too."""
    told = []
    for engine in both(METHODS["td3_bc"], device=device):
        if before:
            engine.run(before)
        state = engine.state_dict()
        state["critic.layers.0.weight"][1] *= 1e200
        engine.load_state_dict(state)
        with pytest.raises(NonFiniteLoss) as error:
            engine.run(steps)
        told.append((error.value.step, error.value.seed, error.value.network))
        assert error.value.seed == SEEDS[1]
    assert told[0] == told[1]


def test_there_is_a_limit_to_graphs(monkeypatch):
    monkeypatch.setattr(captured, "GRAPHS", 1)
    under_graphs, plain = both(METHODS["td3_bc"])
    for engine in (under_graphs, plain):
        engine.run(40)
    assert len(under_graphs._graphs) == 1
    assert_close(under_graphs, plain)


class HostAsked(Exception):
    pass


class NothingOfTheHosts(TorchDispatchMode):
    """Refuses what a CUDA graph cannot hold: numbers that the host reads or brings."""

    refused = ("_local_scalar_dense", "lift_fresh", "nonzero", "masked_select")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(name in str(func) for name in self.refused):
            raise HostAsked(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("name", METHODS)
def test_a_graphs_steps_ask_nothing_of_the_host(name, native):
    method = METHODS[name]
    if native and not native_kernels(torch.device("cpu")):
        pytest.skip("the extension is not installed")
    engine, plain = both(method, "fp32", native=native)
    with NothingOfTheHosts(), pytest.raises(HostAsked):
        plain.run(1)
    for first in range(0, 40, CHUNK):
        branches = tuple(method.branch(i) for i in range(first, first + CHUNK))
        engine.on.plan(first, CHUNK)
        with NothingOfTheHosts():
            engine._issue(first, branches)


@pytest.mark.parametrize("name", METHODS)
def test_a_graphs_steps_are_on_one_device(name):
    """Another than the CPU; one without values, which any build of torch has."""
    method = METHODS[name]
    engine = CapturedEngine(method, data_for(method), SEEDS, native=False, device="meta")
    for first in range(0, 40, CHUNK):
        branches = tuple(method.branch(i) for i in range(first, first + CHUNK))
        engine.on.plan(first, CHUNK)
        engine._issue(first, branches)
    for _, tensor in engine._state():
        assert tensor.device.type == "meta"
