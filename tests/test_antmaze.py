"""D4RL's AntMaze: its robot and walls, starts, goals, rewards and ending."""

import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from iql_fast.environments import antmaze, physics
from iql_fast.environments.antmaze import AntMaze
from iql_fast.support.errors import UserError

from . import replays

GEOMS = {"umaze": 32, "medium": 52, "large": 76}
GOALS = {"umaze": (0, 8), "medium": (20, 20), "large": (32, 24)}


def place(env, x, y):
    """The ant on its legs at a place, at rest."""
    mujoco.mj_resetData(env.model, env.data)
    env.data.qpos[:3] = x, y, 0.55
    env.data.qpos[[8, 10, 12, 14]] = 1, -1, -1, 1
    mujoco.mj_forward(env.model, env.data)


@pytest.mark.parametrize("layout", GEOMS)
def test_model(layout):
    model = antmaze.model(layout)
    assert model.ngeom == GEOMS[layout]
    assert (model.nq, model.nv, model.nu) == (15, 14, 8)
    assert model.opt.timestep == 0.02
    assert model.opt.integrator == int(mujoco.mjtIntegrator.mjINT_RK4)
    assert model.body_mass.sum() == pytest.approx(0.878710, abs=5e-7)
    np.testing.assert_array_equal(model.actuator_gear[:, 0], 1)
    np.testing.assert_array_equal(model.actuator_ctrlrange, [[-30, 30]] * 8)
    np.testing.assert_allclose(model.geom_solimp[:, :3], [[0.8, 0.8, 0.01]] * model.ngeom)
    assert antmaze.model(layout) is model  # compiled once a process
    plain = antmaze.model(layout, "gymnasium")
    assert plain.body_mass.sum() == pytest.approx(0.910880, abs=5e-7)
    # The floor, the walls, the ant: as in D4RL's model.
    kinds = model.geom_type
    assert kinds[0] == int(mujoco.mjtGeom.mjGEOM_PLANE)
    assert (kinds[1:-13] == int(mujoco.mjtGeom.mjGEOM_BOX)).all()
    assert (model.geom_bodyid[-13:] > 0).all()


def test_motors_stand_in_d4rls_order():
    model = antmaze.model(None)
    joints = [model.joint(model.actuator_trnid[i, 0]).name for i in range(8)]
    assert joints == [f"{kind}_{leg}" for leg in (4, 1, 2, 3) for kind in ("hip", "ankle")]


def test_walls_stand_where_the_layout_says():
    model = antmaze.model("umaze")
    walls = model.geom_pos[1:-13]
    np.testing.assert_array_equal(walls[0], [-4, -4, 1])  # the corner; the start is the origin
    np.testing.assert_array_equal(walls[:5, 0], [-4, 0, 4, 8, 12])
    assert [4, 4, 1] in walls.tolist()
    assert [8, 4, 1] not in walls.tolist()  # the way down
    np.testing.assert_array_equal(model.geom_size[1:-13], [[2, 2, 1]] * len(walls))
    assert (model.geom_contype[1:-13] == 1).all()
    for layout, goal in GOALS.items():
        np.testing.assert_array_equal(antmaze.centre(layout, antmaze.find(layout, "G")), goal)


def test_contacts_begin_where_they_did():
    """Whatever MuJoCo is installed, at 1 cm: of the floor and of walls."""
    env = AntMaze("umaze")
    env.reset(seed=0)
    generator = np.random.default_rng(0)
    place(env, 0, -1.4)
    seen = set()
    for _ in range(200):
        env.step(generator.uniform(-1, 1, 8))
        for contact in env.data.contact:
            assert contact.includemargin == pytest.approx(0.01)
            seen.update(env.model.geom_type[[contact.geom1, contact.geom2]].tolist())
    assert seen >= {int(mujoco.mjtGeom.mjGEOM_PLANE), int(mujoco.mjtGeom.mjGEOM_BOX)}
    if physics.mujoco_version() >= (3, 5, 0):
        assert antmaze.model(None, "gymnasium").geom_margin.max() == pytest.approx(0.01)
        assert env.model.geom_margin.max() == pytest.approx(0.005)


def test_walls_stop_the_ant():
    """Thrown at a wall it stays in its cell; on the open plane it does not."""
    for layout, blocked in (("umaze", True), (None, False)):
        model = antmaze.model(layout)
        data = mujoco.MjData(model)
        data.qpos[:3] = -0.5, 0, 0.75
        data.qvel[:2] = -8, 0
        furthest = 0.0
        for _ in range(200):
            mujoco.mj_step(model, data)
            furthest = min(furthest, data.qpos[0])
        assert (furthest > -2.0) == blocked


@pytest.mark.parametrize(
    ("layout", "kind"), [*((layout, "d4rl") for layout in GEOMS), ("umaze", "gymnasium")]
)
def test_walls_that_are_not_near_change_nothing(layout, kind):
    """Bit for bit, of ants that are pushed against walls, into corners, through walls and out."""
    found = replays.maze_difference(layout, kind)
    assert found.largest == 0
    assert found.at_walls > 100
    assert found.at_several > 3
    assert found.outside > 30


def test_another_ant_moves_no_walls_of_this_one():
    """Which may be in another thread, and mj_step gives the interpreter's lock back."""
    env, other = AntMaze("large"), AntMaze("large")
    for each in (env, other):
        each.reset(seed=0)
    place(env, 0, -1.4)
    env.step(np.zeros(8))
    at_walls = env.data.ncon
    place(other, 28, 20)
    other.step(np.zeros(8))
    mujoco.mj_forward(env.model, env.data)
    places = env.model.geom_pos[env.model.geom_type == int(mujoco.mjtGeom.mjGEOM_BOX)]
    assert at_walls > 0
    assert [-4, -4, 1] in places.tolist()
    assert env.model is not other.model


def test_the_scene_is_the_whole_maze():
    env = AntMaze("large")
    env.reset(seed=0)
    for _ in range(3):
        observation, *_ = env.step(np.ones(8))
    model, data = env.scene()
    assert model.ngeom == GEOMS["large"]
    np.testing.assert_array_equal(np.r_[data.qpos, data.qvel], observation)
    np.testing.assert_allclose(data.xpos[1], observation[:3])  # what is drawn is up to date


def test_reset_is_shaken_as_d4rls():
    env = AntMaze("umaze")
    states = np.array([env.reset(seed=i)[0] for i in range(500)])
    assert env.observation_space.contains(states[0])
    np.testing.assert_allclose(np.linalg.norm(states[:, 3:7], axis=1), 1, atol=1e-12)
    offsets = states[:, :15] - np.r_[0, 0, 0.75, 1, np.zeros(11)]
    free = np.r_[0:3, 7:15]  # a quaternion is shaken before it is made a unit's
    assert np.abs(offsets[:, free]).max() <= 0.1
    assert (np.abs(offsets[:, free]).max(0) > 0.095).all()
    np.testing.assert_allclose(states[:, 15:].std(0), 0.1, rtol=0.15)
    np.testing.assert_allclose(states[:, 15:].mean(0), 0, atol=0.02)
    assert states[:, 4].std() > 0.05


@pytest.mark.parametrize("layout", GEOMS)
def test_goals(layout):
    env = AntMaze(layout)
    goals = np.array([env.reset(seed=i)[1]["goal"] for i in range(400)])
    offsets = goals - GOALS[layout]
    assert (goals >= 0).all()
    assert (offsets >= 0).all()
    assert (offsets <= 1.5).all()
    # U(0, 1) + U(0, 0.5): not uniform over its range.
    np.testing.assert_allclose(offsets.mean(0), 0.75, atol=0.06)
    np.testing.assert_allclose(offsets.std(0), np.sqrt(1.25 / 12), atol=0.03)


def test_a_goal_in_the_corner_is_not_below_zero():
    goal = antmaze.jittered_goal(np.array([-1.4, -4.0]), np.random.default_rng(0).uniform)
    assert goal[1] == 0


def test_v2_draws_a_goal_an_episode_and_v0_one_for_good():
    moving = AntMaze("medium")
    goals = [moving.reset(seed=7)[1]["goal"], *(moving.reset()[1]["goal"] for _ in range(3))]
    assert len(np.unique(goals, axis=0)) == 4
    np.testing.assert_array_equal(moving.reset(seed=7)[1]["goal"], goals[0])
    fixed = AntMaze("medium", fixed_goal=True)
    kept = [fixed.reset(seed=i)[1]["goal"] for i in range(4)]
    assert len(np.unique(kept, axis=0)) == 1
    others = [AntMaze("medium", fixed_goal=True).goal for _ in range(3)]
    assert len(np.unique(others, axis=0)) == 3
    # D4RL's comes from numpy's global generator; a seed of one's own repeats it.
    np.random.seed(0)
    first = AntMaze("medium", fixed_goal=True).goal
    np.random.seed(0)
    np.testing.assert_array_equal(first, AntMaze("medium", fixed_goal=True).goal)
    seeded = [AntMaze("medium", fixed_goal=True, goal_seed=s).goal for s in (1, 1, 2)]
    np.testing.assert_array_equal(seeded[0], seeded[1])
    assert not np.array_equal(seeded[0], seeded[2])


def test_a_seed_repeats_an_episode():
    def episode(env, seed):
        generator = np.random.default_rng(0)
        first = env.reset(seed=seed)[0]
        return [first, *(env.step(generator.uniform(-1, 1, 8))[0] for _ in range(30))]

    env = AntMaze("large")
    expected = episode(env, 5)
    np.testing.assert_array_equal(expected, episode(env, 5))
    np.testing.assert_array_equal(expected, episode(AntMaze("large"), 5))
    assert not np.array_equal(expected, episode(env, 6))


@pytest.mark.parametrize(("distance", "reached"), [(0.49, True), (0.51, False)])
def test_the_goal_ends_an_episode(distance, reached):
    env = AntMaze("umaze")
    env.reset(seed=0, options={"goal": (1.0, 0.5)})
    np.testing.assert_array_equal(env.goal, (1.0, 0.5))
    place(env, 1.0 - distance, 0.5)
    _, reward, terminal, cut, _ = env.step(np.zeros(8))
    assert (reward, terminal, cut) == (float(reached), reached, False)


def test_an_ant_on_its_back_goes_on():
    env = AntMaze("umaze")
    env.reset(seed=0)
    env.data.qpos[3:7] = 0, 1, 0, 0
    assert not any(env.step(np.zeros(8))[2] for _ in range(30))


def test_a_step_is_five_of_the_simulator_with_torques_in_newton_metres():
    env = AntMaze("umaze")
    first, _ = env.reset(seed=0)
    action = np.array([0.5, -0.25, 1, -1, 2, -3, 0, 0.1], np.float32)  # two beyond the range
    observation = env.step(action)[0]
    data = mujoco.MjData(env.model)
    data.qpos[:], data.qvel[:] = first[:15], first[15:]
    data.ctrl[:] = 30 * np.clip(action, -1, 1)
    for _ in range(5):
        mujoco.mj_step(env.model, data)
    np.testing.assert_allclose(observation, np.r_[data.qpos, data.qvel], rtol=0, atol=1e-12)
    assert env.data.time == pytest.approx(0.1)


def test_the_quaternion_that_is_observed_is_the_one_that_moves():
    """A start that is set from the first observation goes the same way."""
    env, other = AntMaze("umaze"), AntMaze("umaze")
    first, _ = env.reset(seed=0)
    other.reset(seed=1)
    other.data.qpos[:], other.data.qvel[:] = first[:15], first[15:]
    for _ in range(5):
        np.testing.assert_allclose(
            env.step(np.ones(8))[0], other.step(np.ones(8))[0], rtol=0, atol=1e-9
        )


def test_wrong_input(monkeypatch, tmp_path):
    with pytest.raises(UserError, match="no layout 'huge': umaze, medium, large"):
        AntMaze("huge")
    with pytest.raises(UserError, match="physics is 'mars'"):
        AntMaze("umaze", physics="mars")
    with pytest.raises(ValueError, match="broadcast"):
        AntMaze("umaze").step(np.zeros(7))
    antmaze._near.cache_clear()
    try:
        with monkeypatch.context() as patch:
            patch.setitem(antmaze.MASSES, "torso", 1.0)
            with pytest.raises(UserError, match=r"torso weighs 0\.327249 kg, for 1"):
                AntMaze("umaze")
        monkeypatch.setattr(antmaze, "assets", lambda package: tmp_path)
        for text in (None, "<mujoco/>", "<mujoco"):
            if text:
                (tmp_path / "ant.xml").write_text(text)
            with pytest.raises(UserError, match="not the one expected"):
                AntMaze("umaze")
    finally:
        antmaze._near.cache_clear()


@pytest.mark.filterwarnings("ignore::UserWarning")  # of infinite bounds, and of no rendering
def test_gymnasiums_own_checker():
    check_env(AntMaze("umaze"), skip_render_check=True)
