"""Hyperparameters as axes: what trains side by side trains as it would alone, bit for bit."""

import json

import numpy as np
import pytest
import torch

from iql_fast.data import resolve
from iql_fast.engines import METRICS, Hyperparameters, NetworkSpec, create
from iql_fast.experiments.tau import TAUS, Estimate
from iql_fast.runs import checkpoint
from iql_fast.runs.rows import read_rows
from iql_fast.support import extension
from iql_fast.tasks import catalogue

from .conftest import d4rl_columns, random_transitions, write_hdf5

needs_cpu_engine = pytest.mark.skipif(
    bool(extension.unavailable_reason()), reason=extension.unavailable_reason()
)
SPEC = NetworkSpec(11, 3, (64, 48))
AXES = {
    "expectile": TAUS,
    "temperature": (0.0, 0.5, 1.0, 3.0, 5.0, 10.0, 30.0),
    "discount": (0.0, 0.5, 0.8, 0.9, 0.95, 0.99, 1.0),
}


def trained(threads=1, precision="fp32", seeds=(0, 1, 2, 3, 4, 5, 6), **values):
    hyper = Hyperparameters(batch_size=64, actor_schedule_steps=50, **values)
    data = random_transitions()
    engine = create("cpu", SPEC, hyper, data, seeds, precision=precision, threads=threads)
    return engine.run(40), engine.state_dict()


@needs_cpu_engine
@pytest.mark.parametrize("precision", ["fp32", "fp64"])
@pytest.mark.parametrize("axis", AXES)
def test_seven_values_at_once_equal_each_alone_bit_for_bit(axis, precision):
    metrics, together = trained(2, precision, **{axis: AXES[axis]})
    for i, value in enumerate(AXES[axis]):
        own, alone = trained(1, precision, (i,), **{axis: value})
        for name, tensor in alone.items():
            assert torch.equal(
                tensor, together[name] if name == "step" else together[name][i : i + 1]
            )
        for name in METRICS:
            assert own[name][0] == metrics[name][i], name
    # The values make a difference, so that the equality says something: not to V itself where
    # only the actor is concerned.
    weights = together["actor.layers.0.weight"]
    assert all(not torch.equal(weights[i], weights[j]) for i in range(7) for j in range(i))


@needs_cpu_engine
def test_values_of_tau_and_not_the_seeds_tell_networks_apart():
    """With one seed for all, the networks differ by tau alone: V rises with it."""
    metrics, _ = trained(seeds=(0,) * 7, expectile=TAUS)
    assert (np.diff(metrics["value"]) > 0).all()
    _, same = trained(seeds=(0, 0), expectile=(0.7, 0.7))
    for name, tensor in same.items():
        assert name == "step" or torch.equal(tensor[0], tensor[1]), name


@pytest.fixture
def cached():
    """A tiny halfcheetah-medium, regenerated."""
    path = resolve.regenerated_path(catalogue.get("halfcheetah-medium-v2"), 0)
    path.parent.mkdir(parents=True)
    write_hdf5(path, d4rl_columns(400, 17, 6))


@pytest.mark.slow
@needs_cpu_engine
def test_the_command_trains_all_values_in_one_run(cached, command, tmp_path):
    task = ("--task", "halfcheetah-medium-v2")
    asked = ("--taus", 0.5, 0.9, "--seeds", 2, "--steps", 40, "--log-interval", 20)
    small = ("--eval-interval", 20, "--eval-episodes", 1, "--eval-workers", 1, "--offline")
    result = command("experiments", "tau", *task, *asked, *small, "--out", "here")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "here/tau-halfcheetah-medium-v2.png"
    run = tmp_path / "here" / "tau-halfcheetah-medium-v2"
    assert run.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    numbers = json.loads(run.with_suffix(".json").read_text())
    assert numbers["title"] == "halfcheetah-medium-v2 (regenerated), 40 steps"
    last = [row for row in read_rows(run / "metrics.csv") if row["step"] == "40"]
    for i, tau in enumerate((0.5, 0.9)):
        assert numbers["estimates"][i]["tau"] == tau
        values = [float(row["value"]) for row in last[i::2]]  # seeds i and i + 2
        assert numbers["estimates"][i]["value"] == pytest.approx(values)
    # Seed 3 had the second value of tau: alone it comes to the same weights.
    single = ("--seeds", 1, "--seed", 3, "--expectile", 0.9, "--steps", 40, "--log-interval", 20)
    result = command("train", *task, *single, "--eval-episodes", 0, "--offline", "--out", "alone")
    assert result.returncode == 0, result.stderr
    together, alone = (checkpoint.load(p / "checkpoint").state for p in (run, tmp_path / "alone"))
    for name, tensor in alone.items():
        assert torch.equal(tensor, together[name] if name == "step" else together[name][3:4]), name


def test_estimates_are_means_over_the_last_tenth_of_each_seed():
    steps = range(10, 101, 10)
    metrics = [
        {"step": str(step), "seed": str(seed), "value": str(step + seed), "q": "2",
         "weight_clipped": "0"}
        for step in steps for seed in (0, 1, 2)
    ]  # fmt: skip
    scores = [{"step": "50", "seed": s, "score": "1"} for s in "012"]
    scores += [{"step": "100", "seed": s, "score": s} for s in "012"]
    estimate = Estimate.of(0.5, (0, 2), metrics, scores)
    assert estimate.value == [100.0, 102.0]
    assert estimate.score == [0.0, 2.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--taus", 1.5], "--expectile is [1.5, 1.5]; expected between 0 and 1"),
        (["--seeds", 0], "--seeds must be positive"),
        (["--eval-episodes", 0], "--eval-episodes is 0"),
    ],
)
def test_bad_input_is_a_paragraph_and_status_2(command, arguments, message):
    result = command("experiments", "tau", *arguments)
    assert result.returncode == 2
    assert message in " ".join(result.stderr.split())
