"""What every engine promises (``iql_fast.engines.base.Engine``), asked of each that runs here."""

import numpy as np
import pytest
import torch

from iql_fast import engines
from iql_fast.engines import Hyperparameters, NetworkSpec, available
from iql_fast.engines.graph import GraphEngine
from iql_fast.support.errors import NonFiniteLoss

from .conftest import random_transitions

GRAPH_ON_CPU = "graph, without one, on the CPU"


def create(engine, network, hyper, data, seeds):
    if engine == GRAPH_ON_CPU:
        return GraphEngine(network, hyper, data, seeds, device="cpu")
    return engines.create(engine, network, hyper, data, seeds)


def _engine(name):
    reason = available().get(name, "")
    marks = [pytest.mark.gpu] if name in ("cuda", "graph") else []
    return pytest.param(name, marks=[*marks, pytest.mark.skipif(bool(reason), reason=reason)])


ENGINES = pytest.mark.parametrize(
    "engine", [_engine(name) for name in (*available(), GRAPH_ON_CPU)]
)


@ENGINES
def test_runs_do_not_depend_on_how_they_are_divided_or_resumed(engine):
    data = random_transitions()
    network, hyper = NetworkSpec(11, 3, (32, 32)), Hyperparameters(batch_size=32, actor_dropout=0.1)
    whole = create(engine, network, hyper, data, [1, 2])
    whole.run(50)
    first = create(engine, network, hyper, data, [1, 2])
    first.run(13)
    second = create(engine, network, hyper, data, [1, 2])
    second.load_state_dict(first.state_dict())
    second.run(37)
    assert second.step == 50
    for key, tensor in whole.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[key]), key


@ENGINES
def test_step_on_equals_run_on_the_same_batch(engine):
    data = random_transitions()
    network, hyper = NetworkSpec(11, 3, (32, 32)), Hyperparameters(batch_size=33)
    drawn = create(engine, network, hyper, data, [1, 2])
    given = create(engine, network, hyper, data, [1, 2])
    for step in range(3):
        given.step_on(given.batch_at(step))
    drawn.run(3)
    for key, tensor in drawn.state_dict().items():
        assert torch.equal(tensor, given.state_dict()[key]), key


@ENGINES
def test_a_state_survives_the_engines_layout(engine):
    network = NetworkSpec(5, 2, (19, 33), critics=3)
    trained = create(engine, network, Hyperparameters(), random_transitions(50, 5, 2), [0, 1])
    state = {
        key: torch.randn(tensor.shape) if key != "step" else torch.tensor(7)
        for key, tensor in trained.state_dict().items()
    }
    trained.load_state_dict(state)
    for key, tensor in trained.state_dict().items():
        assert torch.equal(tensor, state[key]), key


@ENGINES
@pytest.mark.parametrize(
    ("column", "network"), [("rewards", "critic"), ("observations", "value"), ("actions", "value")]
)
def test_a_loss_that_is_not_finite_is_named(engine, column, network):
    data = random_transitions(40)
    getattr(data, column)[:] = np.nan if column != "rewards" else np.inf
    hyper = Hyperparameters(batch_size=8)
    trained = create(engine, NetworkSpec(11, 3, (16,)), hyper, data, [3, 4])
    with pytest.raises(NonFiniteLoss) as caught:
        trained.run(10_000)
    assert (caught.value.step, caught.value.seed, caught.value.network) == (1, 3, network)
    assert "reward max" in caught.value.statistics


@ENGINES
def test_the_policy_is_the_actors_mean(engine):
    data = random_transitions()
    trained = create(engine, NetworkSpec(11, 3, (32, 32)), Hyperparameters(), data, [0, 1])
    trained.run(3)
    state = trained.state_dict()
    x = torch.from_numpy(data.observations[:6])
    for i in range(3):
        x = x @ state[f"actor.layers.{i}.weight"][1].T + state[f"actor.layers.{i}.bias"][1]
        x = torch.relu(x) if i < 2 else torch.tanh(x)
    np.testing.assert_allclose(trained.policy(1).mean_action(data.observations[:6]), x, atol=1e-5)
