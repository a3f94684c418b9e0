"""HDF5 datasets whose numbers lie in other files."""

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
