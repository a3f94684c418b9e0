"""IQL under ``torch.compile``: the whole update, gradients and Adam included, as one graph.

``loss.backward()`` and ``torch.optim`` break the graph, so the update is written as a function of
tensors: gradients by ``torch.func``, Adam by hand, weights and moments updated in place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.func import grad

from bench.rivals.constants import (
    ADAM_BETA1,
    ADAM_BETA2,
    ADAM_EPSILON,
    LOG_STD_MAX,
    LOG_STD_MIN,
    constants,
)
from bench.rivals.state import Net, join, split
from iql_fast.data.dataset import Transitions
from iql_fast.engines import Batch, Hyperparameters, NetworkSpec
from iql_fast.engines.parameters import initial_state


def mlp(net: Net, x: Tensor, layers: int) -> Tensor:
    """Linear layers with ReLU between them."""
    for i in range(layers):
        x = torch.nn.functional.linear(x, net[f"layers.{i}.weight"], net[f"layers.{i}.bias"])
        if i < layers - 1:
            x = torch.relu(x)
    return x


class CompiledIQL:
    """See ``bench.rivals.Rival``. Compilation happens in the first step."""

    unit = 1

    def __init__(
        self,
        network: NetworkSpec,
        hyper: Hyperparameters,
        data: Transitions,
        dtype: torch.dtype = torch.float32,
        backend: str = "inductor",
        device: str = "cpu",
    ) -> None:
        self.device = torch.device(device)
        self.critics, self.dtype = network.critics, dtype
        self.batch_size, self.constants = hyper.batch_size, constants(hyper)
        self.layers = len(network.hidden) + 1
        self.columns = [
            torch.from_numpy(column).to(self.device, dtype) for column in data.columns().values()
        ]
        self.nets = split(initial_state(network, [0], dtype))
        self.nets = {
            name: {key: x.to(self.device, copy=True) for key, x in net.items()}
            for name, net in self.nets.items()
        }
        self.first, self.second = (
            {
                name: {key: torch.zeros_like(x) for key, x in net.items()}
                for name, net in self.nets.items()
                if not name.startswith("target")
            }
            for _ in range(2)
        )
        self.steps = 0
        # What changes from step to step goes in as a tensor: a number would be compiled in.
        self.scalars = torch.zeros(3, dtype=torch.float64)
        # On a device the compiled kernels are replayed as a CUDA graph.
        mode = "reduce-overhead" if self.device.type == "cuda" else None
        self.update = torch.compile(
            self._update, fullgraph=True, dynamic=False, backend=backend, mode=mode
        )

    def run(self, steps: int) -> None:
        for _ in range(steps):
            rows = torch.randint(len(self.columns[0]), (self.batch_size,), device=self.device)
            self._step([column[rows] for column in self.columns])
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def step_on(self, batch: Batch) -> None:
        self._step([column[0] for column in batch.columns().values()])

    def _step(self, columns: list[Tensor]) -> None:
        h, t = self.constants, self.steps + 1
        progress = min(self.steps / h.actor_schedule_steps, 1)
        self.scalars[0] = 1 - ADAM_BETA1**t
        self.scalars[1] = 1 - ADAM_BETA2**t
        self.scalars[2] = h.actor_lr * 0.5 * (1 + math.cos(math.pi * progress))
        scalars = self.scalars.to(self.device, self.dtype)
        self.update(self.nets, self.first, self.second, scalars, *columns)
        self.steps = t

    def _update(
        self,
        nets: dict[str, Net],
        first: dict[str, Net],
        second: dict[str, Net],
        scalars: Tensor,
        s: Tensor,
        a: Tensor,
        r: Tensor,
        mask: Tensor,
        s_next: Tensor,
    ) -> None:
        """One update: V; the actor and the critics with the new V; Polyak."""
        h, layers = self.constants, self.layers
        critics = [f"critic{e}" for e in range(self.critics)]
        sa = torch.cat([s, a], -1)

        def descend(name: str, gradients: Net, rate: Tensor | float) -> None:
            for key, g in gradients.items():
                m, v = first[name][key], second[name][key]
                m.lerp_(g, 1 - ADAM_BETA1)
                v.lerp_(g * g, 1 - ADAM_BETA2)
                denominator = torch.sqrt(v / scalars[1]) + ADAM_EPSILON
                nets[name][key].sub_(rate * (m / scalars[0]) / denominator)

        targets = [name.replace("critic", "target") for name in critics]
        q = torch.stack([mlp(nets[target], sa, layers).squeeze(-1) for target in targets]).amin(0)

        def value_loss(net: Net) -> Tensor:
            u = q - mlp(net, s, layers).squeeze(-1)
            return (torch.abs(h.expectile - (u < 0).to(u.dtype)) * u**2).mean()

        descend("value", grad(value_loss)(nets["value"]), h.value_lr)
        advantage = q - mlp(nets["value"], s, layers).squeeze(-1)
        weight = torch.exp(h.temperature * advantage).clamp(max=h.weight_clip)
        target = r + h.discount * mask * mlp(nets["value"], s_next, layers).squeeze(-1)

        def actor_loss(net: Net) -> Tensor:
            mean = torch.tanh(mlp(net, s, layers))
            log_std = net["log_std"].clamp(LOG_STD_MIN, LOG_STD_MAX)
            z = (a - mean) * torch.exp(-log_std)
            log_prob = (-0.5 * z**2 - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)
            return -(weight * log_prob).mean()

        descend("actor", grad(actor_loss)(nets["actor"]), scalars[2])

        def critic_loss(net: Net) -> Tensor:
            return ((mlp(net, sa, layers).squeeze(-1) - target) ** 2).mean()

        for critic, slow in zip(critics, targets, strict=True):
            descend(critic, grad(critic_loss)(nets[critic]), h.critic_lr)
            for key, fast in nets[critic].items():
                nets[slow][key].lerp_(fast, h.polyak)

    def load_weights(self, state: Mapping[str, Tensor]) -> None:
        for name, net in split(state).items():
            for key, tensor in net.items():
                self.nets[name][key].copy_(tensor)

    def weights(self) -> dict[str, Tensor]:
        return join(self.nets)
