"""OGBench's single tasks, over a stand-in for its package that answers as 1.2.2 does."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest

from iql_fast import data
from iql_fast.data import ogbench
from iql_fast.environments.episodes import run_episodes
from iql_fast.environments.scoring import from_record
from iql_fast.policies.policy import Policy
from iql_fast.support.errors import UserError

NAME = "pointmaze-medium-navigate-singletask-task2-v0"


class Walk(gymnasium.Env):
    """Succeeds, without ending, after the third step."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        return np.zeros(2, np.float32), -1.0, False, False, {"success": self.steps == 3}


@pytest.fixture
def stand_in(monkeypatch):
    asked = []

    def make_env_and_datasets(name):
        asked.append(name)
        spec = gymnasium.envs.registration.EnvSpec(
            "walk-v0", entry_point="tests.test_ogbench:Walk", max_episode_steps=10
        )
        train = {
            "observations": np.arange(12.0).reshape(6, 2),
            "next_observations": np.arange(12.0).reshape(6, 2) + 2,
            "actions": np.zeros((6, 2)),
            "rewards": np.array([-1.0, -1, 0, -1, -1, -1]),
            "masks": np.array([1.0, 1, 0, 1, 1, 1]),
            "terminals": np.array([0.0, 0, 0, 1, 0, 1]),
        }
        return gymnasium.make(spec), train, train

    module = SimpleNamespace(make_env_and_datasets=make_env_and_datasets)
    monkeypatch.setitem(sys.modules, "ogbench", module)
    return asked


def test_a_single_task(stand_in):
    loaded = data.load(NAME)
    assert stand_in == [NAME]
    assert loaded.transitions.masks.tolist() == [1, 1, 0, 1, 1, 1]  # bootstrap by masks
    assert loaded.transitions.rewards.tolist() == [-1, -1, 0, -1, -1, -1]
    assert loaded.record["trajectories"] == 2  # which terminals end
    assert loaded.behaviour_return == -2.5
    where = from_record(loaded.scoring.record())
    assert (where.unit, where.horizon) == ("success in %", 10)
    policy = Policy((np.zeros((2, 2), np.float32),), (np.zeros(2, np.float32),), np.zeros(2))
    (episode,) = run_episodes(where.environment, where.horizon, policy, [(0, 0, 0)])
    assert episode.success
    scores = where.scores(np.array([[-10.0, -10.0]]), np.array([[1.0, 0.0]]))
    assert scores.tolist() == [[100.0, 0.0]]


def test_names():
    for name in (NAME, "cube-single-play-singletask-v0", "puzzle-3x3-noisy-v0", "scene-play-v0"):
        assert ogbench.is_name(name)
    for name in ("antmaze-umaze-v2", "antmaze-large-play-v2", "hopper-medium-v2", "mydata-v0"):
        assert not ogbench.is_name(name)


@pytest.mark.usefixtures("stand_in")
def test_what_cannot_be_trained_on_says_why():
    with pytest.raises(UserError, match=r"goals in place of rewards.*-navigate-singletask-v0"):
        data.load("antmaze-large-navigate-v0")
    with pytest.raises(UserError, match="images"):
        data.load("visual-cube-single-play-singletask-v0")
    with pytest.raises(UserError, match="downloads were switched off"):
        data.load("humanoidmaze-giant-stitch-singletask-v0", offline=True)


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "ogbench", None)
    with pytest.raises(UserError, match="pip install ogbench"):
        data.load(NAME)


@pytest.mark.usefixtures("stand_in")
def test_another_environment_or_reference_is_refused_and_not_ignored():
    for asked, option in (
        ({"env": "Pendulum-v1"}, "--env"),
        ({"reference": (0, 1)}, "--reference"),
    ):
        with pytest.raises(UserError, match=f"{option} is for data of your own"):
            data.load(NAME, **asked)
