"""The specification: IQL in plain torch with autograd, in the authors' order, seeds leading.

Read top to bottom it says what every engine computes. Formulas follow the paper (Kostrikov, Nair,
Levine, ICLR 2022) and, where the paper is silent, the authors' code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from iql_fast.data.dataset import Transitions
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
from iql_fast.engines.metrics import MetricSums
from iql_fast.engines.parameters import check_state, initial_state, parameter_shapes
from iql_fast.engines.sampling import batch_at, batch_statistics
from iql_fast.formulas import philox
from iql_fast.formulas.losses import awr_weights, expectile_loss, gaussian_log_prob
from iql_fast.methods.base import Batch
from iql_fast.policies.policy import LOG_STD_RANGE, Policy, policy_from_state
from iql_fast.support.errors import NonFiniteLoss

ADAM_BETAS = (0.9, 0.999)
ADAM_EPSILON = 1e-8


def unavailable_reason(precision: Precision = "fp32") -> str:
    """Why the engine cannot be used in that precision; empty where it can."""
    return "" if precision in ("fp32", "fp64") else f"it has no {precision} precision"


class ReferenceEngine(Exclusive):
    """See ``iql_fast.engines.base.Engine``. S = seeds, E = critics, B = batch size."""

    name = "reference"
    data_on_host = False
    metrics = METRICS

    def __init__(
        self,
        network: NetworkSpec,
        hyper: Hyperparameters,
        data: Transitions,
        seeds: Sequence[int],
        precision: Precision = "fp32",
    ) -> None:
        super().__init__()
        self.network = network
        self.hyper = hyper
        self.data = data
        self.seeds = tuple(seeds)
        self.dtype = dtype = DTYPES[precision]
        S = len(self.seeds)
        # Every per-seed hyperparameter as [S, 1], to broadcast against [S, B].
        self.per_seed = {
            name: torch.tensor(hyper.per_seed(name, S), dtype=dtype)[:, None] for name in PER_SEED
        }
        self.state = initial_state(network, self.seeds, dtype)

    @property
    def step(self) -> int:
        return int(self.state["step"])

    @exclusive
    def run(self, steps: int) -> Metrics:
        check_steps(steps)
        sums = MetricSums(len(self.seeds))
        for _ in range(steps):
            self._update(self.batch_at(self.step), sums)
        return sums.means()

    @exclusive
    def step_on(self, batch: Batch) -> Metrics:
        sums = MetricSums(len(self.seeds))
        self._update(Batch(*(x.to(self.dtype) for x in batch.columns().values())), sums)
        return sums.means()

    def batch_at(self, step: int) -> Batch:
        """The batch that ``run`` trains on at a (0-based) step."""
        return batch_at(self.data, self.seeds, step, self.hyper.batch_size, self.dtype)

    @exclusive
    def state_dict(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self.state.items()}

    @exclusive
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        check_state(dict(state), self.network, len(self.seeds))
        for name, tensor in self.state.items():
            tensor.copy_(state[name])

    @exclusive
    def policy(self, index: int) -> Policy:
        return policy_from_state(self.state, index)

    # The training step.

    def _update(self, batch: Batch, sums: MetricSums) -> None:
        h, trains = self.per_seed, self.hyper.stage_at(self.step).trains
        s, a, s_next = batch.observations, batch.actions, batch.next_observations
        sa = torch.cat([s, a], -1)
        losses: dict[str, Tensor] = {}

        reads_old = "value" not in trains or self.hyper.value_order == "old"

        with torch.no_grad():
            q = self._critics("target", sa).amin(1)  # [S, B]
            if reads_old:
                value, v_next = self._value(s), self._value(s_next)

        # V: expectile regression on the target critics (equation 5).
        if "value" in trains:
            values = []

            def value_objective() -> Tensor:
                values.append(self._value(s))
                return expectile_loss(q - values[0], h["expectile"]).mean(-1)

            losses["value"] = self._descend("value", value_objective, h["value_lr"])
            value = values[0].detach()
        v = value
        if not reads_old:
            with torch.no_grad():
                v, v_next = self._value(s), self._value(s_next)

        # Actor: advantage-weighted regression with the V just updated (equation 7).
        weight = awr_weights(q - v, h["temperature"], h["weight_clip"])
        if "actor" in trains:

            def actor_objective() -> Tensor:
                mean = torch.tanh(self._mlp("actor", s, dropout=self.hyper.actor_dropout))
                if self.hyper.deterministic_policy:
                    fit = -((mean - a) ** 2).sum(-1)
                else:
                    log_std = self.state["actor.log_std"].clamp(*LOG_STD_RANGE)
                    fit = gaussian_log_prob(a, mean, log_std[:, None])
                return -(weight * fit).mean(-1)

            losses["actor"] = self._descend("actor", actor_objective, self._actor_lr())

        # Critics: TD with the V just updated (equation 6); summed over critics, not halved.
        if "critic" in trains:
            target = batch.rewards + h["discount"] * batch.masks * v_next

            def critic_objective() -> Tensor:
                qs = self._critics("critic", sa)  # [S, E, B]
                return ((qs - target[:, None]) ** 2).mean(-1).sum(-1)

            losses["critic"] = self._descend("critic", critic_objective, h["critic_lr"])

            # Polyak: the targets follow the critics.
            for name, _ in parameter_shapes("target", self.network, len(self.seeds)):
                theta = self.state[name.replace("target", "critic", 1)]
                alpha = h["polyak"].view(-1, *[1] * (theta.dim() - 1))
                self.state[name] += alpha * (theta - self.state[name])

        self.state["step"] += 1
        rows = {"value": value, "q": q, "advantage": q - v, "weight": weight}
        sums.add(losses, {**rows, "weight_clipped": weight >= h["weight_clip"]})
        self._stop_if_not_finite(losses, batch, q, v)

    def _mlp(self, net: str, x: Tensor, dropout: float = 0.0) -> Tensor:
        """ReLU MLP; dropout follows each hidden ReLU (the actor's, in training only)."""
        last = len(self.network.hidden)
        for i in range(last + 1):
            weight, bias = (self.state[f"{net}.layers.{i}.{part}"] for part in ("weight", "bias"))
            x = x @ weight.transpose(-1, -2) + bias.unsqueeze(-2)
            if i < last:
                x = torch.relu(x)
                if dropout > 0:
                    x = x * self._dropout_mask(i, x, dropout)
        return x

    def _dropout_mask(self, layer: int, x: Tensor, probability: float) -> Tensor:
        shape = (x.shape[-2], x.shape[-1])
        keep = [
            philox.dropout_keep(seed, self.step, layer, shape, probability) for seed in self.seeds
        ]
        return torch.from_numpy(np.stack(keep)).to(x.dtype) / (1 - probability)

    def _value(self, s: Tensor) -> Tensor:
        return self._mlp("value", s).squeeze(-1)  # [S, B]

    def _critics(self, net: str, sa: Tensor) -> Tensor:
        return self._mlp(net, sa[:, None]).squeeze(-1)  # [S, E, B]

    def _actor_lr(self) -> Tensor:
        """Cosine from ``actor_lr`` to 0 over the schedule (authors' code), or constant."""
        lr, steps = self.per_seed["actor_lr"], self.hyper.actor_schedule_steps
        if steps == 0:
            return lr
        updates = self.hyper.updates(self.step, "actor")
        return lr * 0.5 * (1 + math.cos(math.pi * min(updates, steps) / steps))

    def _descend(self, net: str, objective: Callable[[], Tensor], lr: Tensor) -> Tensor:
        """One Adam step (Kingma and Ba, 2015) on an objective ``() -> loss [S]``; the loss."""
        names = [name for name, _ in parameter_shapes(net, self.network, len(self.seeds))]
        if self.hyper.deterministic_policy:
            names = [name for name in names if name != "actor.log_std"]
        parameters = [self.state[name].requires_grad_() for name in names]
        loss = objective()
        gradients = torch.autograd.grad(loss.sum(), parameters)
        t = self.hyper.updates(self.step, net) + 1
        beta1, beta2 = ADAM_BETAS
        for name, parameter, gradient in zip(names, parameters, gradients, strict=True):
            parameter.requires_grad_(False)
            m, v = self.state[f"adam.m.{name}"], self.state[f"adam.v.{name}"]
            m += (1 - beta1) * (gradient - m)
            v += (1 - beta2) * (gradient**2 - v)
            m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
            rate = lr.view(-1, *[1] * (parameter.dim() - 1))
            parameter -= rate * m_hat / (torch.sqrt(v_hat) + ADAM_EPSILON)
        return loss.detach()

    def _stop_if_not_finite(
        self, losses: dict[str, Tensor], batch: Batch, q: Tensor, v: Tensor
    ) -> None:
        for net in losses:
            bad = ~torch.isfinite(losses[net])
            if bool(bad.any()):
                s = int(bad.nonzero()[0])
                statistics = batch_statistics(batch, s)
                for name, rows in {"q": q, "v": v}.items():
                    statistics[f"{name} min"] = float(rows[s].min())
                    statistics[f"{name} max"] = float(rows[s].max())
                raise NonFiniteLoss(self.step, self.seeds[s], net, statistics)
