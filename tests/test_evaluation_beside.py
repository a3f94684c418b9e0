"""Episodes that run while training goes on change nothing but the time that a run takes."""

import signal
import subprocess
import sys

import numpy as np
import pytest

from iql_fast import train
from iql_fast.engines.cpu import CpuEngine
from iql_fast.environments import episodes
from iql_fast.environments.episodes import EvaluationFailed, arrangement
from iql_fast.runs import checkpoint, launch
from iql_fast.runs.loop import AHEAD
from iql_fast.runs.rows import read_rows
from iql_fast.support.errors import NonFiniteLoss

from .conftest import d4rl_columns, write_hdf5
from .test_train import SLOW, SMALL, answer_ctrl_c, rows_without_time, same_state

STEPS = 650
ARGUMENTS = [*SMALL, "--seeds", "2", "--steps", str(STEPS), "--eval-episodes", "2"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_hdf5(tmp_path_factory.mktemp("data") / "data.hdf5", d4rl_columns())


@pytest.fixture(scope="module")
def waited(dataset, tmp_path_factory):
    """A run whose training waits for every evaluation."""
    out = tmp_path_factory.mktemp("waited") / "run"
    command = [*ARGUMENTS, "--dataset", dataset, "--out", out, "--eval-beside", "never"]
    train.main([str(argument) for argument in command])
    return out


def assert_same_run(a, b):
    assert rows_without_time(a / "metrics.csv") == rows_without_time(b / "metrics.csv")
    assert read_rows(a / "scores.csv") == read_rows(b / "scores.csv")
    assert checkpoint.steps(a / "checkpoint") == checkpoint.steps(b / "checkpoint")
    assert same_state(a, b)


def test_it_changes_nothing(waited, dataset, tmp_path, capsys):
    out = tmp_path / "run"
    command = [*ARGUMENTS, "--dataset", dataset, "--out", out, "--eval-beside", "always"]
    train.main([str(argument) for argument in command])
    assert_same_run(out, waited)
    scores = [line for line in capsys.readouterr().out.splitlines() if "  score " in line]
    assert [line.split()[1] for line in scores] == ["200", "400", "600", "650"]


class Held:
    """An evaluation whose episodes end when the test says so."""

    def __init__(self, step, returns, may_end):
        self.step, self._returns, self.may_end, self.waited_for = step, returns, may_end, False

    def done(self):
        return self.may_end(self)

    def returns(self):
        self.waited_for = not self.done()
        return self._returns

    def successes(self):
        return np.zeros_like(self._returns)


class HeldEvaluator(episodes.Evaluator):
    """Gives out ``Held`` evaluations, whose returns are their steps."""

    may_end = staticmethod(lambda held: False)

    def start(self, policies, keys, step, episodes):
        self.given.append(Held(step, np.full((len(policies), episodes), float(step)), self.may_end))
        return self.given[-1]


@pytest.fixture
def held(monkeypatch):
    monkeypatch.setattr(launch, "Evaluator", HeldEvaluator)
    monkeypatch.setattr(HeldEvaluator, "given", [], raising=False)
    return HeldEvaluator


def run(dataset, out, *more):
    command = [*ARGUMENTS, "--dataset", dataset, "--out", out, "--eval-beside", "always", *more]
    train.main([str(argument) for argument in command])


def test_training_goes_on_and_waits_when_it_is_too_far_ahead(dataset, tmp_path, held, monkeypatch):
    out = tmp_path / "run"
    seen = []

    def may_end(asked):
        rows = read_rows(out / "metrics.csv")
        seen.append((asked.step, int(rows[-1]["step"]), checkpoint.steps(out / "checkpoint")))
        return False

    monkeypatch.setattr(held, "may_end", staticmethod(may_end))
    run(dataset, out)
    assert [one.step for one in held.given] == [200, 400, 600, 650]
    assert all(one.waited_for for one in held.given)
    # While the evaluation at 200 was open, training went on until AHEAD more were; no checkpoint
    # of a later step was written, nor its own, which was due.
    first = [(trained, saved) for asked, trained, saved in seen if asked == 200]
    assert max(trained for trained, _ in first) == 200 * (AHEAD + 1)
    assert all(max(saved) == 100 for _, saved in first)
    assert [int(row["step"]) for row in read_rows(out / "scores.csv")[::2]] == [200, 400, 600, 650]
    assert checkpoint.steps(out / "checkpoint") == [600, 650]


@pytest.mark.parametrize("failure", [KeyboardInterrupt, EvaluationFailed("gone.")])
def test_an_interrupted_run_goes_on_from_before_the_open_evaluation(
    waited, dataset, tmp_path, monkeypatch, failure
):
    out = tmp_path / "run"
    with monkeypatch.context() as patched:

        class Interrupted(HeldEvaluator):
            def start(self, policies, keys, step, episodes):
                if step == 600:
                    raise failure
                return super().start(policies, keys, step, episodes)

        patched.setattr(Interrupted, "given", [], raising=False)
        patched.setattr(launch, "Evaluator", Interrupted)
        with pytest.raises((KeyboardInterrupt, EvaluationFailed)):
            run(dataset, out)
    assert not read_rows(out / "scores.csv")  # none of the evaluations at 200 and 400 has ended
    assert max(checkpoint.steps(out / "checkpoint")) < 200
    train.main(["--resume", str(out)])
    assert_same_run(out, waited)


def test_a_loss_that_is_not_finite_comes_after_the_scores_before_it(
    dataset, tmp_path, held, monkeypatch
):
    trained = CpuEngine.run

    def fails_late(engine, steps):
        if engine.step == 100:
            raise NonFiniteLoss(101, 0, "value", {})
        return trained(engine, steps)

    monkeypatch.setattr(CpuEngine, "run", fails_late)
    with pytest.raises(SystemExit):
        run(dataset, tmp_path / "run", "--eval-interval", "50")
    assert [row["step"] for row in read_rows(tmp_path / "run" / "scores.csv")[::2]] == ["50", "100"]
    assert checkpoint.steps(tmp_path / "run" / "checkpoint") == [100]


@pytest.mark.slow
def test_killed_and_resumed_it_ends_the_same(waited, dataset, tmp_path):
    out = tmp_path / "cut"
    command = [*ARGUMENTS, "--dataset", dataset, "--out", out, "--eval-beside", "always"]
    process = subprocess.Popen(
        [sys.executable, "-m", "iql_fast.train", *map(str, command)], stdout=subprocess.DEVNULL
    )
    while not (out / "metrics.csv").exists() or len(read_rows(out / "metrics.csv")) < 10:
        assert process.poll() is None
    process.kill()
    process.wait()
    train.main(["--resume", str(out)])
    assert_same_run(out, waited)


@pytest.mark.slow
def test_ctrl_c_does_not_wait_for_open_evaluations(dataset, tmp_path):
    out = tmp_path / "run"
    command = [*SMALL, "--dataset", dataset, "--out", out, "--steps", 5000, *SLOW]
    command += ["--eval-beside", "always", "--seeds", 2]
    process = subprocess.Popen(
        [sys.executable, "-m", "iql_fast.train", *map(str, command)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=answer_ctrl_c,
    )
    while not (out / "metrics.csv").exists() or len(read_rows(out / "metrics.csv")) < 4:
        assert process.poll() is None
    scored = len(read_rows(out / "scores.csv"))
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    (saved,) = checkpoint.steps(out / "checkpoint")
    assert saved <= 50 * (1 + scored // 2)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("auto", False, 0, None, 16), (15, True)),  # on a device
        (("auto", False, 0, None, 1), (1, True)),
        (("auto", True, 0, None, 16), (16, False)),  # the engine has all cores
        (("auto", True, 4, None, 16), (16, False)),
        (("auto", True, 4, 12, 16), (12, True)),
        (("auto", True, 4, 13, 16), (13, False)),
        (("always", True, 0, None, 16), (16, True)),
        (("never", False, 0, None, 16), (16, False)),
    ],
)
def test_by_default_episodes_take_no_core_from_training(arguments, expected):
    assert arrangement(*arguments) == expected
