"""The Decision Transformer as a user trains it: its data, its options, and how it acts."""

from __future__ import annotations

import functools
import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import iql_fast
from iql_fast import engines, evaluate, export, train
from iql_fast.data import resolve, transform
from iql_fast.data.dataset import Transitions
from iql_fast.engines import resources
from iql_fast.environments import episodes, workers
from iql_fast.methods.dt import DT, Windows
from iql_fast.runs import config
from iql_fast.support.errors import UserError

from .conftest import d4rl_columns, random_transitions, write_hdf5
from .test_methods import logged
from .test_methods_dt import engine, trajectories


def padded(own, pad, column):
    """A part of a column ``[B, T, ...]``, with 0 before it."""
    wide = [(0, 0), (pad, 0), *[(0, 0)] * (column.ndim - 2)]
    return torch.from_numpy(np.pad(column[:, own], wide))


@pytest.mark.parametrize(("layers", "heads"), [(2, 2), (1, 1)])
def test_acting_is_the_model_on_the_history(layers, heads):
    """With fewer and with more steps than the context, and beyond the longest time."""
    one = engine([3, 4], layers=layers, heads=heads, return_scale=4.0, target_return=10.0)
    one.run(3)
    method, rng = one.method, np.random.default_rng(0)
    played = one.policy(1).played(2)
    states = rng.standard_normal((2, 13, 5)).astype(np.float32)
    actions = np.zeros((2, 13, 2), np.float32)
    asked, rewards = np.full((2, 13), 2.5), rng.standard_normal((2, 13))
    for t in range(13):
        if t:
            asked[:, t] = asked[:, t - 1] - rewards[:, t - 1] / 4
        np.testing.assert_allclose(played.asked, asked[:, t], 1e-5, 1e-6)
        chosen = played.act(states[:, t])
        k = min(t + 1, method.context)
        last = functools.partial(padded, slice(t + 1 - k, t + 1), method.context - k)
        times = np.minimum(np.tile(np.arange(13), (2, 1)), method.longest - 1)
        windows = Windows(
            last(states), last(actions), last(asked.astype(np.float32)), last(times),
            last(np.ones((2, 13), np.float32)),
        )  # fmt: skip
        with torch.no_grad():
            expected = method.predicted(one.learners[1].leaves, windows, None)[:, -1]
        np.testing.assert_allclose(chosen, expected, 1e-4, 1e-5)
        actions[:, t] = chosen
        played.observe(rewards[:, t])


class Told:
    """An environment that notes actions, and ends after so many steps."""

    def __init__(self, length):
        self.length, self.actions = length, []

    def reset(self, seed):
        self.rng = np.random.default_rng(seed)
        self.actions = []
        return self.rng.standard_normal(5).astype(np.float32), {}

    def step(self, action):
        self.actions.append(action)
        observation = self.rng.standard_normal(5).astype(np.float32)
        return observation, float(action.sum()), len(self.actions) == self.length, False, {}


def test_episodes_side_by_side_are_those_alone(monkeypatch):
    """Each with its own return to go, whenever the others end."""
    one = engine([3], return_scale=0.1)
    one.run(3)
    policy, made = one.policy(0), {}

    def environment(name, instance=0):
        return made.setdefault(instance, Told(4 + 3 * instance))

    monkeypatch.setattr(workers, "environment", environment)
    keys = [(0, 0, e) for e in range(3)]
    together = episodes.run_episodes("told", 8, policy, keys)
    actions = [np.array(made[i].actions) for i in range(3)]
    assert [len(taken) for taken in actions] == [4, 7, 8]
    for i, key in enumerate(keys):
        env, player = Told(4 + 3 * i), policy.played(episodes.SIDE_BY_SIDE)
        rows = np.zeros((episodes.SIDE_BY_SIDE, 5), np.float32)
        rows[0], total = env.reset(workers.seed_of(key))[0], 0.0
        for _ in range(len(actions[i])):
            rows[0], reward, *_ = env.step(player.act(rows)[0])
            total += reward
            player.observe(np.full(episodes.SIDE_BY_SIDE, reward))
        np.testing.assert_allclose(actions[i], np.array(env.actions), 1e-5, 1e-6)
        assert together[i].total == pytest.approx(total, abs=1e-4)


# As a user trains it.

RUN = (
    *("--task", "hopper-medium-v2", "--method", "dt", "--dt-width", "16", "--dt-context", "5"),
    *("--dt-layers", "2", "--batch-size", "8", "--log-interval", "10", "--threads", "1"),
    *("--checkpoint-interval", "20", "--steps", "20", "--eval-episodes", "0"),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    place = tmp_path_factory.mktemp("dt")
    dataset = write_hdf5(place / "data.hdf5", d4rl_columns())
    train.main([*RUN, "--dataset", str(dataset), "--seeds", "2", "--out", str(place / "run")])
    return place / "run"


def test_a_trained_policy_is_loaded_and_plays(run):
    policy = iql_fast.load_policy(run, seed=1)
    assert (policy.obs_dim, policy.act_dim, policy.seed, policy.step) == (11, 3, 1, 20)
    assert policy.target_return == 3600
    states = np.random.default_rng(0).standard_normal((7, 11))

    def episode(target=None):
        policy.reset(target)
        actions = []
        for state in states:
            actions.append(policy(state))
            policy.observe(300.0)
        return np.stack(actions)

    first = episode()
    assert first.shape == (7, 3)
    assert np.array_equal(episode(), first)
    assert np.array_equal(episode(3600), first)
    assert not np.allclose(episode(-50_000), first)
    policy(states[0])
    with pytest.raises(RuntimeError, match=r"tell observe\(reward\)"):
        policy(states[1])
    policy.reset()
    with pytest.raises(ValueError, match="expected one observation"):
        policy(states)
    with pytest.raises(UserError, match="has no seed 7"):
        iql_fast.load_policy(run, seed=7)


def test_export_says_why_not(run, monkeypatch):
    monkeypatch.setattr("sys.argv", ["export", str(run), "--to", "onnx"])
    with pytest.raises(UserError, match=r"no function of one observation.*load_policy"):
        export.main()


def test_it_is_scored_for_the_return_that_is_asked(run, monkeypatch, capsys):
    found = []
    for more in ([], ["--target-return", "-90000"]):
        arguments = ["evaluate", "--run", str(run), "--episodes", "2", "--workers", "1", *more]
        monkeypatch.setattr("sys.argv", arguments)
        evaluate.main()
        found.append(json.loads((run / "evaluation.json").read_text()))
    assert "hopper-medium-v2" in capsys.readouterr().out
    assert [one["target_return"] for one in found] == [3600, -90000]
    assert found[0]["returns"] != found[1]["returns"]


def test_a_return_is_asked_of_policies_that_take_one(run):
    record = {"options": {"method": "bc"}}
    with pytest.raises(UserError, match=r"--target-return is for policies .* --method bc"):
        evaluate.asked_for(1.0, record)
    record = json.loads((run / "config.json").read_text())
    with pytest.raises(UserError, match="--target-return is inf; expected a finite number"):
        evaluate.asked_for(math.inf, record)


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("hopper-medium-v2", (1000, 3600)),
        ("halfcheetah-medium-replay-v2", (1000, 6000)),
        ("walker2d-medium-expert-v2", (1000, 5000)),
        ("mujoco/hopper/expert-v0", (1000, 3600)),
        ("kitchen-mixed-v0", (None, None)),
    ],
)
def test_what_is_left_out_is_the_authors(task, expected):
    options = config.completed(config.parse(["--task", task, "--method", "dt"]))
    method = options.learner()
    assert (method.return_scale, method.target_return) == expected
    assert (options.steps, options.normalizes) == (100_000, True)
    assert (options.evaluation.eval_episodes, options.evaluation.eval_interval) == (100, 10_000)
    assert options.reward_rule == transform.Rewards("none", 1.0, 0.0)
    data = trajectories()
    returns = data.returns_to_go[data.times == 0]
    of_data = method.for_data(data)
    if expected[0] is None:
        expected = (float(np.abs(returns).max()), float(returns.max()))
    assert (of_data.return_scale, of_data.target_return) == expected
    given = replace(method, return_scale=2.0, target_return=3.0).for_data(data)
    assert (given.return_scale, given.target_return) == (2.0, 3.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--dt-heads", "3"), "--dt-heads is 3; expected a divisor of width"),
        (("--dt-context", "0"), "--dt-context is 0; expected a positive number"),
        (("--dt-return-scale", "0"), "--dt-return-scale is 0.0; expected positive"),
        (("--hidden", "16"), "--hidden: --method dt has no such setting"),
        (("--reward-scale", "2"), "--reward-scale, --reward-shift: .*--dt-return-scale"),
        (("--engine", "cpu"), "cpu.* trains IQL alone, and the method is dt"),
        (("--engine", "graph", "--precision", "fp64"), "graph.* no fp64 precision for this"),
        (("--method", "bc"), "--dt-context is of another method than --method bc"),
    ],
)
def test_options_are_refused_by_name(tmp_path, arguments, message):
    with pytest.raises(UserError, match=message):
        train.main([*RUN, "--offline", "--out", str(tmp_path / "run"), *arguments])
    assert not (tmp_path / "run").exists()


def test_rows_are_those_of_whole_trajectories():
    rows = logged([5, 1, 9])
    data, _ = transform.with_trajectories(*prepared(rows), "here")
    assert data.times.tolist() == [0, 1, 2, 3] * 2  # the last one's end was not logged
    np.testing.assert_allclose(data.returns_to_go, [5, 3.75, 2.5, 1.25, 1, 0.75, 0.5, 0.25])
    whole = replace(rows, tail_is_whole=True)
    data, note = transform.with_trajectories(*prepared(whole), "here")
    assert len(data) == 12
    assert note == "3 whole trajectories of 4 to 4 rows"


def prepared(rows):
    return transform.to_training(rows, "neutral", "here")[0], rows


def test_data_without_trajectories_are_refused():
    rows = replace(logged([5, 1, 9]), ordered=False)
    with pytest.raises(UserError, match=r"here: rows do not follow each other.*--method bc"):
        transform.with_trajectories(*prepared(rows), "here")
    cut = logged([1, 2, 3, 4], length=1)
    cut = replace(cut, ends=np.array([True, False, False, False]))
    with pytest.raises(UserError, match=r"the last, whose end was not logged.*'timeouts'"):
        transform.with_trajectories(*prepared(cut), "here")
    with pytest.raises(ValueError, match="dt needs the data's returns_to_go"):
        engines.for_method(DT(), random_transitions(20), [0], threads=1)


def test_the_data_of_a_run_have_their_trajectories(tmp_path):
    dataset = write_hdf5(tmp_path / "data.hdf5", d4rl_columns())
    loaded = resolve.load("hopper-medium-v2", dataset=dataset, trajectories=True)
    data = loaded.transitions
    assert isinstance(data, Transitions)
    assert "whole trajectories" in loaded.notes[-1]
    assert loaded.record["rows"] == len(data)
    starts = np.flatnonzero(data.times == 0)
    for begin, end in itertools.pairwise([*starts, len(data)]):
        assert data.times[begin:end].tolist() == list(range(end - begin))
        total = data.rewards[begin:end].sum(dtype=np.float64)
        assert data.returns_to_go[begin] == pytest.approx(total)
        # One state after the other, but for the last row.
        np.testing.assert_array_equal(
            data.next_observations[begin : end - 1], data.observations[begin + 1 : end]
        )


def test_memory_that_is_not_there_is_told_of(monkeypatch):
    monkeypatch.setattr(resources, "available_bytes", lambda: 1 << 28)
    with pytest.raises(UserError, match=r"1 seed\(s\) of DT need .* of memory at least"):
        resources.check_method_memory(DT(width=1024), 11, 3, 1)
    resources.check_method_memory(DT(width=16), 11, 3, 1)
