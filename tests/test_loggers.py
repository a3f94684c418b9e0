"""Loggers of a run: what they are told, and that none of them can harm it."""

from __future__ import annotations

import errno
import json
import os
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from iql_fast import finetune, table, train
from iql_fast.runs import config, folder, loggers
from iql_fast.runs.config import TrainConfig
from iql_fast.runs.folder import RunFolder
from iql_fast.runs.loggers import background, base, mirror
from iql_fast.runs.loggers.base import Begun, Row
from iql_fast.runs.loggers.mirror import Marks
from iql_fast.runs.rows import read_rows
from iql_fast.support.errors import UserError

from .conftest import d4rl_columns, write_hdf5
from .test_train import rows_without_time, same_state

SMALL = [
    *("--task", "hopper-medium-v2", "--hidden", "16", "16", "--batch-size", "16", "--seeds", "2"),
    *("--log-interval", "50", "--checkpoint-interval", "100", "--eval-episodes", "0"),
    *("--steps", "450"),
]
STEPS = [*range(50, 451, 50)]


class Fake:
    """A tracker that keeps what it is given, and does what it is told to instead."""

    settles = 0.0

    def __init__(self, **does) -> None:
        self.does, self.given, self.ends, self.told = does, [], [], None
        self.abandoned = False

    @staticmethod
    def check():
        return None

    def begin(self, run):
        self.told = run
        self.does.get("begin", lambda: None)()
        return Begun("its-name", "somewhere", goes_on=run.before is not None)

    def rows(self, rows):
        self.does.get("rows", lambda _: None)(rows)
        self.given += rows

    def abandon(self):
        self.abandoned = True

    def end(self, summary):
        self.does.get("end", lambda: None)()
        self.ends.append(summary)


@pytest.fixture
def logged(monkeypatch, dataset):
    """Trains with fakes in the places of wandb and mlflow."""
    monkeypatch.setattr(loggers, "check", lambda _: [])
    monkeypatch.setattr(background, "PATIENCE", 3.0)

    def run(out, *arguments, **fakes):
        monkeypatch.setattr(loggers, "get", lambda name: lambda: fakes[name])
        asked = ["--dataset", dataset, "--out", out, "--log", ",".join(fakes), *arguments]
        train.main([*SMALL, *map(str, asked)])
        return out

    return run


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_hdf5(tmp_path_factory.mktemp("data") / "data.hdf5", d4rl_columns())


@pytest.fixture(scope="module")
def plain(dataset, tmp_path_factory):
    """The same run without any tracker."""
    out = tmp_path_factory.mktemp("plain") / "run"
    train.main([*SMALL, "--dataset", str(dataset), "--out", str(out)])
    return out


def assert_unharmed(run, plain):
    assert rows_without_time(run / "metrics.csv") == rows_without_time(plain / "metrics.csv")
    assert same_state(run, plain)
    assert (run / "summary.json").exists()


def expected_rows(run):
    return list(base.rows_of("metrics", read_rows(run / "metrics.csv")))


def test_a_tracker_is_given_what_the_tables_hold(logged, plain, tmp_path, capsys):
    one, other = Fake(), Fake()
    run = logged(tmp_path / "run", wandb=one, mlflow=other)
    assert one.given == other.given == expected_rows(run)
    assert [row.step for row in one.given] == STEPS
    values = one.given[0].values
    first = read_rows(run / "metrics.csv")[:2]
    of_seeds = [float(row["value_loss"]) for row in first]
    assert [values["value_loss/seed0"], values["value_loss/seed1"]] == of_seeds
    assert values["value_loss/mean"] == sum(of_seeds) / 2
    assert not any(name.startswith(("step", "seed/", "seconds")) for name in values)
    (summary,) = one.ends
    assert (summary.table, summary.step) == ("summary", 450)
    assert summary.values["seed_steps_per_second"] > 0
    assert one.told.name == "run"
    settings = one.told.settings
    assert (settings["expectile"], settings["data"]["rows"]) == ([0.7], 390)
    assert "torch" in settings["versions"]
    assert "cql_lagrange" not in settings  # of another method
    assert json.loads((run / "logged.json").read_text()) == {
        name: {"run": "its-name", "metrics": 450} for name in ("wandb", "mlflow")
    }
    assert "log     wandb: somewhere" in capsys.readouterr().out
    assert_unharmed(run, plain)


def test_tensorboard_has_the_names_of_the_others(plain):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(plain / "tensorboard")).Reload()
    expected = expected_rows(plain)
    assert set(events.Tags()["scalars"]) == set(expected[0].values)
    for name in expected[0].values:
        found = [(event.step, event.value) for event in events.Scalars(name)]
        assert found == [(r.step, pytest.approx(r.values[name], rel=1e-6)) for r in expected]


def test_trackers_are_ended_where_tensorboard_cannot_be_written(logged, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(mirror.TensorBoard, "end", fail)
    tracker = Fake()
    with pytest.raises(UserError, match="cannot be written"):
        logged(tmp_path / "run", wandb=tracker)
    assert len(tracker.ends) == 1


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("begin", OSError("no route")),
        ("rows", ValueError("no\nsuch  name")),
        ("end", SystemExit(3)),  # which would end this process in silence
    ],
)
def test_a_tracker_that_raises_is_named_once_and_harms_nothing(
    logged, plain, tmp_path, capsys, where, error
):
    def fail(*_):
        raise error

    broken, whole = Fake(**{where: fail}), Fake()
    run = logged(tmp_path / "run", wandb=broken, mlflow=whole)
    assert_unharmed(run, plain)
    assert whole.given == expected_rows(run)
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("--log wandb failed") == 1
    reason = f"{type(error).__name__} {' '.join(str(error).split())}"
    assert f"--log wandb failed ({reason}); training goes on" in said
    lost = {"begin": 9, "rows": 9, "end": 0}[where]
    assert ("--log wandb: 9 rows did not arrive; metrics.csv" in said) == bool(lost)
    mark = json.loads((run / "logged.json").read_text()).get("wandb", {})
    assert "metrics" not in mark or where == "end"
    assert "--log mlflow" not in said


@pytest.mark.parametrize("where", ["begin", "rows", "end"])
def test_a_tracker_that_hangs_delays_only_the_end_and_not_for_long(
    logged, plain, tmp_path, capsys, monkeypatch, where
):
    monkeypatch.setattr(background, "PATIENCE", 1.0)
    held = threading.Event()
    hanging, whole = Fake(**{where: lambda *_: held.wait(600)}), Fake()
    run = logged(tmp_path / "run", wandb=hanging, mlflow=whole)
    assert time.time() - (run / "summary.json").stat().st_mtime < 100
    held.set()
    assert (hanging.abandoned, whole.abandoned) == (True, False)
    assert_unharmed(run, plain)
    assert whole.given == expected_rows(run)
    said = " ".join(capsys.readouterr().out.split())
    lost = "" if where == "end" else "; 9 rows did not arrive"
    assert f"warning --log wandb: it did not finish in time{lost}" in said


def test_rows_beyond_what_may_wait_are_counted(monkeypatch):
    monkeypatch.setattr(background, "MOST_WAITING", 5)
    held, said, marks = threading.Event(), [], []
    fake = Fake(begin=lambda: held.wait(600))
    told = base.Told("run", None, {}, None)
    handed = background.Background(
        "wandb", fake, told, [], {}, lambda *mark: marks.append(mark), said.append
    )
    begun = time.monotonic()
    handed.rows(Row("metrics", step, {"a": 1.0}) for step in range(1, 9))
    assert time.monotonic() - begun < 60
    held.set()
    handed.end(None)
    handed.wait(time.monotonic() + 10)
    assert [row.step for row in fake.given] == [1, 2, 3, 4, 5]
    (line,) = [line for line in said if line.startswith("warning")]
    assert "3 rows did not arrive" in line
    # What is missing is not marked as having arrived: a resumed run sends it again.
    assert all(arrived == {} for _, arrived in marks)


def test_what_failed_once_is_sent_by_the_resumed_run(logged, tmp_path, dataset, monkeypatch):
    calls = []

    def fails_at_first(_):
        calls.append(1)
        if len(calls) == 1:
            raise TimeoutError

    monkeypatch.setattr(background, "MOST_AT_ONCE", 1)
    first = Fake(rows=fails_at_first)
    run = logged(tmp_path / "run", wandb=first)
    assert [row.step for row in first.given] == STEPS[1:]
    second = Fake()
    monkeypatch.setattr(loggers, "get", lambda _: lambda: second)
    train.main(["--resume", str(run)])
    assert second.told.before == "its-name"
    assert [row.step for row in second.given] == STEPS


def test_a_resumed_run_goes_on_in_its_tracker(logged, plain, tmp_path, monkeypatch):
    """The rows of before are not sent again, though they are trained again."""
    first = Fake()
    run = logged(tmp_path / "run", wandb=first)
    # As if it had been killed at 450 before its checkpoint there.
    (run / "summary.json").unlink()
    for file in (run / "checkpoint" / "000000450").iterdir():
        file.unlink()
    (run / "checkpoint" / "000000450").rmdir()
    mark = json.loads((run / "logged.json").read_text())
    mark["wandb"]["metrics"] = 400
    (run / "logged.json").write_text(json.dumps(mark))
    second, late = Fake(), Fake()
    monkeypatch.setattr(loggers, "get", lambda name: lambda: {"wandb": second}.get(name, late))
    train.main(["--resume", str(run), "--log", "wandb", "trackio"])
    assert second.told.before == "its-name"
    assert [row.step for row in second.given] == [450]
    assert late.told.before is None
    assert late.given == expected_rows(run)  # one that comes later has the whole run
    assert_unharmed(run, plain)
    third = Fake()
    monkeypatch.setattr(loggers, "get", lambda _: lambda: third)
    train.main(["--resume", str(run), "--log"])
    assert third.told is None


def test_a_run_that_was_removed_from_its_tracker_is_sent_whole(logged, tmp_path, monkeypatch):
    run = logged(tmp_path / "run", wandb=Fake())

    class Forgetful(Fake):
        def begin(self, run):
            super().begin(run)
            return Begun("another", "somewhere", goes_on=False)

    again = Forgetful()
    monkeypatch.setattr(loggers, "get", lambda _: lambda: again)
    train.main(["--resume", str(run)])
    assert again.given == expected_rows(run)
    mark = json.loads((run / "logged.json").read_text())
    assert mark == {"wandb": {"run": "another", "metrics": 450}}


@pytest.mark.parametrize("content", ["", "[]", '{"wandb": 1}', '{"wandb": {"run": 3}}'])
def test_a_damaged_mark_begins_anew(tmp_path, content):
    file = tmp_path / "logged.json"
    file.write_text(content)
    marks = Marks(file)
    assert marks.of("wandb") == (None, {})
    marks.marking("wandb")("its-name", {"metrics": 5})
    assert Marks(file).of("wandb") == ("its-name", {"metrics": 5})


def test_a_run_that_is_stopped_tells_its_tracker(logged, tmp_path, monkeypatch):
    from iql_fast.engines.cpu import CpuEngine

    fake, trained = Fake(), CpuEngine.run

    def run(self, steps):
        if self.step >= 200:
            raise KeyboardInterrupt
        return trained(self, steps)

    monkeypatch.setattr(CpuEngine, "run", run)
    with pytest.raises(KeyboardInterrupt):
        logged(tmp_path / "run", wandb=fake)
    assert fake.ends == [None]
    assert [row.step for row in fake.given] == [50, 100, 150, 200]


def test_a_run_that_is_replaced_leaves_no_mark(tmp_path):
    run = folder.create(tmp_path / "run", overwrite=False, needed_bytes=0)
    run.config.write_text("{}")
    run.logged.write_text("{}")
    folder.create(run.path, overwrite=True, needed_bytes=0)
    assert not run.logged.exists()


def test_values_of_rows():
    nan = float("nan")
    rows = [
        {"step": 5, "seed": 3, "a": 1.0, "b": nan, "seconds": 1},
        {"step": 5, "seed": 4, "a": 2.0, "b": nan, "seconds": 1},
        {"step": 9, "seed": 3, "a": 4.0, "b": 1.0, "seconds": 1},
    ]
    assert list(base.rows_of("metrics", rows)) == [
        Row("metrics", 5, {"a/seed3": 1.0, "a/seed4": 2.0, "a/mean": 1.5}),
        Row("metrics", 9, {"a/seed3": 4.0, "b/seed3": 1.0}),
    ]
    scores = [{"step": 5, "seed": 0, "score": 7.0, "return": 8.0, "return_std": 1, "episodes": 2}]
    assert next(base.rows_of("scores", scores)).values == {"score/seed0": 7.0, "return/seed0": 8.0}
    episodes = [{"step": 5, "seed": 0, "return": float(x), "length": 3} for x in (1, 2)]
    assert [row.values for row in base.rows_of("episodes", episodes)] == [
        {"episode_return/seed0": 1.0},
        {"episode_return/seed0": 2.0},
    ]


def test_results_and_flat_settings():
    kind = {"per_seed": {"0": 1.0, "1": 3.0}, "mean": 2.0, "std": 1.0}
    told = {"training_steps": 9, "seed_steps_per_second": 5, "scores": {"final": kind}}
    found = base.results(told)
    assert (found.table, found.step) == ("summary", 9)
    assert found.values == {
        "seed_steps_per_second": 5.0,
        "final_score/mean": 2.0,
        "final_score/std": 1.0,
        "final_score/seed0": 1.0,
        "final_score/seed1": 3.0,
    }
    assert base.flat({"a": 1, "b": {"c": {"d": 2}}}) == {"a": 1, "b.c.d": 2}


def parsed(*words):
    asked = ["--task", "hopper-medium-v2", *words]
    return config.completed(config.parse(asked)).records.log


def test_names_on_the_command_line_and_in_yaml(tmp_path):
    assert parsed() == parsed("--log") == ()
    assert parsed("--log", "wandb,mlflow") == parsed("--log", "wandb", "mlflow")
    assert parsed("--log", "trackio, wandb", "trackio") == ("trackio", "wandb")
    file = tmp_path / "options.yaml"
    file.write_text("log: wandb,trackio\n")
    assert parsed("--config", str(file)) == ("wandb", "trackio")
    file.write_text("log: [wandb, 3]\n")
    with pytest.raises(UserError, match=r"log is .*; expected names"):
        parsed("--config", str(file))
    with pytest.raises(UserError, match="--log is 'comet'; expected of: wandb, mlflow, trackio"):
        parsed("--log", "comet")
    with pytest.raises(UserError, match="--log is ''; expected of"):
        parsed("--log", "wandb,")


def test_it_changes_no_result_and_may_differ_on_resume(plain):
    assert "log" in config.FREE
    assert "log" in finetune.CHANGES
    assert config.flat(TrainConfig())["log"] == []
    stored = RunFolder(plain).read_config()["options"]
    assert stored["log"] == []
    config.check_same({**stored, "log": ["wandb"]}, stored, config.FREE)


def test_a_missing_package_is_an_error_before_any_work(monkeypatch, dataset, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)
    asked = ["--dataset", str(dataset), "--out", str(tmp_path / "run"), "--log", "wandb"]
    with pytest.raises(UserError, match=r"--log wandb needs a package .*'iql-fast\[log\]'"):
        train.main([*SMALL, *asked])
    # A folder of that name, as the package leaves behind, is none.
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(__file__=None))
    with pytest.raises(UserError, match="it is not installed"):
        train.main([*SMALL, *asked])
    assert list(tmp_path.iterdir()) == []
    out = tmp_path / "table"
    with pytest.raises(UserError, match=r"--log wandb needs a package"):
        table.main(["--tasks", "hopper-medium-v2", "--log", "wandb", "--out", str(out)])
    assert not out.exists() or list(out.iterdir()) == []


def test_a_table_hands_it_to_its_runs():
    options = table.Options(tasks=("hopper-medium-v2",), log=("wandb,trackio",))
    (run,) = table.runs_of(options).values()
    assert run.records.log == ("wandb", "trackio")
