"""The C++ engine against the reference: equal in the same precision within rounding."""

import numpy as np
import pytest
import torch

from iql_fast.engines import Batch, Hyperparameters, NetworkSpec, create
from iql_fast.support import extension

from .conftest import random_transitions

pytestmark = pytest.mark.skipif(
    bool(extension.unavailable_reason()), reason=extension.unavailable_reason()
)


def largest_difference(a, b):
    """The largest relative difference of the tensors of two states, in the Frobenius norm."""
    assert a.keys() == b.keys()
    return max(
        (float((a[key] - b[key]).norm() / (b[key].norm() + 1e-20)), key)
        for key in a
        if key != "step" and not key.startswith("adam")
    )


CASES = {
    "authors": ({}, {}),
    "expectile 0.9, beta 10": ({"expectile": 0.9, "temperature": 10.0}, {}),
    "a value for each seed": ({"expectile": (0.5, 0.7, 0.9), "actor_lr": (1e-3, 1e-4, 0.0)}, {}),
    "clip saturated": ({"temperature": 60.0, "weight_clip": 3.0}, {}),
    "dropout": ({"actor_dropout": 0.1}, {}),
    "old value": ({"value_order": "old"}, {}),
    "deterministic": ({"deterministic_policy": True}, {}),
    "batch 1": ({"batch_size": 1}, {}),
    "batch 255": ({"batch_size": 255}, {}),
    "batch 257": ({"batch_size": 257}, {}),
    "one layer": ({}, {"hidden": (40,)}),
    "three layers, odd widths": ({"actor_dropout": 0.2}, {"hidden": (33, 17, 50)}),
    "four layers": ({}, {"hidden": (24, 24, 24, 24)}),
    "one critic": ({}, {"critics": 1}),
    "ten critics": ({"batch_size": 32}, {"critics": 10, "hidden": (20, 20)}),
    "wide": ({"batch_size": 64}, {"hidden": (130, 257)}),
}


@pytest.mark.parametrize("precision", ["fp32", "fp64"])
@pytest.mark.parametrize("name", CASES)
def test_equals_the_reference(name, precision):
    hyper, sizes = CASES[name]
    hyper = Hyperparameters(**{"batch_size": 48, **hyper})
    network = NetworkSpec(11, 3, **{"hidden": (48, 40), **sizes})
    data, seeds = random_transitions(), [0, 1, 9]
    reference = create("reference", network, hyper, data, seeds, precision=precision)
    engine = create("cpu", network, hyper, data, seeds, precision=precision, threads=2)
    assert largest_difference(engine.state_dict(), reference.state_dict())[0] == 0
    metrics, expected = engine.run(20), reference.run(20)
    # Rounding alone: 20 steps amplify it little. Measured: 1e-15 and 1e-6 at most.
    tolerance = {"fp64": 1e-12, "fp32": 2e-5}[precision]
    difference, key = largest_difference(engine.state_dict(), reference.state_dict())
    assert difference < tolerance, key
    for key in expected:
        scale = np.abs(expected[key]) + 1e-2
        assert (np.abs(metrics[key] - expected[key]) / scale).max() < 100 * tolerance, key


def test_a_thousand_steps():
    """Training amplifies rounding, so after many steps two fp32 runs differ however right both are.
    What can be asked: in fp64 the engines stay together, and in fp32 the engine strays no further
    from the fp64 trajectory than plain torch does."""
    data = random_transitions(2000)
    network, hyper = NetworkSpec(11, 3, (32, 32)), Hyperparameters(batch_size=64)

    def train(engine, precision):
        trained = create(engine, network, hyper, data, [0], precision=precision)
        trained.run(1000)
        return {key: tensor.double() for key, tensor in trained.state_dict().items()}

    exact = train("reference", "fp64")
    assert largest_difference(train("cpu", "fp64"), exact)[0] < 1e-7
    drift_of_torch, _ = largest_difference(train("reference", "fp32"), exact)
    drift, key = largest_difference(train("cpu", "fp32"), exact)
    assert drift < 3 * drift_of_torch, key


def test_step_for_step_at_the_papers_sizes():
    """From equal weights, on equal batches, one step at a time: fp32 within 1e-4 relative."""
    network, hyper = NetworkSpec(17, 6), Hyperparameters(temperature=10.0)
    data = random_transitions(5000, 17, 6)
    reference = create("reference", network, hyper, data, [0])
    engine = create("cpu", network, hyper, data, [0])
    for _ in range(40):
        engine.load_state_dict(reference.state_dict())
        reference.run(1)
        engine.run(1)
        difference, key = largest_difference(engine.state_dict(), reference.state_dict())
        assert difference < 1e-4, key


@pytest.mark.parametrize("seeds", [[0], [0, 1], [4, 5, 6]])
def test_results_do_not_depend_on_threads_or_on_the_seeds_beside(seeds):
    data = random_transitions()
    network, hyper = NetworkSpec(11, 3, (64, 64)), Hyperparameters(batch_size=100)
    states = []
    for threads in (1, 2, 3):
        engine = create("cpu", network, hyper, data, seeds, threads=threads)
        engine.run(30)
        states.append(engine.state_dict())
    alone = create("cpu", network, hyper, data, seeds[-1:], threads=1)
    alone.run(30)
    for key, tensor in states[0].items():
        assert torch.equal(tensor, states[1][key]), key
        assert torch.equal(tensor, states[2][key]), key
        if key != "step":
            assert torch.equal(tensor[-1], alone.state_dict()[key][0]), key


@pytest.mark.parametrize("kernels", ["portable", "avx2", "avx512"])
def test_every_kernel_set_that_runs_here(kernels, monkeypatch):
    if kernels not in extension.load().cpu_kernel_sets():
        pytest.skip(f"this machine cannot run {kernels}")
    monkeypatch.setenv("IQL_FAST_CPU_KERNELS", kernels)
    data = random_transitions()
    network, hyper = NetworkSpec(11, 3, (50, 33)), Hyperparameters(batch_size=37)
    engine = create("cpu", network, hyper, data, [0, 1], precision="fp64")
    assert engine.kernel_set == kernels
    reference = create("reference", network, hyper, data, [0, 1], precision="fp64")
    engine.run(10)
    reference.run(10)
    assert largest_difference(engine.state_dict(), reference.state_dict())[0] < 1e-12


def test_wrong_shapes_are_refused():
    data = random_transitions()
    engine = create("cpu", NetworkSpec(11, 3, (16,)), Hyperparameters(batch_size=8), data, [0])
    batch = engine.batch_at(0)
    with pytest.raises(ValueError, match=r"rewards must have shape \[1, 8\]"):
        engine.step_on(
            Batch(
                batch.observations,
                batch.actions,
                batch.rewards[:, :4],
                batch.masks,
                batch.next_observations,
            )
        )
    state = engine.state_dict()
    del state["actor.log_std"]
    with pytest.raises(ValueError, match=r"actor\.log_std"):
        engine.load_state_dict(state)
