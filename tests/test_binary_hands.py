"""The binary hands: their tasks, and the data that a user brings for them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import iql_fast.environments  # registers them
from iql_fast import data, finetune
from iql_fast.data import __main__ as data_command
from iql_fast.data import resolve
from iql_fast.environments import scoring
from iql_fast.runs import config
from iql_fast.support.errors import UserError
from iql_fast.tasks import catalogue

from .conftest import d4rl_columns, write_hdf5

TASKS = ("pen-binary-v0", "door-binary-v0", "relocate-binary-v0")
DOCS = Path(__file__).resolve().parents[1] / "docs" / "data.md"
ROWS = 20  # of an episode


def hand_columns(episodes=4, obs_dim=45, act_dim=24, seed=0):
    """Episodes in which the goal is met in the last quarter; every other one is flagged terminal at
    its end. A twentieth of the actions lie outside of their bounds."""
    rng = np.random.default_rng(seed)
    states = rng.standard_normal((episodes, ROWS + 1, obs_dim)).astype(np.float32)
    rows = np.arange(episodes * ROWS) % ROWS
    actions = np.tanh(rng.standard_normal((len(rows), act_dim))).astype(np.float32)
    actions[::20] = 1.4
    return {
        "observations": states[:, :-1].reshape(-1, obs_dim),
        "next_observations": states[:, 1:].reshape(-1, obs_dim),
        "actions": actions,
        "rewards": np.where(rows < 15, -1.0, 0.0).astype(np.float32),
        "terminals": (rows == ROWS - 1) & (np.arange(len(rows)) // ROWS % 2 == 0),
    }


def written(path, columns):
    np.savez(path, **columns)
    return path


@pytest.mark.parametrize("name", TASKS)
def test_the_task_is_its_environments(name):
    assert iql_fast.environments.__name__
    task = catalogue.get(name)
    environment = gymnasium.make(task.environment_id())
    sizes = task.environment
    assert environment.observation_space.shape == (sizes.obs_dim,)
    assert environment.action_space.shape == (sizes.act_dim,)
    assert environment.spec.max_episode_steps == sizes.horizon
    # An episode in which the goal is never met scores 0, one in which it always is 100.
    where = scoring.of_task(task)
    assert (where.score(-float(sizes.horizon)), where.score(0.0)) == (0.0, 100.0)
    assert where.score(-sizes.horizon / 4) == 75.0
    assert where.environment == f"iql_fast/{name}"
    with pytest.raises(UserError, match="scored in d4rl physics only"):
        task.environment_id("gymnasium")


def test_the_papers_settings_of_fine_tuning():
    asked, _ = finetune.asked_for(["--task", "pen-binary-v0", "--dataset", "pen.npz"])
    assert (asked.updates, asked.online.online_steps, asked.schedule_steps) == (25_000, 10**6, 0)
    assert (asked.algorithm.expectile, asked.algorithm.temperature) == ((0.8,), (3.0,))
    asked, _ = finetune.asked_for(["--task", "pen-binary-v0", "--offline-steps", "7"])
    assert asked.updates == 7
    # Training on a dataset alone is as long as any, and other tasks are as before.
    trained = config.completed(config.parse(["--task", "pen-binary-v0"]))
    assert (trained.updates, trained.schedule_steps) == (10**6, 10**6)
    asked, _ = finetune.asked_for(["--task", "pen-human-v1"])
    assert asked.updates == 10**6


def test_without_data_it_is_said_which_and_how(monkeypatch):
    place = resolve.downloaded_path(catalogue.get("door-binary-v0"))

    def fetch():
        monkeypatch.setattr(sys, "argv", ["data", "fetch", "door-binary-v0"])
        data_command.main()

    def info():
        monkeypatch.setattr(sys, "argv", ["data", "info", "door-binary-v0"])
        data_command.main()

    for refused in (lambda: data.load("door-binary-v0"), fetch, info):
        with pytest.raises(UserError) as caught:
            refused()
        for word in ("door2_sparse.npy", "door_bc_sparse4.npy", "--dataset FILE", str(place)):
            assert word in str(caught.value)
        assert '"Binary hands" in docs/data.md' in str(caught.value)
    assert "## Binary hands\n" in DOCS.read_text()


def test_the_list_shows_whether_they_are_here(command):
    shown = command("data", "list").stdout
    assert re.search(r"pen-binary-v0 +│ 45 / 24 +│ to bring", shown)
    place = resolve.downloaded_path(catalogue.get("pen-binary-v0"))
    place.parent.mkdir(parents=True)
    written(place, hand_columns())
    shown = command("data", "list").stdout
    assert re.search(r"pen-binary-v0 +│ 45 / 24 +│ cached", shown)
    assert re.search(r"door-binary-v0 +│ 39 / 28 +│ to bring", shown)


def test_a_file_is_understood_as_rlpd_does(tmp_path):
    columns = hand_columns()
    loaded = data.load("pen-binary-v0", dataset=written(tmp_path / "mine.npz", columns))
    assert (loaded.title, loaded.source) == ("pen-binary-v0 (mine.npz)", "file")
    assert loaded.scoring == scoring.of_task(catalogue.get("pen-binary-v0"))
    found = loaded.transitions
    assert len(found) == 80  # none is dropped
    assert found.masks.min() == 1
    np.testing.assert_array_equal(found.rewards, columns["rewards"])
    limit = np.float32(1 - 1e-5)
    np.testing.assert_array_equal(found.actions, np.clip(columns["actions"], -limit, limit))
    assert loaded.record["trajectories"] == 4
    assert loaded.behaviour_return == -15
    assert loaded.record["family"] == "adroit-binary"
    assert "2 terminal row(s) end a trajectory, but no episode: all masks are 1" in loaded.notes


def test_trajectories_end_where_states_do_not_follow(tmp_path):
    """Neither the horizon nor a flag says so; and a flag does where states go on."""
    columns = hand_columns(episodes=12)
    columns["terminals"][:] = False
    path = written(tmp_path / "a.npz", columns)
    assert data.load("pen-binary-v0", dataset=path).record["trajectories"] == 12
    columns["terminals"][9] = True
    path = written(tmp_path / "b.npz", columns)
    loaded = data.load("pen-binary-v0", dataset=path)
    assert loaded.record["trajectories"] == 13
    assert loaded.transitions.masks.min() == 1
    # Demonstrations may go on for longer than an episode that is scored.
    columns = hand_columns(episodes=8)
    columns["observations"][1:] = columns["next_observations"][:-1]
    columns["terminals"][:] = False
    path = written(tmp_path / "c.npz", columns)
    assert data.load("pen-binary-v0", dataset=path).record["trajectories"] == 1


def test_masks_of_a_file_are_not_believed(tmp_path):
    columns = hand_columns()
    columns["masks"] = ~columns["terminals"]
    loaded = data.load("pen-binary-v0", dataset=written(tmp_path / "a.npz", columns))
    assert len(loaded.transitions) == 80
    assert loaded.transitions.masks.min() == 1


def test_without_the_next_states_an_ending_row_has_none(tmp_path):
    """Of a task that ends it would be kept, for its s' would be worth nothing."""
    columns = hand_columns()
    del columns["next_observations"]
    columns["terminals"] = np.arange(80) % ROWS == ROWS - 1
    loaded = data.load("pen-binary-v0", dataset=written(tmp_path / "a.npz", columns))
    assert len(loaded.transitions) == 80 - 4
    assert loaded.transitions.masks.min() == 1
    assert loaded.record["trajectories"] == 4


def test_rewards_of_another_task_are_refused(tmp_path):
    path = write_hdf5(tmp_path / "human.hdf5", d4rl_columns(60, 45, 24))
    with pytest.raises(UserError, match=r"'rewards' is 0\.\d+ in transition 0 .*-1 elsewhere"):
        data.load("pen-binary-v0", dataset=path)
    columns = hand_columns()
    columns["rewards"] += 1  # 0 and 1
    with pytest.raises(UserError, match=r"'rewards' is 1 in transition 15 \(20 such\)"):
        data.load("pen-binary-v0", dataset=written(tmp_path / "a.npz", columns))
    with pytest.raises(UserError, match="'observations' has 45 columns, but the task has 39"):
        data.load("door-binary-v0", dataset=written(tmp_path / "b.npz", hand_columns()))


def test_the_conversion_in_the_documents(tmp_path):
    """It is run as it stands there, on files laid out as AWAC's."""
    demonstrations, cloned = hand_columns(20, 39, 28, seed=1), hand_columns(11, 39, 28, seed=2)

    def paths(columns, count):
        for i in range(count):
            rows = slice(i * ROWS, (i + 1) * ROWS)
            yield {name: column[rows] for name, column in columns.items()}

    def as_demonstration(path):
        states = {
            name: [{"state_observation": state} for state in path[name]]
            for name in ("observations", "next_observations")
        }
        rewards = np.append(path["rewards"], 7.0)  # one more than actions
        return {**path, **states, "actions": list(path["actions"]), "rewards": rewards}

    def as_cloned(path):
        columns = {name: path[name][:, None] for name in ("rewards", "terminals")}
        return {**path, **columns, "agent_infos": [{}] * ROWS}

    made = [as_demonstration(path) for path in paths(demonstrations, 20)]
    np.save(tmp_path / "door2_sparse.npy", np.array(made, dtype=object))
    made = [as_cloned(path) for path in paths(cloned, 11)]
    np.save(tmp_path / "door_bc_sparse4.npy", np.array(made, dtype=object))
    section = DOCS.read_text().partition("## Binary hands\n")[2].partition("\n## ")[0]
    (program,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    subprocess.run([sys.executable, "-c", program, "door"], cwd=tmp_path, check=True)

    loaded = data.load("door-binary-v0", dataset=tmp_path / "door-binary-v0.npz")
    kept = (18 * ROWS, 9 * ROWS)  # 90% of 20, and of 11 rounded down
    expected = {
        name: np.concatenate([demonstrations[name][: kept[0]], cloned[name][: kept[1]]])
        for name in demonstrations
    }
    assert loaded.record["rows"] == sum(kept)
    assert loaded.record["trajectories"] == 27
    for name in ("observations", "next_observations", "rewards"):
        np.testing.assert_array_equal(getattr(loaded.transitions, name), expected[name])
    assert loaded.transitions.masks.min() == 1


def test_a_run_from_the_command_line(command, tmp_path):
    file = written(tmp_path / "mine.npz", hand_columns())
    small = ("--eval-episodes", 1, "--eval-workers", 1, "--threads", 1, "--log-interval", 10)
    result = command(
        *("finetune", "--task", "pen-binary-v0", "--dataset", file, *small, "--out", "run"),
        *("--offline-steps", 20, "--online-steps", 10),
        *("--eval-interval", 10, "--checkpoint-interval", 10),
    )
    assert result.returncode == 0, result.stderr
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert record["scoring"]["environment"] == "iql_fast/pen-binary-v0"
    assert (record["data"]["reward_scale"], record["data"]["reward_shift"]) == (1.0, 0.0)
    assert "adroit-binary (the authors' for the task)" in " ".join(result.stdout.split())
    again = command("evaluate", "--run", "run", "--episodes", 2, "--workers", 1)
    assert again.returncode == 0, again.stderr
    told = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert told["scores"] == [[100 + r for r in returns] for returns in told["returns"]]
    assert all(-100 <= r <= 0 for r in told["returns"][0])
