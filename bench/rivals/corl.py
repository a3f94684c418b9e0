"""CORL's trainers, from a checkout of it (github.com/corl-team/CORL), as rivals of the methods.

Each of its files is a whole program: a function ``train`` that makes the environment, loads the
data and loops over steps. It runs here as it is, in a thread that is let on for as many steps as
are asked for, so that what is timed is its own loop, with its own batches. Modules that it imports
and that a step does not need, such as the logger, have stand-ins.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench.workload import TRAJECTORY
from iql_fast.data.dataset import Transitions

#: The variable that names the checkout's folder.
FOLDER = "CORL_FOLDER"
#: Of each of our methods, and of IQL's fine-tuning, its program and what differs from that
#: program's own settings: the sizes that ours has in a benchmark, and the whole dataset.
PROGRAMS: dict[str, tuple[str, dict[str, Any]]] = {
    "bc": ("offline/any_percent_bc", {"frac": 1.0}),
    "td3_bc": ("offline/td3_bc", {}),
    "awac": ("offline/awac", {}),
    "cql": ("offline/cql", {}),
    "iql": ("offline/iql", {}),
    "dt": ("offline/dt", {"target_returns": ()}),
    # A schedule of no steps is not one: the first is trained on the dataset alone.
    "tuning": ("finetune/iql", {"offline_iterations": 1}),
}
#: More steps than anybody asks for: the loops have an end.
ENDLESS = 10**9
#: What its programs call the number of their steps.
_LENGTHS = ("max_timesteps", "num_train_ops", "update_steps", "online_iterations")


def missing(name: str) -> str:
    """Why a method's rival cannot run; empty if it may."""
    if name not in PROGRAMS:
        return "CORL does not have it"
    folder = os.environ.get(FOLDER, "")
    if not folder:
        return f"no checkout of CORL was named (--corl FOLDER, or the variable {FOLDER})"
    if not program(name).is_file():
        return f"{program(name)} does not exist"
    return ""


def program(name: str) -> Path:
    """The file of a method's rival."""
    return Path(os.environ[FOLDER], "algorithms", f"{PROGRAMS[name][0]}.py")


class Simulator(NamedTuple):
    """A Gymnasium environment, and after how many steps its episodes are cut."""

    environment: Any
    horizon: int


class CorlTrainer:
    """One of its programs under way.

    Args:
        name: a key of ``PROGRAMS``.
        data: what its environment returns as its dataset.
        batch: rows of a batch.
        simulator: for a program that takes steps in its environment.
    """

    def __init__(
        self, name: str, data: Transitions, batch: int, simulator: Simulator | None = None
    ) -> None:
        self._let_on, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._error: BaseException | None = None
        module = _load(program(name), _Environment(data, simulator), self._after_step)
        config = module.TrainConfig(**_settings(module.TrainConfig, name, batch))
        self._thread = threading.Thread(target=self._train, args=(module, config), daemon=True)
        self._left = 0
        self._thread.start()
        self._done.acquire()  # it has come to the end of its first step
        self._raise()

    def run(self, steps: int) -> None:
        """Do so many steps; returns when they are done."""
        self._left = steps
        self._let_on.release()
        self._done.acquire()
        self._raise()

    def _train(self, module: Any, config: Any) -> None:
        try:
            module.train(config)
        except BaseException as error:  # told to whoever waits
            self._error = error
        self._done.release()

    def _after_step(self) -> None:
        self._left -= 1
        if self._left <= 0:
            self._done.release()
            self._let_on.acquire()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error


def _settings(config: type, name: str, batch: int) -> dict[str, Any]:
    """Of one of its configurations: on the CPU, without evaluations, with no end."""
    wanted = {
        "device": "cpu",
        "batch_size": batch,
        "checkpoints_path": None,
        **dict.fromkeys(("eval_freq", "eval_frequency", "eval_every"), ENDLESS),
        **dict.fromkeys(_LENGTHS, ENDLESS - 1),
        "num_workers": 0,
    }
    known = {field.name for field in dataclasses.fields(config)}
    return {k: v for k, v in wanted.items() if k in known} | PROGRAMS[name][1]


def _load(path: Path, env: _Environment, after_step: Callable[[], None]) -> Any:
    """One of its programs as a module, whose logger calls ``after_step``."""
    stand_ins = _stand_ins(env, after_step)
    former = {name: sys.modules.get(name) for name in stand_ins}
    sys.modules.update(stand_ins)
    try:
        spec = importlib.util.spec_from_file_location(f"corl_{path.stem}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # where its dataclasses look for their names
        spec.loader.exec_module(module)
    finally:
        for name, was in former.items():
            if was is None:
                del sys.modules[name]
            else:
                sys.modules[name] = was
    return module


def _stand_ins(env: _Environment, after_step: Callable[[], None]) -> dict[str, types.ModuleType]:
    def module(name: str, **members: Any) -> types.ModuleType:
        made = types.ModuleType(name)
        vars(made).update(members)
        return made

    def wrapped(env: Any, _: Any) -> Any:
        return env

    return {
        "wandb": module(
            "wandb",
            init=lambda **_: None,
            run=types.SimpleNamespace(save=lambda: None, id="0"),
            log=lambda *_, **__: after_step(),
        ),
        "d4rl": module("d4rl", qlearning_dataset=lambda _: env.get_dataset()),
        "pyrallis": module("pyrallis", wrap=lambda: lambda function: function),
        "gym": module(
            "gym",
            Env=object,
            make=lambda *_: env,
            wrappers=types.SimpleNamespace(TransformObservation=wrapped, TransformReward=wrapped),
        ),
    }


class _Environment:
    """As its programs know one: Gym's former interface, and D4RL's."""

    def __init__(self, data: Transitions, simulator: Simulator | None) -> None:
        bound = np.ones(data.act_dim, np.float32)
        self.observation_space = types.SimpleNamespace(shape=(data.obs_dim,))
        self.action_space = types.SimpleNamespace(
            shape=(data.act_dim,), high=bound, low=-bound, seed=lambda _: None
        )
        columns = _columns(data)
        self.get_dataset = lambda: dict(columns)
        self._simulator = simulator or Simulator(None, TRAJECTORY)
        self._max_episode_steps = self._left = self._simulator.horizon

    def reset(self) -> np.ndarray:
        if self._simulator.environment is None:
            return np.zeros(self.observation_space.shape, np.float32)
        self._left = self._max_episode_steps
        seen: np.ndarray = self._simulator.environment.reset()[0]
        return seen

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, dict[str, Any]]:
        seen, reward, terminal, _, told = self._simulator.environment.step(action)
        self._left -= 1
        return seen, reward, terminal or self._left == 0, told

    def get_normalized_score(self, score: float) -> float:
        return score

    def seed(self, _: int) -> None: ...


def _columns(data: Transitions) -> dict[str, np.ndarray]:
    """The data as ``d4rl.qlearning_dataset`` names them, and as ``get_dataset`` does: in episodes
    of ``TRAJECTORY`` rows."""
    timeouts = np.zeros(len(data), bool)
    timeouts[TRAJECTORY - 1 :: TRAJECTORY] = timeouts[-1] = True
    return {
        "observations": data.observations,
        "actions": data.actions,
        "rewards": data.rewards,
        "next_observations": data.next_observations,
        "terminals": data.masks == 0,
        "timeouts": timeouts,
    }
