"""A run that is killed, at whatever moment, ends bit for bit where it would have ended."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from iql_fast import methods
from iql_fast.runs.rows import read_rows

from .test_methods import SIZES
from .test_train import SMALL, finished, last_step, rows_without_time, same_state

__all__ = ["finished"]  # the fixture

#: Times that the run of the kill test is killed; set it higher for a longer trial.
KILLS = int(os.environ.get("IQL_FAST_KILLS", "3"))


#: What a run is doing when it is killed, in turn.
MOMENTS = ("training", "evaluation", "checkpoint", "start")
#: Seconds within which a run reads its data and makes its folder.
START = 8.0


TRAIN = [sys.executable, "-m", "iql_fast.train"]


def is_at(moment: str, run: Path, past: float, began: float) -> bool:
    """Whether a run is where it is to be killed, or so far that it must be killed anyway."""
    if moment == "start" and time.monotonic() > began:
        return True
    if not (run / "metrics.csv").exists():
        return False
    reached = last_step(run / "metrics.csv")
    if reached >= past + 200:  # it went by faster than it could be seen
        return True
    if moment == "evaluation":
        return reached % 200 == 0 and reached > last_step(run / "scores.csv")
    if moment == "checkpoint":
        return any((run / "checkpoint").glob(".*.partial"))
    return moment == "training" and reached >= past


def kill_and_resume(first, whole, cut, steps, kills):
    """Do a run to its end in one folder, and in another one killed so many times on its way.

    Args:
        first: the command, up to the folder.
        steps: that the run comes to.
    """
    subprocess.run([*first, str(whole)], stdout=subprocess.DEVNULL, check=True)
    command, rng = [*first, str(cut)], random.Random(0)
    for kill in range(kills):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        # Further on each time, and far enough from the end that the run cannot get there first.
        past = (steps - 300) * (kill + 0.5) / kills
        moment, began = MOMENTS[kill % len(MOMENTS)], time.monotonic() + rng.random() * START
        while not is_at(moment, cut, past, began):
            assert process.poll() is None, process.communicate()
            time.sleep(0.001)
        if moment == "training":
            time.sleep(rng.random() * 0.02)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        if (cut / "config.json").exists():  # else it was killed before there was a run
            command = [*TRAIN, "--resume", str(cut)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert rows_without_time(cut / "metrics.csv") == rows_without_time(whole / "metrics.csv")
    assert read_rows(cut / "scores.csv") == read_rows(whole / "scores.csv")
    if (whole / "episodes.csv").exists():
        assert read_rows(cut / "episodes.csv") == read_rows(whole / "episodes.csv")
    assert same_state(cut, whole)


@pytest.mark.slow
@pytest.mark.parametrize("extraction", ["joint", "after"])
def test_kill_and_resume_ends_bit_for_bit_the_same(finished, tmp_path, extraction):
    steps = 1500
    # Two stages come to as many steps as one; the first ends off the grids of log and checkpoints.
    updates = steps if extraction == "joint" else steps // 2 - 15
    arguments = [*SMALL, "--dataset", finished[1], "--extraction", extraction]
    first = [*TRAIN, *map(str, [*arguments, "--steps", updates, "--seeds", 2, "--out"])]
    kill_and_resume(first, tmp_path / "whole", tmp_path / "cut", steps, KILLS)


@pytest.mark.slow
@pytest.mark.parametrize("method", [name for name in methods.NAMES if name != "iql"])
def test_every_method_survives_kills(finished, tmp_path, method):
    small = SMALL if method != "dt" else [*SMALL[:2], *SMALL[5:], *SIZES[method]]
    arguments = [*small, "--dataset", finished[1], "--method", method, "--threads", 1]
    first = [*TRAIN, *map(str, [*arguments, "--steps", 600, "--seeds", 2, "--out"])]
    kill_and_resume(first, tmp_path / "whole", tmp_path / "cut", 600, 2)


@pytest.mark.slow
@pytest.mark.parametrize("envs", [1, 3])
def test_fine_tuning_survives_kills_before_and_after_the_seam(finished, tmp_path, envs):
    steps = ["--offline-steps", 650, "--online-steps", 1150, "--capacity", 900, "--envs", envs]
    arguments = [*SMALL, "--dataset", finished[1], *steps, "--seeds", 2, "--threads", 1, "--out"]
    first = [sys.executable, "-m", "iql_fast.finetune", *map(str, arguments)]
    kill_and_resume(first, tmp_path / "whole", tmp_path / "cut", 1800, KILLS)
