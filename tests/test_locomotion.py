"""Hopper, Walker2d and HalfCheetah against Gymnasium's, and against recorded motion."""

import gymnasium
import numpy as np
import pytest

import iql_fast.environments  # noqa: F401 - registers them
from iql_fast.environments import locomotion, physics
from iql_fast.support.errors import UserError
from tests import replays

ROBOTS = {"hopper": "Hopper", "walker2d": "Walker2d", "halfcheetah": "HalfCheetah"}


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    monkeypatch.setattr(gymnasium.logger, "min_level", gymnasium.logger.ERROR)  # -v4 on purpose


@pytest.mark.parametrize("robot", ROBOTS)
def test_gymnasiums_physics_are_gymnasiums(robot):
    """Bit by bit, from the same seeds, with actions of either precision, to the episodes' ends."""
    ours = gymnasium.make(f"iql_fast/{robot}-v2", physics="gymnasium")
    theirs = gymnasium.make(f"{ROBOTS[robot]}-v4")
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    assert ours.spec.max_episode_steps == theirs.spec.max_episode_steps == 1000
    rng = np.random.default_rng(0)
    for episode in range(6):
        scale, dtype = (0.1, 1.0, 1.5)[episode % 3], (np.float32, np.float64)[episode % 2]
        mine, _ = ours.reset(seed=episode)
        np.testing.assert_array_equal(mine, theirs.reset(seed=episode)[0])
        over = False
        while not over:
            action = (scale * rng.uniform(-1, 1, ours.action_space.shape)).astype(dtype)
            mine, reward, *ends, info = ours.step(action)
            other, their_reward, *their_ends, their_info = theirs.step(action)
            np.testing.assert_array_equal(mine, other)
            assert reward == their_reward
            assert ends == their_ends
            assert info.items() <= their_info.items()
            over = any(ends)


@pytest.mark.parametrize(("robot", "fastest"), [("Hopper", 10), ("Walker2d", 10)])
def test_velocities_are_cut_in_what_is_seen(robot, fastest):
    env = getattr(locomotion, robot)()
    env.reset(seed=0)
    joints = env.model.nv
    fast = np.linspace(-2.5 * fastest, 2.5 * fastest, joints)
    seen = env.set_state(env.model.qpos0, fast)[-joints:]
    np.testing.assert_array_equal(seen, np.clip(fast, -fastest, fastest))
    for one_sided in (np.abs(fast), -np.abs(fast), fast / 10):
        seen = env.set_state(env.model.qpos0, one_sided)[-joints:]
        np.testing.assert_array_equal(seen, np.clip(one_sided, -fastest, fastest))


def test_d4rl_is_the_default_and_differs():
    ours = gymnasium.make("iql_fast/hopper-v2").unwrapped
    assert ours.physics == "d4rl"
    other = locomotion.Hopper("gymnasium")
    ours.reset(seed=0), other.reset(seed=0)
    for _ in range(10):
        mine, theirs = ours.step(np.ones(3))[0], other.step(np.ones(3))[0]
    assert np.abs(mine - theirs).max() > 1e-3


def test_a_step_of_the_hopper_is_mujoco_3_4s():
    assert replays.hopper_difference() < 1e-12


@pytest.mark.parametrize(
    ("robot", "margin"), [("Hopper", 1e-3), ("Walker2d", 0), ("HalfCheetah", 0)]
)
def test_contacts_begin_where_they_did(robot, margin):
    environment = getattr(locomotion, robot)()
    environment.reset(seed=0)
    met = set()
    rng = np.random.default_rng(0)
    for _ in range(100):
        environment.step(rng.uniform(-1, 1, environment.action_space.shape))
        met |= {round(contact.includemargin, 12) for contact in environment.data.contact}
    assert met == {margin}


def test_a_state_holds_nothing_of_what_was_before():
    environment = locomotion.Walker2d()
    environment.reset(seed=0)
    environment.step(np.ones(6))
    qpos, qvel = environment.data.qpos.copy(), environment.data.qvel.copy()
    first = environment.set_state(qpos, qvel), environment.step(np.ones(6))[0]
    for _ in range(20):
        environment.step(-np.ones(6))
    second = environment.set_state(qpos, qvel), environment.step(np.ones(6))[0]
    np.testing.assert_array_equal(first, second)


def test_an_observation_is_the_callers():
    environment = locomotion.Hopper()
    first, _ = environment.reset(seed=0)
    kept = first.copy()
    environment.step(np.ones(3))
    np.testing.assert_array_equal(first, kept)


def test_the_model_is_compiled_once():
    assert locomotion.Hopper().model is locomotion.Hopper().model
    assert locomotion.Hopper("gymnasium").model is not locomotion.Hopper().model


def test_another_model_file_is_refused():
    class Heavier(locomotion.Hopper):
        masses = {**locomotion.Hopper.masses, "torso": 4.0}  # noqa: RUF012

    with pytest.raises(UserError, match="not the one expected"):
        Heavier()


def test_a_refused_mujoco_is_said_before_anything_is_loaded(monkeypatch):
    class Another(locomotion.Hopper):
        pass

    monkeypatch.setattr(physics.mujoco, "__version__", "4.0.0")
    with pytest.raises(UserError, match=r"4\.0\.0"):
        Another()
