"""IQL the way one writes it in plain eager torch: modules, autograd, ``torch.optim.Adam``."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from bench.rivals.constants import LOG_STD_MAX, LOG_STD_MIN, constants
from bench.rivals.state import Net, join, split
from iql_fast.data.dataset import Transitions
from iql_fast.engines import Batch, Hyperparameters, NetworkSpec


def mlp(inputs: int, hidden: tuple[int, ...], outputs: int) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(inputs, width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))


class EagerIQL:
    """See ``bench.rivals.Rival``."""

    unit = 1

    def __init__(
        self,
        network: NetworkSpec,
        hyper: Hyperparameters,
        data: Transitions,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
    ) -> None:
        self.device = torch.device(device)
        self.batch_size, self.constants = hyper.batch_size, constants(hyper)
        self.columns = [
            torch.from_numpy(column).to(self.device, dtype) for column in data.columns().values()
        ]
        inputs = network.obs_dim + network.act_dim
        self.value = mlp(network.obs_dim, network.hidden, 1).to(self.device, dtype)
        self.critics = nn.ModuleList(
            [mlp(inputs, network.hidden, 1) for _ in range(network.critics)]
        ).to(self.device, dtype)
        self.targets = copy.deepcopy(self.critics).requires_grad_(False)
        self.actor = mlp(network.obs_dim, network.hidden, network.act_dim).to(self.device, dtype)
        self.log_std = nn.Parameter(torch.zeros(network.act_dim, dtype=dtype, device=self.device))
        adam = torch.optim.Adam
        self.value_optimizer = adam(self.value.parameters(), lr=self.constants.value_lr)
        self.critic_optimizer = adam(self.critics.parameters(), lr=self.constants.critic_lr)
        self.actor_optimizer = adam(
            [*self.actor.parameters(), self.log_std], lr=self.constants.actor_lr
        )
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
            self.actor_optimizer, hyper.actor_schedule_steps
        )

    def run(self, steps: int) -> None:
        for _ in range(steps):
            rows = torch.randint(len(self.columns[0]), (self.batch_size,), device=self.device)
            self.step(*(column[rows] for column in self.columns))
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def step_on(self, batch: Batch) -> None:
        self.step(*(column[0] for column in batch.columns().values()))

    def step(self, s: Tensor, a: Tensor, r: Tensor, mask: Tensor, s_next: Tensor) -> None:
        """One update: V; the actor and the critics with the new V; Polyak."""
        h = self.constants
        sa = torch.cat([s, a], -1)
        with torch.no_grad():
            q = torch.stack([target(sa).squeeze(-1) for target in self.targets]).amin(0)
        u = q - self.value(s).squeeze(-1)
        value_loss = (torch.abs(h.expectile - (u < 0).to(u.dtype)) * u**2).mean()
        self.value_optimizer.zero_grad()
        value_loss.backward()
        self.value_optimizer.step()

        with torch.no_grad():
            advantage = q - self.value(s).squeeze(-1)
            weight = torch.exp(h.temperature * advantage).clamp(max=h.weight_clip)
            target = r + h.discount * mask * self.value(s_next).squeeze(-1)
        mean = torch.tanh(self.actor(s))
        std = self.log_std.clamp(LOG_STD_MIN, LOG_STD_MAX).exp()
        normal = torch.distributions.Normal(mean, std)
        actor_loss = -(weight * normal.log_prob(a).sum(-1)).mean()
        self.actor_optimizer.zero_grad()
        actor_loss.backward()
        self.actor_optimizer.step()
        self.schedule.step()

        critic_loss = torch.stack(
            [((critic(sa).squeeze(-1) - target) ** 2).mean() for critic in self.critics]
        ).sum()
        self.critic_optimizer.zero_grad()
        critic_loss.backward()
        self.critic_optimizer.step()
        with torch.no_grad():
            pairs = zip(self.targets.parameters(), self.critics.parameters(), strict=True)
            for slow, fast in pairs:
                slow.lerp_(fast, h.polyak)

    def load_weights(self, state: Mapping[str, Tensor]) -> None:
        given = split(state)
        with torch.no_grad():
            for name, net in self._nets().items():
                for key, parameter in net.items():
                    parameter.copy_(given[name][key])

    def weights(self) -> dict[str, Tensor]:
        return join(self._nets())

    def _nets(self) -> dict[str, Net]:
        """Our parameters under the names that ``split`` gives."""
        modules: dict[str, nn.Module] = {"value": self.value, "actor": self.actor}
        modules |= {f"critic{e}": critic for e, critic in enumerate(self.critics)}
        modules |= {f"target{e}": target for e, target in enumerate(self.targets)}
        nets: dict[str, Net] = {}
        for name, module in modules.items():
            linears = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
            nets[name] = {
                f"layers.{i}.{part}": getattr(layer, part)
                for i, layer in enumerate(linears)
                for part in ("weight", "bias")
            }
        nets["actor"]["log_std"] = self.log_std
        return nets
