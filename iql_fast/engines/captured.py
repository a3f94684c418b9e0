"""The engine of any method on a CUDA device: many steps of it captured in one CUDA graph.

A graph holds what K steps do; what differs from one K to the next (the steps' numbers, Adam's
counts, what schedules have left of the rates) is told to the device before, and batches, random
numbers and dropout follow from it there. What a method decides by a step's number is its
``branch``: each sequence of K branches has a graph. The first time a sequence comes its steps are
issued one by one, the second time they are captured.

The same code runs on the CPU, where to replay is to issue the steps again as they were the first
time: that is how it is tested.

S = seeds, B = batch size, K = steps of a graph, R = recorded quantities.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iql_fast.data.dataset import Transitions
from iql_fast.data.replay import Replay
from iql_fast.engines.base import Metrics, Precision
from iql_fast.engines.graph import DROPOUT_WORDS, GRAPH_STEPS, no_garbage_collection
from iql_fast.engines.sampling import batch_statistics
from iql_fast.engines.stepping import TorchStep, left_of_rate
from iql_fast.engines.torch_engine import TorchEngine
from iql_fast.formulas import philox
from iql_fast.methods.base import Batch, Method, Net
from iql_fast.support.errors import NonFiniteLoss

#: Sequences of branches that have graphs of their own; others are issued step by step.
GRAPHS = 16


class PlannedSteps(TorchStep):
    """Steps of which ``plan`` tells the device what depends on their numbers, so that issuing them
    decides nothing that a replay would have to decide anew.

    Attributes:
        chunk: steps that can be planned at once.
        numbers: of the planned steps, ``[K]``, on the device.
    """

    def __init__(
        self,
        method: Method,
        sizes: tuple[int, int],
        seeds: Sequence[int],
        like: Tensor,
        native: bool,
    ) -> None:
        super().__init__(method, sizes, seeds, like, native)
        words = self.numbers_drawn + len(seeds) * sum(
            method.batch_size * max(weights.net.hidden)
            for weights in self.weights.values()
            if weights.net.dropout
        )
        self.chunk = max(1, min(GRAPH_STEPS, DROPOUT_WORDS // max(words, 1)))
        self._names = [*self._trained_as, *self._scalars]
        self._schedules = {
            w.net.name: w.net.trained_as or w.net.name
            for w in self.weights.values()
            if w.net.schedule
        }
        exact = like.double()
        self.steps = exact.new_zeros(self.chunk, dtype=torch.int64)
        self._planned_updates = exact.new_zeros(self.chunk, len(self._names))
        self._planned_shares = exact.new_zeros(self.chunk, len(self._schedules))
        self._kept: dict[tuple[int, tuple[int, int], float], Tensor] = {}
        self._count = self._place = 0

    def plan(self, first: int, count: int) -> None:
        """Tell the device of ``count`` steps, before which there were ``first``."""
        steps = range(first, first + count)
        updates = [[self.method.updates(name, i) + 1 for name in self._names] for i in steps]
        shares = [
            [
                left_of_rate(self.method.updates(trained, i), self.weights[net].net.schedule)
                for net, trained in self._schedules.items()
            ]
            for i in steps
        ]
        self.steps[:count].copy_(torch.tensor(list(steps)))
        self._planned_updates[:count].copy_(torch.tensor(updates, dtype=torch.float64))
        self._planned_shares[:count].copy_(torch.tensor(shares, dtype=torch.float64))

    def open(self, count: int) -> None:
        """Draw the random numbers of the planned steps."""
        self._count = count
        self._kept = {}
        self._draw_all(self.steps[:count])

    def begin_at(self, place: int, index: int, batch: Batch) -> None:
        """Make ready for the planned step of a place.

        Args:
            index: a step of the same branch.
        """
        self._place = place
        self.begin(index, batch)

    def draw(self, name: str) -> Tensor:
        return self._drawn[name][self._place]

    def _factors(self, like: Tensor, layer: int, probability: float) -> Tensor:
        shape = (like.shape[-2], like.shape[-1])
        key = (layer, shape, probability)
        if key not in self._kept:
            self._kept[key] = philox.dropout_keep_of(
                self.seeds, self.steps[: self._count], layer, shape, probability
            )
        return self._kept[key][self._place].to(like.dtype) / (1 - probability)

    def _updates(self, name: str) -> Tensor:
        return self._planned_updates[self._place, self._names.index(name)]

    def _left_of_rate(self, name: str, net: Net) -> float | Tensor:  # noqa: ARG002
        if not net.schedule:
            return 1.0
        return self._planned_shares[self._place, list(self._schedules).index(net.name)]


class Rows:
    """A dataset on a device, one row a transition, so that a batch is gathered at one go."""

    def __init__(self, data: Transitions, seeds: Tensor, size: int, like: Tensor) -> None:
        columns = {name: torch.from_numpy(x) for name, x in data.columns().items()}
        self._shapes = {name: list(x.shape[1:]) for name, x in columns.items()}
        flat = [x.reshape(len(data), -1) for x in columns.values()]
        self._widths = [x.shape[1] for x in flat]
        self._rows = torch.cat(flat, 1).to(like.device)
        self._seeds, self._size, self._dtype = seeds, size, like.dtype

    def at(self, steps: Tensor) -> list[Batch]:
        """The batches of steps ``[K]``."""
        rows = philox.batch_rows_of(self._seeds, steps, self._size, len(self._rows))
        found = self._rows[rows].to(self._dtype)  # [K, S, B, all columns]
        parts = torch.split(found, self._widths, -1)
        columns = {
            name: part.contiguous().view(*rows.shape, *shape)
            for (name, shape), part in zip(self._shapes.items(), parts, strict=True)
        }
        return [Batch(**{name: x[k] for name, x in columns.items()}) for k in range(len(steps))]


class _Chunk(NamedTuple):
    """Steps that were done: the number of the first, what each recorded, and when it did, from 0
    on; -1: not at all."""

    first: int
    log: Tensor  # [K, R, S]
    order: NDArray[np.int_]  # [K, R]


class CapturedEngine(TorchEngine):
    """See ``iql_fast.engines.torch_engine.TorchEngine``.

    Args:
        device: on ``"cpu"`` there are no graphs.

    What a method watches of a loss that is not finite is not told, but its batch is.
    """

    steps = PlannedSteps
    on: PlannedSteps

    def __init__(
        self,
        method: Method,
        data: Transitions,
        seeds: Sequence[int],
        precision: Precision = "fp32",
        *,
        native: bool,
        device: torch.device | str = "cuda",
    ) -> None:
        super().__init__(method, data, seeds, precision, native, device)
        self.name = "graph"
        self._rows = Rows(data, self.on.seeds, method.batch_size, self.on.like)
        self._log = self.on.like.new_zeros(self.on.chunk, len(self._recorded), len(self.seeds))
        self._missing = self.on.like.new_zeros(len(self.seeds))
        self._failed = torch.zeros((), dtype=torch.bool, device=self.device)
        self._orders: dict[Hashable, NDArray[np.int_]] = {}
        #: By sequence of branches; None where it came once.
        self._graphs: dict[Hashable, Callable[[], None] | None] = {}
        self._chunks: list[_Chunk] = []
        self._pool: Any = None

    def _advance(self, steps: int) -> None:
        done = 0
        while done < steps:
            if isinstance(self.data, Replay):
                self._chunks.append(self._chunk(1, self._here(self.batch_at(self.step))))
                done += 1
                continue
            count = min(self.on.chunk, steps - done)
            self._chunks.append(self._chunk(count))
            done += count

    def _advance_on(self, batch: Batch) -> Metrics:
        return self._metrics([self._chunk(1, batch)])

    def _taken(self) -> Metrics:
        chunks, self._chunks = self._chunks, []
        return self._metrics(chunks)

    def _forget(self) -> None:
        self._chunks = []

    def _chunk(self, count: int, given: Batch | None = None) -> _Chunk:
        """So many steps; those of a given batch are one."""
        first = self.step
        branches = tuple(self.method.branch(i) for i in range(first, first + count))
        self.on.plan(first, count)
        replay = self._replay(first, branches) if given is None else None
        if replay is None:
            self._issue(first, branches, given)
        else:
            replay()
        self.step += count
        done = _Chunk(first, self._log[:count].clone(), self._orders[branches])
        if bool(self._failed):
            self._fail(done, given)
        return done

    def _replay(self, first: int, branches: tuple[Hashable, ...]) -> Callable[[], None] | None:
        """What does the planned steps, of these branches; None: they are to be issued."""
        if len(branches) < self.on.chunk:
            return None
        if branches not in self._graphs:
            if len(self._graphs) < GRAPHS:
                self._graphs[branches] = None
            return None
        if self._graphs[branches] is None:
            self._graphs[branches] = self._captured(first, branches)
        return self._graphs[branches]

    def _issue(
        self, first: int, branches: tuple[Hashable, ...], given: Batch | None = None
    ) -> None:
        """The steps that are planned, and nothing in them that the host reads or decides but by
        their branches."""
        count = len(branches)
        self.on.open(count)
        batches = self._rows.at(self.on.steps[:count]) if given is None else [given]
        orders = np.full((count, len(self._recorded)), -1)
        losses = []
        for k, batch in enumerate(batches):
            self.on.begin_at(k, first + k, batch)
            self.method.step(self.on)
            values = self.on.values
            order = {name: i for i, name in enumerate(values)}
            orders[k] = [order.get(name, -1) for name in self._recorded]
            losses += [value for name, value in values.items() if name.endswith("_loss")]
            with torch.no_grad():
                rows = [values.get(name, self._missing) for name in self._recorded]
                self._log[k].copy_(torch.stack(rows))
        self._failed.copy_(~torch.isfinite(torch.stack(losses)).all())
        self._orders[branches] = orders

    def _captured(self, first: int, branches: tuple[Hashable, ...]) -> Callable[[], None]:
        """What does the steps of these branches that are planned when it is called."""
        if self.device.type != "cuda":
            return lambda: self._issue(first, branches)
        torch.cuda.synchronize(self.device)
        graph = torch.cuda.CUDAGraph()
        # All results are in tensors from before: graphs, one after the other, share their memory.
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        with no_garbage_collection(), torch.cuda.graph(graph, pool=self._pool, stream=stream):
            self._issue(first, branches)
        return graph.replay

    def _metrics(self, chunks: Sequence[_Chunk]) -> Metrics:
        empty = [self._missing.new_zeros(0, len(self._recorded), len(self.seeds))]
        log = torch.cat([chunk.log for chunk in chunks] or empty).double().cpu().numpy()
        nothing = np.zeros((0, len(self._recorded)), int)
        present = np.concatenate([nothing, *(chunk.order for chunk in chunks)]) >= 0
        found: Metrics = {}
        for r, name in enumerate(self._recorded):
            rows = log[present[:, r], r]  # [N, S]
            if not len(rows):
                found[name] = np.full(len(self.seeds), np.nan)
                continue
            largest = self.method.records.get(name) == "max"
            found[name] = rows.max(0) if largest else rows.mean(0)
        return self.method.measured(found)

    def _fail(self, chunk: _Chunk, given: Batch | None) -> None:
        """Raise ``NonFiniteLoss`` of the first loss of some steps that is not."""
        log = chunk.log.cpu().numpy()
        losses = np.array([name.endswith("_loss") for name in self._recorded])
        bad = np.argwhere(~np.isfinite(log) & ((chunk.order >= 0) & losses)[..., None])
        k, r, s = min(bad.tolist(), key=lambda at: (at[0], chunk.order[at[0], at[1]], at[2]))
        number = chunk.first + k + 1
        batch = given or self.batch_at(number - 1)
        statistics = batch_statistics(batch, s)
        net = self._recorded[r].removesuffix("_loss")
        raise NonFiniteLoss(number, self.seeds[s], net, statistics)
