"""Table 1: what it says, and that an interrupted one is finished by the same command."""

import csv
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from iql_fast import table
from iql_fast.data import resolve
from iql_fast.runs import checkpoint, config, ensure, statistics, table1
from iql_fast.runs.config import TrainConfig
from iql_fast.runs.folder import RunFolder
from iql_fast.runs.rows import read_rows
from iql_fast.support.errors import UserError
from iql_fast.tasks import catalogue, published

from .conftest import d4rl_columns, write_hdf5

SMALL = ("--eval-episodes", 1, "--eval-workers", 1, "--threads", 1, "--offline")


@pytest.fixture
def cached():
    """hopper-medium as D4RL's own file, halfcheetah-medium as regenerated, both tiny."""
    hopper = resolve.downloaded_path(catalogue.get("hopper-medium-v2"))
    cheetah = resolve.regenerated_path(catalogue.get("halfcheetah-medium-v2"), 0)
    for path, sizes in ((hopper, (11, 3)), (cheetah, (17, 6))):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_hdf5(path, d4rl_columns(400, *sizes))


@pytest.mark.slow
def test_two_tasks_make_a_table(cached, command, tmp_path):
    asked = ("--tasks", "halfcheetah-medium-v2", "hopper-medium-v2", "--seeds", 2, "--steps", 30)
    result = command("table", *asked, *SMALL, "--out", "here")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "here/table.png"
    here = tmp_path / "here"
    assert (here / "table.png").read_bytes().startswith(b"\x89PNG")
    text = (here / "table.md").read_text()
    assert text.strip() in result.stdout
    assert "| halfcheetah-medium-v2 (regenerated) |" in text
    assert "| hopper-medium-v2 |" in text
    assert "| total of 2 (regenerated) |" in text
    assert "| antmaze-large-play-v0 | - | 0.0 |" in text  # not trained, published all the same

    summaries = {
        name: json.loads((here / name / "summary.json").read_text()) for name in asked[1:3]
    }
    final = {
        name: list(summary["scores"]["final"]["per_seed"].values())
        for name, summary in summaries.items()
    }
    lines = {row["task"]: row for row in csv.DictReader((here / "table.csv").open())}
    assert list(lines) == [
        "halfcheetah-medium-v2 (regenerated)", "hopper-medium-v2", "total of 2 (regenerated)"
    ]  # fmt: skip
    for label, name in zip(lines, asked[1:3], strict=False):
        assert float(lines[label]["mean"]) == pytest.approx(np.mean(final[name]), abs=1e-3)
        assert float(lines[label]["std"]) == pytest.approx(np.std(final[name]), abs=1e-3)
        paper = published.table1()[name]
        assert float(lines[label]["IQL (paper)"]) == paper["IQL"]
        assert float(lines[label]["BC (paper)"]) == paper["BC"]
    both = np.sum(list(final.values()), axis=0)
    assert float(lines["total of 2 (regenerated)"]["std"]) == pytest.approx(both.std(), abs=1e-3)
    assert [row["regenerated"] for row in lines.values()] == ["1", "0", "1"]

    # Again: nothing is trained, nothing changes.
    before = (here / "hopper-medium-v2" / "summary.json").stat().st_mtime_ns
    again = command("table", *asked, *SMALL, "--out", "here")
    assert again.returncode == 0
    assert "steps/s" not in again.stdout
    assert (here / "hopper-medium-v2" / "summary.json").stat().st_mtime_ns == before
    # Other settings do not pass for these.
    other = command("table", *asked[:-1], 31, *SMALL, "--out", "here")
    assert other.returncode == 2
    assert "holds a run with other options" in " ".join(other.stderr.split())


@pytest.mark.slow
def test_a_killed_table_is_finished_by_the_same_command(cached, tmp_path):
    asked = [
        *("--tasks", "hopper-medium-v2", "halfcheetah-medium-v2", "--seeds", 1, "--steps", 250),
        *("--log-interval", 50, "--checkpoint-interval", 50, "--eval-interval", 100, *SMALL),
    ]
    cut = tmp_path / "cut"
    started = [sys.executable, "-m", "iql_fast.table", *map(str, asked), "--out", str(cut)]
    for name, past in (("hopper-medium-v2", 50), ("halfcheetah-medium-v2", 100)):
        process = subprocess.Popen(started, stdout=subprocess.DEVNULL, cwd=tmp_path)
        while past not in checkpoint.steps(cut / name / "checkpoint"):
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (cut / name / "summary.json").exists()
    assert subprocess.run(started, cwd=tmp_path, stdout=subprocess.DEVNULL).returncode == 0
    table.main([*map(str, asked), "--out", str(tmp_path / "whole")])
    for name in ("hopper-medium-v2", "halfcheetah-medium-v2"):
        scores = [read_rows(tmp_path / run / name / "scores.csv") for run in ("cut", "whole")]
        assert scores[0] == scores[1]
    lines = [
        [line[:3] for line in csv.reader((tmp_path / run / "table.csv").open())]
        for run in ("cut", "whole")
    ]
    assert lines[0] == lines[1]


def options(**changes):
    asked = TrainConfig(task="hopper-medium-v2", steps=20, offline=True, threads=1)
    return config.completed(replace(asked, **changes))


def test_a_run_is_begun_continued_or_found(cached, tmp_path, monkeypatch):
    path = tmp_path / "run"
    quick = replace(options().evaluation, eval_episodes=0)
    wanted = options(evaluation=quick)
    assert ensure.check(wanted, path) == "missing"
    path.mkdir()
    (path / ".config.json.123.partial").write_text("{")  # killed while it was written
    assert ensure.check(wanted, path) == "missing"
    assert ensure.finished(wanted, path)["steps"] == 20
    assert ensure.check(wanted, path) == "finished"
    RunFolder(path).summary.unlink()
    assert ensure.check(wanted, path) == "begun"
    assert ensure.finished(wanted, path)["steps"] == 20
    with pytest.raises(UserError, match=r"other options.*--seeds 2 \(the run has 1\)"):
        ensure.check(options(evaluation=quick, seeds=2), path)
    # What does not change the result may differ.
    assert ensure.check(options(evaluation=quick, threads=2), path) == "finished"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="not the folder of a run"):
        ensure.check(wanted, tmp_path / "other")
    assert (tmp_path / "other" / "thesis.tex").exists()


def test_the_whole_of_locomotion_has_the_papers_total():
    names = table1.GROUPS["locomotion-v2 total"]
    assert len(names) == 9
    rows = [
        table1.Row(name, name, (float(i), float(i + 1)), (1.0, 0.5), table1.published_for(name))
        for i, name in enumerate(names)
    ]
    (whole,) = table1.totals(rows)
    assert whole.label == "locomotion-v2 total"
    assert (whole.mean, whole.std) == (pytest.approx(36 + 4.5), pytest.approx(4.5))
    assert whole.published["IQL (paper)"] == pytest.approx(692.4)
    assert "IQL (JAX-CORL)" not in whole.published  # it reports only some of the tasks
    lines = table1.markdown({"IQL": rows}, "title", "note").splitlines()
    assert sum("locomotion-v2 total" in line for line in lines) == 1
    assert lines[-1].startswith("| minutes a task, all seeds (training alone) | 1.5 (1.0) | 10 |")


def test_every_group_has_its_total():
    assert [len(group) for group in table1.GROUPS.values()] == [9, 6, 3, 8]
    rows = [
        table1.Row(name, name, (50.0,), (1.0, 0.5), table1.published_for(name))
        for group in table1.GROUPS.values()
        for name in group
    ]
    totals = table1.totals(rows)
    assert [r.task for r in totals] == list(table1.GROUPS)
    assert [r.mean for r in totals] == [450, 300, 150, 400]
    paper = published.table1()
    for r in totals:
        assert r.published["IQL (paper)"] == pytest.approx(paper[r.task]["IQL"])
    assert [r.label for r in table1.totals(rows[:3])] == ["total of 3"]


def kept(tmp_path, **given):
    """The tasks of a table that are trained."""
    asked = table.Options(out=tmp_path / "table", offline=True, **given)
    return [name for name, _ in table.with_data(table.runs_of(asked), asked)]


def test_tasks_without_data_are_left_out_and_named(cached, tmp_path, capsys):
    names = kept(tmp_path)
    assert "hopper-medium-v2" in names
    assert "pen-human-v0" not in names
    said = capsys.readouterr().out
    assert "pen-human-v0 is left out: D4RL's file is not in the cache" in said
    # Those that are asked for by name as well.
    assert kept(tmp_path, tasks=("door-human-v0", "hopper-medium-v2")) == ["hopper-medium-v2"]
    with pytest.raises(UserError, match="no data for any of the tasks"):
        kept(tmp_path, tasks=("door-human-v0",))


def test_a_finished_run_needs_no_data(cached, tmp_path, capsys):
    wanted = ("hopper-medium-v2", "pen-human-v0")
    run = tmp_path / "table" / "pen-human-v0"
    run.mkdir(parents=True)
    asked = table.Options(out=tmp_path / "table", offline=True, tasks=wanted)
    options = config.flat(table.runs_of(asked)["pen-human-v0", "iql"])
    record = {"options": options, "engine": "cpu", "scoring": {"environment": None}}
    record["scoring"]["reference"] = None
    record["data"] = {"title": "pen", "origin": "d4rl", "return_mean": 1.0}
    (run / "config.json").write_text(json.dumps(record))
    assert kept(tmp_path, tasks=wanted) == ["hopper-medium-v2"]
    (run / "summary.json").write_text("{}")
    capsys.readouterr()
    assert kept(tmp_path, tasks=wanted) == list(wanted)
    assert capsys.readouterr().out == ""


def test_the_published_table_alone(command, tmp_path):
    result = command("table", "--published")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[4].startswith("| | BC (paper) | 10%BC (paper) |")
    assert "| hopper-medium-v2 | 52.9 | 56.9 |" in result.stdout
    assert "| locomotion-v2 total | 466.7 |" in result.stdout
    assert "| runtime minutes | 10 | 10 | - | 960 |" in result.stdout
    assert len({line.count("|") for line in lines[4:] if line}) == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks", "hoper-medium-v2"], "nearest names: hopper-medium-v2"),
        (["--steps", 0], "--steps is 0"),
        (["--eval-episodes", 0], "--eval-episodes is 0"),
        (["--engine", "cuda"], "cannot be used here"),
        (["--online-steps", 5], "--online-steps is of table 2: add --fine-tuning"),
        (["--out", "/proc/here"], "/proc/here"),
    ],
)
def test_bad_input_is_a_paragraph_and_status_2(command, arguments, message):
    result = command("table", *arguments)
    assert result.returncode == 2
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr


def test_several_methods_stand_side_by_side():
    names = ("hopper-medium-v2", "walker2d-medium-v2")
    ours = {
        title: [
            table1.Row(name, name, (base + i, base + i + 2), (1.0, 0.5), table1.published_for(name))
            for i, name in enumerate(names)
        ]
        for title, base in (("IQL", 50.0), ("TD3+BC", 60.0))
    }
    lines = table1.markdown(ours, "title", "note").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[4:]]
    assert cells[0][1:3] == ["IQL (iql_fast)", "TD3+BC (iql_fast)"]
    by_label = {row[0]: row[1:3] for row in cells}
    assert by_label["hopper-medium-v2"] == ["51.0 +- 1.0", "61.0 +- 1.0"]
    assert by_label["total of 2"] == ["103.0 +- 2.0", "123.0 +- 2.0"]
    assert by_label["interquartile mean (95% interval)"] == [
        "51.5 (50.5 to 52.5)",
        "61.5 (60.5 to 62.5)",
    ]


def test_the_interquartile_mean_and_its_interval_are_rliables():
    """What rliable 1.2.0 gives for these, with 20,000 samples of its bootstrap; other seeds of ours
    move an end of the interval by up to 0.06."""
    tasks = [
        [66.9, 78.1, 67.3, 45.3, 60.8],
        [76.4, 68.9, 65.9, 56.7, 54.2],
        [66.6, 49.3, 60.6, 50.4, 44.4],
        [33.9, 71.6, 70.9, 72.0, 54.9],
    ]
    assert statistics.interquartile_mean(np.ravel(tasks)) == pytest.approx(62.28)
    assert statistics.interval(tasks) == pytest.approx((55.88, 67.35), abs=0.1)
