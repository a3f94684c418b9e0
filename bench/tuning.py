"""What takes turns in a fine-tuning step: an update, and a step of the simulator; and both."""

from __future__ import annotations

import itertools
from contextlib import ExitStack
from typing import Any, cast

import numpy as np

from bench import cores
from bench.workload import Workload
from iql_fast import engines
from iql_fast.data.replay import Replay
from iql_fast.engines.base import OnlineEngine
from iql_fast.environments import workers
from iql_fast.environments.stepping import Stepping
from iql_fast.policies.units import Units
from iql_fast.runs.finetuning import FineTuning

#: Environments' processes, which end with this one.
_entered = ExitStack()
#: Task -> its environment, and the sizes of what it shows and takes.
TASKS = {"hopper": ("iql_fast/hopper-v2", 11, 3), "antmaze": ("iql_fast/antmaze-umaze-v2", 29, 8)}
#: Transitions that there is memory for: more than anybody waits for.
MOST = 1_000_000


def workload(task: str, rows: int) -> Workload:
    """Of a task's sizes."""
    _, obs_dim, act_dim = TASKS[task]
    return Workload(obs_dim=obs_dim, act_dim=act_dim, rows=rows)


def horizon(task: str) -> int:
    import gymnasium

    import iql_fast.environments  # noqa: F401  registers them

    steps = gymnasium.spec(TASKS[task][0]).max_episode_steps
    assert steps is not None
    return steps


def fine_tuning(task: str, sizes: Workload, threads: int) -> FineTuning:
    """IQL over the CPU engine, as ``iql_fast.finetune`` runs it with one seed. The simulator's
    process may use all cores, whatever the caller is bound to."""
    data = sizes.transitions()
    engine = engines.create(
        "cpu", sizes.network, sizes.hyper, data, [0], precision="fp32", threads=threads
    )
    environment = Stepping(TASKS[task][0], horizon(task), seed=0)
    with cores.unbound():
        _entered.enter_context(environment)
    return FineTuning(
        cast(OnlineEngine, engine),
        Replay(data, 1, 2 * MOST, MOST),
        [[environment]],
        begins=0,
        env_steps=1,
        reward=(1.0, 0.0),
        units=Units(),
    )


class Simulation:
    """A task's environment stepped in this process, with actions as an untrained policy samples
    them."""

    def __init__(self, task: str) -> None:
        self._environment: Any = workers.environment(TASKS[task][0])
        self._horizon, self._left = horizon(task), 0
        noise = np.random.default_rng(0).standard_normal((4096, TASKS[task][2]))
        self._actions = itertools.cycle(np.clip(noise, -1, 1).astype(np.float32))

    def run(self, steps: int) -> None:
        for _ in range(steps):
            if not self._left:
                self._environment.reset(seed=0)
                self._left = self._horizon
            _, _, terminal, truncated, _ = self._environment.step(next(self._actions))
            self._left = 0 if terminal or truncated else self._left - 1
