"""Scores of policies in the simulator: episodes in worker processes, the mean action.

Every episode is run on its own, row by row, so that a score does not depend on how many workers
there are or which policies are scored beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from iql_fast.environments import simulator
from iql_fast.policies.policy import Policy
from iql_fast.support.cores import usable_cores
from iql_fast.support.errors import UserError


class EvaluationFailed(UserError):
    """A worker process was lost in the middle of an evaluation."""


def arrangement(
    choice: str, on_cpu: bool, threads: int, workers: int | None, cores: int
) -> tuple[int, bool]:
    """How many worker processes there are, and whether training goes on while they run episodes.

    Args:
        choice: ``--eval-beside``.
        on_cpu: the engine computes on the CPU.
        threads: that it uses; 0 for all cores.
        workers: as asked for; None for a sensible number.
    """
    own_cores = not on_cpu or (threads or cores) + (workers or cores) <= cores
    beside = choice == "always" or (choice == "auto" and own_cores)
    # Beside a device the training loop wants a core to itself.
    return workers or (max(1, cores - 1) if beside and not on_cpu else cores), beside


@dataclass(frozen=True)
class Evaluation:
    """Episodes that worker processes run while the caller goes on."""

    episodes: list[list[Future[float]]]  # of each policy
    environment: str  # what to call it

    def done(self) -> bool:
        """Whether ``returns`` would not have to wait."""
        return all(episode.done() for policy in self.episodes for episode in policy)

    def returns(self) -> NDArray[np.float64]:
        """Undiscounted returns ``[policies, episodes]``; waits for them.

        Raises:
            EvaluationFailed: a worker process died.
        """
        with _lost_workers_named(self.environment):
            return np.array([[episode.result() for episode in row] for row in self.episodes])


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
        self.workers = workers or usable_cores()
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

    def start(
        self, policies: Sequence[Policy], keys: Sequence[int], step: int, episodes: int
    ) -> Evaluation:
        """Have the workers run episodes, after those that they were given before.

        Args:
            keys: one a policy, its training seed: with ``step`` and the episode's number it seeds
                the environment.

        Raises:
            EvaluationFailed: a worker process died.
        """
        with _lost_workers_named(self.label):
            jobs = [
                [
                    self._pool.submit(
                        episode_return, self.environment, self.horizon, policy, (key, step, episode)
                    )
                    for episode in range(episodes)
                ]
                for policy, key in zip(policies, keys, strict=True)
            ]
        return Evaluation(jobs, self.label)

    def returns(
        self, policies: Sequence[Policy], keys: Sequence[int], step: int, episodes: int
    ) -> NDArray[np.float64]:
        """``start`` and wait: undiscounted returns ``[policies, episodes]``."""
        return self.start(policies, keys, step, episodes).returns()


@contextmanager
def _lost_workers_named(environment: str) -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool:
        raise EvaluationFailed(
            f"A worker process that ran episodes of {environment} died (killed from outside, or "
            "for want of memory). Fewer --eval-workers need less memory."
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
