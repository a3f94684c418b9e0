"""``python -m iql_fast.finetune``: what it asks for, and what a run of both stages leaves."""

from __future__ import annotations

import json

import pytest

from iql_fast import finetune
from iql_fast.runs import checkpoint
from iql_fast.runs.launch import check_learner
from iql_fast.runs.rows import read_rows
from iql_fast.runs.schedule import Schedule
from iql_fast.support.errors import UserError

from .test_train import SMALL, finished

__all__ = ["finished"]  # the fixture

ONLINE = ["--eval-workers", "1", "--threads", "1"]


def refusal(*arguments):
    with pytest.raises(UserError) as caught:
        finetune.asked_for(list(map(str, arguments)))
    return str(caught.value)


def test_the_authors_settings():
    asked, run = finetune.asked_for(["--task", "antmaze-umaze-v2"])
    assert run is None
    assert (asked.updates, asked.online.online_steps) == (1_000_000, 1_000_000)
    assert (asked.seam, asked.total_steps) == (1_000_000, 2_000_000)
    assert asked.online.capacity == 2_000_000
    assert asked.schedule_steps == 0  # the policy's rate is constant
    asked, _ = finetune.asked_for(
        ["--task=hopper-medium-v2", "--offline-steps=5000", "--online-steps", "7000"]
    )
    assert (asked.seam, asked.total_steps) == (5000, 12_000)


@pytest.mark.parametrize(("offline", "online"), [(230, 170), (200, 200), (50, 7), (30, 990)])
def test_intervals_end_at_the_seam_and_at_the_end(offline, online):
    asked, _ = finetune.asked_for(
        [
            *("--task=hopper-medium-v2", "--log-interval=50", "--eval-interval=100"),
            *("--checkpoint-interval=100", f"--offline-steps={offline}"),
            f"--online-steps={online}",
        ]
    )
    total, schedule = offline + online, Schedule(asked, True)
    expected = sorted({*range(50, total, 50), offline, total})
    assert list(schedule.ends(total)) == expected
    assert [step for step in expected if schedule.evaluates(step)] == sorted(
        {*range(100, total, 100), offline, total}
    )


def test_what_cannot_be_fine_tuned():
    task = ["--task", "hopper-medium-v2"]
    assert "these are: iql, awac, cql" in refusal(*task, "--method", "td3_bc")
    assert "--actor-schedule constant" in refusal(*task, "--actor-schedule", "cosine")
    assert "--extraction after" in refusal(*task, "--extraction", "after")
    assert "--deterministic-policy" in refusal(*task, "--deterministic-policy")
    assert "--online-steps is 0" in refusal(*task, "--online-steps", 0)
    assert "--capacity is 0" in refusal(*task, "--capacity", 0)
    assert "--env-steps-per-update is 0" in refusal(*task, "--env-steps-per-update", 0)
    assert "--envs is 0" in refusal(*task, "--envs", 0)
    assert "--run needs a value" in refusal("--run")


def test_a_run_that_it_does_not_go_on_from(finished, tmp_path):
    run = finished[0]
    assert "is not the folder of a run" in refusal("--run", tmp_path)
    assert "--temperature" in refusal("--run", run, "--temperature", 1)
    assert "--steps" in refusal("--run", run, "--offline-steps", 300)
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / "config.json").write_text((run / "config.json").read_text())
    assert "no finished run" in refusal("--run", unfinished)


def test_help_explains(capsys):
    with pytest.raises(SystemExit):
        finetune.asked_for(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for word in ("--run RUN", "--offline-steps", "--online-steps", "--capacity"):
        assert word in shown


def test_an_engine_that_trains_on_a_dataset_alone():
    asked, _ = finetune.asked_for(["--task", "hopper-medium-v2", "--engine", "graph"])
    with pytest.raises(UserError, match="--engine cuda, cpu or reference"):
        check_learner(asked, "graph")


def test_a_replay_that_the_dataset_does_not_fit_into(command, finished):
    result = command(
        *("finetune", *SMALL, "--dataset", finished[1], "--offline-steps", 20),
        *("--online-steps", 10, "--capacity", 50),
    )
    assert result.returncode == 2
    assert "--capacity is 50; the dataset alone has" in result.stderr


@pytest.mark.slow
def test_both_stages_in_one_folder(command, finished, tmp_path):
    out = tmp_path / "both"
    result = command(
        *("finetune", *SMALL, "--dataset", finished[1], "--seeds", 2, "--out", out, *ONLINE),
        *("--offline-steps", 230, "--online-steps", 170, "--env-steps-per-update", 2),
    )
    assert result.returncode == 0, result.stderr
    assert "before -> after 170 steps in the environment" in " ".join(result.stdout.split())
    steps = [int(row["step"]) for row in read_rows(out / "metrics.csv")][::2]
    assert steps == [50, 100, 150, 200, 230, 250, 300, 350, 400]
    scored = [int(row["step"]) for row in read_rows(out / "scores.csv")][::2]
    assert scored == [200, 230, 400]
    summary = json.loads((out / "summary.json").read_text())
    assert summary["online"]["before"]["per_seed"].keys() == {"0", "1"}
    assert not summary["warnings"]
    episodes = read_rows(out / "episodes.csv")
    assert {row["seed"] for row in episodes} == {"0", "1"}
    assert all(230 < int(row["step"]) <= 400 and float(row["return"]) > 0 for row in episodes)
    acted = [sum(int(r["length"]) for r in episodes if r["seed"] == seed) for seed in "01"]
    assert all(0 < steps <= 340 for steps in acted)
    last = checkpoint.load(out / "checkpoint")
    assert last.state["online.met_rows"] == 340
    assert sum(int(p.name[13:25]) - int(p.name[:12]) for p in (out / "met").iterdir()) == 340
    assert (out / "curves.png").exists()
    for what in (
        ["evaluate", "--run", out, "--episodes", 1],
        ["export", out, "--to", "safetensors"],
    ):
        result = command(*what)
        assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_going_on_from_a_run_leaves_it_as_it_is(command, finished, tmp_path):
    run, out = finished[0], tmp_path / "on"
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    result = command("finetune", "--run", run, "--online-steps", 75, "--out", out, *ONLINE)
    assert result.returncode == 0, result.stderr
    assert "goes on from step 425" in " ".join(result.stdout.split())
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before
    own = read_rows(run / "metrics.csv")
    assert read_rows(out / "metrics.csv")[: len(own)] == own
    assert checkpoint.steps(out / "checkpoint")[-1] == 500
    record = json.loads((out / "config.json").read_text())
    assert record["goes_on_from"] == {"path": str(run), "step": 425}
    summary = json.loads((out / "summary.json").read_text())
    scores = json.loads((run / "summary.json").read_text())["scores"]["last"]["per_seed"]
    assert summary["online"]["before"]["per_seed"] == scores
    again = command("finetune", "--run", out, "--online-steps", 75)
    assert "was fine-tuned already" in again.stderr
