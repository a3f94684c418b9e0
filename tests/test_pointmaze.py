"""PointMaze, whose observations are a Dict: recorded, trained on, and scored above its data.

A controller that walks straight to the goal plays two thirds of the episodes, chance the rest.
"""

from __future__ import annotations

import json

import gymnasium
import minari as library
import numpy as np
import pytest

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")

EPISODES, STEPS = 120, 100


def record(name: str) -> None:
    """Episodes as Minari's collector stores them: every part of an observation an array."""
    import gymnasium_robotics
    from minari.data_collector import EpisodeBuffer

    gymnasium.register_envs(gymnasium_robotics)
    env = gymnasium.make("PointMaze_Open-v3", max_episode_steps=STEPS, continuing_task=True)
    env.action_space.seed(0)
    rng = np.random.default_rng(0)
    buffer = []
    for e in range(EPISODES):
        seen, done, rewards, cuts = [env.reset(seed=e)[0]], [], [], []
        while not (cuts and cuts[-1]):
            now = seen[-1]
            action = env.action_space.sample()
            if e % 3:
                towards = now["desired_goal"] - now["achieved_goal"]
                action = 10 * towards - 1.5 * now["observation"][2:] + 0.3 * rng.normal(size=2)
                action = np.clip(action, -1, 1).astype(np.float32)
            observation, reward, _, cut, _ = env.step(action)
            seen.append(observation)
            done.append(action)
            rewards.append(float(reward))
            cuts.append(cut)
        buffer.append(
            EpisodeBuffer(
                id=e,
                observations={key: np.stack([o[key] for o in seen]) for key in seen[0]},
                actions=np.stack(done),
                rewards=rewards,
                terminations=[False] * len(cuts),
                truncations=cuts,
                infos={},
            )
        )
    library.create_dataset_from_buffers(name, buffer=buffer, env=env)


@pytest.mark.slow
def test_a_policy_scores_above_the_mean_of_its_data(tmp_path, monkeypatch, command):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    record("pointmaze/open-v0")
    rates = [f"--{network}-lr=1e-3" for network in ("value", "critic", "actor")]
    settings = (*rates, "--temperature", 10, "--expectile", 0.8, "--normalize-obs")
    small = ("--hidden", 64, 64, "--steps", 10_000, "--eval-interval", 10_000)
    arguments = (*settings, *small, "--eval-episodes", 40, "--out", "run")
    result = command("train", "--task", "pointmaze/open-v0", *arguments)
    assert result.returncode == 0, result.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["scores"]["final"]["mean"] > summary["behaviour_return"] > 20
    layout = json.loads((tmp_path / "run" / "config.json").read_text())["observation_layout"]
    assert layout == [["achieved_goal", 2], ["desired_goal", 2], ["observation", 4]]
