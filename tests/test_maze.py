"""The toy maze: the MDP, the data, and what the two methods make of them."""

import json

import numpy as np
import pytest

from iql_fast.engines import Hyperparameters, NetworkSpec
from iql_fast.engines.reference import ReferenceEngine
from iql_fast.experiments import gridworld, maze, mdp, networks

from .conftest import random_transitions

CELLS = gridworld.parse()


def test_moves_stay_inside_and_chance_is_a_quarter():
    assert CELLS.states == 38
    model = CELLS.mdp()
    assert model.transition.sum(-1) == pytest.approx(np.ones((38, 4)))
    corner = CELLS.start  # walls above and to the left
    up, right, down, left = model.transition[corner]
    assert CELLS.moved[corner].tolist() == [corner, corner + 1, corner + 9, corner]
    # Chosen with 0.75, and each direction by chance with 0.0625: two of them lead nowhere.
    assert up[corner] == left[corner] == pytest.approx(0.75 + 2 * 0.0625)
    assert right[corner + 1] == down[corner + 9] == pytest.approx(0.75 + 0.0625)
    assert right[corner] == pytest.approx(2 * 0.0625)
    # Whoever enters the goal is paid and leaves; at the goal nothing more is to be had.
    beside = int(np.flatnonzero(CELLS.moved[:, 3] == CELLS.goal)[-1])
    assert (model.reward[beside, 3] > 0).tolist() == [s == CELLS.goal for s in range(38)]
    assert mdp.value_iteration(model).v[CELLS.goal] == 0


def test_the_optimum_satisfies_bellmans_equation_and_shortest_ways():
    model = CELLS.mdp()
    optimal = mdp.value_iteration(model)
    others = np.arange(38) != CELLS.goal
    assert model.q(optimal.v).max(1)[others] == pytest.approx(optimal.v[others], abs=1e-10)
    actions = mdp.greedy(model, optimal.v)
    far = CELLS.distances()
    assert far[CELLS.start] == 21
    assert CELLS.reaches_goal(actions).all()
    # Each optimal move leads one cell nearer.
    assert (far[CELLS.moved[np.arange(38), actions]] == far - 1)[others].all()


def test_the_data_are_the_optimal_trajectory_and_99_random_ones():
    steps = gridworld.collect(CELLS, np.random.default_rng(3))
    _, begins, lengths = np.unique(steps.trajectory, return_index=True, return_counts=True)
    assert (steps.state[begins] == CELLS.start).all()
    same = np.diff(steps.trajectory) == 0
    assert (steps.next_state[:-1] == steps.state[1:])[same].all()
    assert len(begins) == 1 + gridworld.RANDOM_TRAJECTORIES
    assert steps.next_state[begins[1] - 1] == CELLS.goal  # the optimal one arrives
    assert lengths[0] < 60  # 21 moves, and chance
    assert lengths.max() == gridworld.HORIZON
    shares = np.bincount(steps.action[begins[1] :]) / (len(steps) - begins[1])
    assert shares == pytest.approx(np.full(4, 0.25), abs=0.02)
    assert CELLS.goal not in steps.state


@pytest.mark.parametrize("seed", range(8))
def test_iqls_greedy_policy_reaches_the_goal_where_the_optimal_one_does(seed):
    steps = gridworld.collect(CELLS, np.random.default_rng(seed))
    one_step, iql = maze.tabular(CELLS, steps)
    optimal = CELLS.reaches_goal(mdp.greedy(CELLS.mdp(), mdp.value_iteration(CELLS.mdp()).v))
    assert (CELLS.reaches_goal(iql.actions) >= optimal).all()
    judged = {name: maze.judge(CELLS, m) for name, m in {"one": one_step, "iql": iql}.items()}
    # With each move away from the goal V* falls by 6.4%, IQL's V by less than 9%, one-step
    # evaluation's by more than 25%: at the start less than a hundredth of IQL's is left.
    assert judged["iql"]["decay"] > 0.91
    assert judged["one"]["decay"] < 0.75
    assert one_step.v[CELLS.start] < iql.v[CELLS.start] / 100
    assert judged["iql"]["largest_value_error"] < judged["one"]["largest_value_error"] / 3


def test_decay_is_that_of_a_geometric_sequence():
    assert maze.decay(CELLS, 9 * 0.9 ** CELLS.distances()) == pytest.approx(0.9)
    assert np.isnan(maze.decay(CELLS, np.zeros(38)))


def test_the_networks_are_read_as_the_engine_reads_them():
    data = random_transitions(50)
    engine = ReferenceEngine(
        NetworkSpec(11, 3, (8, 8)), Hyperparameters(batch_size=8), data, [1, 2], "fp64"
    )
    engine.run(3)
    batch = engine.batch_at(0)
    sa = np.concatenate([batch.observations[1].numpy(), batch.actions[1].numpy()], 1)
    state = engine.state_dict()
    value = networks.outputs(state, "value", 1, batch.observations[1].numpy())
    own = engine.on.net("value", batch.observations)[1, :, 0].detach().numpy()
    assert value == pytest.approx(own, abs=1e-12)
    import torch

    pairs = torch.cat([batch.observations, batch.actions], -1)
    target = engine.on.net("target", pairs)[1, ..., 0].numpy()
    assert networks.outputs(state, "target", 1, sa) == pytest.approx(target, abs=1e-12)


def test_the_command_trains_networks_that_agree_with_the_tables(command, tmp_path):
    result = command("experiments", "maze", "--out", "here", "--steps", 4000, "--threads", 1)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "here/maze.png"
    assert (tmp_path / "here" / "maze.png").read_bytes().startswith(b"\x89PNG")
    methods = json.loads((tmp_path / "here" / "maze.json").read_text())["methods"]
    assert methods["IQL, networks"]["reaches_goal_from"] == 37
    assert methods["IQL, extracted"]["reaches_goal_from"] == 37
    assert methods["one-step, extracted"]["reaches_goal_from"] < 37
    for name in ("one-step", "IQL"):
        table, trained = (np.array(methods[f"{name}, {how}"]["values"])
                          for how in ("table", "networks"))  # fmt: skip
        assert np.abs(table - trained).max() < 1.0  # of 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", 0], "--steps is 0; expected at least 10"),
        (["--engine", "cuda"], "cannot be used here"),
    ],
)
def test_bad_input_is_a_paragraph_and_status_2(command, arguments, message):
    result = command("experiments", "maze", *arguments)
    assert result.returncode == 2
    assert message in " ".join(result.stderr.split())
