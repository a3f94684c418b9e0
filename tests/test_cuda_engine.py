"""The CUDA engine on a device against the CPU engine, and how it is chosen.

Without a device the same kernels and host code run under an emulator: ``tests/cpp``.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Literal, get_args

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from iql_fast import engines
from iql_fast.data.dataset import Transitions
from iql_fast.engines import Hyperparameters, NetworkSpec, Precision, create, cuda
from iql_fast.engines.cuda import StepForm
from iql_fast.support import extension
from iql_fast.support.errors import UserError

from .conftest import random_transitions

REASON = cuda.unavailable_reason()


def on_device(test: Callable[..., None]) -> Any:
    """Marks a test that needs a device."""
    return pytest.mark.gpu(pytest.mark.skipif(bool(REASON), reason=REASON)(test))


PRECISIONS = pytest.mark.parametrize("precision", engines.PRECISIONS["cuda"])
# Of a gradient, as in tests/cpp/test_cuda_engine.cpp; and of what training makes of it within ten
# steps.
GRADIENT_TOLERANCE = {"fp32": 9e-6, "bf16x3": 1.2e-4, "tf32": 4e-3}
WEIGHT_TOLERANCE = {"fp32": 2e-5, "bf16x3": 2e-4, "tf32": 4e-3}
# By how much the input of a ReLU, whose terms are about 1 together, may be wrong: by rounding to
# the 16 bits that two bf16 numbers hold, or to the 11 of tf32. What units at that edge make of a
# gradient is allowed for, but only up to a limit, so that it cannot hide a fault. The output layer
# needs no allowance, since it only sees the value of such a unit.
EDGE = {"bf16x3": 2.0**-16, "tf32": 2.0**-11}
GRADIENT_LIMIT = {"fp32": 9e-6, "bf16x3": 5e-3, "tf32": 0.15}
OUTPUT_TOLERANCE = {"fp32": 9e-6, "bf16x3": 2e-4, "tf32": 4e-3}
METRIC_TOLERANCE = {"fp32": 2e-3, "bf16x3": 2e-3, "tf32": 2e-2}
# Data with which no unit of any case comes to lie at the edge of fp32's rounding within ten steps.
DATA_SEED = 34

CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "authors": ({}, {}),
    "a value for each seed": (
        {"expectile": (0.5, 0.7, 0.9), "temperature": (0.5, 3.0, 10.0), "actor_lr": (1e-3, 0, 0)},
        {},
    ),
    "clip saturated": ({"temperature": 60.0, "weight_clip": 3.0}, {}),
    "dropout": ({"actor_dropout": 0.1}, {}),
    "old value": ({"value_order": "old"}, {}),
    "deterministic": ({"deterministic_policy": True}, {}),
    "batch 1": ({"batch_size": 1}, {}),
    "batch 255": ({"batch_size": 255}, {}),
    "batch 257": ({"batch_size": 257}, {}),
    "halfcheetah": ({"batch_size": 256}, {"obs_dim": 17, "act_dim": 6, "hidden": (256, 256)}),
    "kitchen": ({"batch_size": 256}, {"obs_dim": 60, "act_dim": 9, "hidden": (256, 256)}),
    "adroit": ({"batch_size": 256}, {"obs_dim": 45, "act_dim": 30, "hidden": (256, 256)}),
    "one layer": ({}, {"hidden": (40,)}),
    "three layers, odd widths": ({"actor_dropout": 0.2}, {"hidden": (33, 17, 50)}),
    "four layers": ({}, {"hidden": (24, 24, 24, 24)}),
    "one critic": ({}, {"critics": 1}),
    "ten critics": ({"batch_size": 32}, {"critics": 10, "hidden": (20, 20)}),
    "wide": ({"batch_size": 64}, {"hidden": (130, 512)}),
}


State = dict[str, torch.Tensor]


def largest_difference(
    a: State, b: State, prefix: str, suffix: str = "", spread: tuple[State, State] | None = None
) -> float:
    """Of the tensors with that prefix and suffix: the largest difference in the Frobenius norm,
    relative to the tensor's own or, where its terms cancel, a tenth of its network's largest. What
    two other states lie apart there is not counted as a difference."""
    keys = [key for key in a if key.startswith(prefix) and key.endswith(suffix)]
    scale = max(float(b[key].norm()) for key in keys) / 10
    found = []
    for key in keys:
        apart = float((spread[0][key] - spread[1][key]).norm()) if spread else 0.0
        difference = max(0.0, float((a[key] - b[key]).norm()) - apart)
        found.append(difference / max(float(b[key].norm()), scale))
    return max(found)


class MovedEdge(TorchFunctionMode):
    """Every ReLU opens a little sooner or later."""

    def __init__(self, edge: float) -> None:
        super().__init__()
        self.edge = edge

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.relu:
            return torch.where(args[0] > self.edge, args[0], 0)
        return func(*args, **(kwargs or {}))


def on_either_side(name: str, edge: float) -> tuple[State, State]:
    """What one step makes of a case whose ReLUs open later and sooner. Between the two lie units
    whose input is all but zero, one row of which is active in one engine and not in another: with
    N rows and units that is about 1 / sqrt(N) of a gradient."""
    states = []
    for moved in (edge, -edge):
        engine = create("reference", *problem(name), precision="fp64")
        with MovedEdge(moved):
            engine.run(1)
        states.append(engine.state_dict())
    return states[0], states[1]


def problem(name: str) -> tuple[NetworkSpec, Hyperparameters, Transitions, list[int]]:
    hyper_changes, sizes = CASES[name]
    hyper = Hyperparameters(**{"batch_size": 48, **hyper_changes})
    network = NetworkSpec(**{"obs_dim": 11, "act_dim": 3, "hidden": (48, 40), **sizes})
    data = random_transitions(500, network.obs_dim, network.act_dim, seed=DATA_SEED)
    return network, hyper, data, [0, 1, 9]


@on_device
@PRECISIONS
@pytest.mark.parametrize("name", CASES)
def test_equals_the_cpu_engine(name: str, precision: Precision) -> None:
    network, hyper, data, seeds = problem(name)
    expected = create("cpu", network, hyper, data, seeds, precision="fp64")
    engine = create("cuda", network, hyper, data, seeds, precision=precision)
    engine.run(1)
    expected.run(1)
    state, expected_state = engine.state_dict(), expected.state_dict()
    at_the_edge = on_either_side(name, EDGE[precision]) if precision in EDGE else None
    # The first moment after one step is a tenth of the gradient.
    for net in ("value", "actor", "critic"):
        prefix = f"adam.m.{net}"
        difference = largest_difference(state, expected_state, prefix, spread=at_the_edge)
        assert difference < GRADIENT_TOLERANCE[precision], net
        assert largest_difference(state, expected_state, prefix) < GRADIENT_LIMIT[precision], net
        output = f"{prefix}.layers.{len(network.hidden)}"
        assert largest_difference(state, expected_state, output) < OUTPUT_TOLERANCE[precision], net
    metrics, expected_metrics = engine.run(9), expected.run(9)
    state, expected_state = engine.state_dict(), expected.state_dict()
    for net in ("value", "actor", "critic", "target"):
        # Not biases: they begin at zero, so that they are nothing but Adam's first steps, which
        # make of the rounding of a gradient that is all but zero a step of full length.
        difference = largest_difference(state, expected_state, net, "weight")
        assert difference < WEIGHT_TOLERANCE[precision], net
    for key, values in expected_metrics.items():
        scale = np.abs(values) + 1e-2
        assert (np.abs(metrics[key] - values) / scale).max() < METRIC_TOLERANCE[precision], key


@on_device
@pytest.mark.parametrize(
    "name", ["authors", "dropout", "old value", "batch 257", "kitchen", "wide"]
)
def test_by_wgmma_it_equals_the_cpu_engine(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IQL_FAST_CUDA_WGMMA", "1")
    network, hyper, *_ = problem(name)
    if reason := cuda.unavailable_reason("bf16x3", network, hyper):
        pytest.skip(reason)
    test_equals_the_cpu_engine(name, "bf16x3")


@on_device
@PRECISIONS
def test_a_graph_equals_single_steps_bit_for_bit(precision: Precision) -> None:
    data, network = random_transitions(), NetworkSpec(11, 3)
    hyper = Hyperparameters(actor_dropout=0.1)
    engines_ = [create("cuda", network, hyper, data, [1, 2], precision=precision) for _ in range(3)]
    engines_[0].run(120)
    engines_[1].run(120)
    for _ in range(120):
        engines_[2].run(1)
    first, *others = (engine.state_dict() for engine in engines_)
    for other in others:
        for key, tensor in first.items():
            assert torch.equal(tensor, other[key]), key


@on_device
@PRECISIONS
def test_many_seeds_equal_each_seed_alone_bit_for_bit(precision: Precision) -> None:
    data, network = random_transitions(), NetworkSpec(11, 3)
    seeds = list(range(16))
    together = create("cuda", network, Hyperparameters(), data, seeds, precision=precision)
    together.run(60)
    state = together.state_dict()
    for seed in (0, 7, 15):
        alone = create("cuda", network, Hyperparameters(), data, [seed], precision=precision)
        alone.run(60)
        for key, tensor in alone.state_dict().items():
            assert key == "step" or torch.equal(tensor[0], state[key][seed]), key


@on_device
@PRECISIONS
@pytest.mark.parametrize("value_order", ["new", "old"])
def test_a_resident_step_equals_the_launches_bit_for_bit(
    precision: Precision, value_order: Literal["new", "old"], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, network = random_transitions(), NetworkSpec(11, 3, (48, 40))
    hyper = Hyperparameters(batch_size=40, actor_dropout=0.1, value_order=value_order)
    states = []
    for form in get_args(StepForm):
        monkeypatch.setenv("IQL_FAST_CUDA_STEP", form)
        engine = cuda.CudaEngine(network, hyper, data, [1, 2], precision)
        assert engine.step_form == form
        engine.run(20)
        engine.run(1)
        states.append(engine.state_dict())
    for key, tensor in states[0].items():
        assert torch.equal(tensor, states[1][key]), key


@on_device
@PRECISIONS
def test_more_seeds_than_stay_on_the_chip_are_trained_in_turn(
    precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, network = random_transitions(), NetworkSpec(11, 3, (256, 256))
    hyper = Hyperparameters(batch_size=40, actor_dropout=0.1)
    states, at_once = [], {}
    for form in get_args(StepForm):
        monkeypatch.setenv("IQL_FAST_CUDA_STEP", form)
        engine = cuda.CudaEngine(network, hyper, data, range(13), precision)
        at_once[engine.step_form] = engine.seeds_at_once
        engine.run(20)
        engine.run(1)
        states.append(engine.state_dict())
    assert at_once["launches"] == 13
    assert 1 <= at_once["resident"] < 13
    for key, tensor in states[0].items():
        assert torch.equal(tensor, states[1][key]), key


@on_device
def test_a_seed_that_does_not_stay_on_the_chip_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    data, network = random_transitions(), NetworkSpec(11, 3, (700, 700))
    monkeypatch.setenv("IQL_FAST_CUDA_STEP", "resident")
    with pytest.warns(UserWarning, match="launches, not resident: the weights of one seed do not"):
        engine = cuda.CudaEngine(network, Hyperparameters(batch_size=8), data, [0])
    assert engine.step_form == "launches"


def test_a_form_of_a_step_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IQL_FAST_CUDA_STEP", raising=False)
    assert cuda.step_form_asked_for() == "launches"
    monkeypatch.setenv("IQL_FAST_CUDA_STEP", "resident")
    assert cuda.step_form_asked_for() == "resident"
    monkeypatch.setenv("IQL_FAST_CUDA_STEP", "persistent")
    with pytest.raises(UserError, match="is 'persistent'; expected launches or resident"):
        cuda.step_form_asked_for()


@on_device
def test_sizes_that_it_cannot_take_are_refused() -> None:
    data, network = random_transitions(9, 5, 2), NetworkSpec(5, 2, (8,) * 5)
    with pytest.raises(UserError, match=r"at most 4 hidden layers.*Usable engines"):
        create("cuda", network, Hyperparameters(), data, [0])
    chosen, why = engines.choose("auto", "fp32", network)
    assert chosen != "cuda"
    assert "at most 4 hidden layers" in why
    assert engines.choose("auto", "fp32", NetworkSpec(5, 2, (8,) * 4))[0] == "cuda"
    assert "too wide" in engines.available("fp32", NetworkSpec(5, 2, (9000,)))["cuda"]
    assert "too large" in engines.available("fp32", NetworkSpec(5, 2, (90_000,)))["cuda"]


@pytest.mark.skipif(not REASON, reason="there is a CUDA device")
def test_without_a_device_it_is_refused_with_the_reason() -> None:
    assert engines.available()["cuda"] == REASON
    with pytest.raises(UserError) as caught:
        engines.choose("cuda")
    assert REASON in str(caught.value)
    chosen, why = engines.choose("auto")
    assert chosen != "cuda"
    assert f"cuda: {REASON}" in why


def test_a_precision_chooses_among_the_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    reason, sizes = {"cuda": ""}, {"cuda": ""}
    native = SimpleNamespace(
        cuda_unavailable_reason=lambda device: reason["cuda"],
        cuda_size_reason=lambda **_: sizes["cuda"],
        CudaPrecision=SimpleNamespace(fp32=0),
        mixed_unavailable_reason=lambda: "",
    )
    monkeypatch.setattr(extension, "unavailable_reason", lambda: "")
    monkeypatch.setattr(extension, "load", lambda: native)
    assert engines.choose("auto") == ("cuda", "the fastest engine is usable")
    assert engines.choose("auto", "bf16x3")[0] == "cuda"
    assert engines.choose("auto", "tf32")[0] == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    no_device = "graph: torch sees no CUDA device"
    no_fp64 = "cuda: it has no fp64 precision, which graph, cpu, reference can do"
    assert engines.choose("auto", "fp64") == ("cpu", f"{no_fp64}; {no_device}")
    for precision in ("bf16x3", "tf32"):
        for engine in ("graph", "cpu", "reference"):
            refusal = f"it has no {precision} precision, which cuda can do"
            with pytest.raises(UserError, match=f"'{engine}' cannot be used here: {refusal}"):
                engines.choose(engine, precision)
    reason["cuda"] = "no CUDA device"
    with pytest.raises(UserError, match=r"cuda: no CUDA device; graph: .*; cpu: it has no bf16x3"):
        engines.choose("auto", "bf16x3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert engines.choose("auto") == ("graph", "cuda: no CUDA device")  # one too old, say
    reason["cuda"], sizes["cuda"] = "", "the layers are too wide"
    network = NetworkSpec(11, 3, (9000, 9000))
    assert engines.choose("auto", "fp32", network) == ("graph", "cuda: the layers are too wide")
