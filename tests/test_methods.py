"""Methods as a user trains them: each from the command's options to a scored policy."""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from iql_fast import engines, evaluate, methods, train
from iql_fast.data import resolve, transform
from iql_fast.data.logged import LoggedTransitions
from iql_fast.engines.drawing import drawn
from iql_fast.methods.base import Draw, Net
from iql_fast.policies import acting, units
from iql_fast.policies.candidates import Candidates
from iql_fast.runs import checkpoint, config, trained
from iql_fast.runs.rows import read_rows
from iql_fast.support.errors import UserError

from .conftest import d4rl_columns, random_transitions, write_hdf5

OTHERS = [name for name in methods.NAMES if name != "iql"]
SMALL = (
    *("--task", "hopper-medium-v2", "--batch-size", "16", "--threads", "1"),
    *("--log-interval", "10", "--checkpoint-interval", "20", "--eval-episodes", "0"),
)
MLP = ("--hidden", "16", "16")
#: Of methods that need other options to be as small as the others.
SIZES = {
    "dt": ("--dt-width", "16", "--dt-context", "4"),
    "onestep": (*MLP, "--onestep-beta-steps", "15", "--onestep-q-steps", "15"),
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_hdf5(tmp_path_factory.mktemp("data") / "data.hdf5", d4rl_columns())


def trains(dataset, out, method, *more):
    arguments = ("--dataset", dataset, "--out", out, "--method", method, "--steps", 50)
    train.main([*SMALL, *SIZES.get(method, MLP), *map(str, arguments), *map(str, more)])


def rows_of(run):
    return [
        {k: v for k, v in row.items() if k != "seconds"} for row in read_rows(run / "metrics.csv")
    ]


@pytest.mark.parametrize("method", OTHERS)
def test_a_method_trains_resumes_and_is_read(dataset, tmp_path, method):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    trains(dataset, whole, method, "--seeds", 2)
    rows = rows_of(whole)
    assert [int(row["step"]) for row in rows[::2]] == [10, 20, 30, 40, 50]
    assert any(name.endswith("_loss") for name in rows[0])
    assert (whole / "curves.png").read_bytes().startswith(b"\x89PNG")
    record = json.loads((whole / "config.json").read_text())
    assert record["options"]["method"] == method
    assert record["engine"] == (
        "graph" if not engines.available_for(methods.get(method)())["graph"] else "reference"
    )

    # As a kill would leave it: the last checkpoint, and rows beyond it.
    shutil.copytree(whole, cut)
    (cut / "summary.json").unlink()
    shutil.rmtree(cut / "checkpoint" / "000000050")
    train.main(["--resume", str(cut)])
    assert rows_of(cut) == rows
    ends = [checkpoint.load(run / "checkpoint").state for run in (whole, cut)]
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(tensor, ends[1][name]) for name, tensor in ends[0].items())

    if method == "dt":
        return  # whose policy is a function of more than an observation: tests/test_dt_runs.py
    policy = acting.from_state(ends[0], 1, trained.acting(record))
    policy = acting.with_units(policy, units.from_record(record))
    rows = np.random.default_rng(0).standard_normal((5, 11)).astype(np.float32)
    actions = policy.mean_action(rows)
    assert actions.shape == (5, 3)
    assert np.isfinite(actions).all()
    assert (np.abs(actions) <= 1).all()
    # In float32, whose products of one row and of five round otherwise.
    np.testing.assert_allclose(policy.mean_action(rows[3]), actions[3], rtol=1e-4, atol=1e-6)
    if trained.acting(record)["kind"] == "mlp":
        # Which computes in float64, where the policy of an evaluation computes in float32.
        np.testing.assert_allclose(trained.load(whole, seed=1)(rows), actions, atol=1e-5)
    else:
        with pytest.raises(UserError, match="chooses among sampled actions"):
            trained.load(whole)


@pytest.mark.parametrize("method", [name for name in OTHERS if name != "dt"])
def test_a_seed_does_not_depend_on_those_beside_it(method):
    data, cls = random_transitions(200), methods.get(method)
    if "next_actions" in cls.needs:
        data = replace(data, next_actions=data.actions[::-1].copy())
    phases = {"beta_steps": 2, "q_steps": 2} if method == "onestep" else {}
    made = cls(batch_size=16, hidden=(16, 16), **phases)
    alone, beside = (engines.for_method(made, data, seeds, threads=1) for seeds in ([3], [3, 4, 5]))
    for engine in (alone, beside):
        engine.run(5)
    states = [engine.state_dict() for engine in (alone, beside)]
    for name, tensor in states[0].items():
        if name != "step":
            assert torch.equal(tensor[0], states[1][name][0]), name


def test_a_method_is_scored(dataset, tmp_path, monkeypatch, capsys):
    trains(dataset, tmp_path / "run", "td3_bc", "--eval-episodes", 1, "--eval-interval", 50)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["method"] == "td3_bc"
    assert summary["published"] == {"paper": 59.3}
    assert np.isfinite(summary["scores"]["final"]["mean"])
    arguments = ["evaluate", "--run", str(tmp_path / "run"), "--episodes", "1", "--workers", "1"]
    monkeypatch.setattr("sys.argv", arguments)
    evaluate.main()
    assert "hopper-medium-v2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--method", "bc", "--expectile", "0.9"), "--expectile: --method bc has no such setting"),
        (("--method", "bc", "--td3-bc-alpha", "1"), "--td3-bc-alpha is of another method than"),
        (
            ("--method", "td3_bc", "--td3-bc-alpha", "-1"),
            "--td3-bc-alpha is -1.0; expected at least",
        ),
        (("--method", "bc", "--value-order", "old"), "are IQL's"),
        (("--method", "10bc", "--top-bc-top", "0"), "--top-bc-top is 0.0; expected above 0 and"),
        (
            ("--method", "td3_bc", "--critic-lr", "1", "2"),
            "--critic-lr is .*; expected one value, or",
        ),
        (
            ("--method", "td3_bc", "--engine", "cpu"),
            "cpu.* trains IQL alone, and the method is td3_",
        ),
        (("--method", "td3_bc", "--precision", "mixed"), "it has no mixed precision"),
    ],
)
def test_options_of_other_methods_are_refused(dataset, tmp_path, arguments, message):
    with pytest.raises(UserError, match=message):
        train.main([*SMALL, "--dataset", str(dataset), "--out", str(tmp_path / "run"), *arguments])
    assert not (tmp_path / "run").exists()


def test_what_is_left_out_is_the_methods():
    options = config.completed(config.parse(["--task", "hopper-medium-v2", "--method", "bc"]))
    assert options.algorithm.actor_lr == (1e-3,)
    assert options.algorithm.expectile == ()
    learner = options.learner()
    assert (learner.actor_dropout, learner.actor_schedule_steps) == (0.1, 1_000_000)
    assert not options.normalizes
    for task, scaled in (("hopper-medium-v2", True), ("antmaze-umaze-v2", False)):
        options = config.completed(config.parse(["--task", task, "--method", "td3_bc"]))
        assert options.normalizes == scaled
        assert options.reward_rule == transform.Rewards("none", 1.0, 0.0)


def test_a_run_from_before_there_were_methods_is_iqls():
    options = config.flat(config.completed(config.parse(["--task", "hopper-medium-v2"])))
    older = {
        name: value for name, value in options.items() if not name.startswith(("method", "td3_bc"))
    }
    assert config.of_record(older) == options


def test_rows_without_a_next_action_are_left_out(dataset):
    loaded = resolve.load("hopper-medium-v2", dataset=dataset, next_actions=True)
    plain = resolve.load("hopper-medium-v2", dataset=dataset).transitions
    found = loaded.transitions
    assert "rows have no next action: left out" in loaded.notes[-1]
    assert 0 < len(found) < len(plain)
    # Each row's next action belongs to the row whose observation is its next observation.
    following = {
        row.tobytes(): action for row, action in zip(plain.observations, plain.actions, strict=True)
    }
    seen = 0
    for next_row, mask, action in zip(
        found.next_observations, found.masks, found.next_actions, strict=True
    ):
        if mask and next_row.tobytes() in following:
            np.testing.assert_array_equal(following[next_row.tobytes()], action)
            seen += 1
    assert seen > 0.9 * found.masks.sum()


def test_candidates_are_chosen_by_the_critic():
    """BCQ's choice by hand: its own samples, decoded, moved, and the best for the first critic."""
    rng = np.random.default_rng(0)

    def layers(*sizes):
        pairs = itertools.pairwise(sizes)
        return tuple(
            (
                rng.standard_normal((i, o)).astype(np.float32),
                rng.standard_normal(o).astype(np.float32),
            )
            for i, o in pairs
        )

    policy = Candidates(
        "decoded", layers(5 + 4, 8, 2), layers(5 + 2, 8, 1), 50, layers(5 + 2, 8, 2), 0.3, 0.5
    )
    row = rng.standard_normal(5).astype(np.float32)
    z = np.clip(policy._noise(row), -0.5, 0.5)
    assert z.shape == (50, 4)
    assert (np.abs(z) == 0.5).any()

    def mlp(layers, *parts):
        x = np.concatenate(parts)
        for i, (weight, bias) in enumerate(layers):
            x = x @ weight + bias
            x = np.maximum(x, 0) if i + 1 < len(layers) else x
        return x

    best, chosen = -np.inf, None
    for latents in z:
        action = np.tanh(mlp(policy.maker, row, latents))
        action = np.clip(action + 0.3 * np.tanh(mlp(policy.mover, row, action)), -1, 1)
        if (q := mlp(policy.critic, row, action)[0]) > best:
            best, chosen = q, action
    np.testing.assert_allclose(policy.mean_action(row), chosen, atol=1e-6)
    np.testing.assert_allclose(policy.mean_action(np.stack([row + 1, row]))[1], chosen, atol=1e-6)


def logged(returns, length=4):
    count = len(returns) * length
    numbers = np.arange(count, dtype=np.float32)
    return LoggedTransitions(
        observations=numbers[:, None],
        actions=np.zeros((count, 1), np.float32),
        rewards=np.repeat(np.asarray(returns, np.float32) / length, length),
        terminals=np.zeros(count, bool),
        next_observations=numbers[:, None] + 1,
        ends=np.arange(count) % length == length - 1,
    )


def test_the_best_trajectories_are_kept_whole_and_in_order():
    kept, note = transform.best(logged([5, 1, 9, 3, 8, 2, 7, 4, 6, 0]), 0.3, "here")
    assert kept.returns().tolist() == [9, 8, 7]
    assert kept.observations[:, 0].tolist() == [*range(8, 12), *range(16, 20), *range(24, 28)]
    assert kept.ends.sum() == 3
    assert note == "3 of 10 trajectories, those of the highest returns (7 and above): 12 rows"
    kept, _ = transform.best(logged([1, 2]), 0.1, "here")
    assert kept.returns().tolist() == [2]  # one at least


def test_draws_are_what_they_are_called_and_depend_on_seed_and_step_alone():
    seeds, steps = torch.tensor([0, 7]), torch.arange(40)
    numbers = drawn(Draw("normal", (300, 5)), 2, seeds, steps)
    assert numbers.shape == (40, 2, 300, 5)
    one = numbers[:, 0].flatten()
    assert abs(float(one.mean())) < 0.02
    assert abs(float(one.std()) - 1) < 0.02
    assert abs(float((one**4).mean()) - 3) < 0.15
    again = drawn(Draw("normal", (300, 5)), 2, seeds[1:], steps[17:18])
    assert torch.equal(again[0, 0], numbers[17, 1])
    assert not torch.equal(drawn(Draw("normal", (300, 5)), 3, seeds[1:], steps[17:18]), again)
    flat = drawn(Draw("uniform", (1001,)), 0, seeds, steps)
    assert 0 <= float(flat.min()) < 0.001
    assert 0.999 < float(flat.max()) < 1
    assert abs(float(flat.mean()) - 0.5) < 0.01


def test_a_device_that_is_not_there_is_an_error_before_any_work(monkeypatch):
    monkeypatch.setattr(engines, "default_device", lambda: "cpu")
    made, data = methods.get("bc")(), random_transitions(20)
    with pytest.raises(UserError, match="'graph' cannot be used here: torch sees no CUDA device"):
        engines.for_method(made, data, [0], name="graph", device="cuda")


def test_a_run_goes_on_on_the_device_that_it_began_on(dataset, tmp_path, monkeypatch):
    """One whose record is older than that began on the CPU."""
    monkeypatch.setattr(engines, "default_device", lambda: "cpu")
    run = tmp_path / "run"
    trains(dataset, run, "bc", "--engine", "graph")
    record = json.loads((run / "config.json").read_text())
    assert record.pop("device") == "cpu"
    (run / "config.json").write_text(json.dumps(record))
    monkeypatch.setattr(engines, "default_device", lambda: "cuda")  # there is one by now
    train.main(["--resume", str(run)])
    monkeypatch.setattr(engines, "default_device", lambda: "cpu")
    (run / "config.json").write_text(json.dumps(record | {"device": "cuda"}))
    with pytest.raises(UserError, match="torch sees no CUDA device"):
        train.main(["--resume", str(run)])


def test_an_ensemble_has_no_dropout():
    with pytest.raises(ValueError, match="critic: an ensemble cannot have dropout"):
        Net("critic", 3, 1, (4,), "critic_lr", ensemble=2, dropout=0.1)
