"""Where a task's data come from, in which order, and what they are then called."""

import json

import numpy as np
import pytest

from iql_fast import data
from iql_fast.data import regenerate, resolve
from iql_fast.environments import scoring, simulator, workers
from iql_fast.support.errors import UserError
from iql_fast.tasks import catalogue

from .conftest import d4rl_columns, random_transitions, write_hdf5, write_minari


@pytest.fixture
def no_network(monkeypatch):
    monkeypatch.setenv("IQL_FAST_D4RL_URLS", "http://127.0.0.1:9/none")


@pytest.fixture
def fake_rollouts(monkeypatch):
    made = []

    def make(name, path, *, physics="d4rl", seed=0, rows=None, workers=None, progress=True):
        made.append((name, physics, seed))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_hdf5(path, d4rl_columns())

    monkeypatch.setattr(regenerate, "regenerate", make)
    return made


def test_the_users_file_comes_first(dataset_file, fake_rollouts):
    loaded = data.load("hopper-medium-v2", dataset=dataset_file)
    assert (loaded.source, loaded.title) == ("file", "hopper-medium-v2 (data.hdf5)")
    assert fake_rollouts == []


@pytest.mark.usefixtures("no_network")
def test_regenerated_when_nothing_else_is_to_be_had(fake_rollouts):
    first = data.load("hopper-medium-v2", seed=3)
    assert (first.source, first.title) == ("regenerated", "hopper-medium-v2 (regenerated)")
    assert "no connection" in first.record["download"]
    again = data.load("hopper-medium-v2", seed=3)
    assert (again.source, again.title) == ("cache", "hopper-medium-v2 (regenerated)")
    assert fake_rollouts == [("hopper-medium-v2", "d4rl", 3)]
    np.testing.assert_array_equal(first.transitions.rewards, again.transitions.rewards)


def test_data_of_other_mechanics_are_made_anew(fake_rollouts, monkeypatch):
    def load(physics="d4rl"):
        return data.load("hopper-medium-v2", offline=True, physics=physics)

    first = load()
    made_by = {"physics": "d4rl", "mujoco": simulator.version()}
    assert made_by.items() <= first.record.items()
    assert first.scoring.environment == "iql_fast/hopper-v2"
    other = load("gymnasium")
    assert other.record["path"] != first.record["path"]
    assert other.scoring.environment == "Hopper-v4"
    monkeypatch.setattr(simulator, "version", lambda: "3.3.0")
    assert load().record["path"] not in (first.record["path"], other.record["path"])
    assert [physics for _, physics, _ in fake_rollouts] == ["d4rl", "gymnasium", "d4rl"]


def test_a_task_of_one_physics_only():
    with pytest.raises(UserError, match="antmaze-umaze-v2 is scored in d4rl physics only"):
        data.load("antmaze-umaze-v2", offline=True, physics="gymnasium")


def test_d4rls_own_file_is_preferred_to_a_regenerated_one(fake_rollouts):
    task = catalogue.get("hopper-medium-v2")
    data.load(task, offline=True)
    path = resolve.downloaded_path(task)
    path.parent.mkdir(parents=True)
    write_hdf5(path, d4rl_columns(seed=8))
    assert data.load(task).title == "hopper-medium-v2"
    assert len(fake_rollouts) == 1


@pytest.mark.usefixtures("no_network")
def test_no_data_at_all_says_why():
    with pytest.raises(UserError, match=r"no data for pen-human-v0.*no connection"):
        data.load("pen-human-v0")
    with pytest.raises(UserError, match="Downloads were switched off"):
        data.load("pen-human-v0", offline=True)


def test_a_minari_dataset(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    write_minari("mujoco/test/tiny-v0")
    source = random_transitions(20)
    loaded = data.load("mujoco/test/tiny-v0", offline=True)
    assert len(loaded.transitions) == 18  # all rows: truncation costs none here
    assert loaded.transitions.masks.tolist() == [1.0] * 8 + [0.0] + [1.0] * 9
    np.testing.assert_array_equal(
        loaded.transitions.next_observations[:8], source.observations[1:9]
    )
    with pytest.raises(UserError, match="Minari has no dataset"):
        data.load("mujoco/test/other-v0", offline=True)


@pytest.mark.parametrize(
    ("metadata", "unit", "score"),
    [
        ({"env": "Hopper-v5"}, "return", 500.0),
        ({"env": "Hopper-v4", "ref_min_score": 0, "ref_max_score": 1000}, "normalised score", 50.0),
        ({"env": "Hopper-v4", "eval_env": "Hopper-v5"}, "return", 500.0),
    ],
)
def test_where_a_minari_dataset_is_scored(tmp_path, monkeypatch, metadata, unit, score):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    write_minari("mujoco/test/tiny-v0", **metadata)
    where = data.load("mujoco/test/tiny-v0", offline=True).scoring
    expected = metadata.get("eval_env", metadata["env"])
    assert simulator.label(where.environment) == expected
    assert workers.environment(where.environment).spec.id == expected
    assert (where.horizon, where.unit, where.score(500.0)) == (1000, unit, score)
    assert scoring.from_record(json.loads(json.dumps(where.record()))) == where


def test_a_minari_dataset_without_an_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    write_minari("mujoco/test/tiny-v0")
    where = data.load("mujoco/test/tiny-v0", offline=True).scoring
    assert where.environment is None
    assert "does not name an environment" in where.note


def test_the_data_command(command, dataset_file):
    listing = command("data", "list")
    assert listing.returncode == 0
    assert "walker2d-medium-replay-v2" in listing.stdout
    info = command("data", "info", "hopper-medium-v2", "--dataset", dataset_file)
    assert info.returncode == 0, info.stderr
    assert "transitions 390" in info.stdout  # of 400 rows ten are cut by the time limit
    missing = command("data", "info", "hopper-medium-v2")
    assert missing.returncode == 2
    assert "fetch hopper-medium-v2" in " ".join(missing.stderr.split())
    assert "Traceback" not in missing.stderr
    out = command("data", "make", "hopper-random-v2", "--rows", 500, "--out", "made.hdf5")
    assert out.returncode == 0, out.stderr
    refused = command("data", "make", "hopper-random-v2", "--rows", 500)
    assert refused.returncode == 2
