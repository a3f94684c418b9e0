"""The training of behaviour policies in ``tools/``: what goes on where it was killed."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch

TOOLS = Path(__file__).resolve().parent.parent / "tools"


@pytest.fixture
def sac(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    return importlib.import_module("sac")


def learner(sac):
    return sac.Learner(3, 2, rate=3e-4, discount=0.99, polyak=0.005, hidden=16)


def transitions(rows, seed):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((rows, *shape)) for shape in ((3,), (2,), (), (), (3,))]


def test_a_training_goes_on_with_what_it_had_met(sac, tmp_path):
    own, replay = learner(sac), sac.Replay(tmp_path / "replay.bin", 10, 3, 2)
    first, last = transitions(7, 0), transitions(6, 1)
    replay.add(*first)
    replay.add(*last)  # the ring is full: the first three are gone
    sac.keep(tmp_path / "checkpoint.pt", own, replay, 13, 2.5)
    other, again = learner(sac), sac.Replay(tmp_path / "replay.bin", 10, 3, 2)
    assert sac.resumed(tmp_path / "checkpoint.pt", other, again) == (13, 2.5)
    assert again.written == 13
    for column, old, new in zip(again.columns, first, last, strict=True):
        held = np.concatenate([new[3:], old[3:], new[:3]]).astype(np.float32)
        np.testing.assert_array_equal(column.numpy(), held)
    for mine, its in zip(own.actor.parameters(), other.actor.parameters(), strict=True):
        assert torch.equal(mine, its)


def test_without_its_replay_buffer_a_training_does_not_go_on(sac, tmp_path):
    replay = sac.Replay(tmp_path / "replay.bin", 10, 3, 2)
    sac.keep(tmp_path / "checkpoint.pt", learner(sac), replay, 13, 2.5)
    (tmp_path / "replay.bin").unlink()
    empty = sac.Replay(tmp_path / "replay.bin", 10, 3, 2)
    with pytest.raises(SystemExit, match="no replay buffer"):
        sac.resumed(tmp_path / "checkpoint.pt", learner(sac), empty)
