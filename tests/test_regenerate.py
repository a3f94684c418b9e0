"""Regenerated data: the same whatever the workers, and what the simulator itself would give."""

import shutil

import gymnasium
import h5py
import numpy as np
import pytest

from iql_fast.data import d4rl, regenerate, resolve
from iql_fast.support.errors import UserError
from iql_fast.tasks import catalogue

ROWS = 3000


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("made") / "hopper.hdf5"
    regenerate.regenerate("hopper-medium-expert-v2", path, rows=ROWS, workers=2, progress=False)
    return path


def columns_of(path):
    with h5py.File(path) as file:
        return {key: file[key][()] for key in file}, dict(file.attrs)


def test_one_worker_makes_the_same(made, tmp_path):
    path = tmp_path / "alone.hdf5"
    regenerate.regenerate("hopper-medium-expert-v2", path, rows=ROWS, workers=1, progress=False)
    (alone, _), (pair, attributes) = columns_of(path), columns_of(made)
    assert alone.keys() == pair.keys()
    for key, column in alone.items():
        np.testing.assert_array_equal(column, pair[key])
    assert attributes["regenerated"]
    other = tmp_path / "other.hdf5"
    regenerate.regenerate(
        "hopper-medium-expert-v2", other, seed=1, rows=ROWS, workers=2, progress=False
    )
    assert not np.array_equal(columns_of(other)[0]["rewards"], alone["rewards"])


def test_layout(made):
    columns, _ = columns_of(made)
    assert all(len(column) == ROWS for column in columns.values())
    ends = columns["terminals"] | columns["timeouts"]
    follows = (columns["observations"][1:] == columns["next_observations"][:-1]).all(1)
    # The next row goes on from this one, but where an episode ended.
    np.testing.assert_array_equal(follows, ~ends[:-1])
    assert ends[ROWS // 2 - 1]  # the medium part does not run on into the expert part
    steps = d4rl.read(made, 11, 3)
    assert d4rl.transitions(steps, 1000).ends.sum() >= ends[:-1].sum()


def test_a_trajectory_is_what_the_wrapped_environment_gives(made):
    """Replayed through gymnasium.make, wrappers and time limit included."""
    columns, _ = columns_of(made)
    first = int(np.argmax(columns["terminals"] | columns["timeouts"])) + 1
    env = gymnasium.make("iql_fast/hopper-v2")
    part = regenerate.manifest()["hopper-medium-expert-v2"]["parts"][0]
    policy = regenerate.part_policy(part, 3)
    import zlib

    key = (0, zlib.crc32(b"hopper-medium-expert-v2"), 0, 0)
    generator = np.random.default_rng(key)
    observation, _ = env.reset(seed=int(generator.integers(2**31)))
    for row in range(first):
        np.testing.assert_array_equal(columns["observations"][row], observation.astype(np.float32))
        action = policy.sample(observation, generator)
        observation, reward, terminal, truncated, _ = env.step(action)
        assert columns["rewards"][row] == np.float32(reward)
        assert columns["terminals"][row] == terminal
    assert terminal or truncated
    env.close()


@pytest.mark.parametrize("env", sorted({name.split("-")[0] for name in regenerate.manifest()}))
def test_the_manifests_returns_are_what_comes_out(env, tmp_path):
    name = f"{env}-medium-v2"
    path = tmp_path / "made.hdf5"
    regenerate.regenerate(name, path, rows=12_000, seed=5, progress=False)
    logged = d4rl.transitions(d4rl.read(path), 1000)
    returns = logged.returns()[:-1]
    entry = regenerate.manifest()[name]
    error = returns.std() / np.sqrt(len(returns))
    # Both are means over few episodes: four standard errors, and a tenth for the recorded one's.
    assert abs(returns.mean() - entry["mean_return"]) < 4 * error + 0.1 * abs(entry["mean_return"])


def test_every_policy_is_shipped_and_fits_its_environment():
    for name in regenerate.manifest():
        environment = catalogue.get(name).environment
        for part in regenerate.manifest()[name]["parts"]:
            policy = regenerate.part_policy(part, environment.act_dim)
            action = policy.sample(np.zeros(environment.obs_dim), np.random.default_rng(0))
            assert action.shape == (environment.act_dim,)
            assert np.abs(action).max() <= 1


def test_a_place_that_cannot_be_written_is_said_before_minutes_of_rolling_out(
    tmp_path, monkeypatch
):
    def collect(*_):
        raise AssertionError("rows were rolled out")

    monkeypatch.setattr(regenerate, "_collect", collect)
    (tmp_path / "file").write_text("")
    for path, message in (
        (tmp_path / "file" / "x.hdf5", "cannot be written"),
        (tmp_path, "is a folder"),
    ):
        with pytest.raises(UserError, match=message):
            regenerate.regenerate("hopper-random-v2", path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_errors(tmp_path):
    with pytest.raises(UserError, match="cannot be regenerated"):
        regenerate.regenerate("pen-human-v0", tmp_path / "x.hdf5")


def test_a_dataset_of_other_policies_is_not_taken_from_the_cache(tmp_path, monkeypatch):
    task = catalogue.get("hopper-medium-v2")
    before = resolve.regenerated_path(task, 0)
    assert resolve.regenerated_path(task, 0) == before
    assert resolve.regenerated_path(task, 1) != before
    folder = tmp_path / "behaviour"
    shutil.copytree(regenerate.BEHAVIOUR, folder)
    policy = folder / "hopper-medium.safetensors"
    policy.write_bytes(policy.read_bytes()[:-1] + b"\x01")
    monkeypatch.setattr(regenerate, "BEHAVIOUR", folder)
    regenerate.fingerprint.cache_clear()
    assert resolve.regenerated_path(task, 0) != before
    regenerate.fingerprint.cache_clear()
