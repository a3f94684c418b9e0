"""What engines of any method share: its networks in torch, seeds leading, and their state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from iql_fast.data.dataset import FloatArray, Transitions
from iql_fast.data.replay import Replay
from iql_fast.engines.base import DTYPES, Metrics, Precision, check_steps
from iql_fast.engines.exclusive import Exclusive, exclusive
from iql_fast.engines.parameters import check_shapes
from iql_fast.engines.sampling import batch_at
from iql_fast.engines.stepping import TorchStep
from iql_fast.formulas import philox
from iql_fast.methods.base import Batch, Method, recorded
from iql_fast.policies.acting import Acting, from_state


class TorchEngine(Exclusive):
    """See ``iql_fast.engines.base.Engine``.

    Args:
        native: whether the extension's operators compute what they can; else everything is plain
            torch, which is the specification.
        device: of the networks.
    """

    data_on_host = False
    #: What computes its steps.
    steps: ClassVar[type[TorchStep]] = TorchStep

    def __init__(
        self,
        method: Method,
        data: Transitions,
        seeds: Sequence[int],
        precision: Precision,
        native: bool,
        device: torch.device | str,
    ) -> None:
        super().__init__()
        self.method, self.seeds = method, tuple(seeds)
        self.data: Transitions | Replay = data
        self.name = "graph" if native else "reference"
        self.dtype = DTYPES[precision]
        like = torch.zeros(0, dtype=self.dtype, device=device)
        self.device = like.device
        self.on = self.steps(method, (data.obs_dim, data.act_dim), self.seeds, like, native)
        self._recorded = recorded(method, data.obs_dim, data.act_dim)
        self.metrics = tuple(method.measured(dict.fromkeys(self._recorded, np.zeros(1))))
        self.step = 0
        self._start()

    # What a kind of engine is.

    def _advance(self, steps: int) -> None:
        """Train, and remember what is recorded."""
        raise NotImplementedError

    def _advance_on(self, batch: Batch) -> Metrics:
        """Train on a batch; what was recorded."""
        raise NotImplementedError

    def _taken(self) -> Metrics:
        """What was recorded since the last time, over the steps that recorded it; NaN where none
        did."""
        raise NotImplementedError

    def _forget(self) -> None:
        """What was recorded is of a state that was given up."""
        raise NotImplementedError

    # The interface.

    @exclusive
    def run(self, steps: int) -> Metrics:
        self.advance(steps)
        return self._taken()

    @exclusive
    def advance(self, steps: int) -> None:
        """See ``iql_fast.engines.base.OnlineEngine``."""
        check_steps(steps)
        self._advance(steps)

    @exclusive
    def step_on(self, batch: Batch) -> Metrics:
        return self._advance_on(self._here(batch))

    @exclusive
    def meet(self, replay: Replay) -> None:
        self.data = replay

    @exclusive
    def draws_next(self, place: int) -> bool:
        """See ``iql_fast.engines.base.OnlineEngine``."""
        return any(
            place in philox.batch_rows(seed, self.step, self.method.batch_size, len(self.data))
            for seed in self.seeds
        )

    @exclusive
    @torch.no_grad()
    def explore(self, observations: FloatArray, noise: FloatArray) -> FloatArray:
        seen, drawn = (
            torch.from_numpy(x[:, None]).to(self.device, self.dtype) for x in (observations, noise)
        )
        actions: FloatArray = self.method.explore(self.on, seen, drawn)[:, 0].float().cpu().numpy()
        return actions

    def batch_at(self, step: int) -> Batch:
        """The batch that ``run`` trains on at a (0-based) step."""
        return batch_at(self.data, self.seeds, step, self.method.batch_size, self.dtype)

    @exclusive
    def state_dict(self) -> dict[str, Tensor]:
        state = {name: x.detach().cpu().contiguous().clone() for name, x in self._state()}
        return state | {"step": torch.tensor(self.step, dtype=torch.int64)}

    @exclusive
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        own = dict(self._state())
        check_shapes(state, {name: list(tensor.shape) for name, tensor in own.items()})
        for name, tensor in own.items():
            tensor.copy_(state[name])
        self.step = int(state["step"])
        self._forget()
        self.on.counted(self.step)

    @exclusive
    def policy(self, index: int) -> Acting:
        state = {name: tensor.detach().cpu() for name, tensor in self._state()}
        return from_state(state, index, self.method.policy())

    def _here(self, batch: Batch) -> Batch:
        """A batch in the engine's dtype and on its device."""
        columns = batch.columns().items()
        return Batch(**{name: x.to(self.device, self.dtype) for name, x in columns})

    def _start(self) -> None:
        for s, seed in enumerate(self.seeds):
            generator = torch.Generator().manual_seed(seed)
            for weights in self.on.weights.values():
                weights.start(s, generator)
        for name, target in self.on.targets.items():
            target.flat.copy_(self.on.weights[name].flat)
        for name, scalar in self.method.scalars(self.data.act_dim).items():
            self.on.numbers[name][0].fill_(scalar.initial)
        self.on.counted(0)

    def _state(self) -> Iterator[tuple[str, Tensor]]:
        """Views of everything that training changes, by their names in a state."""
        for name, weights in self.on.weights.items():
            yield from weights.named(weights.flat, name)
            yield from weights.named(weights.first, f"adam.m.{name}")
            yield from weights.named(weights.second, f"adam.v.{name}")
        for target in self.on.targets.values():
            yield from target.named(target.flat, target.net.target)
        for name, (value, first, second) in self.on.numbers.items():
            yield name, value.detach()
            yield f"adam.m.{name}", first
            yield f"adam.v.{name}", second
