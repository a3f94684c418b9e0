"""Minari's datasets: every kind of space, storage and wrapper is trained on right, or refused."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import gymnasium
import h5py
import minari as library
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import (
    NormalizeObservation,
    RecordEpisodeStatistics,
    RescaleAction,
    TimeAwareObservation,
)

from iql_fast import data
from iql_fast.data import minari
from iql_fast.environments import workers
from iql_fast.environments.episodes import episode_return, run_episodes
from iql_fast.environments.spaces import sorted_by_key
from iql_fast.policies.policy import Policy
from iql_fast.policies.units import Units
from iql_fast.support.errors import UserError

from . import odd_environments as odd
from .conftest import write_minari

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(autouse=True)
def _own_store(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


def stacked(samples):
    """A sequence of observations as an episode holds them: arrays, in dicts and tuples."""
    if isinstance(samples[0], dict):
        return {key: stacked([sample[key] for sample in samples]) for key in samples[0]}
    if isinstance(samples[0], tuple):
        return tuple(stacked(list(part)) for part in zip(*samples, strict=True))
    return np.stack([np.asarray(sample) for sample in samples])


def collect(name, env, episodes=3, data_format="hdf5", **metadata):
    """Random actions, stored as Minari's own collector does (which needs jax, and is not asked
    for that); what was seen and done, a list an episode."""
    from minari.data_collector import EpisodeBuffer

    env.action_space.seed(0)
    log, buffer = [], []
    for e in range(episodes):
        observation, _ = env.reset(seed=e)
        seen, done, rewards, terminals, cuts = [observation], [], [], [], []
        while not (terminals and (terminals[-1] or cuts[-1])):
            action = env.action_space.sample()
            observation, reward, terminal, cut, _ = env.step(action)
            seen.append(observation)
            done.append(action)
            rewards.append(float(reward))
            terminals.append(terminal)
            cuts.append(cut)
        log.append((seen, done))
        buffer.append(
            EpisodeBuffer(
                id=e,
                observations=stacked(seen),
                actions=stacked(done),
                rewards=rewards,
                terminations=terminals,
                truncations=cuts,
                infos={},
            )
        )
    library.create_dataset_from_buffers(
        name, buffer=buffer, env=env, data_format=data_format, **metadata
    )
    return log


def constant_policy(obs_dim, act_dim, value, units=None):
    """Always the same action, in the networks' units."""
    bias = np.full(act_dim, np.arctanh(value), np.float32)
    weight = np.zeros((obs_dim, act_dim), np.float32)
    return Policy((weight,), (bias,), np.zeros(act_dim, np.float32), units or Units())


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
@pytest.mark.parametrize("kind", ["box", "matrix", "dict", "unsorted", "tuple"])
def test_observations_are_flattened_as_gymnasium_does(kind, data_format):
    log = collect("odd/observed-v0", odd.made(kind), data_format=data_format)
    loaded = data.load("odd/observed-v0", offline=True)
    space = sorted_by_key(odd.OBSERVATIONS[kind])  # so Minari stores it
    flat = [[spaces.flatten(space, seen) for seen in episode] for episode, _ in log]
    expected = np.concatenate([np.stack(episode[:-1]) for episode in flat])
    following = np.concatenate([np.stack(episode[1:]) for episode in flat])
    np.testing.assert_array_equal(loaded.transitions.observations, expected)
    np.testing.assert_array_equal(loaded.transitions.next_observations, following)
    assert loaded.record["trajectories"] == 3
    # And in the environment: what the policy reads there is flattened alike.
    env = workers.environment(loaded.scoring.environment)
    observation, _ = env.reset(seed=3)
    np.testing.assert_array_equal(
        observation, spaces.flatten(space, env.unwrapped.reset(seed=3)[0])
    )
    if kind in ("dict", "unsorted", "tuple"):
        assert sum(size for _, size in loaded.parts) == expected.shape[1]


@pytest.mark.parametrize("actions", ["scaled", "matrix"])
def test_actions_are_scaled_by_their_space_and_back(actions):
    log = collect("odd/acted-v0", odd.made(actions=actions))
    loaded = data.load("odd/acted-v0", offline=True)
    space = odd.ACTIONS[actions]
    logged = np.concatenate([np.stack(done).reshape(len(done), -1) for _, done in log])
    low, high = space.low.reshape(-1), space.high.reshape(-1)
    share = (logged - low) / (high - low)
    np.testing.assert_allclose(loaded.transitions.actions, 2 * share - 1, atol=1.1e-5)
    assert loaded.record["actions_clipped"] == 0
    # The environment rewards actions at three quarters of their range: 0.5 of the networks'.
    policy = constant_policy(4, len(low), 0.5, loaded.units)
    total = episode_return(loaded.scoring.environment, odd.STEPS, policy, (0, 0, 0))
    assert total == pytest.approx(odd.STEPS, rel=1e-5)
    unscaled = constant_policy(4, len(low), 0.5)
    assert episode_return(loaded.scoring.environment, odd.STEPS, unscaled, (0, 0, 0)) < total - 0.5


def test_actions_without_bounds_are_measured():
    collect("odd/unbounded-v0", odd.made(actions="unbounded"))
    loaded = data.load("odd/unbounded-v0", offline=True)
    assert np.abs(loaded.transitions.actions).max() <= 1
    assert any("data's own" in note for note in loaded.notes)
    assert loaded.units.act_low is not None


@pytest.mark.parametrize(
    ("observations", "actions", "message"),
    [
        ("box", "discrete", r"actions have the space Discrete\(3\)"),
        ("box", "multidiscrete", r"actions have the space MultiDiscrete\(\[5 5\]\)"),
        ("discrete", "box", r"observations have the space Discrete\(5\)"),
        ("image", "box", r"observations are images \(Box\(0, 255, \(8, 8, 3\), uint8\)\)"),
    ],
)
def test_what_is_no_vector_is_refused_by_the_name_of_its_space(observations, actions, message):
    collect("odd/refused-v0", odd.made(observations, actions), episodes=1)
    with pytest.raises(UserError, match=message) as caught:
        data.load("odd/refused-v0", offline=True)
    assert "\n" not in str(caught.value)


def scored_as_recovered(name, policy):
    """Returns of one episode: here, and in the environment as Minari recovers it."""
    loaded = data.load(name, offline=True)
    own = episode_return(loaded.scoring.environment, loaded.scoring.horizon, policy, (0, 0, 0))
    env = library.load_dataset(name).recover_environment()
    observation, _ = env.reset(seed=workers.seed_of((0, 0, 0)))
    total, ended = 0.0, False
    while not ended:
        observation, reward, terminal, cut, _ = env.step(policy.mean_action(observation))
        total += float(reward)
        ended = terminal or cut
    return own, total


@pytest.mark.parametrize(
    ("wrap", "obs_dim"),
    [
        (lambda env: env, 3),
        (RecordEpisodeStatistics, 3),
        (TimeAwareObservation, 4),
        (lambda env: RescaleAction(env, -1.0, 1.0), 3),
        (NormalizeObservation, 3),
    ],
)
def test_wrappers_that_change_something_are_kept(wrap, obs_dim):
    collect("pendulum/wrapped-v0", wrap(gymnasium.make("Pendulum-v1")))
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(obs_dim, 1)).astype(np.float32)
    policy = Policy((weight,), (np.float32([0.1]),), np.zeros(1, np.float32))
    own, recovered = scored_as_recovered("pendulum/wrapped-v0", policy)
    assert own == pytest.approx(recovered, rel=1e-6)


def test_a_wrapper_that_holds_statistics_starts_anew_with_each_episode():
    collect("pendulum/normal-v0", NormalizeObservation(gymnasium.make("Pendulum-v1")))
    where = data.load("pendulum/normal-v0", offline=True).scoring
    policy = Policy((np.ones((3, 1), np.float32),), (np.zeros(1, np.float32),), np.zeros(1))
    first, again = (run_episodes(where.environment, 200, policy, [(1, 2, 3)]) for _ in range(2))
    assert first == again


def test_a_wrapper_whose_arguments_were_not_recorded():
    collect("odd/plain-v0", odd.Unremarkable(odd.made()))
    assert data.load("odd/plain-v0", offline=True).scoring.environment is not None
    collect("odd/doubled-v0", odd.Doubled(odd.made()))
    where = data.load("odd/doubled-v0", offline=True).scoring
    assert where.environment is None
    assert "Doubled" in where.note
    assert "--env" in where.note


def test_a_specification_of_an_older_gymnasium_is_repaired():
    collect("pendulum/old-v0", gymnasium.make("Pendulum-v1"))
    path = library.storage.get_dataset_path("pendulum/old-v0") / "data" / "metadata.json"
    record = json.loads(path.read_text())
    spec = json.loads(record["env_spec"])
    spec.pop("order_enforce")
    first = list(spec.items())[:5]
    old = dict(first) | {"order_enforce": True, "autoreset": False}
    old |= {"apply_api_compatibility": False} | dict(list(spec.items())[5:])
    record["env_spec"] = json.dumps(old)
    path.write_text(json.dumps(record))
    where = data.load("pendulum/old-v0", offline=True).scoring
    assert workers.environment(where.environment).spec.id == "Pendulum-v1"


def buffers(name, episodes=3, steps=8, reward=None, terminal=False, obs_dim=4, **metadata):
    """A dataset of noise, without an environment."""
    from minari.data_collector import EpisodeBuffer

    rng = np.random.default_rng(0)
    library.create_dataset_from_buffers(
        name,
        buffer=[
            EpisodeBuffer(
                id=i,
                observations=rng.normal(size=(steps + 1, obs_dim)).astype(np.float32),
                actions=rng.uniform(-1, 1, (steps, 2)).astype(np.float32),
                rewards=[reward(i, t) if reward else 1.0 for t in range(steps)],
                terminations=[False] * (steps - 1) + [terminal],
                truncations=[False] * (steps - 1) + [not terminal],
                infos={},
            )
            for i in range(episodes)
        ],
        observation_space=odd.unit(obs_dim),
        action_space=odd.unit(2, low=-1, high=1),
        **metadata,
    )


def test_rewards_in_a_column_of_their_own():
    buffers("my/column-v0", reward=lambda i, t: np.float32([i + t]))
    loaded = data.load("my/column-v0", offline=True)
    assert loaded.transitions.rewards[:9].tolist() == [*range(8), 1]


def test_episodes_that_minari_cannot_read():
    buffers("my/broken-v0")
    path = library.storage.get_dataset_path("my/broken-v0") / "data" / "main_data.hdf5"
    with h5py.File(path, "r+") as file:
        del file["episode_1/observations"]
    with pytest.raises(
        UserError, match=r"my/broken-v0: Minari cannot read its episodes \(KeyError"
    ):
        data.load("my/broken-v0", offline=True)


@pytest.mark.parametrize("high", [1.0, float("nan"), -3.0])
def test_reference_returns_that_measure_nothing_are_left_out(high):
    collect("odd/reference-v0", odd.made(), ref_min_score=1.0, ref_max_score=high)
    loaded = data.load("odd/reference-v0", offline=True)
    assert loaded.scoring.reference is None
    assert any("measure nothing" in note for note in loaded.notes)


def test_an_environment_of_a_package_scores_it():
    collect("odd/module-v0", odd.made("unsorted"))
    package = "tests.odd_environments"
    where = data.load("odd/module-v0", offline=True, env=f"{package}:OddUnsorted-v0").scoring
    assert where.horizon == odd.STEPS
    seen, _ = workers.environment(where.environment).reset(seed=3)
    plain, _ = odd.made("unsorted").reset(seed=3)
    np.testing.assert_array_equal(seen[:1], plain["a"])
    with pytest.raises(UserError, match=r"OddCallable-v0: its specification cannot be written"):
        data.load("odd/module-v0", offline=True, env=f"{package}:OddCallable-v0")


def test_an_id_without_a_namespace(command):
    buffers("mydata-v0")
    loaded = data.load("mydata-v0", offline=True)
    assert (loaded.source, len(loaded.transitions)) == ("minari", 24)
    assert not minari.is_id("mydata-v1")
    assert "mydata-v0" in command("data", "list").stdout
    info = command("data", "info", "mydata-v0")
    assert "transitions 24" in info.stdout, info.stderr
    assert "mydata-v0" in command("data", "fetch", "mydata-v0").stdout


def test_returns_of_whole_episodes_are_averaged():
    buffers("my/returns-v0", reward=lambda i, _: float(i))
    assert data.load("my/returns-v0", offline=True).behaviour_return == 8.0


def test_a_bandit_trains(command):
    buffers("my/bandit-v0", episodes=50, steps=1, terminal=True, reward=lambda i, _: float(i % 3))
    loaded = data.load("my/bandit-v0", offline=True)
    assert loaded.transitions.masks.max() == 0
    assert any("bandit" in note for note in loaded.notes)
    small = ("--hidden", 16, 16, "--steps", 20, "--log-interval", 10, "--checkpoint-interval", 10)
    result = command("train", "--task", "my/bandit-v0", "--out", "run", *small)
    assert result.returncode == 0, result.stderr
    assert "scores  none" in result.stdout


def test_what_is_not_finite_is_named_by_episode_and_step():
    buffers("my/nan-v0", reward=lambda i, t: float("nan") if (i, t) == (1, 5) else 0.0)
    with pytest.raises(UserError, match=r"'rewards' is not finite in step 5 of episode 1 \(1 such"):
        data.load("my/nan-v0", offline=True)


def test_families_by_name():
    assert data.preset_of("mujoco/hopper/medium-v0").family == "locomotion"
    assert data.preset_of("D4RL/antmaze/medium-play-v1").family == "antmaze"
    assert data.preset_of("D4RL/pen/human-v2").family == "adroit"
    assert data.preset_of("D4RL/pointmaze/open-v2").family == "neutral"
    assert data.preset_of("hopper-medium-v2").family == "locomotion"


def test_loading_needs_little_more_memory_than_what_stays():
    buffers("my/large-v0", episodes=40, steps=500, obs_dim=100)
    tracemalloc.start()
    loaded = data.load("my/large-v0", offline=True)
    stays, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    columns = sum(column.nbytes for column in loaded.transitions.columns().values())
    assert stays >= columns
    assert peak <= 1.3 * columns


def test_a_dataset_trains_and_is_scored(command, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))  # of the environment's class
    collect("odd/whole-v0", odd.made("dict", "scaled"), episodes=8)
    small = ("--hidden", 16, 16, "--steps", 200, "--log-interval", 100, "--eval-interval", 200)
    result = command("train", "--task", "odd/whole-v0", "--out", "run", *small, "--normalize-obs")
    assert result.returncode == 0, result.stderr
    assert "preset  neutral" in result.stdout
    assert command("evaluate", "--run", "run", "--episodes", 2).returncode == 0


def test_an_environment_of_other_sizes_is_refused_before_training(command, tmp_path):
    buffers("my/four-v0")
    wrong = ("--task", "my/four-v0", "--env", "Pendulum-v1", "--out", "run", "--steps", 100)
    result = command("train", *wrong, "--log-interval", 100)
    assert result.returncode == 2
    assert "my/four-v0 has observations of 4 numbers, but Pendulum-v1 has 3" in result.stderr
    assert not (tmp_path / "run").exists()


def edit(name, change):
    """Change a stored dataset's metadata, or with ``change(metadata, file)`` its columns too."""
    place = Path(library.storage.get_dataset_path(name)) / "data"
    metadata = json.loads((place / "metadata.json").read_text())
    with h5py.File(place / "main_data.hdf5", "a") as file:
        change(metadata, file)
    (place / "metadata.json").write_text(json.dumps(metadata))


def set_column(name, column):
    def change(_, file):
        del file[f"episode_0/{name}"]
        file[f"episode_0/{name}"] = column

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *(
            (lambda metadata, _, said=said: metadata.update(total_steps=said), "holds no step|says")
            for said in ("18", 1.5, -1, None, [])
        ),
        (lambda metadata, _: metadata.update(total_steps=10**18), "which do not fit into the mem"),
        (set_column("rewards", np.zeros(9, complex)), "rewards of type complex128"),
        (set_column("observations", np.zeros((10, 11), complex)), "not of their space .complex"),
        (set_column("observations", np.zeros((0, 11))), "9 steps, but"),
        (set_column("terminations", np.zeros(8, bool)), "9 steps, but"),
        (set_column("terminations", np.full(9, np.nan)), "terminations that are neither 0 nor 1"),
        (set_column("truncations", np.full(9, 2)), "truncations that are neither 0 nor 1"),
    ],
)
def test_what_was_changed_after_it_was_stored(change, message):
    write_minari("my/hopper-v0")
    edit("my/hopper-v0", change)
    with pytest.raises(UserError, match=message) as caught:
        minari.load("my/hopper-v0", offline=True)
    assert "my/hopper-v0" in str(caught.value)


@pytest.mark.parametrize("low", ["x", [1], 10**400], ids=["text", "list", "huge"])
def test_reference_returns_that_are_no_numbers(low):
    collect("odd/reference-v0", odd.made(), ref_min_score=1.0, ref_max_score=3.0)
    edit("odd/reference-v0", lambda metadata, _: metadata.update(ref_min_score=low))
    loaded = data.load("odd/reference-v0", offline=True)
    assert loaded.scoring.reference is None
    assert any("measure nothing" in note for note in loaded.notes)
