"""HDF5 datasets whose numbers lie in other files, or nowhere, or are stored in odd types."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from iql_fast.data import own
from iql_fast.support.errors import UserError

from .conftest import d4rl_columns, write_hdf5


@pytest.mark.parametrize("kind", ["virtual", "external"])
def test_other_files_are_followed_and_missed(tmp_path, kind):
    columns = d4rl_columns(40)
    rewards = columns.pop("rewards")
    path, other = write_hdf5(tmp_path / "data.hdf5", columns), tmp_path / "other"
    with h5py.File(path, "a") as file:
        if kind == "virtual":
            write_hdf5(other, {"x": rewards})
            layout = h5py.VirtualLayout(rewards.shape, np.float32)
            layout[...] = h5py.VirtualSource("other", "x", rewards.shape)
            file.create_virtual_dataset("rewards", layout)
        else:
            rewards.tofile(other)
            where = [(str(other), 0, rewards.nbytes)]
            file.create_dataset("rewards", rewards.shape, np.float32, external=where)
    found = own.read(path).transitions
    np.testing.assert_array_equal(found.rewards, rewards[~columns["timeouts"]])
    other.unlink()
    with pytest.raises(UserError, match=r"'rewards' is kept in .*other, which is not there"):
        own.read(path)


def with_rewards(path, make):
    """A file whose rewards are whatever ``make(file, rewards)`` makes of them."""
    columns = d4rl_columns(40)
    rewards = columns.pop("rewards")
    with h5py.File(write_hdf5(path, columns), "a") as file:
        make(file, rewards)
    return path


def virtual(file, rewards, rows=slice(None)):
    layout = h5py.VirtualLayout(rewards.shape, np.float32)
    layout[rows] = h5py.VirtualSource(".", "elsewhere", rewards.shape)[rows]
    file.create_virtual_dataset("rewards", layout)


def virtual_in_part(file, rewards):
    file["elsewhere"] = rewards
    virtual(file, rewards, slice(1, None))


def virtual_of_a_shorter_one(file, rewards):
    file["elsewhere"] = rewards[:-1]
    virtual(file, rewards)


def external_in_part(file, rewards):
    raw = file.filename + ".raw"
    rewards[:-1].tofile(raw)
    file.create_dataset("rewards", rewards.shape, np.float32, external=[(raw, 0, rewards.nbytes)])


def dangling(file, _):
    file["rewards"] = h5py.SoftLink("/nowhere")


def nothing(file, _):
    file["rewards"] = h5py.Empty("f4")


def name_of_a_type(file, _):
    file["rewards"] = np.dtype("f4")


def times(file, rewards):
    space = h5py.h5s.create_simple(rewards.shape)
    h5py.h5d.create(file.id, b"rewards", h5py.h5t.UNIX_D32LE, space)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (virtual, "'rewards' is kept in 'elsewhere' .*, which is not there"),
        (virtual_in_part, "'rewards' is put together .*, which make up 39 of its 40 numbers"),
        (virtual_of_a_shorter_one, r"which has the shape \(39,\) where \(40,\) is expected"),
        (external_in_part, "which is 156 bytes long where 160 are expected"),
        (dangling, "'rewards' cannot be read as an array"),
        (nothing, "'rewards' holds nothing"),
        (name_of_a_type, "'rewards' is the name of a type"),
        (times, "'rewards' cannot be read as an array"),
    ],
)
def test_numbers_that_are_not_there(tmp_path, make, message):
    """HDF5 itself reads zeros in place of most of them."""
    path = with_rewards(tmp_path / "data.hdf5", make)
    with pytest.raises(UserError, match=message):
        own.read(path)


def test_optional_columns_that_link_to_nothing_are_not_left_out(tmp_path):
    path = write_hdf5(tmp_path / "data.hdf5", d4rl_columns(40))
    with h5py.File(path, "a") as file:
        del file["timeouts"]
        file["timeouts"] = h5py.SoftLink("/nowhere")
    with pytest.raises(UserError, match="'timeouts' cannot be read"):
        own.read(path)


def test_more_than_fits_into_memory_is_said(tmp_path):
    def huge(file, _):
        file.create_dataset("rewards", (1 << 58,), np.float32, chunks=(1024,))

    with pytest.raises(UserError, match=r"'rewards' takes .* GiB of memory"):
        own.read(with_rewards(tmp_path / "data.hdf5", huge))


def test_groups_of_arrays_that_hold_no_numbers(tmp_path):
    for part, wrong in ((np.zeros((40, 0)), False), (np.array([b"x"] * 40), True)):
        columns = d4rl_columns(40)
        observations = columns.pop("observations")
        path = write_hdf5(tmp_path / "data.hdf5", columns)
        with h5py.File(path, "a") as file:
            file["observations/a"], file["observations/b"] = observations, part
        if wrong:
            with pytest.raises(UserError, match=r"'observations/b' holds .* where real numbers"):
                own.read(path)
        else:
            read = own.read(path).transitions.observations
            np.testing.assert_array_equal(read, observations[~columns["timeouts"]])


def test_doubles_of_either_byte_order_are_rounded_alike(tmp_path):
    """HDF5's own conversion of big-endian ones rounds halves and subnormals in another way."""
    single = np.random.default_rng(0).normal(size=40).astype(np.float32)
    halfway = single + np.spacing(single).astype(np.float64) / 2
    halfway[:3] = 5.5e-45, -5.4e-45, 1e-42
    for kind in ("<f8", ">f8"):
        columns = d4rl_columns(40) | {"rewards": halfway.astype(kind)}
        read = own.read(write_hdf5(tmp_path / "data.hdf5", columns)).transitions
        expected = halfway.astype(np.float32)[~columns["timeouts"]]
        np.testing.assert_array_equal(read.rewards, expected)


def test_flags_and_episodes_are_looked_at_before_they_are_rounded(tmp_path):
    columns = d4rl_columns(40)
    for wrong in (1e-50, 1 + 1e-12):
        flags = np.where(columns["terminals"], wrong, 0.0)
        with pytest.raises(UserError, match="a flag is 0 or 1"):
            own.read(write_hdf5(tmp_path / "a.hdf5", columns | {"terminals": flags}))
    del columns["timeouts"]
    columns["episode_index"] = 2.0**24 + np.arange(40) // 20
    columns["terminals"][:] = False
    read = own.read(write_hdf5(tmp_path / "b.hdf5", columns)).transitions
    assert read.lengths().tolist() == [19, 19]
