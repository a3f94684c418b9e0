"""IQL the way one writes it in plain eager torch: modules, autograd, torch.optim.Adam.

The rival that ``throughput.py`` measures our engines against; the same sizes, update order and
semantics as the engines, with batches drawn by ``torch.randint`` and indexed on the device.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from iql_fast.data.dataset import Transitions
from iql_fast.engines import Hyperparameters, NetworkSpec


def mlp(inputs: int, hidden: tuple[int, ...], outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(inputs, width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))


class EagerIQL:
    """One seed."""

    def __init__(self, network: NetworkSpec, hyper: Hyperparameters, data: Transitions) -> None:
        self.hyper = hyper
        self.columns = [
            torch.from_numpy(column)
            for column in (
                data.observations,
                data.actions,
                data.rewards,
                data.masks,
                data.next_observations,
            )
        ]
        inputs = network.obs_dim + network.act_dim
        self.value = mlp(network.obs_dim, network.hidden, 1)
        self.critics = nn.ModuleList(
            [mlp(inputs, network.hidden, 1) for _ in range(network.critics)]
        )
        self.targets = copy.deepcopy(self.critics).requires_grad_(False)
        self.actor = mlp(network.obs_dim, network.hidden, network.act_dim)
        self.log_std = nn.Parameter(torch.zeros(network.act_dim))
        self.value_optimizer = torch.optim.Adam(self.value.parameters(), lr=3e-4)
        self.critic_optimizer = torch.optim.Adam(self.critics.parameters(), lr=3e-4)
        self.actor_optimizer = torch.optim.Adam([*self.actor.parameters(), self.log_std], lr=3e-4)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
            self.actor_optimizer, hyper.actor_schedule_steps
        )

    def run(self, steps: int) -> None:
        for _ in range(steps):
            rows = torch.randint(len(self.columns[0]), (self.hyper.batch_size,))
            self.step(*(column[rows] for column in self.columns))

    def step(self, s: Tensor, a: Tensor, r: Tensor, mask: Tensor, s_next: Tensor) -> None:
        h = self.hyper
        sa = torch.cat([s, a], -1)
        with torch.no_grad():
            q = torch.stack([target(sa).squeeze(-1) for target in self.targets]).amin(0)
        u = q - self.value(s).squeeze(-1)
        value_loss = (torch.abs(h.expectile - (u < 0).float()) * u**2).mean()
        self.value_optimizer.zero_grad()
        value_loss.backward()
        self.value_optimizer.step()

        with torch.no_grad():
            advantage = q - self.value(s).squeeze(-1)
            weight = torch.exp(h.temperature * advantage).clamp(max=h.weight_clip)
            target = r + h.discount * mask * self.value(s_next).squeeze(-1)
        mean = torch.tanh(self.actor(s))
        normal = torch.distributions.Normal(mean, self.log_std.clamp(-5, 2).exp())
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
