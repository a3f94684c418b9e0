"""Small sweeps: tasks with tiny data, and what is compared of the runs that they make."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from iql_fast.data import resolve
from iql_fast.tasks import catalogue

from .conftest import d4rl_columns, write_hdf5
from .test_train import rows_without_time, same_state

SIZES = {
    "hopper-medium-v2": (11, 3),
    "halfcheetah-medium-v2": (17, 6),
    "walker2d-medium-v2": (17, 6),
}
OPTIONS = {
    **{"steps": 100, "hidden": [8, 8], "batch_size": 8, "offline": True, "eval_episodes": 0},
    **{"log_interval": 10, "checkpoint_interval": 20},
}


def cache_tiny() -> None:
    """The tasks of ``SIZES`` as D4RL's own files, in the cache of the test."""
    for name, sizes in SIZES.items():
        path = resolve.downloaded_path(catalogue.get(name))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_hdf5(path, d4rl_columns(400, *sizes))


def spec(**changes: Any) -> dict[str, Any]:
    """A sweep's file, as YAML would hold it."""
    options = OPTIONS | changes.pop("options", {})
    return {"tasks": ["hopper-medium-v2"], "cores": 1, "options": options, **changes}


def write(path: Path, content: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(content))
    return path


def start(path: Path, *arguments: object, module: str = "sweep") -> subprocess.Popen[str]:
    """The command as a process of its own, in the spec's folder."""
    return subprocess.Popen(
        [sys.executable, "-m", f"iql_fast.{module}", *map(str, arguments)],
        cwd=path.parent,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def jobs_in(out: Path) -> list[Path]:
    return sorted((out / "jobs").iterdir())


def assert_same_run(left: Path, right: Path) -> None:
    """Weights and tables, bit for bit, but for seconds."""
    for table in ("metrics.csv", "scores.csv"):
        assert rows_without_time(left / table) == rows_without_time(right / table), left.name
    assert same_state(left, right), left.name


def assert_same_sweep(left: Path, right: Path) -> None:
    """Every run, and the results but for minutes."""
    assert [run.name for run in jobs_in(left)] == [run.name for run in jobs_in(right)]
    for a, b in zip(jobs_in(left), jobs_in(right), strict=True):
        assert_same_run(a, b)
    assert (left / "results.csv").read_text() == (right / "results.csv").read_text()
