"""AntMaze's regenerated data: the walker's symmetry, the way it is led, and D4RL's columns."""

import mujoco
import numpy as np
import pytest

from iql_fast.data import antmaze as data
from iql_fast.data import behaviour_policy
from iql_fast.data.antmaze import EPISODE_ROWS, Ant, Frame
from iql_fast.environments import antmaze
from iql_fast.support.errors import UserError

NAME = "antmaze-umaze-diverse-v2"
ROWS = 2 * EPISODE_ROWS + 100


@pytest.fixture(scope="module")
def policy():
    return behaviour_policy.load(data.POLICY)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="module")
def made(kept):
    return data.collect(NAME, rows=ROWS, workers=2, progress=False, keep=kept)


# --- The walker's frame ----------------------------------------------------------------------


def random_states(count, seed=0):
    """States of an ant that was shaken, turned anyhow about the vertical."""
    generator = np.random.default_rng(seed)
    simulation = mujoco.MjData(antmaze.model(None))
    states = []
    for _ in range(count):
        antmaze.start(simulation, generator)
        for _ in range(10):
            simulation.ctrl[:] = generator.uniform(-30, 30, 8)
            mujoco.mj_step(simulation.model, simulation, 5)
        states.append(turned(simulation.qpos, simulation.qvel, generator.uniform(-np.pi, np.pi)))
    qpos, qvel = (np.array(part) for part in zip(*states, strict=True))
    return qpos, qvel, generator.standard_normal((count, 2)), generator.uniform(-1, 1, (count, 8))


def turned(qpos, qvel, angle):
    """The whole world turned about z."""
    qpos, qvel = qpos.copy(), qvel.copy()
    turn = np.array([np.cos(angle / 2), 0, 0, np.sin(angle / 2)])
    orientation = np.empty(4)
    mujoco.mju_mulQuat(orientation, turn, qpos[3:7])
    qpos[:2], qvel[:2] = plane(angle) @ qpos[:2], plane(angle) @ qvel[:2]
    qpos[3:7] = orientation
    return qpos, qvel


def plane(angle):
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.array([[cosine, -sine], [sine, cosine]])


def stepped(qpos, qvel, action):
    simulation = mujoco.MjData(antmaze.model(None))
    simulation.qpos[:], simulation.qvel[:] = qpos, qvel
    simulation.ctrl[:] = 30 * action
    mujoco.mj_step(simulation.model, simulation, 5)
    return simulation.qpos[None].copy(), simulation.qvel[None].copy()


def test_the_frame_faces_its_direction():
    qpos, qvel, directions, _ = random_states(50)
    inputs = Frame(qpos, qvel, directions).inputs()
    assert inputs.shape == (50, 29)
    w, x, y, z = inputs[:, 1:5].T
    yaw = np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
    w_, x_, y_, z_ = qpos[:, 3:7].T
    own_yaw = np.arctan2(2 * (w_ * z_ + x_ * y_), 1 - 2 * (y_ * y_ + z_ * z_))
    # But for the tilt: what is compared is where two different sides of a torso point.
    np.testing.assert_allclose(np.exp(1j * yaw), np.exp(1j * own_yaw), atol=0.1)
    assert (w >= 0).all()
    np.testing.assert_allclose(inputs[:, 0], qpos[:, 2], rtol=1e-6)
    # The direction stands last, within 45 degrees of +x, and velocity is along it as it was.
    aim = inputs[:, 27:]
    np.testing.assert_allclose(np.linalg.norm(aim, axis=1), 1, rtol=1e-6)
    assert (aim[:, 0] >= np.abs(aim[:, 1]) - 1e-6).all()
    ahead = (qvel[:, :2] * directions).sum(1) / np.linalg.norm(directions, axis=1)
    np.testing.assert_allclose((inputs[:, 13:15] * aim).sum(1), ahead, atol=1e-5)


def test_legs_are_counted_from_the_direction():
    """The state that the walker sees, built as an ant that is to walk towards +x: its motion is the
    same. So the four ways to count the legs, and the signs of their joints, are right."""
    qpos, qvel, directions, actions = random_states(30)
    quarters = set()
    signs = np.stack([np.ones(4), [1, -1, -1, 1]], 1)  # of the model's joint axes
    for i in range(30):
        frame = Frame(qpos[i : i + 1], qvel[i : i + 1], directions[i : i + 1])
        seen = frame.inputs()[0].astype(np.float64)
        q, v = np.zeros(15), np.zeros(14)
        q[2:7], v[:6] = seen[:5], seen[13:19]
        q[7:] = (seen[5:13].reshape(4, 2) * signs).ravel()
        v[6:] = (seen[19:27].reshape(4, 2) * signs).ravel()
        ahead = seen[None, 27:]
        plain = Frame(q[None], v[None], ahead)
        np.testing.assert_allclose(plain.inputs()[0], seen, atol=1e-6)
        chosen = actions[i : i + 1]
        here = stepped(qpos[i], qvel[i], frame.actions(chosen)[0])
        there = stepped(q, v, plain.actions(chosen)[0])
        np.testing.assert_allclose(
            Frame(*here, directions[i : i + 1]).inputs(), Frame(*there, ahead).inputs(), atol=2e-4
        )
        quarters.add(int(frame._quarters[0]) % 4)
    assert quarters == {0, 1, 2, 3}


# --- Recipes and ways ------------------------------------------------------------------------


def test_recipes():
    assert len(data.names()) == 12
    umaze = data.recipe("antmaze-umaze-v0")
    assert (umaze.starts, umaze.goals) == (None, ((3, 1),))
    play = data.recipe("antmaze-large-play-v2")
    assert play.goals == ((1, 6), (3, 5), (3, 10), (5, 2), (7, 4), (7, 6), (7, 9))
    assert play.starts is not None
    diverse = data.recipe("antmaze-large-diverse-v2")
    assert set(diverse.goals) == set(play.starts) | set(play.goals)
    assert not set(play.starts) & set(play.goals)
    assert diverse.starts == diverse.goals
    assert (6, 6) not in data.recipe("antmaze-medium-play-v2").goals  # the evaluation's
    assert len({data.fingerprint(name) for name in data.names()}) == 6
    assert data.stream("antmaze-large-play-v0") == data.stream("antmaze-large-play-v2")
    with pytest.raises(UserError, match="no AntMaze dataset 'antmaze-umaze-play-v2'"):
        data.recipe("antmaze-umaze-play-v2")


def test_cells_are_counted_from_the_middle_of_the_starts():
    for x, column in ((-3.0, 1), (0.0, 1), (3.99, 1), (4.0, 2), (9.0, 3)):
        assert data.cell_of("medium", (x, 0.0)) == (1, column)
    assert data.cell_of("medium", (0.0, 8.1)) == (3, 1)
    assert data.cell_of("umaze", (99.0, 99.0)) == (4, 4)


@pytest.mark.parametrize(("layout", "metres"), [("umaze", 24), ("medium", 40), ("large", 56)])
def test_ways_are_shortest_and_keep_to_free_cells(layout, metres):
    free = set(data.free_cells(layout))
    target = antmaze.find(layout, "G")
    following = data.next_cells(layout, target)
    assert free <= set(following)

    def length(cell):
        return 0 if cell == target else 1 + length(following[cell])

    assert antmaze.CELL * length(antmaze.find(layout, "S")) == metres
    for cell, after in following.items():
        assert after in free
        assert cell == target or sum(abs(a - b) for a, b in zip(cell, after, strict=True)) == 1
    for r, c in free - {target}:
        around = {(r, c + 1), (r + 1, c), (r, c - 1), (r - 1, c)} & free
        assert length((r, c)) == 1 + min(length(cell) for cell in around)


def test_waypoints():
    generator = np.random.default_rng(0)
    goal = np.array([0.5, 9.0])  # in cell (3, 1)
    points = np.array([data.waypoint("umaze", (0.2, 0.1), goal, generator) for _ in range(200)])
    offsets = points - (4, 0)  # the next cell's centre
    assert (offsets >= 0).all()
    assert (offsets <= 1).all()
    assert (np.ptp(offsets, axis=0) > 0.9).all()  # drawn each time
    np.testing.assert_array_equal(data.waypoint("umaze", (1.0, 8.2), goal, generator), goal)


def test_episodes_begin_as_the_recipe_says():
    def begins(name, count=150):
        ants = [Ant(data.recipe(name), (0, i)) for i in range(count)]
        return np.array([ant.qpos[:2].copy() for ant in ants]), np.array([a.goal for a in ants])

    starts, goals = begins("antmaze-umaze-v2")
    assert np.abs(starts).max() <= 0.1
    assert (goals[:, 1] >= 8).all()
    assert (goals <= (1.5, 9.5)).all()
    for name in ("antmaze-medium-play-v2", "antmaze-medium-diverse-v2"):
        recipe = data.recipe(name)
        starts, goals = begins(name)
        assert {data.cell_of("medium", place) for place in starts} == set(recipe.starts)
        assert {data.cell_of("medium", place) for place in goals} == set(recipe.goals)
        assert (starts % 4 <= 1).all()  # U(0, 1) from a centre
        assert (goals % 4 <= 1.5).all()
        assert (goals % 4 > 1).any()


# --- Episodes and columns --------------------------------------------------------------------


def test_an_episode_depends_on_its_key_alone(policy):
    recipe = data.recipe("antmaze-medium-play-v2")
    both = data.walk(recipe, policy, [(0, 1), (0, 2)], 40)
    (alone,) = data.walk(recipe, policy, [(0, 2)], 40)
    np.testing.assert_array_equal(both[1].states, alone.states)
    np.testing.assert_array_equal(both[1].actions, alone.actions)
    assert not np.array_equal(both[0].states, alone.states)
    (longer,) = data.walk(recipe, policy, [(0, 2)], 60)
    np.testing.assert_array_equal(longer.states[:41], alone.states)


def test_workers_do_not_change_a_dataset(made, kept):
    alone = data.collect(NAME, rows=ROWS, workers=1, progress=False)
    assert alone.keys() == made.keys()
    for key, column in alone.items():
        np.testing.assert_array_equal(column, made[key])
    other = data.collect(NAME, rows=300, seed=1, workers=1, progress=False)
    assert not np.array_equal(other["observations"], made["observations"][:300])


def test_a_killed_run_goes_on(made, kept, monkeypatch):
    """Finished episodes are read again, not walked again."""
    assert len(list(kept.glob("*.npz"))) == 2

    def walk(*arguments):
        raise AssertionError("walked again")

    monkeypatch.setattr(data, "walk", walk)
    args = (NAME, data.POLICY, 0)
    again = data._walk_some(*args, range(2), EPISODE_ROWS, kept)
    np.testing.assert_array_equal(again[0].states[:-1], made["observations"][:EPISODE_ROWS])
    with pytest.raises(AssertionError, match="walked again"):
        data._walk_some(*args, range(2), EPISODE_ROWS, None)


def test_columns(made):
    widths = {"observations": 29, "actions": 8, "infos/goal": 2, "infos/qpos": 15, "infos/qvel": 14}
    for key, width in widths.items():
        assert made[key].shape == (ROWS, width)
        assert made[key].dtype == np.float32
    for key in ("rewards", "terminals", "timeouts"):
        assert made[key].shape == (ROWS,)
    ends = np.flatnonzero(made["timeouts"])
    np.testing.assert_array_equal(ends, [1000, 2001])  # 1,001 rows an episode; the last is cut
    state = np.concatenate([made["infos/qpos"], made["infos/qvel"]], 1)
    follows = (made["observations"][1:] == state[:-1]).all(1)
    np.testing.assert_array_equal(np.flatnonzero(~follows), ends)
    goals = made["infos/goal"]
    assert len(np.unique(goals, axis=0)) == 3
    assert (goals[:1001] == goals[0]).all()
    assert np.abs(made["actions"]).max() == 1  # cut after the noise
    np.testing.assert_array_equal(made["terminals"], made["rewards"] == 1)
    np.testing.assert_allclose(np.linalg.norm(made["observations"][0, 3:7]), 1, atol=1e-6)


def test_rows_are_steps_of_the_environment(made):
    env = antmaze.AntMaze("umaze")
    env.reset(seed=0)
    for i in range(0, 1000, 50):
        env.data.qpos[:], env.data.qvel[:] = np.split(made["observations"][i].astype(float), [15])
        observation = env.step(made["actions"][i])[0]
        np.testing.assert_allclose(observation[:15], made["infos/qpos"][i], atol=2e-3)


def test_actions_are_the_walkers_with_noise(policy):
    """Of the standard deviation 0.2, before they are cut."""
    recipe = data.recipe("antmaze-umaze-v2")
    ant = Ant(recipe, (0, 0))
    done = np.array([ant.step(np.full(8, 0.1)) for _ in range(200)])
    assert done.std() == pytest.approx(0.2, rel=0.1)
    assert done.mean() == pytest.approx(0.1, abs=0.03)
    assert max(abs(ant.step(np.ones(8))).max() for _ in range(20)) <= 1


def test_rewards_are_of_one_goal(made):
    goal = data.target(NAME, 0)
    offset = goal - antmaze.centre("umaze", antmaze.find("umaze", "G"))
    assert (offset >= 0).all()
    assert (offset <= 1.5).all()
    np.testing.assert_array_equal(goal, data.target(NAME.replace("v2", "v0"), 0))
    assert not np.array_equal(goal, data.target(NAME, 1))
    observations = np.zeros((5, 29), np.float32)
    observations[:, :2] = goal + np.array([[0, 0], [0, 0.49], [0.51, 0], [0, 0], [0, 0]])
    np.testing.assert_array_equal(data.relabelled(observations, goal), [1, 0, 1, 1, 0])
    np.testing.assert_array_equal(made["rewards"], data.relabelled(made["observations"], goal))


def test_summary_counts_what_is_there(made):
    found = data.summary(made)
    assert found.episodes == 2
    assert found.jumps == 0
    # Without the right timeouts, as in D4RL's v0 files, the jumps are seen.
    wrong = {**made, "timeouts": np.roll(made["timeouts"], 3)}
    starts = made["observations"][[1001, 2002], :2] - made["observations"][[1000, 2001], :2]
    far = int((np.linalg.norm(starts, axis=1) > 5).sum())
    assert data.summary(wrong).jumps == far > 0
    away = np.linalg.norm(made["infos/qpos"][:, :2] - made["infos/goal"], axis=1)
    came = [(away[i : i + 1001] <= 0.5).any() for i in (0, 1001)]
    assert found.success == np.mean(came)
    upside_down = {**made, "infos/qpos": made["infos/qpos"].copy()}
    upside_down["infos/qpos"][1000, 3:7] = 0, 1, 0, 0
    assert data.summary(upside_down).fallen >= 0.5


def test_the_shipped_walker_reaches_goals(policy):
    assert data.POLICY.stat().st_size < 1_000_000
    assert policy.weights[0].shape[0] == data.INPUTS
    recipe = data.recipe("antmaze-umaze-v2")
    walks = data.walk(recipe, policy, [(0, i) for i in range(6)], EPISODE_ROWS)
    rows = 6 * EPISODE_ROWS
    found = data.summary(data.columns("antmaze-umaze-v2", 0, rows, iter(walks)))
    assert found.success >= 4 / 6
    assert found.steps_to_goal < 600  # 24 m: faster than 0.4 m/s
    assert found.rewarded > 0
