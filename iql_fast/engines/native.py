"""What the engines of the extension have in common: its objects behind the engine interface."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from iql_fast.data.dataset import FloatArray, Transitions
from iql_fast.data.replay import Replay
from iql_fast.engines.base import (
    DTYPES,
    METRICS,
    PER_SEED,
    Hyperparameters,
    Metrics,
    NetworkSpec,
    Precision,
    check_steps,
)
from iql_fast.engines.exclusive import Exclusive, exclusive
from iql_fast.engines.metrics import counts_between, metric_means
from iql_fast.engines.parameters import check_state, initial_state, parameter_shapes
from iql_fast.engines.sampling import batch_at, batch_statistics
from iql_fast.methods.base import Batch
from iql_fast.methods.iql import TRAINED
from iql_fast.policies.policy import Policy, policy_from_arrays
from iql_fast.support import extension
from iql_fast.support.errors import NonFiniteLoss

# NetworkId and ArrayId of csrc/engine/config.h; critic e is network CRITIC + e.
VALUE, ACTOR, CRITIC = range(3)
WEIGHTS, FIRST_MOMENT, SECOND_MOMENT, TARGET = range(4)


class NativeEngine(Exclusive):
    """See ``iql_fast.engines.base.Engine``. A subclass makes the native object.

    Args:
        of_engine: what the native configuration has for that engine alone.
    """

    data_on_host = False
    metrics = METRICS

    def __init__(
        self,
        network: NetworkSpec,
        hyper: Hyperparameters,
        data: Transitions,
        seeds: Sequence[int],
        precision: Precision,
        **of_engine: Any,
    ) -> None:
        super().__init__()
        native: Any = extension.load()
        self.network = network
        self.hyper = hyper
        self.data: Transitions | Replay = data
        self.seeds = tuple(seeds)
        self.precision = precision
        self.dtype = DTYPES[precision]
        S = len(self.seeds)
        vectors = {name: hyper.per_seed(name, S) for name in PER_SEED}
        config = native.EngineConfig(
            obs_dim=network.obs_dim,
            act_dim=network.act_dim,
            hidden=list(network.hidden),
            critics=network.critics,
            batch_size=hyper.batch_size,
            seeds=list(self.seeds),
            hyper=[
                native.SeedHyperparameters(**{name: vector[s] for name, vector in vectors.items()})
                for s in range(S)
            ],
            actor_dropout=hyper.actor_dropout,
            actor_schedule_steps=hyper.actor_schedule_steps,
            old_value=hyper.value_order == "old",
            deterministic_policy=hyper.deterministic_policy,
            stages=[
                native.Stage(**{net: net in stage.trains for net in TRAINED}, steps=stage.steps)
                for stage in hyper.stages
            ],
            **of_engine,
        )
        self._native = self._create(
            native,
            config,
            data.observations,
            data.actions,
            data.rewards,
            data.masks,
            data.next_observations,
        )
        self.load_state_dict(initial_state(network, self.seeds, self.dtype))

    def _create(self, native: Any, *arguments: Any) -> Any:
        """The native engine, from the extension, the configuration and the dataset's columns."""
        raise NotImplementedError

    @property
    def step(self) -> int:
        return int(self._native.step)

    @exclusive
    def run(self, steps: int) -> Metrics:
        self._train(self._native.run, steps)
        return self._metrics()

    @exclusive
    def advance(self, steps: int) -> None:
        """See ``iql_fast.engines.base.OnlineEngine``."""
        self._train(self._native.run, steps)

    def _train(self, train: Callable[[int], int], steps: int) -> None:
        check_steps(steps)
        self._count_met()
        train(steps)
        self._stop_if_not_finite()

    def _count_met(self) -> None:
        if isinstance(self.data, Replay):
            self._native.set_met_rows(self.data.met_rows)

    @exclusive
    def meet(self, replay: Replay) -> None:
        """See ``iql_fast.engines.base.OnlineEngine``."""
        self._native.meet(**replay.met, capacity=replay.capacity)
        self.data = replay

    @exclusive
    def explore(self, observations: FloatArray, noise: FloatArray) -> FloatArray:
        """See ``iql_fast.engines.base.OnlineEngine``."""
        actions: FloatArray = self._native.explore(observations, noise)
        return actions

    @exclusive
    def draws_next(self, place: int) -> bool:
        """See ``iql_fast.engines.base.OnlineEngine``."""
        self._count_met()
        return bool(self._native.draws_next(place))

    @exclusive
    def step_on(self, batch: Batch) -> Metrics:
        self._native.step_on(
            *(x.to(self.dtype).contiguous().numpy() for x in batch.columns().values())
        )
        self._stop_if_not_finite()
        return self._metrics()

    def batch_at(self, step: int) -> Batch:
        """The batch that ``run`` trains on at a (0-based) step."""
        return batch_at(self.data, self.seeds, step, self.hyper.batch_size, self.dtype)

    @exclusive
    def state_dict(self) -> dict[str, Tensor]:
        state = {"step": torch.tensor(self.step, dtype=torch.int64)}
        parts: dict[str, list[Tensor]] = {}
        shape_of: dict[str, list[int]] = {}
        for name, seed, network, array, piece, shape in self._pieces():
            values = torch.from_numpy(self._native.read(seed, network, array, piece))
            parts.setdefault(name, []).append(values.view(shape))
            shape_of[name] = shape
        for name, tensors in parts.items():
            stacked = torch.stack(tensors)
            if len(tensors) > len(self.seeds):  # seeds x critics
                stacked = stacked.reshape(len(self.seeds), self.network.critics, *shape_of[name])
            elif (
                name.removeprefix("adam.m.")
                .removeprefix("adam.v.")
                .startswith(("critic", "target"))
            ):
                stacked = stacked.unsqueeze(1)
            state[name] = stacked
        return state

    @exclusive
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        check_state(dict(state), self.network, len(self.seeds))
        counts: dict[str, int] = {}
        for name, seed, network, array, piece, shape in self._pieces():
            tensor = state[name].reshape(-1, *shape)
            place = counts.get(name, 0)
            counts[name] = place + 1
            values = tensor[place].to(self.dtype).contiguous().view(-1).numpy()
            self._native.write(seed, network, array, piece, values)
        self._native.step = int(state["step"])
        self._native.refresh()
        self._native.take_metrics()  # of steps that this state does not come from

    @exclusive
    def policy(self, index: int) -> Policy:
        shapes = parameter_shapes("actor", self.network, 1)
        return policy_from_arrays(
            {
                name: self._native.read(index, ACTOR, WEIGHTS, piece)
                .reshape(shape[1:])
                .astype(np.float32)
                for piece, (name, shape) in enumerate(shapes)
            }
        )

    def _pieces(self) -> Iterator[tuple[str, int, int, int, int, list[int]]]:
        """(state name, seed index, network, array, piece, shape) of every tensor of the engine, in
        the order of seeds and then critics."""
        networks = [("value", VALUE), ("actor", ACTOR)]
        networks += [("critic", CRITIC + e) for e in range(self.network.critics)]
        for s in range(len(self.seeds)):
            for net, network in networks:
                for piece, (name, full) in enumerate(parameter_shapes(net, self.network, 1)):
                    shape = full[2:] if net == "critic" else full[1:]
                    yield name, s, network, WEIGHTS, piece, shape
                    yield f"adam.m.{name}", s, network, FIRST_MOMENT, piece, shape
                    yield f"adam.v.{name}", s, network, SECOND_MOMENT, piece, shape
                    if net == "critic":
                        target = name.replace("critic", "target", 1)
                        yield target, s, network, TARGET, piece, shape

    def _stop_if_not_finite(self) -> None:
        if (failure := self._native.failure()) is not None:
            step, index, network, statistics = failure
            columns = batch_statistics(self.batch_at(step - 1), index)
            raise NonFiniteLoss(step, self.seeds[index], network, columns | statistics)

    def _metrics(self) -> Metrics:
        seeds, steps = self._native.take_metrics()
        sums = {
            name: np.array([seed.get(name, np.nan) for seed in seeds], dtype=np.float64)
            for name in METRICS
        }
        squared = np.array([seed["squared_advantage"] for seed in seeds], dtype=np.float64)
        return metric_means(sums, squared, counts_between(self.hyper, self.step - steps, self.step))
