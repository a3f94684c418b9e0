"""D4RL's Kitchen: its model, sensors, targets, rewards and ending."""

import importlib.util

import mujoco
import numpy as np
import pytest

from iql_fast.environments import kitchen, physics
from iql_fast.environments.kitchen import ELEMENTS, FRAME_SKIP, HIGH, LOW, NOISE, START, Kitchen
from iql_fast.support.errors import UserError

if importlib.util.find_spec("gymnasium_robotics") is None:
    pytest.skip("gymnasium-robotics is not installed", allow_module_level=True)


def put(env, name):
    """Place an element where it belongs; small noise cannot hide it."""
    where, value = ELEMENTS[name]
    env.data.qpos[where] = value


def test_model():
    model = kitchen.model()
    assert (model.nq, model.nv, model.nu, model.opt.timestep) == (30, 29, 9, 0.002)
    size = model.geom_size[:, :2]
    pedestal = np.flatnonzero(np.isclose(size, (0.12, 0.9)).all(1))
    assert len(pedestal) == 1
    assert model.geom_contype[pedestal] == model.geom_conaffinity[pedestal] == 0
    newer = physics.mujoco_version() >= (3, 5, 0)
    margins = np.unique(model.geom_margin)
    np.testing.assert_allclose(margins, [0, 0.0005 if newer else 0.001])
    plain = kitchen.model("gymnasium")
    np.testing.assert_allclose(np.unique(plain.geom_margin), [0, 0.001])
    if physics.mujoco_version() >= (3, 3, 0):
        assert model.opt.disableflags & int(mujoco.mjtDisableBit.mjDSBL_NATIVECCD)
        assert not plain.opt.disableflags & int(mujoco.mjtDisableBit.mjDSBL_NATIVECCD)
    assert kitchen.model() is model  # compiled once a process


def test_contacts_begin_where_they_did():
    """The kettle stands on the counter, box on box: their common margin is 1 mm in D4RL."""
    env = Kitchen()
    env.reset(seed=0)
    margins = [env.data.contact[i].includemargin for i in range(env.data.ncon)]
    assert margins
    assert max(margins) == pytest.approx(0.001)


def test_first_observation():
    env = Kitchen("partial")
    observation, _ = env.reset(seed=0)
    state = env.data.qpos
    assert observation.shape == (60,)
    assert env.observation_space.contains(observation)
    assert (np.abs(observation[:30] - state) <= NOISE + 1e-15).all()
    np.testing.assert_array_equal(state[:26], START[:26])
    assert np.linalg.norm(state[26:30]) == pytest.approx(1, abs=1e-12)  # 1.006 in D4RL's own array
    assert (env.data.qvel == 0).all()
    goal = np.zeros(30)
    goal[17:19], goal[19], goal[22] = (-0.69, -0.05), 0.37, -0.75
    goal[23:30] = (-0.23, 0.75, 1.62, 0.99, 0, 0, -0.06)
    np.testing.assert_array_equal(observation[30:], goal)


def test_noise_is_uniform_with_d4rls_amplitudes():
    env = Kitchen()
    errors = np.array([env.reset(seed=i)[0][:30] - env.data.qpos for i in range(400)])
    amplitude = np.r_[[0.1] * 9, [0.005] * 2, [0.0005] * 6, [0.005] * 3, [0.1] * 3]
    amplitude = 0.1 * np.r_[amplitude, [0.005] * 3, [0.1] * 3, [0.005]]
    extreme = np.abs(errors).max(0) / amplitude
    assert (extreme <= 1 + 1e-9).all()
    assert (extreme > 0.95).all()
    # Of U(-1, 1): 1 / sqrt(3).
    np.testing.assert_allclose(errors.std(0) / amplitude, 0.577, atol=0.06)


def test_targets_start_from_what_was_seen():
    env = Kitchen()
    observation, _ = env.reset(seed=0)
    action = np.array([0.3, -0.5, 2.0, -2.0, 0.1, -0.7, 0.4, 1.0, -1.0])
    env.step(action)
    expected = observation[:9] + 0.08 * 2.0 * np.clip(action, -1, 1)
    assert (expected[7:] > 0.04).any()  # a finger's target is cut
    np.testing.assert_allclose(env.data.ctrl, np.clip(expected, LOW, HIGH), rtol=0, atol=1e-15)


def test_a_step_is_forty_of_the_simulator():
    env = Kitchen()
    env.reset(seed=0)
    data = mujoco.MjData(env.model)
    data.qpos[:] = env.data.qpos
    mujoco.mj_forward(env.model, data)
    env.step(np.full(9, 0.5))
    data.ctrl[:] = env.data.ctrl
    for _ in range(FRAME_SKIP):
        mujoco.mj_step(env.model, data)
    np.testing.assert_array_equal(env.data.qpos, data.qpos)
    assert env.data.time == pytest.approx(0.08)


def test_doing_nothing_earns_nothing():
    env = Kitchen("mixed")
    env.reset(seed=0)
    results = [env.step(np.zeros(9)) for _ in range(280)]
    assert sum(reward for _, reward, *_ in results) == 0
    assert not any(terminal or cut for _, _, terminal, cut, _ in results)


@pytest.mark.parametrize("task", ["complete", "partial", "mixed"])
def test_elements_pay_once_and_all_of_them_end_it(task):
    env = Kitchen(task)
    env.reset(seed=0)
    total = 0.0
    for i, name in enumerate(kitchen.TASKS[task]):
        put(env, name)
        _, reward, terminal, _, info = env.step(np.zeros(9))
        assert (reward, info["completed"]) == (1.0, [name])
        assert terminal == (i == 3)
        total += reward
        if i < 3:
            assert env.step(np.zeros(9))[1] == 0  # done before: removed
    assert total == 4
    env.reset()
    assert env.remaining == list(kitchen.TASKS[task])


def test_an_element_that_is_not_asked_for_pays_nothing():
    env = Kitchen("partial")
    env.reset(seed=0)
    put(env, "hinge cabinet")
    assert env.step(np.zeros(9))[1] == 0


def test_judged_by_what_the_sensors_see():
    """A state 0.005 off the threshold is done or not as the noise (0.01) falls."""
    env = Kitchen()
    where, (value,) = ELEMENTS["microwave"]
    rewards = []
    for seed in range(30):
        env.reset(seed=seed)
        env.data.qpos[where] = value + 0.3
        rewards.append(env.step(np.zeros(9))[1])
    assert 0 < sum(rewards) < 30
    quiet = Kitchen(noise=0.0)
    quiet.reset()
    np.testing.assert_array_equal(quiet.reset()[0][:30], quiet.data.qpos)


def test_a_seed_repeats_an_episode():
    def episode(seed):
        env = Kitchen()
        actions = np.random.default_rng(0).uniform(-1, 1, (20, 9))
        return [env.reset(seed=seed)[0], *(env.step(action)[0] for action in actions)]

    np.testing.assert_array_equal(episode(3), episode(3))
    assert not np.array_equal(episode(3), episode(4))


def test_wrong_input(monkeypatch, tmp_path):
    with pytest.raises(UserError, match="no task 'lunch': complete, partial, mixed"):
        Kitchen("lunch")
    with pytest.raises(UserError, match="physics is 'mars'"):
        Kitchen(physics="mars")

    def missing(package):
        raise UserError("pip install gymnasium-robotics")

    kitchen.model.cache_clear()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(kitchen, "assets", missing)
            with pytest.raises(UserError, match="pip install gymnasium-robotics"):
                Kitchen()
        with monkeypatch.context() as patch:
            patch.setitem(kitchen.MASSES, "kettleroot", 2.0)
            with pytest.raises(UserError, match=r"kettleroot weighs 0\.88 kg, for 2"):
                Kitchen()
        with monkeypatch.context() as patch:
            patch.setattr(kitchen, "_PEDESTAL", (0.5, 0.5))
            with pytest.raises(UserError, match="no pedestal"):
                Kitchen()
    finally:
        kitchen.model.cache_clear()
