"""Environments that a policy acts in while it is trained: each in a process of its own.

A step is begun and its outcome taken later, so that the caller can train meanwhile. Episodes are
reset by seeds that follow from the training seed and the episode's number. To bring an environment
back to where it was, the episode's actions are taken once more: a simulator computes the same
again, what it starts its solvers from included, and nothing need be known of its insides.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from multiprocessing import get_context
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from iql_fast.environments import simulator, workers
from iql_fast.environments.episodes import EvaluationFailed

FloatArray = NDArray[np.float32]

#: A word of the seeds of these episodes, which those of evaluations have not.
ONLINE = 1


class Outcome(NamedTuple):
    """Of one step.

    Attributes:
        observation: after it, ``[O]``.
        terminal: whether the episode ended in a terminal state.
        over: whether it ended, be it by a time limit.
    """

    observation: FloatArray
    reward: float
    terminal: bool
    over: bool


class Stepping:
    """One environment in a process of its own; to be used as a context manager.

    Args:
        environment: a Gymnasium id, or an environment's specification in Gymnasium's JSON.
        horizon: steps after which an episode is cut.
        seed: of the training.

    Attributes:
        process: after entering.

    Raises:
        EvaluationFailed: from any method, where the environment fails or its process dies.
    """

    def __init__(self, environment: str, horizon: int, seed: int) -> None:
        self.environment, self.horizon, self.seed = environment, horizon, seed
        self._label = simulator.label(environment)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        own, other = get_context("spawn").Pipe()
        with workers.one_thread_each():
            self.process = get_context("spawn").Process(
                target=_serve, args=(other, self.environment, self.horizon, self.seed), daemon=True
            )
            self.process.start()
        other.close()
        self._connection: Connection = own
        self._stack.callback(own.close)
        self._stack.callback(self.process.kill)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def reset(self, episode: int, actions: Sequence[FloatArray] | FloatArray = ()) -> FloatArray:
        """Begin an episode and take these actions in it; the observation after them ``[O]``."""
        self._send(("reset", episode, np.asarray(actions, np.float32)))
        observation: FloatArray = self._receive()
        return observation

    def begin(self, action: FloatArray) -> None:
        """Begin a step; ``outcome`` takes what comes of it."""
        self._send(("step", action))

    def outcome(self) -> Outcome:
        """Of the step that was begun; waits for it."""
        return Outcome(*self._receive())

    def _send(self, message: Any) -> None:
        try:
            self._connection.send(message)
        except OSError:
            raise self._lost() from None

    def _receive(self) -> Any:
        try:
            kind, content = self._connection.recv()
        except (EOFError, OSError):
            raise self._lost() from None
        if kind == "error":
            raise EvaluationFailed(f"An episode of {self._label} failed ({content}).")
        return content

    def _lost(self) -> EvaluationFailed:
        return EvaluationFailed(
            f"The process that acted in {self._label} died (killed from outside, or for want of "
            "memory)."
        )


def _serve(connection: Connection, environment: str, horizon: int, seed: int) -> None:
    """In the process: do what is asked, until the caller goes."""
    workers.prepare()
    episode: _Episode | None = None
    while True:
        try:
            what, *content = connection.recv()
        except (EOFError, OSError):
            return
        try:
            if what == "reset":
                number, actions = content
                episode = _Episode(environment, horizon, workers.seed_of((seed, ONLINE, number)))
                for action in actions:
                    episode.step(action)
                answer: Any = episode.observation
            else:
                assert episode is not None  # the caller resets first
                answer = tuple(episode.step(*content))
            connection.send(("done", answer))
        except BaseException as error:  # of whatever the environment does
            connection.send(("error", f"{type(error).__name__}: {error}"))


class _Episode:
    """An episode under way."""

    def __init__(self, environment: str, horizon: int, seed: int) -> None:
        self._env, self._left = workers.environment(environment), horizon
        self.observation = np.asarray(self._env.reset(seed=seed)[0], np.float32)

    def step(self, action: FloatArray) -> Outcome:
        observation, reward, terminal, truncated, _ = self._env.step(action)
        self._left -= 1
        self.observation = np.asarray(observation, np.float32)
        over = bool(terminal or truncated or self._left == 0)
        return Outcome(self.observation, float(reward), bool(terminal), over)
