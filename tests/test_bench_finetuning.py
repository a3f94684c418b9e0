"""The benchmark of fine-tuning: what is timed is the loop that trains, and a rival's own."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bench import contenders, finetuning, tuning
from bench.contenders import Contender
from bench.results import Row
from bench.rivals import corl
from iql_fast.environments import workers
from iql_fast.support import extension

needs_engine = pytest.mark.skipif(
    bool(extension.unavailable_reason()), reason=extension.unavailable_reason()
)

PROGRAM = """
from dataclasses import dataclass

import d4rl
import gym
import pyrallis
import wandb

lengths = []


@dataclass
class TrainConfig:
    batch_size: int = 1
    device: str = "cuda"
    eval_freq: int = 1
    offline_iterations: int = 5
    online_iterations: int = 1


@pyrallis.wrap()
def train(config):
    env = gym.make("any")
    assert config.offline_iterations == 1
    seen, length = env.reset(), 0
    assert seen.shape == env.observation_space.shape
    for step in range(config.offline_iterations + config.online_iterations):
        if step >= config.offline_iterations:
            action = env.action_space.high * (0.5 if length % 2 else -0.5)
            seen, reward, done, told = env.step(action)
            length += 1
            assert seen.shape == env.observation_space.shape
            if done:
                lengths.append((length, env.get_normalized_score(reward)))
                seen, length = env.reset(), 0
        wandb.log({}, step=step)
"""


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    folder = tmp_path / "algorithms" / "finetune"
    folder.mkdir(parents=True)
    (folder / "iql.py").write_text(PROGRAM)
    monkeypatch.setenv(corl.FOLDER, str(tmp_path))
    return tmp_path


def test_a_rivals_episodes_are_the_environments(checkout):
    """They end where the robot falls, or after the horizon."""
    simulator = corl.Simulator(workers.environment(tuning.TASKS["hopper"][0]), 7)
    data = tuning.workload("hopper", 2000).transitions()
    rival = corl.CorlTrainer("tuning", data, 256, simulator)
    rival.run(60)
    import sys

    lengths = [length for length, _ in sys.modules["corl_iql"].lengths]
    assert lengths == [7] * 8


def test_the_simulator_alone_begins_anew_where_an_episode_ends():
    alone = tuning.Simulation("hopper")
    seeds, reset = [], alone._environment.reset
    alone._environment.reset = lambda seed: seeds.append(seed) or reset(seed=seed)
    try:
        alone.run(300)
    finally:
        del alone._environment.reset
    assert 2 <= len(seeds) < 300  # random actions soon let it fall
    assert tuning.horizon("hopper") == 1000
    assert tuning.horizon("antmaze") == 700


@needs_engine
@pytest.mark.parametrize("task", tuning.TASKS)
def test_what_is_timed_trains_and_acts(task):
    sizes = tuning.workload(task, 2000)
    tuned = tuning.fine_tuning(task, sizes, threads=1)
    before = {name: x.clone() for name, x in tuned.engine.state_dict().items()}
    tuned.run(5)
    assert (tuned.step, tuned.replay.met_rows) == (5, 5)
    after = tuned.engine.state_dict()
    assert not np.array_equal(before["actor.log_std"], after["actor.log_std"])


def row(kind, threads, median):
    return Row(Contender(kind, threads), median, 0.9 * median, 1.1 * median, 1.0, None)


def test_a_step_is_held_against_the_longer_part_with_as_many_threads():
    table = [
        row("tuning-hopper", 1, 80.0),
        row("update-hopper", 1, 100.0),
        row("tuning-hopper", 2, 120.0),
        row("update-hopper", 2, 180.0),
        row("simulator-hopper", 1, 5000.0),
        row("corl-tuning-hopper", 2, 40.0),
        row("simulator-antmaze", 1, 60.0),
        row("tuning-antmaze", 1, 50.0),
        row("update-antmaze", 1, 90.0),
    ]
    one, two, ant = (finetuning.line_of(table[i], table) for i in (0, 2, 7))
    assert one["times_longer"] == pytest.approx(100 / 80)
    assert two["times_longer"] == pytest.approx(180 / 120)
    assert (one["times_rival"], two["times_rival"]) == (2, 3)
    assert ant["times_longer"] == pytest.approx(60 / 50)  # there the simulator is the longer
    assert ant["times_rival"] is None
    assert finetuning.line_of(table[0], table[:1])["times_longer"] is None


@needs_engine
@pytest.mark.slow
def test_a_run_of_it(checkout, tmp_path, capsys):
    out = tmp_path / "out.json"
    sizes = ["--rows", "3000", "--rounds", "1", "--window", "0.1", "--threads", "1"]
    finetuning.main(["--tasks", "hopper", "--corl", str(checkout), "--json", str(out), *sizes])
    (line,) = json.loads(out.read_text())["results"]
    assert line["rival_low"] <= line["rival_median"] <= line["rival_high"]
    slower = min(line["update_median"], line["simulator_median"])
    assert line["times_longer"] == pytest.approx(slower / line["steps_median"])
    assert "times CORL" in " ".join(capsys.readouterr().out.split())


def test_kinds_say_what_is_missing(monkeypatch):
    monkeypatch.delenv(corl.FOLDER, raising=False)
    assert "--corl FOLDER" in contenders.KINDS["corl-tuning-hopper"].missing()
