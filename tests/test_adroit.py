"""Adroit against D4RL's own demonstrations, against gymnasium-robotics', and by its rules."""

import gymnasium
import mujoco
import numpy as np
import pytest

import iql_fast.environments  # noqa: F401 - registers them
from iql_fast.environments import adroit, physics
from iql_fast.support.errors import UserError
from tests import replays

gymnasium_robotics = pytest.importorskip("gymnasium_robotics")

TASKS = {
    "pen": adroit.Pen,
    "hammer": adroit.Hammer,
    "door": adroit.Door,
    "relocate": adroit.Relocate,
}
HORIZONS = {"pen": 100, "hammer": 200, "door": 200, "relocate": 200}
VERSION = physics.mujoco_version()


def made(name, **arguments):
    return gymnasium.make(f"iql_fast/{name}", **arguments)


# --- Recorded motion


@pytest.mark.parametrize("index", range(3))
def test_d4rls_door_demonstrations(index):
    worst = replays.difference(adroit.Door(), replays.recorded("door_human")[index])
    assert worst.observation < 1e-5
    assert worst.reward < 1e-5


@pytest.mark.skipif(VERSION < (3, 5, 0), reason="the mechanics are MuJoCo 2.0's without an edit")
def test_without_the_edits_demonstrations_part():
    environment, episodes = adroit.Door("gymnasium"), replays.recorded("door_human")
    assert all(replays.difference(environment, each).observation > 1e-3 for each in episodes)


@pytest.mark.parametrize("name", ["door_expert", "relocate_expert"])
def test_expert_episodes(name):
    """Whole in the mechanics of MuJoCo 2.0; later than 3.2.6 a finger can lie in the palm's box,
    whose contact is another, so there the first 8 steps."""
    environment = replays.RECORDINGS[name]()
    episodes = replays.recorded(name)
    assert len(episodes) == 25
    assert max(len(episode.actions) for episode in episodes) == 200
    for episode in episodes:
        worst = replays.difference(environment, episode, None if VERSION <= (3, 2, 6) else 8)
        assert worst.observation < 1e-5
        assert worst.reward < 1e-5


@pytest.mark.parametrize("task", TASKS)
def test_contacts_begin_where_they_did(task):
    environment = TASKS[task]()
    environment.reset(seed=0)
    rng = np.random.default_rng(0)
    met = set()
    for _ in range(60):
        environment.step(rng.uniform(-1, 1, environment.action_space.shape))
        met |= {round(contact.includemargin, 12) for contact in environment.data.contact}
    assert adroit.MARGIN in met
    assert met <= {adroit.MARGIN, 0.0}  # explicit pairs have none


# --- gymnasium-robotics


@pytest.mark.parametrize("task", TASKS)
def test_observation_start_and_goal_are_gymnasium_robotics(task):
    """From the same seeds, with the same actions; and the reward, but for its known faults."""
    gymnasium.register_envs(gymnasium_robotics)
    ours = TASKS[task]("gymnasium")
    theirs = gymnasium.make(f"AdroitHand{task.capitalize()}-v1").unwrapped
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    rng = np.random.default_rng(0)
    for seed in range(2):
        mine, _ = ours.reset(seed=seed)
        np.testing.assert_allclose(mine, theirs.reset(seed=seed)[0], atol=1e-14)
        for step in range(60):
            scale = 1.5 if step % 2 else 0.5
            action = scale * rng.uniform(-1, 1, ours.action_space.shape)
            mine, reward, _, _, info = ours.step(action)
            other, their_reward, _, _, their_info = theirs.step(action)
            np.testing.assert_allclose(mine, other, atol=1e-14)
            assert info["goal_achieved"] == their_info["success"]
            assert their_reward - reward == pytest.approx(
                0.2 * palm_distance(task, mine), abs=1e-12
            )


def palm_distance(task, observation):
    """What gymnasium-robotics 1.2.1 to 1.4.2 count with the wrong sign."""
    places = {
        "pen": 0.0,
        "hammer": observation[33:36] - observation[36:39],
        "door": observation[35:38],
        "relocate": observation[30:33],
    }
    return np.linalg.norm(places[task])


# --- Rules


@pytest.mark.parametrize("task", TASKS)
def test_registered_with_d4rls_horizon(task):
    environment = made(f"{task}-v0")
    assert environment.spec.max_episode_steps == HORIZONS[task]
    assert environment.unwrapped.physics == "d4rl"
    observation, _ = environment.reset(seed=0)
    assert environment.observation_space.contains(observation)


def test_starts_lie_in_d4rls_ranges():
    limits = {
        "hammer": ("board_pos", [None, None, (0.1, 0.25)]),
        "door": ("door_body_pos", [(-0.3, -0.2), (0.25, 0.35), (0.252, 0.35)]),
        "relocate": ("target_pos", [(-0.2, 0.2), (-0.2, 0.2), (0.15, 0.35)]),
    }
    for task, (key, ranges) in limits.items():
        environment = TASKS[task]()
        environment.reset(seed=1)
        places = []
        for _ in range(100):
            environment.reset()
            places.append(environment.env_state()[key])
        for axis, ends in enumerate(ranges):
            values = np.array(places)[:, axis]
            low, high = ends or (values[0], values[0])
            assert low <= values.min() <= low + 0.05 * (high - low)
            assert high - 0.05 * (high - low) <= values.max() <= high


@pytest.mark.parametrize("task", TASKS)
def test_a_state_can_be_put_back(task):
    environment, rng = TASKS[task](), np.random.default_rng(0)
    environment.reset(seed=0)
    for _ in range(5):
        environment.step(rng.uniform(-1, 1, environment.action_space.shape))
    state, action = environment.env_state(), np.zeros(environment.action_space.shape)
    first = environment.set_env_state(state), environment.step(action)[0]
    environment.reset(seed=7)
    environment.step(action)
    second = environment.set_env_state(state), environment.step(action)[0]
    np.testing.assert_array_equal(first, second)


def dropped_pen(environment):
    state = environment.env_state()
    state["qpos"][-6] += 0.2  # the first slide of the pen points down
    environment.set_env_state(state)
    return environment.step(np.zeros(24))


def test_an_episode_ends_when_the_pen_falls():
    environment = adroit.Pen()
    environment.reset(seed=0)
    _, reward, terminated, _, info = dropped_pen(environment)
    assert terminated
    assert not info["goal_achieved"]
    assert reward < -5.0


def test_the_binary_pen_goes_on():
    environment = made("pen-binary-v0").unwrapped
    environment.reset(seed=0)
    _, reward, terminated, _, _ = dropped_pen(environment)
    assert (reward, terminated) == (-1.0, False)


def test_binary_reward_is_the_goal_minus_one():
    assert {made(f"{task}-binary-v0").spec.max_episode_steps for task in ("door", "relocate")} == {
        200
    }
    plain, binary = adroit.Door(), made("door-binary-v0").unwrapped
    for environment, reward in ((plain, None), (binary, 0.0)):
        environment.reset(seed=0)
        state = environment.env_state()
        state["qpos"][28] = 1.5
        environment.set_env_state(state)
        _, given, terminated, _, info = environment.step(np.zeros(28))
        assert info["goal_achieved"] is True
        assert not terminated
        assert given == reward if reward is not None else given > 19.0


def test_euler_angles_are_turns_about_x_y_z():
    rng = np.random.default_rng(0)
    for angles in [*rng.uniform(-1.5, 1.5, (20, 3)), np.array([0.0, np.pi / 2, 0.4])]:
        quaternion, matrix = np.array([1.0, 0, 0, 0]), np.zeros(9)
        for axis, angle in zip(np.eye(3), angles, strict=True):
            turn, product = np.zeros(4), np.zeros(4)
            mujoco.mju_axisAngle2Quat(turn, axis, angle)
            mujoco.mju_mulQuat(product, quaternion, turn)
            quaternion = product
        mujoco.mju_quat2Mat(matrix, quaternion)
        np.testing.assert_allclose(adroit._euler(matrix.tolist()), angles, atol=1e-7)


def test_instances_do_not_share_what_starts_move():
    one, other = adroit.Door(), adroit.Door()
    one.reset(seed=0)
    place = one.env_state()["door_body_pos"]
    other.reset(seed=1)
    np.testing.assert_array_equal(one.env_state()["door_body_pos"], place)


def test_another_model_file_is_refused():
    class Heavier(adroit.Door):
        total_mass = 80.0

    with pytest.raises(UserError, match="not the one expected"):
        Heavier()


def test_without_gymnasium_robotics_the_command_is_named(monkeypatch):
    class Another(adroit.Pen):
        pass

    physics.assets.cache_clear()
    monkeypatch.setattr(physics.importlib.util, "find_spec", lambda name: None)
    try:
        with pytest.raises(UserError, match="pip install gymnasium-robotics"):
            Another()
    finally:
        physics.assets.cache_clear()
