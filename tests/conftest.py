"""What the tests share: small datasets, and the command lines run as a user runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from iql_fast.data.dataset import Transitions

# On a busy machine torch's threads wait for each other longer than they work at these sizes.
torch.set_num_threads(1)
os.environ.setdefault("MUJOCO_GL", "disable")
if (
    "PYTEST_XDIST_WORKER" in os.environ
):  # and so do those of the commands that are run beside others
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def random_transitions(
    rows: int = 500, obs_dim: int = 11, act_dim: int = 3, seed: int = 0
) -> Transitions:
    """Transitions without structure, a tenth of them terminal."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    return Transitions(
        observations=normal(rows, obs_dim),
        actions=np.tanh(normal(rows, act_dim)),
        rewards=normal(rows),
        masks=(rng.random(rows) > 0.1).astype(np.float32),
        next_observations=normal(rows, obs_dim),
    )


def d4rl_columns(
    rows: int = 400, obs_dim: int = 11, act_dim: int = 3, seed: int = 0
) -> dict[str, np.ndarray]:
    """Columns of a file in D4RL's layout: episodes of 20 steps, cut or terminal in turn."""
    rng = np.random.default_rng(seed)
    ends = np.arange(rows) % 20 == 19
    cut = np.arange(rows) % 40 == 39
    return {
        "observations": rng.standard_normal((rows, obs_dim)).astype(np.float32),
        "actions": np.tanh(rng.standard_normal((rows, act_dim))).astype(np.float32),
        "rewards": rng.random(rows).astype(np.float32),
        "terminals": ends & ~cut,
        "timeouts": cut,
    }


def write_hdf5(path: Path, columns: dict[str, np.ndarray]) -> Path:
    """A file in D4RL's layout."""
    with h5py.File(path, "w") as file:
        for key, column in columns.items():
            file[key] = column
    return path


def write_minari(name: str, **metadata: Any) -> None:
    """A Minari dataset with the sizes of hopper: two episodes of nine steps, the first terminal."""
    import gymnasium
    import minari
    from minari.data_collector import EpisodeBuffer

    source = random_transitions(20)
    box = gymnasium.spaces.Box(-np.inf, np.inf, (11,), np.float32)
    minari.create_dataset_from_buffers(
        name,
        buffer=[
            EpisodeBuffer(
                id=i,
                observations=np.concatenate(
                    [source.observations[:9], source.next_observations[8:9]]
                ),
                actions=source.actions[:9],
                rewards=list(source.rewards[:9] + i),
                terminations=[False] * 8 + [i == 0],
                truncations=[False] * 8 + [i == 1],
                infos={},
            )
            for i in range(2)
        ],
        observation_space=box,
        action_space=gymnasium.spaces.Box(-1, 1, (3,), np.float32),
        **metadata,
    )


@pytest.fixture
def dataset_file(tmp_path: Path) -> Path:
    """A small file in D4RL's layout with the sizes of hopper."""
    return write_hdf5(tmp_path / "data.hdf5", d4rl_columns())


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or fills the user's cache."""
    monkeypatch.setenv("IQL_FAST_DATA", str(tmp_path / "cache"))


Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Runs ``python -m iql_fast.NAME ARGUMENTS`` in an empty folder."""

    def run(module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", f"iql_fast.{module}", *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=300,
        )

    return run
