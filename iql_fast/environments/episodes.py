"""Scores of policies in the simulator: episodes in worker processes, the mean action.

A worker runs a few episodes of one policy side by side, so that the policy is computed for all of
them at once. Which ones is fixed by their numbers, and the policy always sees as many rows, so a
score does not depend on how many workers there are, how many episodes, or which policies are scored
beside it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from iql_fast.environments import simulator, workers
from iql_fast.policies.acting import Acting, played
from iql_fast.support.cores import usable_cores
from iql_fast.support.errors import UserError

#: Episodes that a worker runs side by side at most. More save little: a policy's time for so many
#: rows is small beside the simulator's, and ten episodes are to keep two workers busy.
SIDE_BY_SIDE = 8


class EvaluationFailed(UserError):
    """A process that runs episodes was lost in the middle of one, or its environment failed."""


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
class Episode:
    """What is kept of an episode.

    Attributes:
        total: its undiscounted return.
        path: ``[T + 1, 2]`` float32, where the robot was before and after each step, in metres;
            None outside of mazes.
        success: whether its environment said at some step that the task was done
            (``info["success"]``); False where it never says.
    """

    total: float
    path: NDArray[np.float32] | None = None
    success: bool = False


@dataclass(frozen=True)
class Evaluation:
    """Episodes that worker processes run while the caller goes on."""

    groups: list[list[Future[list[Episode]]]]  # of each policy, in the order of their episodes
    environment: str  # what to call it

    def done(self) -> bool:
        """Whether ``returns`` would not have to wait."""
        return all(group.done() for policy in self.groups for group in policy)

    def returns(self) -> NDArray[np.float64]:
        """Undiscounted returns ``[policies, episodes]``; waits for them.

        Raises:
            EvaluationFailed: a worker process died.
        """
        return np.array([[episode.total for episode in row] for row in self._episodes()])

    def successes(self) -> NDArray[np.float64]:
        """1 where an episode succeeded, 0 elsewhere ``[policies, episodes]``; waits for them.

        Raises:
            EvaluationFailed: a worker process died.
        """
        return np.array([[float(episode.success) for episode in row] for row in self._episodes()])

    def paths(self) -> list[list[NDArray[np.float32]]]:
        """The path of every episode of every policy, in a maze; empty lists elsewhere. Waits.

        Raises:
            EvaluationFailed: a worker process died.
        """
        return [[e.path for e in row if e.path is not None] for row in self._episodes()]

    def _episodes(self) -> list[list[Episode]]:
        with _lost_workers_named(self.environment):
            return [[e for group in policy for e in group.result()] for policy in self.groups]


class Evaluator:
    """Runs episodes of one environment; to be used as a context manager.

    Args:
        environment: a Gymnasium id, or an environment's specification in Gymnasium's JSON.
        horizon: steps after which an episode is cut.
        workers: processes; None takes all cores.

    Attributes:
        note: after entering: a sentence for the user about the simulator, or None.
        layout: after entering: which maze of ``antmaze.LAYOUTS`` the environment is, or None.
        sizes: after entering: numbers of an observation and of an action.

    Raises:
        UserError: on entering, where the simulator or the environment does not work here.
    """

    note: str | None
    layout: str | None
    sizes: tuple[int, int]

    def __init__(self, environment: str, horizon: int, workers: int | None = None) -> None:
        self.environment = environment
        self.label = simulator.label(environment)
        self.horizon = horizon
        self.workers = workers or usable_cores()
        self._stack = ExitStack()

    def __enter__(self) -> Evaluator:
        self.note = simulator.require(f"Evaluation in {self.label}")
        try:
            self._pool = self._stack.enter_context(workers.worker_pool(self.workers))
            self.layout, self.sizes = self._pool.submit(_described, self.environment).result()
        except UserError:
            self._stack.close()
            raise
        except BrokenProcessPool:
            self._stack.close()
            raise UserError(
                f"A worker process for episodes of {self.label} died as it started (killed from "
                f"outside, or for want of memory). {workers.MAIN_GUARD}; or train with "
                "--eval-episodes 0."
            ) from None
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
        self, policies: Sequence[Acting], keys: Sequence[int], step: int, episodes: int
    ) -> Evaluation:
        """Have the workers run episodes, after those that they were given before.

        Args:
            keys: one a policy, its training seed: with ``step`` and the episode's number it seeds
                the environment.

        Raises:
            EvaluationFailed: a worker process died.
        """
        share = -(-self.workers // max(len(policies), 1))  # workers for each policy
        with _lost_workers_named(self.label):
            jobs = [
                [
                    self._pool.submit(
                        run_episodes,
                        self.environment,
                        self.horizon,
                        policy,
                        [(key, step, episode) for episode in group],
                    )
                    for group in groups(episodes, share)
                ]
                for policy, key in zip(policies, keys, strict=True)
            ]
        return Evaluation(jobs, self.label)

    def returns(
        self, policies: Sequence[Acting], keys: Sequence[int], step: int, episodes: int
    ) -> NDArray[np.float64]:
        """``start`` and wait: undiscounted returns ``[policies, episodes]``."""
        return self.start(policies, keys, step, episodes).returns()


def groups(episodes: int, workers: int) -> list[range]:
    """The numbers of the episodes that are run side by side: as few groups as keep so many workers
    busy, and as equal ones."""
    count = max(-(-episodes // SIDE_BY_SIDE), min(episodes, workers))
    ends = [episodes * i // count for i in range(count + 1)] if count else [0]
    return [range(*pair) for pair in itertools.pairwise(ends)]


@contextmanager
def _lost_workers_named(environment: str) -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool:
        raise EvaluationFailed(
            f"A worker process that ran episodes of {environment} died (killed from outside, or "
            "for want of memory). Fewer --eval-workers need less memory."
        ) from None
    except Exception as error:  # of whatever the environment does
        raise EvaluationFailed(
            f"An episode of {environment} failed ({type(error).__name__}: {error})."
        ) from error


def _described(environment: str) -> tuple[str | None, tuple[int, int]]:
    """The layout of the maze, if it is one, and the sizes of observations and actions; makes the
    environment."""
    env = workers.environment(environment)
    layout = getattr(env, "layout", None)
    sizes = env.observation_space.shape[0], env.action_space.shape[0]
    return None if layout is None else str(layout), sizes


def run_episodes(
    environment: str, horizon: int, policy: Acting, keys: Sequence[tuple[int, int, int]]
) -> list[Episode]:
    """Episodes of at most ``horizon`` steps, run side by side.

    Args:
        keys: one an episode, seeds its environment; at most ``SIDE_BY_SIDE``, whose last numbers
            follow on one another.
    """
    # Always as many rows, and an episode's own: a product's rounding may depend on both.
    rows = [key[-1] % SIDE_BY_SIDE for key in keys]
    environments = {row: workers.environment(environment, row) for row in rows}
    first = {
        row: environments[row].reset(seed=workers.seed_of(key))[0]
        for row, key in zip(rows, keys, strict=True)
    }
    observations = np.zeros((SIDE_BY_SIDE, *first[rows[0]].shape), np.float32)
    for row, observation in first.items():
        observations[row] = observation
    in_maze = hasattr(environments[rows[0]], "layout")
    paths = {row: [tuple(observation[:2])] for row, observation in first.items()}
    totals = dict.fromkeys(rows, 0.0)
    succeeded = dict.fromkeys(rows, False)
    going = list(rows)
    player, rewards = played(policy, SIDE_BY_SIDE), np.zeros(SIDE_BY_SIDE)
    for _ in range(horizon):
        actions = player.act(observations)
        for row in tuple(going):
            observation, reward, terminal, truncated, info = environments[row].step(actions[row])
            totals[row] += float(reward)
            rewards[row] = reward
            succeeded[row] = succeeded[row] or bool(info.get("success", False))
            observations[row] = observation
            if in_maze:
                paths[row].append((observation[0], observation[1]))
            if terminal or truncated:  # some environments cut episodes themselves
                going.remove(row)
        if not going:
            break
        player.observe(rewards)
    return [
        Episode(totals[row], np.array(paths[row], np.float32) if in_maze else None, succeeded[row])
        for row in rows
    ]


def episode_return(
    environment: str, horizon: int, policy: Acting, key: tuple[int, int, int]
) -> float:
    """The undiscounted return of one episode."""
    return run_episodes(environment, horizon, policy, [key])[0].total
