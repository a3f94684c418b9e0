"""Training that goes on in the environment: each seed's policy takes a step there, then an update.

The loop is the authors'. An action is sampled from the policy as the last update left it, the
transition joins the replay, and the update draws its batch from the replay with it. Which places a
batch takes is known beforehand, since draws depend on seed and step alone. So the update goes on
while the simulator computes the step, and only waits where its batch has the very transition that
is being made: the result is the authors' loop's, to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iql_fast.data.replay import Met, Replay
from iql_fast.engines import Metrics
from iql_fast.engines.base import OnlineEngine
from iql_fast.engines.drawing import explorations
from iql_fast.environments.stepping import Stepping
from iql_fast.formulas import philox
from iql_fast.policies.acting import Acting
from iql_fast.policies.units import Units
from iql_fast.support.errors import UserError

FloatArray = NDArray[np.float32]

#: Steps for which the noise of actions is drawn at once.
DRAWN_AT_ONCE = 256


class FineTuning:
    """An engine (``iql_fast.engines.base.Engine``) that trains on logged transitions up to a step,
    and from there on acts in the environment as well.

    Args:
        engine: that trains.
        replay: that it is to train on from there on.
        environments: one a seed.
        begins: the step.
        env_steps: in the environment for one update.
        batch_size: of an update.
        reward: scale and shift of the environment's rewards, those of the logged ones.
        units: of the environment.
    """

    data_on_host = False

    def __init__(
        self,
        engine: OnlineEngine,
        replay: Replay,
        environments: Sequence[Stepping],
        *,
        begins: int,
        env_steps: int,
        batch_size: int,
        reward: tuple[float, float],
        units: Units,
    ) -> None:
        self.engine, self.replay, self.environments = engine, replay, environments
        self.begins, self.env_steps, self.batch_size = begins, env_steps, batch_size
        self.reward, self.units = reward, units
        self.name, self.seeds, self.metrics = engine.name, engine.seeds, engine.metrics
        seeds, longest = len(engine.seeds), max(e.horizon for e in environments)
        self._episode = np.zeros(seeds, np.int64)
        self._length = np.zeros(seeds, np.int64)
        self._actions = np.zeros((seeds, longest, replay.act_dim), np.float32)
        self._seen: FloatArray | None = None  # in the environment's units; None: not begun
        self._noise = np.empty(0, np.float32)
        self._noise_from = -1
        engine.meet(replay)

    @property
    def step(self) -> int:
        return self.engine.step

    def run(self, steps: int) -> Metrics:
        """See ``Engine.run``. The steps are all before the environment joins in, or all after."""
        if self.step + steps <= self.begins:
            return self.engine.run(steps)
        if self.step < self.begins:
            raise ValueError(f"{steps} steps from {self.step} on lead past step {self.begins}")
        self._enter()
        return joined([self._update() for _ in range(steps)])

    def step_on(self, batch: Any) -> Metrics:
        return self.engine.step_on(batch)

    def policy(self, index: int) -> Acting:
        return self.engine.policy(index)

    def state_dict(self) -> dict[str, Tensor]:
        """The engine's; and of each seed's episode its number, the actions that were taken in it,
        and what was seen last. What was met is not in it but in files of its own
        (``iql_fast.runs.met``)."""
        state = self.engine.state_dict()
        if self._seen is None:
            return state
        told = {
            "met_rows": np.int64(self.replay.met_rows),
            "episode": self._episode,
            "length": self._length,
            "actions": self._actions,
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
        self._seen = None
        if not own:
            return
        self._episode, self._length = own["episode"].numpy().copy(), own["length"].numpy().copy()
        self._actions = own["actions"].numpy().copy()
        self.replay.met_rows = int(own["met_rows"])
        seen = [
            environment.reset(int(episode), actions[:length])
            for environment, episode, length, actions in zip(
                self.environments, self._episode, self._length, self._actions, strict=True
            )
        ]
        self._seen = np.stack(seen)
        if not np.array_equal(self._seen, own["seen"].numpy(), equal_nan=True):
            raise UserError(
                "The environment does not come to where it was when its episode's actions are "
                "taken once more: it is another, or draws from something that its seed does not "
                "set. Bring back the simulator that the run began with, or begin anew."
            )

    def _enter(self) -> None:
        if self._seen is None:
            self._seen = np.stack([environment.reset(0) for environment in self.environments])

    def _update(self) -> Metrics:
        for _ in range(self.env_steps - 1):
            self._finish(*self._begin())
        before, actions = self._begin()
        if self._draws_newest():
            self._finish(before, actions)
            return self.engine.run(1)
        metrics = self.engine.run(1)  # while the simulator computes
        self._finish(before, actions)
        return metrics

    def _begin(self) -> tuple[FloatArray, FloatArray]:
        """Begin a step in every environment. Its transition counts from now on.

        Returns:
            Observations ``[S, O]`` and actions ``[S, A]``, in the networks' units.
        """
        assert self._seen is not None
        before = self.units.read(self._seen)
        sampled = self.engine.explore(before, self._noise_of(self.replay.met_rows))
        actions = np.clip(sampled, -1, 1)
        taken = self.units.act(actions)
        for s, environment in enumerate(self.environments):
            environment.begin(taken[s])
            self._actions[s, self._length[s]] = taken[s]
        self._length += 1
        self.replay.met_rows += 1
        return before, actions

    def _finish(self, before: FloatArray, actions: FloatArray) -> None:
        """Wait for the step that was begun, and record its transition."""
        assert self._seen is not None
        outcomes = [environment.outcome() for environment in self.environments]
        after = np.stack([outcome.observation for outcome in outcomes])
        scale, shift = self.reward
        met = Met(
            before,
            actions,
            np.array([scale * outcome.reward + shift for outcome in outcomes]),
            np.array([0.0 if outcome.terminal else 1.0 for outcome in outcomes]),
            self.units.read(after),
        )
        self.replay.write(self.replay.met_rows - 1, met)
        self._seen = after
        for s, outcome in enumerate(outcomes):
            if outcome.over:
                self._episode[s] += 1
                self._length[s] = 0
                self._seen[s] = self.environments[s].reset(int(self._episode[s]))

    def _draws_newest(self) -> bool:
        """Whether the next update's batch has the newest transition, of any seed."""
        newest, size = self.replay.place(self.replay.met_rows - 1), len(self.replay)
        return any(
            newest in philox.batch_rows(seed, self.step, self.batch_size, size)
            for seed in self.seeds
        )

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


def joined(steps: Sequence[Metrics]) -> Metrics:
    """What single steps measured, as one call of ``Engine.run`` for all of them would."""
    found: Metrics = {}
    for name in steps[0]:
        values = np.stack([step[name] for step in steps])  # [K, S]
        measured = ~np.isnan(values)
        counts = np.maximum(measured.sum(0), 1)
        mean = np.where(measured, values, 0).sum(0) / counts
        if name.endswith("_max"):
            mean = np.where(measured, values, -np.inf).max(0)
        elif name.endswith("_std") and (of := name.removesuffix("_std")) in steps[0]:
            # Over all rows: the steps have equally many.
            means = np.where(measured, np.stack([step[of] for step in steps]), 0)
            squares = np.where(measured, values**2, 0) + means**2
            variance = squares.sum(0) / counts - (means.sum(0) / counts) ** 2
            mean = np.sqrt(np.maximum(variance, 0))
        found[name] = np.where(measured.any(0), mean, np.nan)
    return found
