"""D4RL's layout: against a slow loop written from its description, and bad files."""

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iql_fast.data import d4rl
from iql_fast.data.dataset import Transitions
from iql_fast.data.logged import trajectory_returns
from iql_fast.data.transform import to_training
from iql_fast.support.errors import UserError

from .conftest import d4rl_columns, write_hdf5


def slow_qlearning_dataset(observations, terminals, timeouts, horizon):
    """(row, next row) pairs, one row at a time."""
    kept, step = [], 0
    for i in range(len(observations) - 1):
        final = bool(timeouts[i]) if timeouts is not None else step == horizon - 1
        if final:
            step = 0
            continue
        kept.append(i)
        step = 0 if terminals[i] else step + 1
    return kept


@settings(max_examples=200, deadline=None)
@given(
    ends=st.lists(
        st.sampled_from(["", "", "", "terminal", "timeout", "both"]), min_size=2, max_size=40
    ),
    with_timeouts=st.booleans(),
    horizon=st.integers(1, 7),
)
def test_transitions_equal_the_slow_loop(ends, with_timeouts, horizon):
    rows = len(ends)
    observations = np.arange(rows, dtype=np.float32)[:, None]
    terminals = np.array([end in ("terminal", "both") for end in ends])
    timeouts = np.array([end in ("timeout", "both") for end in ends]) if with_timeouts else None
    steps = d4rl.LoggedSteps(
        observations, observations * 0.01, observations[:, 0], terminals, timeouts
    )
    logged = d4rl.transitions(steps, horizon)
    kept = slow_qlearning_dataset(observations, terminals, timeouts, horizon)
    assert logged.observations[:, 0].tolist() == kept
    assert logged.next_observations[:, 0].tolist() == [i + 1 for i in kept]
    assert logged.terminals.tolist() == [bool(terminals[i]) for i in kept]
    # A trajectory ends at a terminal, or where the next kept row is not the next row.
    expected = [
        bool(terminals[i]) or k + 1 == len(kept) or kept[k + 1] != i + 1 for k, i in enumerate(kept)
    ]
    assert logged.ends.tolist() == expected


def test_column_vectors_are_read_as_vectors(tmp_path):
    columns = d4rl_columns()
    flat = d4rl.read(write_hdf5(tmp_path / "a.hdf5", columns))
    for key in ("rewards", "terminals", "timeouts"):
        columns[key] = columns[key][:, None]
    tall = d4rl.read(write_hdf5(tmp_path / "b.hdf5", columns))
    for key in ("rewards", "terminals", "timeouts"):
        np.testing.assert_array_equal(getattr(flat, key), getattr(tall, key))
        assert getattr(tall, key).ndim == 1


def test_returns_count_the_partial_tail():
    rewards = np.array([1, 2, 3, 4, 5], dtype=np.float32)
    ends = np.array([False, True, False, True, False])
    assert trajectory_returns(rewards, ends).tolist() == [3, 7, 5]


def test_a_walk_ends_at_its_first_terminal_row():
    """Steps of one metre: a walk that stays at the goal, one that never comes there, one that
    begins after an end that the log stopped at, and a tail."""
    places = [0, 1, 2, 3, 4, 50, 51, 52, 80, 81, 82, 10, 11, 12]
    at_goal = [0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]
    timeouts = [0, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]
    rewards = np.array(at_goal, np.float32)
    steps = d4rl.LoggedSteps(
        np.array(places, np.float32)[:, None],
        np.zeros((len(places), 1), np.float32),
        rewards,
        rewards > 0,
        np.array(timeouts, bool),
    )
    logged = d4rl.transitions(steps, 1000)
    assert logged.whole_returns().tolist() == [1, 1, 0, 1]
    assert logged.walk_returns().tolist() == [1, 0, 1]


def logged_of(columns, horizon=1000):
    keys = ("observations", "actions", "rewards", "terminals", "timeouts")
    return d4rl.transitions(d4rl.LoggedSteps(*(columns[key] for key in keys)), horizon)


def test_training_transforms():
    columns = d4rl_columns()
    columns["actions"][3] = 1.4  # human demonstrations overshoot
    logged = logged_of(columns)
    training, _, record, _ = to_training(logged, "locomotion", "here")
    returns = trajectory_returns(training.rewards, logged.ends)
    assert returns.max() - returns.min() == pytest.approx(1000, rel=1e-4)
    assert record["reward_scale"] == pytest.approx(
        1000 / np.ptp(trajectory_returns(logged.rewards, logged.ends))
    )
    assert np.abs(training.actions).max() == np.float32(1 - 1e-5)
    assert record["actions_clipped"] == pytest.approx(1 / len(logged.actions))
    np.testing.assert_array_equal(training.masks, 1 - logged.terminals)
    maze, *_ = to_training(logged, "antmaze", "here")
    np.testing.assert_array_equal(maze.rewards, logged.rewards - 1)
    raw, *_ = to_training(logged, "adroit", "here")
    np.testing.assert_array_equal(raw.rewards, logged.rewards)
    assert isinstance(raw, Transitions)
    assert all(column.flags.c_contiguous for column in raw.columns().values())


def broken(key):
    columns = d4rl_columns()
    if key == "missing":
        del columns["actions"]
    elif key == "lengths":
        columns["rewards"] = columns["rewards"][:-1]
    elif key == "nan":
        columns["observations"][17, 2] = np.nan
    elif key == "empty":
        columns = {name: column[:0] for name, column in columns.items()}
    elif key == "dimensions":
        columns["rewards"] = np.ones((400, 2), np.float32)
    elif key == "sizes":
        columns["observations"] = columns["observations"][:, :5]
    return columns


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("missing", r"lacks the key 'actions'"),
        ("lengths", r"'rewards' has 399 rows, but 'observations' has 400"),
        ("nan", r"'observations' is not finite in row 17"),
        ("empty", r"has 0 row"),
        ("dimensions", r"'rewards' has shape \(400, 2\)"),
        ("sizes", r"'observations' has 5 columns, but the task has 11"),
    ],
)
def test_bad_files_are_named(tmp_path, key, message):
    path = write_hdf5(tmp_path / "bad.hdf5", broken(key))
    with pytest.raises(UserError, match=message) as caught:
        d4rl.read(path, 11, 3)
    assert str(path) in str(caught.value)


def test_truncated_and_foreign_files(tmp_path):
    path = write_hdf5(tmp_path / "whole.hdf5", d4rl_columns())
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(UserError, match="truncated or not an HDF5 file"):
        d4rl.read(path)
    (tmp_path / "text.hdf5").write_text("hello")
    with pytest.raises(UserError, match="truncated or not an HDF5 file"):
        d4rl.read(tmp_path / "text.hdf5")
    with pytest.raises(UserError, match="There is no dataset file"):
        d4rl.read(tmp_path / "none.hdf5")


def test_actions_far_outside_of_their_bounds_are_refused():
    columns = d4rl_columns()
    columns["actions"][5, 1] = 3.5
    with pytest.raises(UserError, match=r"'actions' reaches 3\.5 in row 5, column 1"):
        to_training(logged_of(columns), "locomotion", "here")


def test_files_of_h5py_groups_are_no_problem(tmp_path):
    path = write_hdf5(tmp_path / "infos.hdf5", d4rl_columns())
    with h5py.File(path, "a") as file:
        file["infos/qpos"] = np.ones((400, 6))
    assert len(d4rl.read(path, 11, 3).rewards) == 400
