"""Films of episodes."""

import numpy as np
import pytest
from PIL import Image

from iql_fast.environments import film
from iql_fast.environments.episodes import run_episodes
from iql_fast.policies.policy import Policy
from iql_fast.support.errors import UserError

STILL = Policy(
    (np.zeros((11, 3), np.float32),), (np.zeros(3, np.float32),), np.zeros(3, np.float32)
)
ENVIRONMENT = "iql_fast/hopper-v2"


def test_another_ending(tmp_path):
    with pytest.raises(UserError, match=r"film.mp4 has another ending"):
        film.write(tmp_path / "film.mp4", ENVIRONMENT, 1000, STILL, (0, 0, 0))


def test_where_nothing_can_be_drawn_the_reason_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "disable")
    with pytest.raises(UserError, match=r"cannot be drawn here \(disable: .*libosmesa6"):
        film.write(tmp_path / "film.gif", ENVIRONMENT, 1000, STILL, (0, 0, 0))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["film.gif", "film.webp"])
def test_an_episode_is_filmed(tmp_path, monkeypatch, name):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    path, key = tmp_path / name, (0, 5, 0)
    try:
        total = film.write(path, ENVIRONMENT, 1000, STILL, key)
    except UserError as error:
        pytest.skip(f"no renderer works on this machine: {error}")
    assert total == pytest.approx(run_episodes(ENVIRONMENT, 1000, STILL, [key])[0].total)
    with Image.open(path) as picture:
        assert picture.size == film.SIZE[::-1]
        assert picture.n_frames > 3
        first = np.array(picture.convert("RGB"))
        picture.seek(picture.n_frames - 1)
        assert (np.array(picture.convert("RGB")) != first).any()  # it moves
