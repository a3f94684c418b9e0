"""The graph engine against the reference: its steps without a graph on the CPU, and on a device."""

from __future__ import annotations

import gc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from iql_fast.engines import Hyperparameters, NetworkSpec, Stage, create, graph
from iql_fast.engines.graph import GraphEngine
from iql_fast.support.errors import UserError

from .conftest import random_transitions
from .test_cuda_engine import CASES, largest_difference

REASON = graph.unavailable_reason()
on_device = pytest.mark.skipif(bool(REASON), reason=REASON)
SEEDS = [0, 1, 2**40]


def problem(name: str) -> tuple[NetworkSpec, Hyperparameters, Any]:
    hyper_changes, sizes = CASES[name]
    hyper = Hyperparameters(**{"batch_size": 48, "actor_schedule_steps": 13, **hyper_changes})
    network = NetworkSpec(**{"obs_dim": 11, "act_dim": 3, "hidden": (24, 20), **sizes})
    # No tiles here that a width could be odd to: narrow nets say as much.
    network = replace(network, hidden=tuple(min(width, 40) for width in network.hidden))
    return network, hyper, random_transitions(500, network.obs_dim, network.act_dim)


def assert_same_training(engine: Any, expected: Any, tolerance: float) -> None:
    """Through a first step, and ten in which the schedule ends."""
    for steps in (1, 12):
        metrics, expected_metrics = engine.run(steps), expected.run(steps)
        for key, values in expected_metrics.items():
            np.testing.assert_allclose(metrics[key], values, rtol=10 * tolerance, atol=tolerance)
    state, expected_state = engine.state_dict(), expected.state_dict()
    assert state.keys() == expected_state.keys()
    for key, tensor in expected_state.items():
        assert state[key].shape == tensor.shape, key
        assert state[key].dtype == tensor.dtype, key
    assert state["step"] == 13
    for prefix in ("value", "actor", "critic", "target", "adam.m", "adam.v"):
        assert largest_difference(state, expected_state, prefix) < tolerance, prefix


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_equals_the_reference(name: str, native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not native:
        monkeypatch.setattr(graph, "native_kernels", lambda device: False)
    arguments = (*problem(name), SEEDS, "fp64")
    engine = GraphEngine(*arguments, device="cpu")
    assert engine.native == native
    expected = create("reference", *arguments[:4], precision="fp64")
    assert_same_training(engine, expected, 1e-9)


def test_fp32_is_right_to_rounding() -> None:
    network, hyper, data = problem("authors")
    engine = GraphEngine(network, hyper, data, SEEDS, device="cpu")
    expected = create("reference", network, hyper, data, SEEDS, precision="fp64")
    metrics, expected_metrics = engine.run(1), expected.run(1)
    state, expected_state = engine.state_dict(), expected.state_dict()
    for net in ("value", "actor", "critic"):  # the first moment is a tenth of the gradient
        assert largest_difference(state, expected_state, f"adam.m.{net}") < 9e-6, net
    for key, values in expected_metrics.items():
        np.testing.assert_allclose(metrics[key], values, rtol=2e-5, atol=1e-6)


def test_a_state_goes_between_the_engines() -> None:
    network, hyper, data = problem("dropout")
    engine = GraphEngine(network, hyper, data, SEEDS, "fp64", device="cpu")
    expected = create("reference", network, hyper, data, SEEDS, precision="fp64")
    expected.run(5)
    engine.load_state_dict(expected.state_dict())
    expected.run(4)
    engine.run(4)
    engine.step_on(expected.batch_at(9))
    expected.step_on(expected.batch_at(9))
    for key, tensor in expected.state_dict().items():
        torch.testing.assert_close(engine.state_dict()[key], tensor, rtol=1e-9, atol=1e-12)


def test_many_seeds_equal_each_seed_alone() -> None:
    network, _, data = problem("authors")
    hyper = Hyperparameters(batch_size=48, expectile=(0.6, 0.7, 0.9), polyak=(0.1, 0.2, 0.3))
    together = GraphEngine(network, hyper, data, SEEDS, "fp64", device="cpu")
    together.run(10)
    for s, seed in enumerate(SEEDS):
        own = Hyperparameters(batch_size=48, expectile=(0.6, 0.7, 0.9)[s], polyak=(s + 1) / 10)
        alone = GraphEngine(network, own, data, [seed], "fp64", device="cpu")
        alone.run(10)
        for key, tensor in alone.state_dict().items():
            if key != "step":
                found = together.state_dict()[key][s]
                torch.testing.assert_close(found, tensor[0], rtol=1e-9, atol=1e-12)


def devices() -> list[Any]:
    return ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, on_device])]


@pytest.mark.parametrize("device", devices())
def test_batches_from_the_hosts_memory_are_the_same(device: str) -> None:
    network, hyper, data = problem("dropout")
    states = []
    for on_host in (False, True):
        engine = GraphEngine(network, hyper, data, SEEDS, device=device, data_on_host=on_host)
        assert engine.data_on_host == on_host
        for steps in (130, 3, 57):  # more than one graph ahead; and parts of one
            engine.run(steps)
        states.append(engine.state_dict())
    for key, tensor in states[0].items():
        assert torch.equal(tensor, states[1][key]), key


def test_stages_that_train_some_networks_only_are_refused() -> None:
    network, _, data = problem("authors")
    hyper = Hyperparameters(stages=(Stage(("value", "critic"), 5), Stage(("actor",))))
    with pytest.raises(UserError, match="trains all networks in every step"):
        GraphEngine(network, hyper, data, SEEDS, device="cpu")
    assert "--extraction after" in graph.unavailable_reason("fp32", hyper)


def test_a_dataset_that_does_not_fit_stays_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    network, hyper, data = problem("authors")
    monkeypatch.setattr(GraphEngine, "_free_bytes", lambda engine: 1 << 30)
    assert not GraphEngine(network, hyper, data, SEEDS, device="cpu").data_on_host
    monkeypatch.setattr(GraphEngine, "_free_bytes", lambda engine: 4 * 27 * len(data))
    with pytest.warns(UserWarning, match="does not fit.*slower"):
        engine = GraphEngine(network, hyper, data, SEEDS, device="cpu")
    assert engine.data_on_host
    assert np.isfinite(engine.run(3)["value_loss"]).all()


def test_dropout_for_many_rows_takes_fewer_steps_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    network, hyper, data = problem("dropout")
    states = []
    for words in (2**25, 3 * 48 * 24 * 7, 1):
        monkeypatch.setattr(graph, "DROPOUT_WORDS", words)
        engine = GraphEngine(network, hyper, data, SEEDS, device="cpu")
        engine.run(20)
        states.append((engine.chunk, engine.state_dict()))
    assert [chunk for chunk, _ in states] == [50, 7, 1]
    for _, state in states[1:]:
        for key, tensor in state.items():
            assert torch.equal(tensor, states[0][1][key]), key


def test_after_a_failure_a_good_state_can_be_loaded() -> None:
    network, hyper, data = problem("authors")
    engine = GraphEngine(network, hyper, data, SEEDS, device="cpu")
    good = engine.state_dict()
    bad = {**good, "value.layers.0.bias": torch.full_like(good["value.layers.0.bias"], np.inf)}
    engine.load_state_dict(bad)
    with pytest.raises(Exception, match="value loss of seed 0 is not finite at step 1"):
        engine.run(1000)
    engine.load_state_dict(good)
    again = GraphEngine(network, hyper, data, SEEDS, device="cpu")
    metrics, expected = engine.run(120), again.run(120)
    for key, values in expected.items():
        np.testing.assert_array_equal(metrics[key], values)


# On a device.


@pytest.mark.gpu
@on_device
@pytest.mark.parametrize("precision", ["fp64", "fp32"])
@pytest.mark.parametrize("name", CASES)
def test_equals_the_reference_on_a_device(name: str, precision: Any) -> None:
    network, hyper, data = problem(name)
    engine = create("graph", network, hyper, data, SEEDS, precision=precision)
    expected = create("reference", network, hyper, data, SEEDS, precision="fp64")
    if precision == "fp64":
        assert_same_training(engine, expected, 1e-9)
        return
    engine.run(1)
    expected.run(1)
    state, expected_state = engine.state_dict(), expected.state_dict()
    for net in ("value", "actor", "critic"):
        assert largest_difference(state, expected_state, f"adam.m.{net}") < 9e-6, net


@pytest.mark.gpu
@on_device
@pytest.mark.parametrize("name", ["authors", "dropout", "old value", "a value for each seed"])
def test_a_graph_equals_steps_without_one_bit_for_bit(name: str) -> None:
    network, hyper, data = problem(name)
    whole, single = (create("graph", network, hyper, data, SEEDS) for _ in range(2))
    whole.run(120)
    for _ in range(120):
        single.run(1)  # less than a graph, so without it
    for key, tensor in whole.state_dict().items():
        assert torch.equal(tensor, single.state_dict()[key]), key


class Operators(TorchDispatchMode):
    """Counts operators that compute something."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view and not func.name().startswith("profiler")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("seeds", [1, 8])
def test_a_step_is_as_many_operators_as_the_docs_say(seeds: int) -> None:
    network = NetworkSpec(11, 3)
    hyper = Hyperparameters(batch_size=8)
    engine = GraphEngine(network, hyper, random_transitions(), range(seeds), device="cpu")
    counts = []
    for steps in (1, 11):
        with Operators() as counted:
            engine._steps(steps)
        counts.append(counted.count)
    assert (counts[1] - counts[0]) / 10 <= 75
    assert counts[0] <= 75 + 250


@pytest.mark.gpu
@on_device
def test_an_engine_that_becomes_garbage_does_not_end_a_capture() -> None:
    network, hyper, data = problem("authors")
    thresholds = gc.get_threshold()
    try:
        for _ in range(5):
            cycle: list[Any] = [create("graph", network, hyper, data, SEEDS)]
            cycle.append(cycle)
            del cycle  # only the garbage collector ends it,
            gc.set_threshold(1)  # which comes at every other allocation
            create("graph", network, hyper, data, SEEDS).run(60)
    finally:
        gc.set_threshold(*thresholds)
