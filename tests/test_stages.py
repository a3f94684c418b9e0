"""Training some of the networks only: what moves, what stays, and how much work it is."""

import itertools
import json

import numpy as np
import pytest
import torch

from iql_fast import engines
from iql_fast.data import resolve
from iql_fast.engines import (
    METRICS,
    TRAINED,
    Hyperparameters,
    NetworkSpec,
    Stage,
    available,
    create,
)
from iql_fast.experiments.stages import Result
from iql_fast.runs.rows import read_rows
from iql_fast.support import extension
from iql_fast.support.errors import NonFiniteLoss, UserError
from iql_fast.tasks import catalogue

from .conftest import d4rl_columns, random_transitions, write_hdf5

SPEC = NetworkSpec(11, 3, (48, 40))
SUBSETS = [nets for n in (1, 2, 3) for nets in itertools.combinations(TRAINED, n)]
TD, POLICY = Stage(("value", "critic")), Stage(("actor",))
ONLY_POLICY = Hyperparameters(stages=(POLICY,))
ENGINES = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.skipif(bool(reason), reason=reason))
        for name, reason in available(hyper=ONLY_POLICY).items()
        if name not in ("cuda", "graph")
    ],
)
needs_cpu_engine = pytest.mark.skipif(
    bool(extension.unavailable_reason()), reason=extension.unavailable_reason()
)


def engine(name, stages, precision="fp64", seeds=(0, 1, 9), threads=1, **hyper):
    hyper = Hyperparameters(
        **{"batch_size": 48, "actor_schedule_steps": 60, "actor_dropout": 0.1, **hyper},
        stages=stages,
    )
    return create(
        name, SPEC, hyper, random_transitions(), seeds, precision=precision, threads=threads
    )


def of_nets(state, *nets):
    """The parameters and moments of some networks; the targets with the critics."""
    nets = (*nets, "target") if "critic" in nets else nets
    return {
        key: tensor
        for key, tensor in state.items()
        if key.removeprefix("adam.m.").removeprefix("adam.v.").startswith(nets)
    }


def assert_same(a, b):
    assert a.keys() == b.keys()
    for key, tensor in a.items():
        assert torch.equal(tensor, b[key]), key


@ENGINES
@pytest.mark.parametrize("nets", SUBSETS, ids="-".join)
def test_what_is_not_trained_stays_bit_for_bit(name, nets):
    trained = engine(name, (Stage(nets),))
    before = trained.state_dict()
    trained.run(3)
    after = trained.state_dict()
    rest = [net for net in TRAINED if net not in nets]
    if rest:
        assert_same(of_nets(after, *rest), of_nets(before, *rest))
    moved = [key for key, tensor in of_nets(after, *nets).items() if "layers" in key]
    assert moved
    for key in moved:
        assert not torch.equal(after[key], before[key]), key


@needs_cpu_engine
@pytest.mark.parametrize("order", ["new", "old"])
@pytest.mark.parametrize("precision", ["fp32", "fp64"])
@pytest.mark.parametrize("nets", SUBSETS, ids="-".join)
def test_every_subset_equals_the_reference(nets, precision, order):
    stages = (Stage(nets),)
    native, reference = (
        engine(name, stages, precision, value_order=order) for name in ("cpu", "reference")
    )
    metrics, expected = native.run(20), reference.run(20)
    # As in test_cpu_engine: rounding alone. Measured: 1e-15 and 1e-6 at most.
    tolerance = {"fp64": 1e-12, "fp32": 2e-5}[precision]
    state = reference.state_dict()
    for key, tensor in native.state_dict().items():
        if not key.startswith("adam") and key != "step":
            assert (tensor - state[key]).norm() <= tolerance * state[key].norm(), key
    for key in METRICS:
        np.testing.assert_allclose(
            metrics[key], expected[key], rtol=100 * tolerance, atol=tolerance, err_msg=key
        )


@ENGINES
def test_only_what_a_stage_computes_is_measured(name):
    nets_of = {
        ("value",): {"value_loss", "value", "q"},
        ("critic",): {"critic_loss"},
        ("actor",): {"actor_loss", "value", "q", "advantage", "advantage_std", "weight",
                     "weight_max", "weight_clipped"},
        TRAINED: set(METRICS),
    }  # fmt: skip
    for nets, expected in nets_of.items():
        metrics = engine(name, (Stage(nets),)).run(2)
        assert {key for key in METRICS if np.isfinite(metrics[key]).all()} == expected
        assert all(np.isnan(metrics[key]).all() for key in set(METRICS) - expected)


@ENGINES
@pytest.mark.parametrize("precision", ["fp32", "fp64"])
def test_the_policy_makes_no_difference_to_v_and_q(name, precision):
    joint, alone = engine(name, (Stage(),), precision), engine(name, (TD,), precision)
    metrics, other = joint.run(30), alone.run(30)
    assert_same(
        of_nets(joint.state_dict(), "value", "critic"),
        of_nets(alone.state_dict(), "value", "critic"),
    )
    for key in ("value_loss", "critic_loss", "value", "q"):
        np.testing.assert_array_equal(metrics[key], other[key])


@ENGINES
def test_stages_follow_each_other_and_count_their_own_updates(name):
    """The second stage is what an engine does that starts with the policy at the first's V and Q:
    Adam and the schedule begin with it. (The batches are those of later steps.)"""
    staged = engine(name, (Stage(TD.trains, 7), POLICY), actor_dropout=0.0)
    staged.run(5)
    staged.run(2)
    state = staged.state_dict()
    assert_same(of_nets(state, "actor"), of_nets(engine(name, (TD,)).state_dict(), "actor"))
    fresh = engine(name, (POLICY,), actor_dropout=0.0)
    fresh.load_state_dict({**state, "step": torch.tensor(0)})
    for step in range(7, 12):
        fresh.step_on(staged.batch_at(step))
    staged.run(5)
    a, b = staged.state_dict(), fresh.state_dict()
    assert (int(a.pop("step")), int(b.pop("step"))) == (12, 5)
    assert_same(a, b)
    assert_same(of_nets(a, "value", "critic"), of_nets(state, "value", "critic"))


@ENGINES
def test_a_run_over_two_stages_is_one_of_each(name):
    """However the steps are divided among calls, the same weights, and means over the steps that
    computed a metric."""
    stages = (Stage(TD.trains, 6), Stage(("actor", "value"), 3), Stage())
    whole, parts = engine(name, stages), engine(name, stages)
    metrics = whole.run(11)
    pieces = [parts.run(steps) for steps in (6, 3, 2)]
    assert_same(whole.state_dict(), parts.state_dict())
    weights = {"critic_loss": (6, 0, 2), "actor_loss": (0, 3, 2), "value_loss": (6, 3, 2)}
    weights |= {"q": (6, 3, 2), "advantage": (0, 3, 2), "weight_clipped": (0, 3, 2)}
    for key, counts in weights.items():
        sums = sum(count * piece[key] for count, piece in zip(counts, pieces, strict=True) if count)
        np.testing.assert_allclose(metrics[key], sums / sum(counts), rtol=1e-12, err_msg=key)
    assert (whole.hyper.updates("critic", 11), whole.hyper.updates("actor", 11)) == (8, 5)
    resumed = engine(name, stages)
    halfway = engine(name, stages)
    halfway.run(8)
    resumed.load_state_dict(halfway.state_dict())
    resumed.run(3)
    assert_same(whole.state_dict(), resumed.state_dict())


@needs_cpu_engine
@pytest.mark.parametrize("nets", SUBSETS, ids="-".join)
def test_values_side_by_side_equal_each_alone_bit_for_bit(nets):
    taus, temperatures = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99), (0.0, 0.5, 1.0, 3.0, 5.0, 9.0, 30.0)
    stages = (Stage(nets, 20), Stage())
    seeds = tuple(range(7))
    together = engine("cpu", stages, "fp32", seeds, expectile=taus, temperature=temperatures)
    together.run(25)
    state = together.state_dict()
    for i in seeds:
        alone = engine(
            "cpu", stages, "fp32", (i,), 1, expectile=taus[i], temperature=temperatures[i]
        )
        alone.run(25)
        for key, tensor in alone.state_dict().items():
            assert torch.equal(tensor, state[key] if key == "step" else state[key][i : i + 1]), key


@needs_cpu_engine
@pytest.mark.parametrize("threads", [2, 3, 5])
def test_threads_change_nothing(threads):
    for nets in SUBSETS:
        one, more = (engine("cpu", (Stage(nets),), "fp32", (0, 1), t) for t in (1, threads))
        one.run(5)
        more.run(5)
        assert_same(one.state_dict(), more.state_dict())


@ENGINES
@pytest.mark.parametrize(
    ("nets", "column", "network"),
    [
        (("actor",), "actions", "actor"),
        (("critic",), "rewards", "critic"),
        (("value",), "observations", "value"),
    ],
)
def test_a_loss_that_is_not_finite_is_named(name, nets, column, network):
    data = random_transitions(40)
    getattr(data, column)[:] = np.nan
    hyper = Hyperparameters(batch_size=8, stages=(Stage(nets),))
    trained = create(name, NetworkSpec(11, 3, (16,)), hyper, data, [3])
    with pytest.raises(NonFiniteLoss) as caught:
        trained.run(100)
    assert (caught.value.step, caught.value.network) == (1, network)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Stage(("target",)), "cannot train 'target'; the networks are value, actor"),
        (lambda: Stage(()), "one at least"),
        (lambda: Stage(("actor", "actor")), "each network at most once"),
        (lambda: Stage(steps=0), "a stage has 0 steps"),
        (lambda: Hyperparameters(stages=()), "the last of the stages"),
        (lambda: Hyperparameters(stages=(Stage(steps=3),)), "the last of the stages"),
        (lambda: Hyperparameters(stages=(Stage(), Stage())), "the last of the stages"),
    ],
)
def test_stages_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_engine_that_trains_all_networks_only_says_so_first(monkeypatch):
    from iql_fast.engines import cuda

    class Native:
        def cuda_unavailable_reason(self, device):
            return ""

    monkeypatch.setattr(cuda.extension, "unavailable_reason", lambda: "")
    monkeypatch.setattr(cuda.extension, "load", Native)
    assert cuda.unavailable_reason("fp32") == ""
    all_nets = Hyperparameters(stages=(Stage(steps=4), Stage()))
    assert cuda.unavailable_reason("fp32", None, all_nets) == ""
    assert "--extraction after" in cuda.unavailable_reason("fp32", None, ONLY_POLICY)
    monkeypatch.setattr(
        engines, "available", lambda *_: dict.fromkeys(engines.NAMES, "") | {"cuda": "no"}
    )
    with pytest.raises(UserError, match="'cuda' cannot be used here: no"):
        engines.choose("cuda", hyper=ONLY_POLICY)


# The experiment.


@pytest.fixture
def cached():
    """A tiny halfcheetah-medium, regenerated."""
    path = resolve.regenerated_path(catalogue.get("halfcheetah-medium-v2"), 0)
    path.parent.mkdir(parents=True)
    write_hdf5(path, d4rl_columns(400, 17, 6))


@pytest.mark.slow
@needs_cpu_engine
def test_the_command_trains_both_ways_and_times_them(cached, command, tmp_path):
    task = ("--tasks", "halfcheetah-medium-v2")
    asked = ("--steps", 40, "--log-interval", 20, "--eval-interval", 20, "--eval-episodes", 1)
    small = ("--eval-workers", 1, "--windows", 2, "--window-seconds", 0.01, "--offline")
    for _ in range(2):  # the second time the runs are there
        result = command("experiments", "stages", *task, *asked, *small, "--out", "here")
        assert result.returncode == 0, result.stderr
        assert result.stdout.splitlines()[-1] == "here/stages.png"
    assert "V and Q of both ways are the same bit for bit" in result.stdout
    assert (tmp_path / "here" / "stages.png").read_bytes().startswith(b"\x89PNG")
    (numbers,) = json.loads((tmp_path / "here" / "stages.json").read_text())["tasks"]
    assert numbers["title"] == "halfcheetah-medium-v2 (regenerated)"
    assert numbers["v_and_q_same_bit_for_bit"]
    rates = numbers["steps_per_second"]
    assert [len(windows) for windows in rates.values()] == [2, 2, 2]
    for way in numbers["ways"].values():
        assert way["policy_updates"] == [20, 40]
    runs = tmp_path / "here"
    scores = read_rows(runs / "stages-halfcheetah-medium-v2-after" / "scores.csv")
    assert [row["step"] for row in scores] == ["60", "60", "80", "80"]  # no policy before
    minutes = numbers["ways"]["after"]["minutes"]
    td, policy, joint = (float(np.median(windows)) for windows in rates.values())
    assert minutes == pytest.approx([(40 / td + n / policy) * 2 / 60 for n in (20, 40)])
    assert numbers["policy_share_of_a_joint_step"] == pytest.approx(1 - joint / td)


def test_times_by_hand():
    speeds = {"V and Q alone": [100.0, 200.0, 50.0], "policy alone": [200.0], "joint": [80.0]}
    result = Result("t", 1000, 2, speeds, {}, {}, True, {})
    assert result.share == pytest.approx(0.2)
    assert result.minutes_at("joint", np.array([0, 400])).tolist() == pytest.approx([0, 10 / 60])
    after = result.minutes_at("after", np.array([0, 1000]))
    assert after.tolist() == pytest.approx([20 / 60, 30 / 60])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--windows", 0], "--windows and --window-seconds must be positive"),
        (["--seeds", 0], "--seeds is 0; expected a positive number"),
        (["--eval-episodes", 0], "--eval-episodes is 0"),
    ],
)
def test_bad_input_is_a_paragraph_and_status_2(command, arguments, message):
    result = command("experiments", "stages", *arguments)
    assert result.returncode == 2
    assert message in " ".join(result.stderr.split())
