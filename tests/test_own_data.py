"""Files of a user's own: every kind of file, what their flags mean, and how rewards are scaled."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest

from iql_fast import data
from iql_fast.data import own
from iql_fast.data.logged import LoggedTransitions
from iql_fast.data.transform import Rewards, normalised, to_training
from iql_fast.environments.spaces import ActionBounds
from iql_fast.support.errors import UserError

from .conftest import d4rl_columns, random_transitions, write_hdf5

NAMES = ("observations", "actions", "rewards", "terminals", "timeouts")


def walk(rows, ends=(), terminals=(), width=2, seed=0):
    """Columns of a walk of small steps, begun anew after each end."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(size=(rows, width)).astype(np.float32)
    terminal, timeout = np.zeros(rows, bool), np.zeros(rows, bool)
    terminal[list(terminals)] = True
    timeout[list(ends)] = True
    return {
        "observations": np.cumsum(steps, 0, dtype=np.float32),
        "actions": rng.uniform(-1, 1, (rows, 1)).astype(np.float32),
        "rewards": rng.normal(size=rows).astype(np.float32),
        "terminals": terminal,
        "timeouts": timeout,
    }


def write(folder, kind, columns):
    path = folder / f"own.{kind}"
    if kind == "hdf5":
        return write_hdf5(path, columns)
    if kind == "npz":
        np.savez(path, **columns)
        return path
    import pyarrow as arrow
    from pyarrow import parquet

    table = {name: list(c) if c.ndim == 2 else c for name, c in columns.items()}
    parquet.write_table(arrow.table(table), path)
    return path


@pytest.mark.parametrize("kind", ["hdf5", "npz", "parquet"])
def test_every_kind_of_file_gives_the_same_rows(tmp_path, kind):
    columns = walk(30, ends=[9, 29], terminals=[19])
    read = own.read(write(tmp_path, kind, columns))
    kept = [i for i in range(30) if i not in (9, 29)]
    logged = read.transitions
    np.testing.assert_array_equal(logged.observations, columns["observations"][kept])
    np.testing.assert_array_equal(logged.actions, columns["actions"][kept])
    np.testing.assert_array_equal(logged.rewards, columns["rewards"][kept])
    alive = [i for i in kept if i != 19]
    following = columns["observations"][[i + 1 for i in alive]]
    np.testing.assert_array_equal(logged.next_observations[~logged.terminals], following)
    assert np.flatnonzero(logged.terminals).tolist() == [kept.index(19)]
    assert logged.lengths().tolist() == [9, 10, 9]
    assert logged.tail_is_whole
    assert read.rows == 30
    assert any("2 of 30 rows were cut after" in note for note in read.notes)


def test_gymnasiums_names_of_flags_are_known(tmp_path):
    columns = walk(20, ends=[9], terminals=[19])
    younger = {"terminals": "terminations", "timeouts": "truncations"}
    renamed = {younger.get(name, name): column for name, column in columns.items()}
    one = own.read(write(tmp_path, "hdf5", columns)).transitions
    other = own.read(write(tmp_path, "npz", renamed)).transitions
    for name in ("observations", "terminals", "ends", "next_observations"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_a_terminal_row_stays_whatever_else_it_is_flagged(tmp_path):
    columns = d4rl_columns(40, 29, 8)
    columns["rewards"][:] = 0
    flagged = np.arange(40) % 10 == 9
    columns["terminals"], columns["timeouts"] = flagged.copy(), flagged.copy()
    columns["rewards"][flagged] = 1
    loaded = data.load("antmaze-umaze-v2", dataset=write_hdf5(tmp_path / "a.hdf5", columns))
    assert int((loaded.transitions.masks == 0).sum()) == 4  # the last row's, too
    assert np.unique(loaded.transitions.rewards).tolist() == [-1, 0]
    assert len(loaded.transitions) == 40


def test_in_d4rls_own_files_its_loop_decides(tmp_path, monkeypatch):
    columns = walk(40, ends=[9, 39], terminals=[9, 39], width=29)
    columns["actions"] = np.zeros((40, 8), np.float32)
    path = write_hdf5(tmp_path / "a.hdf5", columns)
    assert len(data.load("antmaze-umaze-v2", dataset=path).transitions) == 40
    monkeypatch.setattr("iql_fast.data.download.is_d4rls_own", lambda _: True)
    assert len(data.load("antmaze-umaze-v2", dataset=path).transitions) == 38


def test_a_file_of_d4rls_is_known_by_its_bytes(tmp_path, monkeypatch):
    import hashlib

    from iql_fast.data import download

    path = tmp_path / "any.hdf5"
    path.write_bytes(b"content")
    digest = hashlib.sha256(b"content").hexdigest()
    monkeypatch.setattr(download, "checksums", lambda: {"x": (7, digest)})
    assert download.is_d4rls_own(path)
    path.write_bytes(b"CONTENT")
    assert not download.is_d4rls_own(path)


def test_rows_keep_their_own_next_observations_in_any_order(tmp_path):
    rng = np.random.default_rng(0)
    states = np.cumsum(rng.normal(size=(201, 11)), 0).astype(np.float32)
    columns = d4rl_columns(200) | {
        "observations": states[:-1],
        "next_observations": states[1:],
        "terminals": np.arange(200) % 50 == 49,
    }
    del columns["timeouts"]
    order = rng.permutation(200)
    shuffled = {name: column[order] for name, column in columns.items()}
    loaded = data.load("hopper-medium-v2", dataset=write_hdf5(tmp_path / "a.hdf5", shuffled))
    np.testing.assert_array_equal(
        loaded.transitions.next_observations, shuffled["next_observations"]
    )
    assert loaded.behaviour_return is None
    assert loaded.record["reward_scale"] == 1
    assert any("do not follow each other" in note for note in loaded.notes)
    # In order they have returns, and the spread of those scales the rewards.
    ordered = data.load("hopper-medium-v2", dataset=write_hdf5(tmp_path / "b.hdf5", columns))
    assert ordered.behaviour_return is not None
    assert ordered.record["trajectories"] == 4
    assert ordered.record["reward_scale"] > 1


def test_ogbenchs_layout_row_by_row(tmp_path):
    """Against OGBench's rules, a row at a time: the last row of a trajectory is only its last
    state, masks bootstrap, and a mask of 0 in the middle does not end a trajectory."""
    rng = np.random.default_rng(1)
    rows = 30
    ends = np.zeros(rows)
    ends[[9, 17, 29]] = 1
    success = rng.random(rows) < 0.3
    success[9] = True  # on a row that is no step
    columns = {
        "observations": rng.normal(size=(rows, 3)),
        "actions": rng.uniform(-1, 1, (rows, 2)),
        "terminals": ends,
        "rewards": success - 1.0,
        "masks": 1.0 - success,
    }
    logged = own.read(write(tmp_path, "npz", columns)).transitions
    at = 0
    for i in range(rows):
        if ends[i]:
            continue
        np.testing.assert_array_equal(
            logged.observations[at], np.float32(columns["observations"][i])
        )
        np.testing.assert_array_equal(
            logged.next_observations[at], np.float32(columns["observations"][i + 1])
        )
        assert logged.rewards[at] == success[i] - 1
        assert logged.terminals[at] == success[i]
        assert logged.ends[at] == bool(ends[i + 1])
        at += 1
    assert at == len(logged.rewards)
    assert logged.lengths().tolist() == [9, 7, 11]


def test_ogbenchs_files_of_goals_are_refused(tmp_path):
    columns = walk(20, terminals=[9, 19])
    del columns["rewards"], columns["timeouts"]
    with pytest.raises(UserError, match=r"lacks the key 'rewards'.*singletask"):
        own.read(write(tmp_path, "npz", columns))


def test_ends_that_nothing_marks_are_said(tmp_path):
    columns = walk(100)
    columns["observations"][60:] += 1e5  # begun anew, elsewhere
    read = own.read(write(tmp_path, "hdf5", columns), horizon=50)
    assert any("longer than the limit of 50" in note for note in read.notes)
    assert any("more than 1000 times as far" in note for note in read.notes)
    assert any("transition 59" in note for note in read.notes)
    marked = walk(100, ends=[59])
    marked["observations"][60:] += 1e5
    assert not any("warning" in note for note in own.read(write(tmp_path, "npz", marked)).notes)


def test_a_group_of_observations_is_put_side_by_side(tmp_path):
    path = tmp_path / "group.hdf5"
    columns = walk(10, terminals=[9])
    with h5py.File(path, "w") as file:
        for name in NAMES[1:]:
            file[name] = columns[name]
        group = file.create_group("observations")
        group["b"] = columns["observations"]
        group["a"] = columns["rewards"]
    logged = own.read(path).transitions
    np.testing.assert_array_equal(logged.observations[:, 0], columns["rewards"])
    np.testing.assert_array_equal(logged.observations[:, 1:], columns["observations"])


def test_a_lerobot_dataset(tmp_path):
    import pyarrow as arrow
    from pyarrow import parquet

    columns = walk(20, terminals=[19])
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "info.json").write_text(json.dumps({"codebase_version": "v3.0"}))
    for chunk, rows in enumerate((slice(0, 12), slice(12, 20))):
        folder = tmp_path / "data" / f"chunk-{chunk:03}"
        folder.mkdir(parents=True)
        table = {
            "observation.state": list(columns["observations"][rows]),
            "action": list(columns["actions"][rows]),
            "next.reward": columns["rewards"][rows],
            "next.done": columns["terminals"][rows],
            "episode_index": (np.arange(20) // 7)[rows],
        }
        parquet.write_table(arrow.table(table), folder / "file-000.parquet")
    logged = own.read(tmp_path).transitions
    assert logged.lengths().tolist() == [6, 6, 6]  # the last of 0 and 1 has no s'
    assert np.flatnonzero(logged.terminals).tolist() == [17]
    (tmp_path / "meta" / "info.json").write_text(json.dumps({"codebase_version": "v2.1"}))
    with pytest.raises(UserError, match=r"layout v2\.1; v3\.0"):
        own.read(tmp_path)


def spoiled(key):
    columns = walk(20, ends=[9])
    if key == "flag":
        columns["terminals"] = columns["terminals"].astype(float)
        columns["terminals"][4] = 0.5
    elif key == "text":
        columns["rewards"] = np.array(["1"] * 20)
    elif key == "complex":
        columns["actions"] = columns["actions"] * 1j
    elif key == "nan":
        columns["next_observations"] = columns["observations"].copy()
        columns["next_observations"][3, 1] = np.inf
    elif key == "narrow":
        columns["next_observations"] = columns["observations"][:, :1]
    elif key == "short":
        columns["masks"] = np.ones(19)
    return columns


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("flag", r"'terminals' is 0\.5 in row 4; a flag is 0 or 1"),
        ("text", r"'rewards' holds <U1 where real numbers"),
        ("complex", r"'actions' holds complex64 where real numbers"),
        ("nan", r"'next_observations' is not finite in row 3"),
        ("narrow", r"'next_observations' has 1 columns, but 'observations' has 2"),
        ("short", r"'masks' has 19 rows, but 'observations' has 20"),
    ],
)
def test_bad_columns_are_named(tmp_path, key, message):
    path = write(tmp_path, "npz", spoiled(key))
    with pytest.raises(UserError, match=message) as caught:
        own.read(path)
    assert str(path) in str(caught.value)


def test_foreign_files_are_named(tmp_path):
    for name in ("a.npz", "a.parquet", "a.hdf5", "a.txt"):
        (tmp_path / name).write_text("hello")
        with pytest.raises(UserError, match=rf"{name} cannot be read"):
            own.read(tmp_path / name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="not a LeRobot dataset"):
        own.read(tmp_path / "empty")
    np.savez(tmp_path / "pickled.npz", observations=np.array([{}], dtype=object))
    with pytest.raises(UserError, match=r"pickled\.npz lacks the key 'actions'"):
        own.read(tmp_path / "pickled.npz")


def test_a_file_alone_trains_and_says_what_it_took(tmp_path):
    path = write(tmp_path, "npz", walk(60, ends=[29], terminals=[59]))
    loaded = data.load("", dataset=path)
    assert loaded.title == "own.npz"
    assert loaded.scoring.environment is None
    assert loaded.record["family"] == "neutral"
    assert loaded.record["reward_scale"] == 1
    assert any("bounds -1 and 1" in note for note in loaded.notes)


def test_a_file_alone_is_scored_where_an_environment_is_named(tmp_path):
    columns = walk(60, terminals=[59], width=3)
    columns["actions"] *= 2  # Pendulum's torque
    path = write(tmp_path, "hdf5", columns)
    loaded = data.load("", dataset=path, env="Pendulum-v1", reference=(-1600, -100))
    assert loaded.scoring.horizon == 200
    assert loaded.scoring.score(-850.0) == 50
    assert loaded.units.act_low.tolist() == [-2]
    np.testing.assert_allclose(loaded.transitions.actions, columns["actions"] / 2, atol=2e-5)
    with pytest.raises(UserError, match="'observations' has 3 columns, but the task has 11"):
        data.load("", dataset=path, env="iql_fast/hopper-v2")
    with pytest.raises(UserError, match="--env Nothing-v0: Gymnasium cannot make it"):
        data.load("", dataset=path, env="Nothing-v0")


def logged(actions=None, rewards=None, ends=None, rows=40):
    source = random_transitions(rows)
    return LoggedTransitions(
        source.observations,
        source.actions if actions is None else actions,
        source.rewards if rewards is None else np.asarray(rewards, np.float32),
        np.zeros(rows, bool),
        source.next_observations,
        np.arange(rows) % 10 == 9 if ends is None else ends,
    )


def test_actions_are_scaled_by_their_bounds():
    rng = np.random.default_rng(0)
    actions = rng.uniform((-3, 0, -1), (5, 1, 1), (40, 3)).astype(np.float32)
    bounds = ActionBounds(np.float32([-3, 0, -1]), np.float32([5, 1, 1]))
    transitions, units, record, _ = to_training(logged(actions), "neutral", "here", bounds)
    expected = (actions - [1, 0.5, 0]) / [4, 0.5, 1]
    np.testing.assert_allclose(transitions.actions, expected, atol=1.1e-5)
    np.testing.assert_allclose(units.act(transitions.actions), actions, atol=5e-5)
    assert record["actions_clipped"] == 0


def test_actions_without_bounds_are_scaled_by_the_datas_own():
    rng = np.random.default_rng(0)
    actions = rng.uniform((-3, 0, 7), (5, 100, 7.0001), (40, 3)).astype(np.float32)
    actions[:, 2] = 7  # never moved
    bounds = ActionBounds(np.float32([-3, 0, -np.inf]), np.float32([5, np.inf, np.inf]))
    transitions, units, _, notes = to_training(logged(actions), "neutral", "here", bounds)
    assert units.act_low.tolist() == [-3, 0, 6]
    np.testing.assert_allclose(units.act_high, [5, actions[:, 1].max(), 8])
    assert np.abs(transitions.actions).max() <= 1
    np.testing.assert_allclose(units.act(transitions.actions), actions, atol=1e-3)
    assert any("1 [0, " in note for note in notes)


@pytest.mark.parametrize(
    ("rewards", "ends", "reason"),
    [
        (np.ones(40), None, "all returns are alike"),
        (9.35 + 1e-5 * (np.arange(40) // 10), None, "all returns are alike"),
        (np.arange(40), np.arange(40) == 39, "single trajectory"),
    ],
)
def test_a_spread_that_means_nothing_scales_nothing(rewards, ends, reason):
    _, _, record, notes = to_training(logged(rewards=rewards, ends=ends), "locomotion", "here")
    assert record["reward_scale"] == 1
    assert any(reason in note and "--reward-scale" in note for note in notes)


def test_rewards_as_they_are_asked_for():
    source = logged()

    def transformed(family, **asked):
        return to_training(source, family, "here", rewards=Rewards(**asked))

    raw, _, record, _ = transformed("locomotion", transform="none")
    np.testing.assert_array_equal(raw.rewards, source.rewards)
    own_scale, _, record, notes = transformed("locomotion", scale=2.0, shift=-0.5)
    np.testing.assert_allclose(own_scale.rewards, 2 * source.rewards - 0.5, rtol=1e-6)
    assert (record["reward_scale"], record["reward_shift"], notes) == (2.0, -0.5, ())
    maze, _, record, _ = transformed("antmaze", scale=10.0)
    np.testing.assert_allclose(maze.rewards, 10 * source.rewards - 1, rtol=1e-5, atol=1e-5)


def test_observations_far_from_zero_are_normalised_in_double_precision():
    rng = np.random.default_rng(0)
    source = random_transitions(1_000_000, obs_dim=1, act_dim=1)
    source.observations[:] = 1000 + rng.normal(size=(1_000_000, 1))
    scaled, _, _ = normalised(source)
    assert abs(scaled.observations.mean(dtype=np.float64)) < 1e-3
    assert abs(scaled.observations.std(dtype=np.float64) - 1) < 1e-3


def test_info_says_how_a_file_is_understood(command, tmp_path):
    path = write(tmp_path, "npz", walk(60, ends=[29], terminals=[59], width=3))
    shown = command("data", "info", path)
    assert shown.returncode == 0, shown.stderr
    for part in (
        "rows logged 60, transitions 59",
        "1 of 60 rows were cut after",
        "observations of 3 numbers, actions of 1",
        "terminal rows 1",
        "trajectories 2, lengths 29 to 30",
        "scored: nowhere",
    ):
        assert part in shown.stdout
    scored = command("data", "info", path, "--env", "Pendulum-v1")
    assert "scored: in Pendulum-v1, 200 steps" in scored.stdout
    assert "bounds -2 to 2" in scored.stdout


def test_a_file_alone_is_trained_on_and_scored(command, tmp_path):
    path = write(tmp_path, "npz", walk(300, ends=range(49, 300, 50), width=3))
    asked = ("--env", "Pendulum-v1", "--reference", -1600, -100, "--reward-scale", 0.1)
    small = ("--hidden", 16, 16, "--steps", 200, "--log-interval", 100, "--eval-interval", 200)
    result = command("train", "--dataset", path, "--out", "run", *asked, *small)
    assert result.returncode == 0, result.stderr
    for part in ("preset  neutral", "rewards 0.1 * reward", "normalised score"):
        assert part in result.stdout
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert record["action_bounds"] == [[-2.0], [2.0]]
    assert record["scoring"]["reference"] == [-1600, -100]
    resumed = command("train", "--resume", "run")
    assert resumed.returncode == 0, resumed.stderr
    changed = command("train", "--resume", "run", "--reward-scale", 0.2)
    assert "cannot change --reward-scale" in " ".join(changed.stderr.split())


def test_options_that_do_not_fit_together_are_refused(command, tmp_path):
    path = write(tmp_path, "npz", walk(60))
    for arguments, message in {
        ("--task", "hopper-medium-v2", "--env", "Pendulum-v1"): "--env is for data without a task",
        ("--dataset", path, "--reference", 5, 5): "expected two returns, the first the lower",
        ("--dataset", path, "--reward-scale", -1): "--reward-scale is -1.0; expected positive",
        (): "Say what to train on",
    }.items():
        result = command("train", *arguments)
        assert result.returncode == 2
        assert message in " ".join(result.stderr.split())


def test_presets_are_chosen_and_shown(command, tmp_path):
    path = write(tmp_path, "npz", walk(300, width=3))
    small = ("--hidden", 16, 16, "--steps", 100, "--log-interval", 100, "--out", "run")
    result = command("train", "--dataset", path, "--preset", "antmaze", *small)
    assert "preset  antmaze (--preset)" in result.stdout
    assert "rewards 1 * reward - 1" in result.stdout
    options = json.loads((tmp_path / "run" / "config.json").read_text())["options"]
    assert (options["expectile"], options["temperature"]) == ([0.9], [10.0])
    shown = " ".join(command("train", "--help").stdout.replace("│", " ").split())
    assert "0.9 for antmaze, 0.8 for adroit-binary, 0.7 for the others" in shown
