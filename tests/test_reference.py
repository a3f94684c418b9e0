"""The reference engine against a step derived by hand, at 1e-9 in fp64."""

import numpy as np
import pytest
import torch

from iql_fast.engines import Batch, Hyperparameters, NetworkSpec, create
from iql_fast.formulas.losses import awr_weights, expectile_loss, gaussian_log_prob

from .conftest import random_transitions
from .numpy_iql import NumpyIQL

SPEC = NetworkSpec(11, 3, hidden=(32, 24), critics=2)


def batch_of(data, rows):
    columns = (data.observations, data.actions, data.rewards, data.masks, data.next_observations)
    return [column[rows].astype(np.float64) for column in columns]


CASES = {
    "authors": {},
    "low expectile": {"expectile": 0.3},
    "clip saturated": {"temperature": 50.0, "weight_clip": 5.0},
    "no discount": {"discount": 0.0},
    "short schedule": {"actor_schedule_steps": 7},
    "constant": {"actor_schedule_steps": 0},
    "old value": {"value_order": "old"},
    "deterministic": {"deterministic_policy": True},
    "fast targets": {"polyak": 0.5},
}


@pytest.mark.parametrize("name", CASES)
def test_ten_steps_equal_the_hand_written_step(name):
    hyper = Hyperparameters(batch_size=64, **CASES[name])
    data = random_transitions()
    engine = create("reference", SPEC, hyper, data, [3], precision="fp64")
    state = engine.state_dict()
    # Unequal critics and targets, and log-stds inside and outside the clip.
    generator = torch.Generator().manual_seed(1)
    for key, tensor in state.items():
        if key.startswith(("target", "critic")):
            tensor += 0.1 * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
    state["actor.log_std"] = torch.tensor([[-5.5, 0.3, 2.4]], dtype=torch.float64)
    engine.load_state_dict(state)
    by_hand = NumpyIQL(state, 0, hyper)
    rng = np.random.default_rng(0)
    branches, saturated, first_is_min = set(), 0, set()
    for _ in range(10):
        columns = batch_of(data, rng.integers(0, len(data), 64))
        engine.step_on(Batch(*(torch.from_numpy(column)[None] for column in columns)))
        seen = by_hand.step(*columns)
        branches |= set((seen["u"] < 0).tolist())
        first_is_min |= set((seen["targets"][0] < seen["targets"][1]).tolist())
        saturated += int((seen["weight"] >= hyper.weight_clip).sum())
    # The cases reach what they are there for.
    assert branches == {True, False}
    assert first_is_min == {True, False}
    if name == "clip saturated":
        assert saturated > 0
    for key, expected in by_hand.p.items():
        actual = engine.state_dict()[key][0].numpy()
        scale = np.abs(expected).max() + 1e-30
        assert np.abs(actual - expected).max() / scale < 1e-9, key


def test_tied_critics_and_terminal_rows():
    """Equal targets give the same minimum; a terminal row's next state has no influence."""
    hyper = Hyperparameters(batch_size=16)
    data = random_transitions()
    engine = create("reference", SPEC, hyper, data, [0], precision="fp64")
    state = engine.state_dict()
    for key in state:
        if key.startswith(("target.", "critic.", "adam.m.critic", "adam.v.critic")):
            state[key][:, 1] = state[key][:, 0]
    columns = batch_of(data, np.arange(16))
    columns[3][:] = 0  # all terminal
    results = []
    for shift in (0.0, 5.0):
        engine.load_state_dict(state)
        columns[4] = columns[4] + shift
        engine.step_on(Batch(*(torch.from_numpy(column)[None] for column in columns)))
        results.append(engine.state_dict())
    by_hand = NumpyIQL(state, 0, hyper)
    by_hand.step(*columns)
    for key, tensor in results[0].items():
        assert torch.equal(tensor, results[1][key]), key
        if key != "step":
            assert np.abs(tensor[0].numpy() - by_hand.p[key]).max() < 1e-12, key


def test_formulas_by_known_values():
    u = torch.tensor([-2.0, 3.0], dtype=torch.float64)
    assert expectile_loss(u, torch.tensor(0.7)).tolist() == pytest.approx([0.3 * 4, 0.7 * 9])
    weights = awr_weights(torch.tensor([0.0, 1.0, 9.0]), torch.tensor(3.0), torch.tensor(100.0))
    assert weights.tolist() == pytest.approx([1.0, np.exp(3), 100.0])
    normal = torch.distributions.Normal(torch.tensor([0.1, -0.4]), torch.tensor([0.5, 2.0]))
    action = torch.tensor([0.3, 0.9])
    log_prob = gaussian_log_prob(action, normal.loc, normal.scale.log())
    assert float(log_prob) == pytest.approx(float(normal.log_prob(action).sum()), rel=1e-6)


def test_initialisation_is_the_authors():
    network = NetworkSpec(11, 3, hidden=(64, 64), critics=2)
    state = create(
        "reference", network, Hyperparameters(), random_transitions(), [0, 1]
    ).state_dict()
    for key, tensor in state.items():
        if key.endswith("weight") and not key.startswith(("adam", "target")):
            for matrix in tensor.reshape(-1, *tensor.shape[-2:]).double():
                wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
                gram = wide @ wide.T  # orthogonal rows, each of squared norm 2
                assert torch.allclose(gram, 2 * torch.eye(len(gram), dtype=gram.dtype), atol=1e-5)
        elif key.endswith("bias") or key.startswith("adam") or key == "actor.log_std":
            assert not tensor.any(), key
    assert torch.equal(state["target.layers.1.weight"], state["critic.layers.1.weight"])
    assert not torch.equal(
        state["critic.layers.0.weight"][0, 0], state["critic.layers.0.weight"][0, 1]
    )
    assert not torch.equal(state["value.layers.0.weight"][0], state["value.layers.0.weight"][1])


def test_a_seed_trains_alike_alone_and_beside_others():
    data = random_transitions()
    hyper = Hyperparameters(batch_size=32, actor_dropout=0.1)
    alone = create("reference", SPEC, hyper, data, [5], precision="fp64")
    beside = create("reference", SPEC, hyper, data, [2, 5], precision="fp64")
    alone.run(5)
    beside.run(5)
    for key, tensor in alone.state_dict().items():
        if key != "step":
            assert torch.allclose(tensor[0], beside.state_dict()[key][1], rtol=1e-10, atol=1e-14)
