"""The training command as a user runs it: runs, resumes, and errors before any work starts."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from iql_fast import train
from iql_fast.environments.episodes import SIDE_BY_SIDE, Evaluator, groups, run_episodes
from iql_fast.policies.acting import with_units
from iql_fast.policies.policy import Policy, policy_from_state
from iql_fast.policies.units import Units
from iql_fast.runs import checkpoint, folder, saved
from iql_fast.runs.checkpoint import Checkpoint
from iql_fast.runs.rows import StepTable, read_rows
from iql_fast.runs.summary import summarise
from iql_fast.support.errors import UserError

from .conftest import d4rl_columns, write_hdf5, write_minari

SMALL = [
    *("--task", "hopper-medium-v2", "--hidden", "16", "16", "--batch-size", "16"),
    *("--log-interval", "50", "--eval-interval", "200", "--checkpoint-interval", "100"),
    *("--eval-episodes", "1"),
]


def rows_without_time(path):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in read_rows(path)]


def last_step(table: Path) -> int:
    rows = read_rows(table)
    return int(rows[-1]["step"]) if rows else 0


def same_state(a: Path, b: Path) -> bool:
    left, right = checkpoint.load(a / "checkpoint"), checkpoint.load(b / "checkpoint")
    assert left.step == right.step
    return all(torch.equal(tensor, right.state[name]) for name, tensor in left.state.items())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A small run of two seeds, done once for all tests that look at one."""
    place = tmp_path_factory.mktemp("finished")
    dataset = write_hdf5(place / "data.hdf5", d4rl_columns())
    arguments = ["--dataset", dataset, "--out", place / "run", "--steps", 425, "--seeds", 2]
    result = subprocess.run(
        [sys.executable, "-m", "iql_fast.train", *SMALL, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=place,
    )
    assert result.returncode == 0, result.stderr
    return place / "run", dataset, result.stdout


def test_a_run_leaves_what_it_promises(finished):
    run, _, output = finished
    rows = read_rows(run / "metrics.csv")
    expected = [(step, seed) for step in [*range(50, 401, 50), 425] for seed in (0, 1)]
    assert [(int(row["step"]), int(row["seed"])) for row in rows] == expected
    assert all(np.isfinite(float(value)) for row in rows for value in row.values())
    assert float(rows[-1]["actor_lr"]) == 0.0  # the cosine's end
    scores = read_rows(run / "scores.csv")
    assert [int(row["step"]) for row in scores] == [200, 200, 400, 400, 425, 425]
    assert checkpoint.steps(run / "checkpoint") == [400, 425]
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list((run / "tensorboard").iterdir())
    summary = json.loads((run / "summary.json").read_text())
    final = [float(np.mean([float(r["score"]) for r in scores[s::2]])) for s in (0, 1)]
    assert summary["scores"]["final"]["mean"] == pytest.approx(np.mean(final))
    assert summary["published"]["paper"] == 66.2
    record = json.loads((run / "config.json").read_text())
    assert record["options"]["steps"] == 425
    assert record["data"]["rows"] == 390
    assert record["versions"]["torch"] == torch.__version__
    assert "published: paper" in output
    assert not list(run.rglob("*.partial"))


def test_threads_and_workers_change_nothing(finished, command, tmp_path):
    run, dataset, _ = finished
    arguments = ["--dataset", dataset, "--out", "again", "--steps", 425, "--seeds", 2]
    result = command("train", *SMALL, *arguments, "--threads", 1, "--eval-workers", 1)
    assert result.returncode == 0, result.stderr
    again = tmp_path / "again"
    assert rows_without_time(again / "metrics.csv") == rows_without_time(run / "metrics.csv")
    assert read_rows(again / "scores.csv") == read_rows(run / "scores.csv")
    assert same_state(again, run)


def test_a_policy_extracted_after_v_and_q(finished, command, tmp_path):
    run, dataset, _ = finished
    arguments = ["--dataset", dataset, "--steps", 425, "--seeds", 2, "--extraction", "after"]
    result = command("train", *SMALL, *arguments, "--out", "after")
    assert result.returncode == 0, result.stderr
    after = tmp_path / "after"
    # V and Q end where those of a joint run do; the policy has as many updates, and another end.
    joint, state = (checkpoint.load(p / "checkpoint").state for p in (run, after))
    assert (int(joint.pop("step")), int(state.pop("step"))) == (425, 850)
    for name, tensor in joint.items():
        assert torch.equal(tensor, state[name]) != ("actor" in name), name
    rows = read_rows(after / "metrics.csv")
    expected = [*range(50, 401, 50), 425, *range(450, 801, 50), 850]
    assert [int(row["step"]) for row in rows[::2]] == expected
    for row in rows:
        assert np.isnan(float(row["actor_loss"])) == (int(row["step"]) <= 425)
        assert np.isnan(float(row["value_loss"])) == (int(row["step"]) > 425)
    rates = [float(row["actor_lr"]) for row in rows[::2]]
    assert rates[:9] == [3e-4] * 9  # the schedule begins with the policy
    assert rates[-1] == 0.0
    scores = [int(row["step"]) for row in read_rows(after / "scores.csv")]
    assert scores == [600, 600, 800, 800, 850, 850]  # none of a policy that has not begun
    summary = json.loads((after / "summary.json").read_text())
    assert (summary["steps"], summary["training_steps"]) == (425, 850)
    assert json.loads((after / "config.json").read_text())["options"]["extraction"] == "after"
    result = command("train", "--resume", "after", "--extraction", "joint")
    assert result.returncode == 2
    assert "cannot change --extraction joint (the run has after)" in " ".join(result.stderr.split())


def test_a_run_from_before_an_option_existed_goes_on(finished, command, tmp_path):
    run = finished[0]
    shutil.copytree(run, tmp_path / "old")
    record = json.loads((tmp_path / "old" / "config.json").read_text())
    del record["options"]["extraction"], record["options_sha256"]
    (tmp_path / "old" / "config.json").write_text(json.dumps(record))
    assert command("train", "--resume", "old").returncode == 0
    result = command("train", "--resume", "old", "--extraction", "after")
    assert result.returncode == 2
    assert "the run has joint" in " ".join(result.stderr.split())


def answer_ctrl_c() -> None:
    """In a new process: as a terminal's does. A shell's background jobs ignore it, and so do their
    children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def started(cut: Path, dataset: Path, *more: object) -> subprocess.Popen[str]:
    """A run whose evaluations take most of its time, once it has done one of them."""
    arguments = [*SMALL, "--dataset", dataset, "--out", cut, "--seeds", 2, *more]
    process = subprocess.Popen(
        [sys.executable, "-m", "iql_fast.train", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=answer_ctrl_c,
    )
    while not (cut / "scores.csv").exists() or not read_rows(cut / "scores.csv"):
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    return process


def worker_processes(parent: int) -> list[int]:
    """Processes that ``parent`` spawned to run episodes."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) == parent and b"spawn_main" in (path / "cmdline").read_bytes():
                found.append(int(path.name))
        except OSError:  # it has ended meanwhile
            continue
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


#: Evaluations of seconds at every 50 steps, and no checkpoint on the way.
SLOW = ("--eval-interval", 50, "--eval-episodes", 60, "--checkpoint-interval", 5000)
on_linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")


def ended(processes: list[int]) -> bool:
    """Whether all of them end within seconds."""
    deadline = time.monotonic() + 20
    while any(map(alive, processes)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(map(alive, processes))


@on_linux
def test_a_killed_run_leaves_no_workers_behind(finished, tmp_path):
    process = started(tmp_path / "cut", finished[1], "--steps", 5000, *SLOW)
    workers = worker_processes(process.pid)
    assert workers
    process.kill()
    process.communicate()
    assert ended(workers)


@on_linux
def test_no_worker_outlives_its_parent_even_one_that_never_had_a_task(tmp_path):
    script = tmp_path / "pool.py"
    script.write_text(
        "import os, time\n"
        "from iql_fast.environments import workers\n"
        "workers._wait_for_the_others = os.getpid  # so quick that one worker does them all\n"
        "if __name__ == '__main__':\n"
        "    with workers.worker_pool(6):\n"
        "        print('ready', flush=True)\n"
        "        time.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    workers = worker_processes(process.pid)
    assert len(workers) == 6
    process.kill()
    process.wait()
    process.stdout.close()
    assert ended(workers)


@on_linux
def test_a_worker_that_dies_stops_the_run_at_a_checkpoint(finished, tmp_path):
    cut = tmp_path / "cut"
    process = started(cut, finished[1], "--steps", 5000, *SLOW)
    os.kill(worker_processes(process.pid)[0], signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2, errors
    assert "Traceback" not in errors
    scored = max(int(row["step"]) for row in read_rows(cut / "scores.csv"))
    assert checkpoint.steps(cut / "checkpoint") == [scored]
    assert f"stopped at step {scored}" in " ".join(errors.split())


@pytest.mark.slow
def test_ctrl_c_in_an_evaluation_loses_no_interval(finished, tmp_path):
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    short = ("--steps", 200, "--eval-interval", 50, "--eval-episodes", 20)
    process = started(cut, finished[1], *short, "--checkpoint-interval", 5000)
    while len(read_rows(cut / "metrics.csv")) < 4:  # the second evaluation has begun
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert checkpoint.steps(cut / "checkpoint")
    again = [sys.executable, "-m", "iql_fast.train", "--resume", str(cut)]
    assert subprocess.run(again, capture_output=True).returncode == 0
    process = started(whole, finished[1], *short, "--checkpoint-interval", 5000)
    process.communicate()
    assert rows_without_time(cut / "metrics.csv") == rows_without_time(whole / "metrics.csv")
    assert read_rows(cut / "scores.csv") == read_rows(whole / "scores.csv")
    assert same_state(cut, whole)


@pytest.mark.slow
def test_ctrl_c_is_answered_and_resumed(finished, tmp_path):
    run, dataset, _ = finished
    for attempt in range(5):  # until the signal comes before the run's end
        cut = tmp_path / str(attempt)
        arguments = ["--dataset", dataset, "--out", cut, "--steps", 425, "--seeds", 2]
        command = [sys.executable, "-m", "iql_fast.train", *SMALL, *map(str, arguments)]
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=answer_ctrl_c,
        )
        while not (cut / "metrics.csv").exists() or len(read_rows(cut / "metrics.csv")) < 2:
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=30)
        if process.returncode != 0:
            break
    assert process.returncode == 130, errors
    assert "--resume" in output
    again = [sys.executable, "-m", "iql_fast.train", "--resume", str(cut)]
    assert subprocess.run(again, capture_output=True).returncode == 0
    assert rows_without_time(cut / "metrics.csv") == rows_without_time(run / "metrics.csv")
    assert same_state(cut, run)


@pytest.mark.parametrize("how", [["--overwrite", "--out"], ["--resume"]])
def test_a_folder_that_another_process_trains_in_is_left_alone(finished, command, tmp_path, how):
    run, dataset, _ = finished
    shutil.copytree(run, tmp_path / "busy")
    before = {path: path.read_bytes() for path in (tmp_path / "busy").rglob("*") if path.is_file()}
    asked = [] if "--resume" in how else [*SMALL, "--dataset", dataset, "--steps", 425]
    with folder.lock(tmp_path / "busy"):
        result = command("train", *asked, *how, "busy")
    assert result.returncode == 2
    assert "Another process is training in busy" in " ".join(result.stderr.split())
    assert {p: p.read_bytes() for p in (tmp_path / "busy").rglob("*") if p.is_file()} == before
    result = command("train", *asked, *how, "busy")  # free again
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "hoper-medium-v2"], "nearest names: hopper-medium-v2"),
        (["--engine", "cuda"], "cannot be used here"),
        (["--dataset", "/none.hdf5"], "There is no dataset file /none.hdf5"),
        (["--resume", "nowhere"], "nowhere is not the folder of a run"),
        (["--out", "/proc/run"], "cannot be written"),
    ],
)
def test_bad_input_is_a_paragraph_and_status_2(command, arguments, message, dataset_file):
    base = [*SMALL, "--steps", 50]
    if "--dataset" not in arguments:
        base += ["--dataset", dataset_file]
    result = command("train", *base, *arguments)
    assert result.returncode == 2
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr


def test_an_existing_run_is_not_overwritten(finished, command):
    run, dataset, _ = finished
    before = (run / "metrics.csv").read_bytes()
    result = command("train", *SMALL, "--dataset", dataset, "--out", run, "--steps", 50)
    assert result.returncode == 2
    assert "--overwrite" in result.stderr
    assert (run / "metrics.csv").read_bytes() == before


def test_a_refused_run_leaves_no_folder(command, tmp_path):
    out = tmp_path / "runs" / "new"
    assert command("train", *SMALL, "--dataset", "/none.hdf5", "--out", out).returncode == 2
    assert not out.parent.exists()


def test_overwriting_waits_until_the_simulator_works(finished, tmp_path, monkeypatch):
    run, dataset, _ = finished
    old = tmp_path / "old"
    shutil.copytree(run, old)
    before = sorted((str(path), path.stat().st_size) for path in old.rglob("*"))
    fake = tmp_path / "fake" / "gymnasium"
    fake.mkdir(parents=True)
    (fake / "__init__.py").write_text("raise ImportError('none here')\n")
    result = subprocess.run(
        [sys.executable, "-m", "iql_fast.train", *SMALL, "--steps", "50", "--overwrite",
         "--dataset", str(dataset), "--out", str(old)],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(fake.parent)},
    )  # fmt: skip
    assert result.returncode == 2, result.stderr
    assert "none here" in result.stderr
    assert sorted((str(path), path.stat().st_size) for path in old.rglob("*")) == before


def test_overwriting_takes_everything_old_away(tmp_path):
    for name in ("config.json", "failure.json", "evaluation.json", "metrics.csv", "summary.json"):
        (tmp_path / name).write_text("{}")
    folder.create(tmp_path, True, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_resume_keeps_the_engine_that_the_run_began_with(finished, command, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished[0], run)
    record = json.loads((run / "config.json").read_text())
    record["engine"] = "cuda"
    (run / "config.json").write_text(json.dumps(record))
    result = command("train", "--resume", run)
    assert result.returncode == 2
    assert "'cuda' cannot be used here" in " ".join(result.stderr.split())


@pytest.mark.parametrize("more", [("--out", "elsewhere"), ("--overwrite",)])
def test_a_resume_stays_in_its_folder(finished, command, more):
    result = command("train", "--resume", finished[0], *more)
    assert result.returncode == 2
    assert "own folder" in result.stderr


def test_a_disk_that_fills_up_stops_the_run(dataset_file, tmp_path, monkeypatch):
    append = StepTable.append

    def full(table, rows):
        if rows[0]["step"] > 150:
            raise OSError(28, "No space left on device")
        append(table, rows)

    monkeypatch.setattr(StepTable, "append", full)
    out = tmp_path / "run"
    arguments = [*SMALL, "--dataset", dataset_file, "--out", out, "--steps", 200]
    with pytest.raises(UserError, match=r"No space left.*checkpoint of step 100 is whole"):
        train.main([*map(str, arguments), "--eval-episodes", "0"])
    monkeypatch.undo()
    assert checkpoint.steps(out / "checkpoint") == [100]


def test_evaluate_normalises_as_the_run_did(command, tmp_path, dataset_file):
    arguments = ["--dataset", dataset_file, "--out", "run", "--steps", 50, "--normalize-obs"]
    assert command("train", *SMALL, *arguments).returncode == 0
    result = command("evaluate", "--run", "run", "--episodes", 2)
    assert result.returncode == 0, result.stderr
    returns = json.loads((tmp_path / "run" / "evaluation.json").read_text())["returns"]
    mean, scale = json.loads((tmp_path / "run" / "config.json").read_text())["observation_scaling"]
    observations = d4rl_columns()["observations"]
    np.testing.assert_allclose(mean, observations.mean(0), atol=0.02)
    np.testing.assert_allclose(scale, observations.std(0), atol=0.02)
    policy = policy_from_state(checkpoint.load(tmp_path / "run" / "checkpoint").state, 0)
    scaled = with_units(policy, Units(np.float32(mean), np.float32(scale)))
    keys = [(0, saved.KEY_OFFSET + 50, episode) for episode in range(2)]
    environment = "iql_fast/hopper-v2"
    assert returns[0] == [e.total for e in run_episodes(environment, 1000, scaled, keys)]
    assert returns[0] != [e.total for e in run_episodes(environment, 1000, policy, keys)]


def test_a_run_is_not_resumed_in_other_mechanics(finished, command, tmp_path):
    run, _, _ = finished
    record = json.loads((run / "config.json").read_text())
    assert record["scoring"]["physics"] == record["options"]["physics"] == "d4rl"
    result = command("train", "--resume", run, "--physics", "gymnasium")
    assert result.returncode == 2
    assert "--physics gymnasium (the run has d4rl)" in " ".join(result.stderr.split())
    # Before there was the option, runs were scored in the packaged mechanics.
    shutil.copytree(run, tmp_path / "older")
    del record["options"]["physics"], record["options_sha256"]
    (tmp_path / "older" / "config.json").write_text(json.dumps(record))
    result = command("train", "--resume", "older", "--physics", "d4rl")
    assert result.returncode == 2
    assert "--physics d4rl (the run has gymnasium)" in " ".join(result.stderr.split())


def test_a_resume_with_other_options_is_refused(finished, command):
    run, _, _ = finished
    result = command("train", "--resume", run, "--expectile", 0.9, "--steps", 900)
    assert result.returncode == 2
    text = " ".join(result.stderr.split())
    assert "--steps 900 (the run has 425)" in text
    assert "--expectile [0.9] (the run has [0.7])" in text


def test_a_full_disk_is_noticed_before_training(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(folder.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match="0 MiB free, but the run needs 10"):
        folder.create(tmp_path / "run", False, 10 << 20)


def test_a_failed_checkpoint_leaves_the_others(tmp_path, monkeypatch):
    for step in (1, 2, 3):
        state = {"x": torch.arange(3), "step": torch.tensor(step)}
        checkpoint.save(tmp_path, Checkpoint(step, state, {}))
    assert checkpoint.steps(tmp_path) == [2, 3]

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        checkpoint.save(tmp_path, Checkpoint(4, state, {}))
    assert checkpoint.steps(tmp_path) == [2, 3]
    assert torch.equal(checkpoint.load(tmp_path).state["x"], state["x"])


def test_a_loss_that_explodes_stops_the_run(command, tmp_path, dataset_file):
    result = command(
        "train", *SMALL, "--dataset", dataset_file, "--out", "run", "--steps", 5000,
        "--critic-lr", 1e30,
    )  # fmt: skip
    assert result.returncode == 1, result.stderr
    failure = json.loads((tmp_path / "run" / "failure.json").read_text())
    assert failure["network"] in ("value", "critic", "actor")
    assert f"at step {failure['step']}" in " ".join(result.stdout.split())
    assert "reward max" in failure["statistics"]


def test_tables_drop_what_a_crash_left(tmp_path):
    table = StepTable(tmp_path / "t.csv", ("a",))
    table.append([{"step": 10, "a": 1}])
    table.append([{"step": 20, "a": 2}])
    with open(tmp_path / "t.csv", "a") as file:
        file.write("30,")
    assert [row["step"] for row in read_rows(tmp_path / "t.csv")] == ["10", "20"]
    table.cut_after(10)
    table.append([{"step": 20, "a": 5}])
    with open(tmp_path / "t.csv") as file:
        assert list(csv.reader(file)) == [["step", "a"], ["10", "1"], ["20", "5"]]


def test_the_summary_by_hand():
    rows = [{"seed": str(seed), "score": str(10 * seed + i)} for i in range(12) for seed in (0, 1)]
    summary = summarise(rows, 12)
    assert summary["final"]["per_seed"] == {"0": 6.5, "1": 16.5}  # the last ten
    assert summary["final"]["mean"] == 11.5
    assert summary["final"]["std"] == 5.0
    assert summary["best"]["mean"] == 16.0
    assert summary["last"]["mean"] == 16.0


def test_episodes_are_run_in_few_groups_of_equal_size():
    sizes = {n: [len(group) for group in groups(n, 2)] for n in (1, 8, 10, 25, 100)}
    assert sizes == {1: [1], 8: [4, 4], 10: [5, 5], 25: [6, 6, 6, 7], 100: [*[7, 8, 8] * 4, 8]}
    assert [episode for group in groups(100, 2) for episode in group] == list(range(100))
    assert [len(group) for group in groups(10, 4)] == [2, 3, 2, 3]
    assert groups(0, 2) == []


def test_an_episode_has_the_same_row_whatever_runs_beside_it():
    def by_row(observations):
        return np.tile(np.arange(len(observations), dtype=np.float32)[:, None] / 10, (1, 3))

    policy = SimpleNamespace(mean_action=by_row)
    alone, beside = (
        run_episodes("Hopper-v4", 50, policy, [(0, 1, episode) for episode in episodes])
        for episodes in ([13], range(10, 15))
    )
    assert alone[0].total == beside[3].total


def test_scores_do_not_depend_on_workers_and_are_gymnasiums():
    import gymnasium

    rng = np.random.default_rng(0)
    policy = Policy(
        (rng.standard_normal((11, 8)).astype(np.float32), np.ones((8, 3), np.float32) / 8),
        (np.zeros(8, np.float32), np.zeros(3, np.float32)),
        np.zeros(3, np.float32),
    )
    results = []
    for workers in (1, 2):
        with Evaluator("Hopper-v4", 1000, workers) as evaluator:
            results.append(evaluator.returns([policy, policy], [0, 1], 5, SIDE_BY_SIDE + 2))
            fewer = evaluator.returns([policy], [1], 5, 3)
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0][1:, :3], fewer)
    assert results[0].shape == (2, SIDE_BY_SIDE + 2)
    assert len(set(results[0].ravel().tolist())) == results[0].size  # each has its own start
    env = gymnasium.make("Hopper-v4")
    seed = int(np.random.SeedSequence((1, 5, 2)).generate_state(1)[0])
    observation, _ = env.reset(seed=seed)
    total, done = 0.0, False
    while not done:
        rows = np.tile(observation.astype(np.float32), (SIDE_BY_SIDE, 1))
        observation, reward, terminal, truncated, _ = env.step(policy.mean_action(rows)[2])
        total, done = total + float(reward), terminal or truncated
    assert results[0][1, 2] == total


def test_an_environment_that_does_not_exist():
    with pytest.raises(UserError, match="NoSuch-v0 does not work here"), Evaluator("NoSuch-v0", 10):
        pass


def test_evaluate_and_compare(finished, command, tmp_path):
    run, _, _ = finished
    result = command("evaluate", "--run", run, "--episodes", 2)
    assert result.returncode == 0, result.stderr
    written = json.loads((run / "evaluation.json").read_text())
    assert np.array(written["scores"]).shape == (2, 2)
    result = command("compare", run, run, "--out", "both.png")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "both.png").read_bytes().startswith(b"\x89PNG")
    result = command("compare", "nowhere")
    assert result.returncode == 2


def test_a_minari_dataset_is_trained_scored_and_compared(command, tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    name = "mujoco/hopper/tiny-v0"
    write_minari(name, env="Hopper-v5", ref_min_score=0, ref_max_score=1000)
    arguments = [*SMALL, "--task", name, "--offline", "--steps", 50, "--eval-episodes", 1]
    result = command("train", *arguments, "--out", "run")
    assert result.returncode == 0, result.stderr
    (row,) = read_rows(tmp_path / "run" / "scores.csv")
    assert float(row["score"]) == pytest.approx(float(row["return"]) / 10)
    for arguments in (("evaluate", "--run", "run", "--episodes", 1), ("compare", "run")):
        assert command(*arguments).returncode == 0
    written = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert written["scores"][0][0] == pytest.approx(written["returns"][0][0] / 10)
