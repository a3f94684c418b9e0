"""Environments that a policy acts in while it is trained: each in a process of its own.

A step is begun and its outcome taken later, so that the caller can train meanwhile. Episodes are
reset by seeds that follow from the training seed and the episode's number. Messages are a few
bytes and numbers, which cost a step less than objects would. To bring an environment
back to where it was, the episode's actions are taken once more: a simulator computes the same
again, what it starts its solvers from included, and nothing need be known of its insides.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from contextlib import ExitStack
from multiprocessing import get_context
from types import TracebackType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from iql_fast.environments import simulator, workers
from iql_fast.environments.episodes import EvaluationFailed

FloatArray = NDArray[np.float32]

#: A message begins with its length, which counts itself.
LENGTH = struct.Struct("<i")
#: A message to the process: what it is to do, an action's size, an episode's number; then actions.
ASKED = struct.Struct("<ic3xi4xq")
RESET, STEP = b"r", b"s"
#: Its answer: how it went, whether the state is terminal, whether the episode is over, the reward;
#: then the observation, or what failed.
ANSWER = struct.Struct("<ic??xd")
DONE, FAILED = b"d", b"f"
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
        own, other = socket.socketpair()
        with workers.one_thread_each():
            self.process = get_context("spawn").Process(
                target=_serve, args=(other, self.environment, self.horizon, self.seed), daemon=True
            )
            self.process.start()
        other.close()
        self._channel = own
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
        taken = np.asarray(actions, np.float32)
        size = taken.shape[-1] if taken.size else 1
        self._send(RESET, size, episode, taken.tobytes())
        return self._receive().observation

    def begin(self, action: FloatArray) -> None:
        """Begin a step; ``outcome`` takes what comes of it."""
        self._send(STEP, len(action), 0, action.tobytes())

    def outcome(self) -> Outcome:
        """Of the step that was begun; waits for it."""
        return self._receive()

    def _send(self, what: bytes, size: int, episode: int, actions: bytes) -> None:
        head = ASKED.pack(ASKED.size + len(actions), what, size, episode)
        try:
            self._channel.sendall(head + actions)
        except OSError:
            raise self._lost() from None

    def _receive(self) -> Outcome:
        try:
            answer = _message(self._channel)
        except (EOFError, OSError):
            raise self._lost() from None
        _, kind, terminal, over, reward = ANSWER.unpack_from(answer)
        if kind == FAILED:
            said = answer[ANSWER.size :].decode()
            raise EvaluationFailed(f"An episode of {self._label} failed ({said}).")
        observation = np.frombuffer(answer, np.float32, offset=ANSWER.size)
        return Outcome(observation, reward, terminal, over)

    def _lost(self) -> EvaluationFailed:
        return EvaluationFailed(
            f"The process that acted in {self._label} died (killed from outside, or for want of "
            "memory)."
        )


def _message(channel: socket.socket) -> bytes:
    """The next one.

    Raises:
        EOFError: the other side is gone.
    """
    got, length = b"", LENGTH.size
    while len(got) < length:
        more = channel.recv(1 << 16)
        if not more:
            raise EOFError
        got = got + more if got else more
        if len(got) >= LENGTH.size:
            (length,) = LENGTH.unpack_from(got)
    return got


def _serve(channel: socket.socket, environment: str, horizon: int, seed: int) -> None:
    """In the process: do what is asked, until the caller goes."""
    workers.prepare()
    episode: _Episode | None = None
    while True:
        try:
            message = _message(channel)
        except (EOFError, OSError):
            return
        _, what, size, number = ASKED.unpack_from(message)
        actions = np.frombuffer(message, np.float32, offset=ASKED.size).reshape(-1, size)
        try:
            if what == RESET:
                episode = _Episode(environment, horizon, workers.seed_of((seed, ONLINE, number)))
                outcome = Outcome(episode.observation, 0.0, False, False)
            for action in actions:
                assert episode is not None  # the caller resets first
                outcome = episode.step(action)
            kind, content = DONE, outcome.observation.tobytes()
        except BaseException as error:  # of whatever the environment does
            kind, content = FAILED, f"{type(error).__name__}: {error}".encode()
            outcome = Outcome(np.empty(0, np.float32), 0.0, False, False)
        head = ANSWER.pack(
            ANSWER.size + len(content), kind, outcome.terminal, outcome.over, outcome.reward
        )
        channel.sendall(head + content)


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
