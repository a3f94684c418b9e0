"""Training that goes on in the environment: each seed's policy takes a step there, then an update.

The loop is the authors'. An action is sampled from the policy as the last update left it, the
transition joins the replay, and the update draws its batch from the replay with it. Which places a
batch takes is known beforehand, since draws depend on seed and step alone. So the update goes on
while the simulator computes the step, and only waits where its batch has the very transition that
is being made: the result is the authors' loop's, to the bit.

A seed may act in N environments by turns, each of which takes every N-th step and has the time of N
for it. A transition then joins the replay when the step N - 1 after it begins, so the policy that
acted is by as many steps older than the one that is trained on it. With N = 1 it is the authors'
loop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iql_fast.data.replay import Met, Replay
from iql_fast.engines import Metrics
from iql_fast.engines.base import OnlineEngine
from iql_fast.engines.drawing import explorations
from iql_fast.environments.stepping import Stepping
from iql_fast.policies.acting import Acting
from iql_fast.policies.units import Units
from iql_fast.support.errors import UserError

FloatArray = NDArray[np.float32]
Result = TypeVar("Result")

#: Steps for which the noise of actions is drawn at once.
DRAWN_AT_ONCE = 256


class _Begun(NamedTuple):
    """A step that was begun in an environment of every seed, in the networks' units: observations
    ``[S, O]`` and actions ``[S, A]``."""

    before: FloatArray
    actions: FloatArray


class Ended(NamedTuple):
    """An episode that a policy acted in while it was trained.

    Attributes:
        step: the first update that its last transition counts for.
        total: its return, in the environment's rewards.
    """

    step: int
    seed: int
    total: float
    length: int


class FineTuning:
    """An engine (``iql_fast.engines.base.Engine``) that trains on logged transitions up to a step,
    and from there on acts in the environment as well.

    Args:
        engine: that trains.
        replay: that it is to train on from there on.
        environments: N times one a seed.
        begins: the step.
        env_steps: in the environment for one update.
        reward: scale and shift of the environment's rewards, those of the logged ones.
        units: of the environment.
    """

    data_on_host = False

    def __init__(
        self,
        engine: OnlineEngine,
        replay: Replay,
        environments: Sequence[Sequence[Stepping]],
        *,
        begins: int,
        env_steps: int,
        reward: tuple[float, float],
        units: Units,
    ) -> None:
        self.engine, self.replay, self.environments = engine, replay, environments
        self.begins, self.env_steps = begins, env_steps
        self.reward, self.units = reward, units
        self.name, self.seeds, self.metrics = engine.name, engine.seeds, engine.metrics
        many, seeds = len(environments), len(engine.seeds)
        longest = max(one.horizon for each in environments for one in each)
        # An environment's first episode has its own number, and each that follows is N further.
        self._episode = np.repeat(np.arange(many)[:, None], seeds, 1)  # [N, S]
        self._length = np.zeros((many, seeds), np.int64)
        self._actions = np.zeros((many, seeds, longest, replay.act_dim), np.float32)
        self._total = np.zeros((many, seeds))  # of the rewards, the environment's
        self._ended: list[Ended] = []
        self._seen: FloatArray | None = None  # [N, S, O], the environment's units; None: not begun
        self._begun = 0  # steps; the last of them may be under way
        self._under_way: deque[_Begun] = deque()
        self._noise = np.empty(0, np.float32)
        self._noise_from = -1
        engine.meet(replay)

    @property
    def step(self) -> int:
        return self.engine.step

    def run(self, steps: int) -> Metrics:
        """See ``Engine.run``. The steps are all before the environment joins in, or all after."""
        if self.step + steps <= self.begins or not steps:
            return self.engine.run(steps)
        if self.step < self.begins:
            raise ValueError(f"{steps} steps from {self.step} on lead past step {self.begins}")
        self._enter()
        for _ in range(steps - 1):
            self._update(self.engine.advance)
        metrics = self._update(self.engine.run)
        self._settle()
        return metrics

    def step_on(self, batch: Any) -> Metrics:
        return self.engine.step_on(batch)

    def policy(self, index: int) -> Acting:
        return self.engine.policy(index)

    def take_episodes(self) -> list[Ended]:
        """Those that ended since this was asked last, in the order of steps and seeds."""
        taken, self._ended = sorted(self._ended), []
        return taken

    def state_dict(self) -> dict[str, Tensor]:
        """The engine's; and of each environment its episode's number, the actions that were taken
        in it, what was seen last, and the step that is under way. What was met is not in it but in
        files of its own (``iql_fast.runs.met``)."""
        state = self.engine.state_dict()
        if self._seen is None:
            return state
        self._settle()
        under_way = [step.actions for step in self._under_way]  # [P, S, A]
        shape = (len(under_way), len(self.seeds), self.replay.act_dim)
        told = {
            "begun": np.int64(self._begun),
            "met_rows": np.int64(self.replay.met_rows),
            "episode": self._episode,
            "length": self._length,
            "actions": self._actions,
            "total": self._total,
            "under_way": np.array(under_way, np.float32).reshape(shape),
            "seen": self._seen,
        }
        return state | {f"online.{name}": torch.tensor(x) for name, x in told.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over a state, and bring the environments to where they were.

        Raises:
            UserError: an environment does not come to where it was.
        """
        own = {name.removeprefix("online."): x for name, x in state.items() if _is_own(name)}
        self.engine.load_state_dict({n: x for n, x in state.items() if not _is_own(n)})
        self._give_up()
        if not own:
            return
        self._episode, self._length = own["episode"].numpy().copy(), own["length"].numpy().copy()
        self._actions, self._total = own["actions"].numpy().copy(), own["total"].numpy().copy()
        self._begun, self.replay.met_rows = int(own["begun"]), int(own["met_rows"])
        under_way = own["under_way"].numpy().copy()
        turns = [self._turn(self._begun - len(under_way) + i) for i in range(len(under_way))]
        whole = self._length.copy()
        whole[turns] -= 1
        seen = [
            [
                one.reset(int(self._episode[n, s]), self._actions[n, s, : whole[n, s]])
                for s, one in enumerate(each)
            ]
            for n, each in enumerate(self.environments)
        ]
        self._seen = np.array(seen)
        if not np.array_equal(self._seen, own["seen"].numpy(), equal_nan=True):
            raise UserError(
                "The environment does not come to where it was when its episode's actions are "
                "taken once more: it is another, or draws from something that its seed does not "
                "set. Bring back the simulator that the run began with, or begin anew."
            )
        for n, actions in zip(turns, under_way, strict=True):
            for s, one in enumerate(self.environments[n]):
                one.begin(self._actions[n, s, whole[n, s]])
            self._under_way.append(_Begun(self._read(n), actions))

    def _give_up(self) -> None:
        """Be as before the first step: what is under way is waited for, and belongs to nothing."""
        for number in range(self._begun - len(self._under_way), self._begun):
            for environment in self.environments[self._turn(number)]:
                environment.outcome()
        self._under_way.clear()
        self._ended = []
        self._seen = None
        self._begun = self.replay.met_rows = 0
        self._episode[:] = np.arange(len(self.environments))[:, None]
        self._length[:] = 0
        self._total[:] = 0

    def _enter(self) -> None:
        if self._seen is None:
            first = zip(self.environments, self._episode, strict=True)
            self._seen = np.array(
                [
                    [one.reset(int(k)) for one, k in zip(each, numbers, strict=True)]
                    for each, numbers in first
                ]
            )

    def _update(self, train: Callable[[int], Result]) -> Result:
        for _ in range(self.env_steps):
            self._begin()
        if self._draws_newest():
            self._settle()
        return train(1)  # while the simulators compute

    def _turn(self, number: int) -> int:
        """Which of a seed's environments takes the step of that number."""
        return number % len(self.environments)

    def _begin(self) -> None:
        """Begin a step. The transition of the step N - 1 before it counts from now on."""
        landed = self._land()
        turn = self._turn(self._begun)
        before = self._read(turn)
        sampled = self.engine.explore(before, self._noise_of(self._begun))
        actions = np.clip(sampled, -1, 1)
        taken = self.units.act(actions)
        for s, environment in enumerate(self.environments[turn]):
            environment.begin(taken[s])
        # From here on the simulators compute beside what this process does.
        for s in range(len(self.seeds)):
            self._actions[turn, s, self._length[turn, s]] = taken[s]
        self._length[turn] += 1
        self._under_way.append(_Begun(before, actions))
        self._begun += 1
        self.replay.met_rows = max(0, self._begun - len(self.environments) + 1)
        if landed is not None:
            self.replay.write(*landed)

    def _read(self, turn: int) -> FloatArray:
        """What was seen last in those environments, in the networks' units ``[S, O]``: to be kept
        when they have gone on."""
        assert self._seen is not None
        return np.array(self.units.read(self._seen[turn]))

    def _land(self) -> tuple[int, Met] | None:
        """Wait for the step whose transition counts by now, if that is under way, and begin anew
        where an episode ended; the transition and its number."""
        if len(self._under_way) < len(self.environments):
            return None
        assert self._seen is not None
        number = self.replay.met_rows - 1
        turn = self._turn(number)
        before, actions = self._under_way.popleft()
        environments = self.environments[turn]
        outcomes = [environment.outcome() for environment in environments]
        for s, outcome in enumerate(outcomes):
            self._seen[turn, s] = outcome.observation
            self._total[turn, s] += outcome.reward
            if outcome.over:
                self._end(number, turn, s)
                self._episode[turn, s] += len(self.environments)
                self._length[turn, s] = 0
                self._seen[turn, s] = environments[s].reset(int(self._episode[turn, s]))
        scale, shift = self.reward
        after = np.array([outcome.observation for outcome in outcomes])
        return number, Met(
            before,
            actions,
            np.array([scale * outcome.reward + shift for outcome in outcomes]),
            np.array([0.0 if outcome.terminal else 1.0 for outcome in outcomes]),
            self.units.read(after),
        )

    def _end(self, number: int, turn: int, s: int) -> None:
        """The step of that number was the last of an episode."""
        step = self.begins + (number + len(self.environments) - 1) // self.env_steps + 1
        total, length = float(self._total[turn, s]), int(self._length[turn, s])
        self._ended.append(Ended(step, self.seeds[s], total, length))
        self._total[turn, s] = 0

    def _settle(self) -> None:
        """Every transition that counts is in the replay."""
        if (landed := self._land()) is not None:
            self.replay.write(*landed)

    def _draws_newest(self) -> bool:
        """Whether the next update's batch has the transition, of any seed, that is still being
        made."""
        if len(self._under_way) < len(self.environments):
            return False
        return self.engine.draws_next(self.replay.place(self.replay.met_rows - 1))

    def _noise_of(self, number: int) -> FloatArray:
        """Of the action of that number, ``[S, A]``."""
        begin = number - number % DRAWN_AT_ONCE
        if begin != self._noise_from:
            numbers = range(begin, begin + DRAWN_AT_ONCE)
            self._noise = explorations(self.seeds, numbers, self.replay.act_dim)
            self._noise_from = begin
        noise: FloatArray = self._noise[number - begin]
        return noise


def _is_own(name: str) -> bool:
    return name.startswith("online.")
