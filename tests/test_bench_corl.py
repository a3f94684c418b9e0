"""The rival that runs a program of a checkout as it is."""

import sys

import numpy as np
import pytest

from bench import contenders, methods
from bench.contenders import Contender
from bench.rivals import corl
from bench.workload import Workload

PROGRAM = """
from dataclasses import dataclass

import d4rl
import gym
import pyrallis
import wandb

counted = []


@dataclass
class TrainConfig:
    batch_size: int = 1
    device: str = "cuda"
    eval_freq: int = 1
    frac: float = 0.1
    max_timesteps: int = 1


@pyrallis.wrap()
def train(config):
    env = gym.make("any")
    wandb.init(config=config)
    wandb.run.save()
    data = d4rl.qlearning_dataset(env)
    assert data["observations"].shape[1:] == env.observation_space.shape
    assert not data["terminals"].all() and data["terminals"].dtype == bool
    assert (config.device, config.frac) == ("cpu", 1.0)
    for step in range(config.max_timesteps):
        if (step + 1) % config.eval_freq == 0:
            raise AssertionError("it evaluates")
        if step == 40:
            raise ValueError("the end")
        counted.append(config.batch_size)
        wandb.log({}, step=step)
"""


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    folder = tmp_path / "algorithms" / "offline"
    folder.mkdir(parents=True)
    (folder / "any_percent_bc.py").write_text(PROGRAM)
    monkeypatch.setenv(corl.FOLDER, str(tmp_path))
    return tmp_path


def test_as_many_steps_as_asked_for_and_no_more(checkout):
    before = set(sys.modules)
    runner = contenders.build(Contender("corl-bc", workload=Workload(rows=3000)))
    counted = sys.modules["corl_any_percent_bc"].counted
    assert counted == [256]  # it is ready when it has done one
    runner.run(5)
    assert len(counted) == 6
    runner.run(1)
    assert len(counted) == 7
    assert not {"wandb", "d4rl", "pyrallis", "gym"} & (set(sys.modules) - before)
    with pytest.raises(ValueError, match="the end"):
        runner.run(100)


def test_what_its_environment_tells(checkout):
    data = Workload(rows=3500).transitions()
    columns = corl._columns(data)
    assert np.flatnonzero(columns["timeouts"]).tolist() == [999, 1999, 2999, 3499]
    assert columns["terminals"].sum() == (data.masks == 0).sum()


def test_a_rival_that_is_not_there_is_told(tmp_path, monkeypatch):
    monkeypatch.delenv(corl.FOLDER, raising=False)
    assert "--corl FOLDER" in corl.missing("bc")
    monkeypatch.setenv(corl.FOLDER, str(tmp_path))
    assert "any_percent_bc.py does not exist" in corl.missing("bc")
    assert corl.missing("bcq") == "CORL does not have it"


@pytest.mark.slow
def test_a_method_beside_its_rival(checkout, tmp_path, capsys):
    (checkout / "algorithms" / "offline" / "any_percent_bc.py").write_text(
        PROGRAM.replace("step == 40", "False")
    )
    out = tmp_path / "out.json"
    sizes = ["--rows", "3000", "--rounds", "1", "--window", "0.1", "--threads", "1"]
    methods.main(["--names", "bc", "--corl", str(checkout), "--json", str(out), *sizes])
    import json

    (line,) = json.loads(out.read_text())["results"]
    assert line["rival_lowest"] <= line["rival_steps_per_second"] <= line["rival_highest"]
    assert line["times_rival"] == pytest.approx(
        line["steps_per_second"] / line["rival_steps_per_second"]
    )
    assert "times CORL" in " ".join(capsys.readouterr().out.split())
