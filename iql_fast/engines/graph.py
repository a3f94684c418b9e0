"""The portable engine on a CUDA device: torch's batched products, the kernels of ``iql_fast.ops``,
and many steps captured in one CUDA graph.

It takes every device that torch computes on and every size. What changes from step to step (the
step's number, the rows of its batch, dropout, the actor's learning rate) is computed on the device,
for all steps of a graph at once. The same code runs without a graph, on the CPU too: that is how it
is tested, and how what is left over of a whole graph is done.

S = seeds, E = critics, B = batch size, K = steps of a graph, N = nets of one shape: S of V and of
the actor, E * S critics, seeds fastest.
"""

from __future__ import annotations

import contextlib
import gc
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from iql_fast.data.dataset import Transitions
from iql_fast.engines.base import (
    DTYPES,
    METRICS,
    PER_SEED,
    TRAINS_ALL,
    Hyperparameters,
    Metrics,
    NetworkSpec,
    Precision,
    check_steps,
    lacks,
)
from iql_fast.engines.exclusive import Exclusive, exclusive
from iql_fast.engines.flat_nets import Nets
from iql_fast.engines.parameters import check_state, initial_state
from iql_fast.engines.record import Record
from iql_fast.engines.sampling import batch_at, batch_statistics
from iql_fast.formulas import philox
from iql_fast.formulas.losses import expectile_loss
from iql_fast.methods.base import Batch
from iql_fast.methods.iql import TRAINED
from iql_fast.policies.policy import LOG_STD_RANGE, Policy, policy_from_state
from iql_fast.support import extension
from iql_fast.support.errors import NonFiniteLoss, UserError

NO_DEVICE = "torch sees no CUDA device"
GRAPH_STEPS = 50
#: Words of random numbers for dropout that may be held at once.
DROPOUT_WORDS = 2**25
#: Share of a device's free memory that a dataset may take.
DATA_SHARE = 0.8


def unavailable_reason(precision: Precision = "fp32", hyper: Hyperparameters | None = None) -> str:
    """Why the engine cannot be used here in that precision and with those hyperparameters; empty
    where it can."""
    if reason := lacks("graph", precision):
        return reason
    if hyper is not None and not hyper.trains_all:
        return TRAINS_ALL
    return "" if torch.cuda.is_available() else NO_DEVICE


def native_kernels(device: torch.device) -> bool:
    """Whether the kernels of the extension run there; plain torch takes their place."""
    if extension.unavailable_reason():
        return False
    if device.type == "cpu":
        return True
    return not extension.load().cuda_unavailable_reason(device.index or 0)


class GraphEngine(Exclusive):
    """See ``iql_fast.engines.base.Engine``.

    Args:
        device: default: torch's current CUDA device. On the CPU there is no graph.
        data_on_host: whether the dataset stays in the host's memory (pinned) and batches are copied
            from there, which is slower; None: where it does not fit on the device.

    ``run`` answers Ctrl-C within two graphs; where there is none maybe within a step, and then the
    state is not to be used.
    """

    name = "graph"
    metrics = METRICS

    def __init__(
        self,
        network: NetworkSpec,
        hyper: Hyperparameters,
        data: Transitions,
        seeds: Sequence[int],
        precision: Precision = "fp32",
        *,
        device: torch.device | str | None = None,
        data_on_host: bool | None = None,
    ) -> None:
        super().__init__()
        # Not above: where the extension is missing its import warns, and the mere question whether
        # this engine can be used must not.
        from iql_fast import ops

        self._ops = ops
        if not hyper.trains_all:
            raise UserError(f"The graph engine cannot be used: {TRAINS_ALL}.")
        self.network, self.hyper, self.data, self.seeds = network, hyper, data, tuple(seeds)
        self.dtype = DTYPES[precision]
        self.device = torch.device(device or f"cuda:{torch.cuda.current_device()}")
        self.on_cuda = self.device.type == "cuda"
        self.native = native_kernels(self.device)
        self._layer = torch.ops.iql_fast.stacked_linear if self.native else ops.plain.stacked_linear
        self._stream: Any = None
        if self.on_cuda:
            self._stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        S, B, E = len(self.seeds), hyper.batch_size, network.critics
        self.chunk = GRAPH_STEPS
        if hyper.actor_dropout > 0:
            words = S * B * max(network.hidden)
            self.chunk = max(1, min(self.chunk, DROPOUT_WORDS // words))
        with self._on_stream():
            empty = torch.zeros(0, dtype=self.dtype, device=self.device)
            self.keys = torch.tensor(self.seeds, device=self.device)
            self.clock = torch.zeros((), dtype=torch.int64, device=self.device)
            self.h = {name: empty.new_tensor(hyper.per_seed(name, S))[:, None] for name in PER_SEED}
            self.log_clip = self.h["weight_clip"].log()
            self.nets = {net: Nets(net, network, S, empty) for net in (*TRAINED, "target")}
            self.adam = ops.FusedAdam(
                [self.nets[net].direction for net in TRAINED],
                lr=1.0,
                capturable=self.on_cuda,
                native=self.native,
            )
            for net in TRAINED:
                nets = self.nets[net]
                count = torch.zeros((), device=self.device)
                self.adam.state[nets.direction] = {
                    "step": count, "exp_avg": nets.first, "exp_avg_sq": nets.second
                }  # fmt: skip
            self.alpha = self.h["polyak"].repeat(E, 1)  # [N, 1]
            self.rates = {
                "value": self.h["value_lr"],
                "actor": self.h["actor_lr"],
                "critic": self.h["critic_lr"].repeat(E, 1),
            }
            self.share = empty.new_full((S, B), 1 / B)  # of a row in its seed's loss
            self.zeros = empty.new_zeros(S, B)
            self.record = Record(self.chunk, S, B, empty)
            self._place(data, data_on_host)
            width = self.rows.shape[1]
            self.batches = empty.new_zeros(self.chunk, S, B, width)
        self._watched = [self._pinned(torch.zeros(1, dtype=torch.float64)) for _ in range(2)]
        if self.data_on_host:
            self._staged = [self._pinned(torch.zeros(self.batches.shape)) for _ in range(2)]
        self._events: list[Any] = []  # of the last two copies of the failure, and of batches
        if self.on_cuda:
            self._events = [torch.cuda.Event() for _ in range(4)]  # type: ignore[no-untyped-call]
        self._turn = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        if self.on_cuda:
            self._capture()
        self.load_state_dict(initial_state(network, self.seeds, self.dtype))

    # The interface.

    @property
    def step(self) -> int:
        with self._on_stream():
            return int(self.clock)

    @exclusive
    def run(self, steps: int) -> Metrics:
        check_steps(steps)
        first, done = self.step, 0
        for flag in self._watched:
            flag.zero_()
        with self._on_stream():
            while done < steps:
                count = min(self.chunk, steps - done)
                if self.data_on_host:
                    self._feed(first + done, count)
                if self._graph is not None and count == self.chunk:
                    self._graph.replay()
                else:
                    self._steps(count)
                done += count
                self.record.steps += count
                if self._failed_before():
                    break
            return self._metrics()

    @exclusive
    def step_on(self, batch: Batch) -> Metrics:
        with self._on_stream():
            columns = [x[..., None] if x.dim() == 2 else x for x in batch.columns().values()]
            self.batches[0].copy_(torch.cat(columns, -1))
            self._steps(1, given=True)
            self.record.steps += 1
            return self._metrics()

    def batch_at(self, step: int) -> Batch:
        """The batch that ``run`` trains on at a (0-based) step."""
        return batch_at(self.data, self.seeds, step, self.hyper.batch_size, self.dtype)

    @exclusive
    def state_dict(self) -> dict[str, Tensor]:
        with self._on_stream():
            state = {name: x.detach().cpu() for name, x in self._state().items()}
            return {name: x.contiguous().clone() for name, x in state.items()}

    @exclusive
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        check_state(dict(state), self.network, len(self.seeds))
        with self._on_stream(), torch.no_grad():
            for name, tensor in self._state().items():
                tensor.copy_(state[name])
            for net in TRAINED:
                self.nets[net].direction.zero_()
                self.adam.state[self.nets[net].direction]["step"].copy_(self.clock)
            self.record.clear()

    @exclusive
    def policy(self, index: int) -> Policy:
        with self._on_stream():
            return policy_from_state(self.nets["actor"].named(self.nets["actor"].flat), index)

    def _state(self) -> dict[str, Tensor]:
        """Views of the state on the device."""
        state = {"step": self.clock}
        for net, nets in self.nets.items():
            state |= nets.named(nets.flat)
            if net in TRAINED:
                state |= {f"adam.m.{name}": x for name, x in nets.named(nets.first).items()}
                state |= {f"adam.v.{name}": x for name, x in nets.named(nets.second).items()}
        return state

    # The dataset: one row a transition, so that a batch is gathered at one go.

    def _place(self, data: Transitions, on_host: bool | None) -> None:
        columns = [torch.from_numpy(x).reshape(len(data), -1) for x in data.columns().values()]
        rows = torch.cat(columns, 1)
        self.widths = [column.shape[1] for column in columns]
        if on_host is None:
            size, free = rows.numel() * rows.element_size(), self._free_bytes()
            on_host = size > DATA_SHARE * free
            if on_host:
                warnings.warn(
                    f"The dataset ({size >> 20} MiB) does not fit into the CUDA device's memory "
                    f"({int(free) >> 20} MiB free): batches are copied from the host's memory, "
                    "which is slower.",
                    stacklevel=3,
                )
        self.data_on_host = on_host
        self.rows = self._pinned(rows) if on_host else rows.to(self.device)

    def _free_bytes(self) -> float:
        return torch.cuda.mem_get_info(self.device)[0] if self.on_cuda else math.inf

    def _feed(self, step: int, count: int) -> None:
        """The batches of steps from the host's memory; the device goes on meanwhile."""
        steps = torch.arange(step, step + count)
        rows = philox.batch_rows_of(
            torch.tensor(self.seeds), steps, self.hyper.batch_size, len(self.rows)
        )
        if self._events:
            self._events[2 + self._turn].synchronize()  # of the last copy from here
        staged = self._staged[self._turn][:count]
        torch.index_select(self.rows, 0, rows.flatten(), out=staged.view(-1, self.rows.shape[1]))
        self.batches[:count].copy_(staged, non_blocking=True)
        if self._events:
            self._events[2 + self._turn].record()

    # The steps of a graph.

    def _steps(self, count: int, given: bool = False) -> None:
        """So many steps, and nothing in them that the host decides."""
        steps = self.clock + torch.arange(count, device=self.device)
        size, p = self.hyper.batch_size, self.hyper.actor_dropout
        if not given and not self.data_on_host:
            rows = philox.batch_rows_of(self.keys, steps, size, len(self.rows))
            self.batches[:count].copy_(self.rows[rows])
        self.keep = [
            philox.dropout_keep_of(self.keys, steps, layer, (size, units), p) if p > 0 else None
            for layer, units in enumerate(self.network.hidden)
        ]
        actor_rates = self._actor_rates(steps)
        for k in range(count):
            self._update(k, actor_rates[k])
        self.record.account(count, self.clock, self.h["temperature"], self.h["weight_clip"])
        self.clock += count

    def _actor_rates(self, steps: Tensor) -> Tensor:
        """The actor's learning rate at some steps, ``[K, S, 1]``: a cosine to 0, or constant."""
        n = self.hyper.actor_schedule_steps
        progress = steps.double().clamp(max=n) / n if n else torch.zeros_like(steps).double()
        cosine = 0.5 * (1 + torch.cos(math.pi * progress))
        return (cosine[:, None, None] * self.rates["actor"]).to(self.dtype)

    def _update(self, k: int, actor_rate: Tensor) -> None:
        """One step; the reference engine's ``_update`` says what it is."""
        h, S, E = self.h, len(self.seeds), self.network.critics
        s, a, r, mask, s_next = torch.split(self.batches[k], self.widths, -1)
        r, mask = r[..., 0], mask[..., 0]
        sa = self.batches[k, :, :, : s.shape[-1] + a.shape[-1]]
        sa = sa.expand(E, *sa.shape).reshape(E * S, *sa.shape[1:])

        with torch.no_grad():
            q = self._mlp("target", sa).view(E, S, -1).amin(0)
        value = self._mlp("value", s)[..., 0]  # [S, B]
        value_loss = expectile_loss(q - value, h["expectile"])
        both = torch.cat([s, s_next], 1)
        if self.hyper.value_order == "old":
            v, v_next = self._values(both)
        self._descend({"value": value_loss}, {"value": self.rates["value"]})
        if self.hyper.value_order == "new":
            v, v_next = self._values(both)

        # min(exp(beta A), clip) = exp(min(beta A, log clip)): beta and the clip may differ by seed.
        advantage = q - v
        exponent = torch.minimum(h["temperature"] * advantage, self.log_clip)
        mean = torch.tanh(
            self._mlp("actor", s, [keep[k] for keep in self.keep if keep is not None])
        )
        log_std = self.nets["actor"].leaves[-1].clamp(*LOG_STD_RANGE)[:, None].expand_as(mean)
        if self.hyper.deterministic_policy:
            fit = -((mean - a) ** 2).sum(-1)
            actor_loss = self._ops.awr_loss(
                exponent, self.zeros, fit, 1.0, math.inf, "none", native=self.native
            )
        else:
            actor_loss = self._ops.gaussian_awr_loss(
                exponent, self.zeros, mean, log_std, a, 1.0, math.inf, "none", native=self.native
            )
        critic_loss = self._ops.twin_q_loss(
            self._mlp("critic", sa).view(E, S, -1),
            *(r, mask, h["discount"] * v_next, 1.0, "none"),
            native=self.native,
        )
        self._descend(
            {"actor": actor_loss, "critic": critic_loss},
            {"actor": actor_rate, "critic": self.rates["critic"]},
        )
        with torch.no_grad():
            self.nets["target"].flat.lerp_(self.nets["critic"].flat, self.alpha)
            recorded = [value_loss, actor_loss, critic_loss, value, q, advantage]
            torch.stack(recorded, out=self.record.rows[k])

    def _mlp(self, net: str, x: Tensor, keep: Sequence[Tensor] = ()) -> Tensor:
        """ReLU MLPs ``[N, B, in]`` -> ``[N, B, out]``; dropout follows each hidden ReLU."""
        last = len(self.network.hidden)
        for i in range(last + 1):
            weight, bias = self.nets[net].leaves[2 * i : 2 * i + 2]
            x = self._layer(x, weight, bias, i < last)
            if keep and i < last:
                x = x * keep[i] / (1 - self.hyper.actor_dropout)
        return x

    def _values(self, both: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return self._mlp("value", both)[..., 0].chunk(2, -1)

    def _descend(self, terms: Mapping[str, Tensor], rates: Mapping[str, Tensor]) -> None:
        """One Adam step on the means of some nets' terms ``[S, B]``, each seed at its own rate."""
        leaves = [leaf for net in terms for leaf in self.nets[net].leaves]
        shares = [self.share] * len(terms)
        # Of what no loss reads, such as the log-std of a deterministic policy, it is zero.
        gradients = iter(
            torch.autograd.grad(list(terms.values()), leaves, shares, materialize_grads=True)
        )
        for net in terms:
            pieces = [next(gradients).flatten(1) for _ in self.nets[net].leaves]
            self.nets[net].direction.grad = torch.cat(pieces, 1)
        self.adam.step()
        with torch.no_grad():
            for net, rate in rates.items():
                nets = self.nets[net]
                nets.flat.addcmul_(nets.direction, rate)
                nets.direction.zero_()
                nets.direction.grad = None

    def _failed_before(self) -> bool:
        """Whether a loss was not finite by the graph before the last, which is waited for: so the
        device always has one to go on with."""
        self._watched[self._turn].copy_(self.record.failure[:1], non_blocking=True)
        if self._events:
            self._events[self._turn].record()
        self._turn = 1 - self._turn
        if self._events:
            self._events[self._turn].synchronize()
        return bool(self._watched[self._turn])

    def _metrics(self) -> Metrics:
        metrics, failure = self.record.take()
        if failure is None:
            return metrics
        step, net, index, statistics = failure
        columns = batch_statistics(self.batch_at(step - 1), index)
        raise NonFiniteLoss(step, self.seeds[index], net, columns | statistics)

    # The device.

    def _capture(self) -> None:
        with self._on_stream():
            self._steps(1)  # libraries set themselves up, which a capture cannot hold
            torch.cuda.synchronize(self.device)
            graph = torch.cuda.CUDAGraph()
            with no_garbage_collection(), torch.cuda.graph(graph, stream=self._stream):
                self._steps(self.chunk)
            self._graph = graph

    def _on_stream(self) -> contextlib.AbstractContextManager[object]:
        return torch.cuda.stream(self._stream) if self._stream else contextlib.nullcontext()

    def _pinned(self, tensor: Tensor) -> Tensor:
        return tensor.pin_memory() if self.on_cuda else tensor


@contextlib.contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Of an engine that only a cycle keeps alive, say after an exception: to give its graph back
    while another one is captured would end that capture."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
