"""Scores of policies in the simulator: episodes in worker processes, the mean action.

Every episode is run on its own, row by row, so that a score does not depend on how many workers
there are or which policies are scored beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack

import numpy as np
from numpy.typing import NDArray

from iql_fast import simulator
from iql_fast.errors import UserError
from iql_fast.policy import Policy


class EvaluationFailed(UserError):
    """A worker process was lost in the middle of an evaluation."""


class Evaluator:
    """Runs episodes of one environment; to be used as a context manager.

    Args:
        environment: a Gymnasium id, or an environment's specification in Gymnasium's JSON.
        horizon: steps after which an episode is cut.
        workers: processes; None takes all cores.

    Raises:
        UserError: on entering, where the simulator or the environment does not work here.
    """

    def __init__(self, environment: str, horizon: int, workers: int | None = None) -> None:
        self.environment = environment
        self.label = simulator.label(environment)
        self.horizon = horizon
        self.workers = workers or simulator.cores()
        self._stack = ExitStack()

    def __enter__(self) -> Evaluator:
        simulator.require(f"Evaluation in {self.label}")
        try:
            self._pool = self._stack.enter_context(simulator.worker_pool(self.workers))
            self._pool.submit(_make, self.environment).result()
        except Exception as error:
            self._stack.close()
            raise UserError(
                f"{self.label} does not work here ({type(error).__name__}: {error}). Train with "
                "--eval-episodes 0, or mend the simulator."
            ) from None
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def returns(
        self, policies: Sequence[Policy], keys: Sequence[int], step: int, episodes: int
    ) -> NDArray[np.float64]:
        """Undiscounted returns ``[policies, episodes]``.

        Args:
            keys: one a policy, its training seed: with ``step`` and the episode's number it seeds
                the environment.

        Raises:
            EvaluationFailed: a worker process died.
        """
        try:
            jobs = [
                self._pool.submit(
                    episode_return, self.environment, self.horizon, policy, (key, step, episode)
                )
                for policy, key in zip(policies, keys, strict=True)
                for episode in range(episodes)
            ]
            return np.array([job.result() for job in jobs]).reshape(len(policies), episodes)
        except BrokenProcessPool:
            raise EvaluationFailed(
                f"A worker process that ran episodes of {self.label} died (killed from outside, "
                "or for want of memory). Fewer --eval-workers need less memory."
            ) from None


def _make(environment: str) -> None:
    simulator.environment(environment)


def episode_return(
    environment: str, horizon: int, policy: Policy, key: tuple[int, int, int]
) -> float:
    """The return of one episode of at most ``horizon`` steps, seeded by ``key``."""
    env = simulator.environment(environment)
    seed = int(np.random.SeedSequence(key).generate_state(1)[0])
    observation, _ = env.reset(seed=seed)
    total = 0.0
    for _ in range(horizon):
        observation, reward, terminal, _, _ = env.step(policy.mean_action(observation))
        total += float(reward)
        if terminal:
            break
    return total
