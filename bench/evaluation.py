"""Environment steps a second of an evaluation, beside Gymnasium's own environments.

    python bench/evaluation.py

One core, one policy with the paper's networks, three tasks: hopper, AntMaze (umaze) and Adroit's
door. Ours are the episodes that ``python -m iql_fast.evaluate`` runs in a worker; the rival is the
loop that one writes with ``gymnasium.make`` of the environment that gymnasium or gymnasium-robotics
ships for the same task, its wrappers included, and the same policy. Both are measured in turns, in
rounds of random order; a step is one action.

Mechanics differ between the two (D4RL's here, the installed MuJoCo's there), and so does what an
action does to the ant (D4RL's steps twice as long as the packaged ones). The third column is our
environments stepped one at a time, by the rival's loop. The last is the share of an evaluation that
the simulator's own steps take: nothing around them can make it faster than the inverse of that.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import mujoco  # noqa: E402
import numpy as np  # noqa: E402

from bench.options import add_outputs, positive, positive_seconds, write_text  # noqa: E402
from iql_fast.environments import workers  # noqa: E402
from iql_fast.environments.episodes import SIDE_BY_SIDE, run_episodes  # noqa: E402
from iql_fast.policies.policy import Policy  # noqa: E402
from iql_fast.runs import machine as computer  # noqa: E402
from iql_fast.support import cli  # noqa: E402

#: Task -> our environment, and the one that is shipped.
TASKS = {
    "hopper": ("iql_fast/hopper-v2", "Hopper-v4"),
    "antmaze": ("iql_fast/antmaze-umaze-v2", "AntMaze_UMaze-v5"),
    "door": ("iql_fast/door-v0", "AdroitHandDoor-v1"),
}
#: Of a task, how large actions are. With larger ones the hopper falls in eight steps, not in some
#: ninety, and starts of episodes are what is timed.
SCALES = {"hopper": 0.01, "antmaze": 1.0, "door": 1.0}
#: Steps of an episode that are run at most, so that a window is not much longer than asked.
HORIZON = 100


def policy_for(obs_dim: int, act_dim: int, scale: float) -> Policy:
    """Two hidden layers of 256, and actions of about that size."""
    rng = np.random.default_rng(0)
    sizes = (obs_dim, 256, 256, act_dim)
    weights = tuple(
        (rng.standard_normal((a, b)) / np.sqrt(a)).astype(np.float32)
        for a, b in itertools.pairwise(sizes)
    )
    weights[-1][:] *= scale
    biases = tuple(np.zeros(b, np.float32) for b in sizes[1:])
    return Policy(weights, biases, np.zeros(act_dim, np.float32))


def flat(observation: Any) -> np.ndarray:
    """What the packaged AntMaze calls an observation is a dict, of which the ant's part is read."""
    if isinstance(observation, dict):
        place = np.asarray(observation["achieved_goal"])
        return np.concatenate((place, np.asarray(observation["observation"])[:27]))
    return np.asarray(observation)


def loop(env: Any, policy: Policy, seconds: float) -> float:
    """Steps a second of one environment by Gymnasium's interface."""
    steps, episode = 0, 0
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        observation, _ = env.reset(seed=episode)
        episode += 1
        for _ in range(HORIZON):
            action = policy.mean_action(flat(observation))
            observation, _, terminal, truncated, _ = env.step(action)
            steps += 1
            if terminal or truncated:
                break
    return steps / (time.perf_counter() - start)


def side_by_side(environment: str, policy: Policy, seconds: float) -> float:
    """Steps a second of an evaluation's episodes in one process."""
    counted = [workers.environment(environment, i) for i in range(SIDE_BY_SIDE)]
    steps = 0

    def counting(step: Callable[..., Any]) -> Callable[..., Any]:
        def counted_step(action: Any) -> Any:
            nonlocal steps
            steps += 1
            return step(action)

        return counted_step

    own = [env.step for env in counted]
    for env in counted:
        env.step = counting(env.step)
    try:
        round_ = 0
        start = time.perf_counter()
        while time.perf_counter() - start < seconds:
            keys = [(0, round_, i) for i in range(SIDE_BY_SIDE)]
            run_episodes(environment, HORIZON, policy, keys)
            round_ += 1
        return steps / (time.perf_counter() - start)
    finally:
        for env, step in zip(counted, own, strict=True):
            env.step = step


def simulator_share(environment: str, policy: Policy, seconds: float) -> float:
    """The share of an evaluation's time that is spent in ``mujoco.mj_step``."""
    inside, own = 0.0, mujoco.mj_step

    def timed(*arguments: Any, **named: Any) -> None:
        nonlocal inside
        start = time.perf_counter()
        own(*arguments, **named)
        inside += time.perf_counter() - start

    mujoco.mj_step = timed
    try:
        start = time.perf_counter()
        side_by_side(environment, policy, seconds)
        return inside / (time.perf_counter() - start)
    finally:
        mujoco.mj_step = own


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--rounds", type=positive, default=7, metavar="N")
    parser.add_argument("--window", type=positive_seconds, default=1.0, metavar="SECONDS")
    add_outputs(parser)
    arguments = parser.parse_args()

    import gymnasium
    import gymnasium_robotics

    gymnasium.register_envs(gymnasium_robotics)
    gymnasium.logger.min_level = gymnasium.logger.ERROR
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    contenders: dict[tuple[str, str], Callable[[], float]] = {}
    for task in arguments.tasks:
        ours, shipped = TASKS[task]
        env = workers.environment(ours)
        sizes = env.observation_space.shape[0], env.action_space.shape[0]
        policy = policy_for(*sizes, SCALES[task])
        rival = gymnasium.make(shipped)
        contenders[task, "gymnasium"] = lambda e=rival, p=policy: loop(e, p, arguments.window)
        contenders[task, "alone"] = lambda e=env, p=policy: loop(e, p, arguments.window)
        contenders[task, "iql_fast"] = lambda o=ours, p=policy: side_by_side(o, p, arguments.window)
        contenders[task, "share"] = lambda o=ours, p=policy: simulator_share(o, p, arguments.window)
    rates: dict[tuple[str, str], list[float]] = {key: [] for key in contenders}
    order = random.Random(0)
    for run in contenders.values():
        run()  # warm-up
    for _ in range(arguments.rounds):
        for key in order.sample(list(contenders), len(contenders)):
            rates[key].append(contenders[key]())

    print("| task | Gymnasium's | ours, one by one | ours, in an evaluation | times | simulator |")
    print("|---|---|---|---|---|---|")
    results = []
    for task in arguments.tasks:
        cells, record = [], {"task": task}
        for name in ("gymnasium", "alone", "iql_fast"):
            found = rates[task, name]
            median = statistics.median(found)
            cells.append(f"{median:,.0f} ({min(found):,.0f} to {max(found):,.0f})")
            record |= {f"{name}_steps_per_s": median, f"{name}_all": found}
        pairs = zip(rates[task, "iql_fast"], rates[task, "gymnasium"], strict=True)
        record["times"] = statistics.median(own / other for own, other in pairs)
        record["simulator_share"] = statistics.median(rates[task, "share"])
        results.append(record)
        shares = f"{record['times']:.2f} | {record['simulator_share']:.0%}"
        print(f"| {task} | {' | '.join(cells)} | {shares} |")
    if arguments.json:
        machine = computer.machine() | computer.versions()
        write_text(
            arguments.json, json.dumps({"machine": machine, "results": results}, indent=1) + "\n"
        )


if __name__ == "__main__":
    cli.main(main)
