"""The engine of any method: its step in torch, seeds leading."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from iql_fast.data.dataset import Transitions
from iql_fast.engines.base import DTYPES, Metrics, Precision, check_steps
from iql_fast.engines.exclusive import Exclusive, exclusive
from iql_fast.engines.sampling import batch_at, batch_statistics
from iql_fast.engines.stepping import TorchStep
from iql_fast.methods.base import Batch, Method, recorded
from iql_fast.policies.acting import Acting, from_state
from iql_fast.support.errors import NonFiniteLoss


class GenericEngine(Exclusive):
    """See ``iql_fast.engines.base.Engine``.

    Args:
        native: whether the extension's operators compute what they can; else everything is plain
            torch, which is the specification.
    """

    data_on_host = False

    def __init__(
        self,
        method: Method,
        data: Transitions,
        seeds: Sequence[int],
        precision: Precision = "fp32",
        *,
        native: bool = False,
    ) -> None:
        super().__init__()
        self.method, self.data, self.seeds = method, data, tuple(seeds)
        self.name = "graph" if native else "reference"
        self.dtype = DTYPES[precision]
        like = torch.zeros(0, dtype=self.dtype)
        self.on = TorchStep(method, (data.obs_dim, data.act_dim), self.seeds, like, native)
        self.metrics = recorded(method, data.obs_dim, data.act_dim)
        self.step = 0
        self._start()

    @exclusive
    def run(self, steps: int) -> Metrics:
        check_steps(steps)
        values: list[dict[str, Tensor]] = []
        for _ in range(steps):
            self._step(self.batch_at(self.step), values)
        return self._metrics(values)

    @exclusive
    def step_on(self, batch: Batch) -> Metrics:
        values: list[dict[str, Tensor]] = []
        columns = {name: x.to(self.dtype) for name, x in batch.columns().items()}
        self._step(Batch(**columns), values)
        return self._metrics(values)

    def batch_at(self, step: int) -> Batch:
        """The batch that ``run`` trains on at a (0-based) step."""
        return batch_at(self.data, self.seeds, step, self.method.batch_size, self.dtype)

    @exclusive
    def state_dict(self) -> dict[str, Tensor]:
        state = {name: tensor.detach().contiguous().clone() for name, tensor in self._state()}
        return state | {"step": torch.tensor(self.step, dtype=torch.int64)}

    @exclusive
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        own = dict(self._state())
        self._check(state, own)
        for name, tensor in own.items():
            tensor.copy_(state[name])
        self.step = int(state["step"])
        self.on.counted(self.step)

    @exclusive
    def policy(self, index: int) -> Acting:
        state = {name: tensor.detach() for name, tensor in self._state()}
        return from_state(state, index, self.method.policy())

    def _step(self, batch: Batch, values: list[dict[str, Tensor]]) -> None:
        self.on.begin(self.step, batch)
        self.method.step(self.on)
        values.append(self.on.values)
        self.step += 1

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

    def _check(self, state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
        """Raise ``ValueError`` naming the first tensor that is missing, unknown or misshapen."""
        shapes = {name: list(tensor.shape) for name, tensor in own.items()} | {"step": []}
        for name, shape in shapes.items():
            if name not in state:
                raise ValueError(f"the state has no {name!r}")
            if list(state[name].shape) != shape:
                raise ValueError(f"{name!r} has shape {list(state[name].shape)}, expected {shape}")
        if unknown := sorted(set(state) - set(shapes)):
            raise ValueError(f"the state has an unknown tensor {unknown[0]!r}")

    def _metrics(self, values: Sequence[Mapping[str, Tensor]]) -> Metrics:
        """What the steps recorded, averaged over those that recorded it.

        Raises:
            NonFiniteLoss: a loss was not finite; names the first.
        """
        names = dict.fromkeys(name for step in values for name in step)
        found: Metrics = {}
        failures = []
        for name in names:
            at = [k for k, step in enumerate(values) if name in step]
            rows = torch.stack([values[k][name] for k in at]).double()  # [K, S]
            if name.endswith("_loss") and not bool(torch.isfinite(rows).all()):
                k, s = (int(i) for i in (~torch.isfinite(rows)).nonzero()[0])
                failures.append((at[k], s, name.removesuffix("_loss")))
            reduced = rows.amax(0) if self.method.records.get(name) == "max" else rows.mean(0)
            found[name] = reduced.numpy()
        if failures:
            k, s, net = min(failures)
            step = self.step - len(values) + k
            statistics = batch_statistics(self.batch_at(step), s)
            raise NonFiniteLoss(step + 1, self.seeds[s], net, statistics)
        for name in self.metrics:
            found.setdefault(name, np.full(len(self.seeds), np.nan))
        return self.method.measured(found)
