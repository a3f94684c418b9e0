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
from typing import Any

import numpy as np

from bench.workload import TRAJECTORY
from iql_fast.data.dataset import Transitions

#: The variable that names the checkout's folder.
FOLDER = "CORL_FOLDER"
#: Of each of our methods, its program and what differs from that program's own settings: the sizes
#: that ours has in a benchmark, and the whole dataset.
PROGRAMS: dict[str, tuple[str, dict[str, Any]]] = {
    "bc": ("any_percent_bc", {"frac": 1.0}),
    "td3_bc": ("td3_bc", {}),
    "awac": ("awac", {}),
    "cql": ("cql", {}),
    "iql": ("iql", {}),
    "dt": ("dt", {"target_returns": ()}),
}
#: More steps than anybody asks for: the loops have an end.
ENDLESS = 10**9


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
    return Path(os.environ[FOLDER], "algorithms", "offline", f"{PROGRAMS[name][0]}.py")


class CorlTrainer:
    """One of its programs under way.

    Args:
        name: of our method.
        data: what its environment returns as its dataset.
        batch: rows of a batch.
    """

    def __init__(self, name: str, data: Transitions, batch: int) -> None:
        self._let_on, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._error: BaseException | None = None
        module = _load(program(name), data, self._after_step)
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
        **dict.fromkeys(("max_timesteps", "num_train_ops", "update_steps"), ENDLESS - 1),
        "num_workers": 0,
    }
    known = {field.name for field in dataclasses.fields(config)}
    return {k: v for k, v in wanted.items() if k in known} | PROGRAMS[name][1]


def _load(path: Path, data: Transitions, after_step: Callable[[], None]) -> Any:
    """One of its programs as a module, whose logger calls ``after_step``."""
    stand_ins = _stand_ins(data, after_step)
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


def _stand_ins(data: Transitions, after_step: Callable[[], None]) -> dict[str, types.ModuleType]:
    columns = _columns(data)
    env = _Environment(data, columns)

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
        "d4rl": module("d4rl", qlearning_dataset=lambda _: dict(columns)),
        "pyrallis": module("pyrallis", wrap=lambda: lambda function: function),
        "gym": module(
            "gym",
            Env=object,
            make=lambda *_: env,
            wrappers=types.SimpleNamespace(TransformObservation=wrapped, TransformReward=wrapped),
        ),
    }


class _Environment:
    """What is asked of one outside its episodes."""

    _max_episode_steps = 1000

    def __init__(self, data: Transitions, columns: dict[str, np.ndarray]) -> None:
        bound = np.ones(data.act_dim, np.float32)
        self.observation_space = types.SimpleNamespace(shape=(data.obs_dim,))
        self.action_space = types.SimpleNamespace(
            shape=(data.act_dim,), high=bound, low=-bound, seed=lambda _: None
        )
        self.get_dataset = lambda: dict(columns)

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
