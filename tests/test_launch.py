"""What is found wrong before any data are loaded, and what is said of the engine."""

import importlib.util

import mujoco
import pytest
from rich.console import Console

from iql_fast import data, train
from iql_fast.engines.cuda import CudaEngine
from iql_fast.environments import adroit, physics, simulator, workers
from iql_fast.runs import launch
from iql_fast.support.errors import UserError


@pytest.fixture
def no_data(monkeypatch):
    """Fails the test where data are loaded."""

    def load(*_, **__):
        pytest.fail("data were loaded before the error was found")

    monkeypatch.setattr(data, "load", load)
    workers._kept.clear()
    yield
    workers._kept.clear()


@pytest.mark.usefixtures("no_data")
def test_a_simulator_that_computes_wrong_motion(monkeypatch, tmp_path):
    monkeypatch.setattr(mujoco, "__version__", "4.0.0")
    with pytest.raises(UserError, match=r"MuJoCo 4.0.0 is installed.*mujoco>=3.2.3"):
        train.main(["--task", "hopper-medium-v2", "--out", str(tmp_path / "run")])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_data")
def test_a_package_of_model_files_that_is_missing(monkeypatch, tmp_path):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if "robotics" in name else find(name)
    )
    physics.assets.cache_clear()
    adroit.Door._compiled.__func__.cache_clear()  # another test's model would do
    with pytest.raises(UserError, match="pip install gymnasium-robotics"):
        train.main(["--task", "door-human-v0", "--out", str(tmp_path / "run")])
    physics.assets.cache_clear()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_data")
def test_an_environment_of_one_physics_only(tmp_path):
    with pytest.raises(UserError, match="scored in d4rl physics only"):
        train.main(["--task", "door-human-v0", "--physics", "gymnasium", "--out", str(tmp_path)])


def test_an_untried_simulator_is_named(monkeypatch):
    monkeypatch.setattr(mujoco, "__version__", "99.1.0")
    assert "MuJoCo 99.1.0 is newer than" in str(simulator.require("Evaluation"))


@pytest.mark.parametrize(
    ("at_once", "weights"),
    [(4, "the weights of 4 of 5 seeds at a time"), (5, "the weights of all seeds")],
)
def test_resident_steps_are_told(at_once, weights, capsys):
    engine = object.__new__(CudaEngine)  # there may be no device
    engine.step_form, engine.seeds_at_once, engine.seeds = "resident", at_once, range(5)
    launch._say_kernels(engine, Console(width=100))
    assert capsys.readouterr().out == f"steps   resident: {weights} stay on the chip\n"
    engine.step_form = "launches"
    launch._say_kernels(engine, Console(width=100))
    assert capsys.readouterr().out == ""
