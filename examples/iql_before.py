"""IQL in plain torch, as public trainers write it: twin critics, one optimizer a network."""

from __future__ import annotations

import copy
import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional

EXPECTILE, TEMPERATURE, DISCOUNT, POLYAK, LEARNING_RATE = 0.7, 3.0, 0.99, 0.005, 3e-4
WEIGHT_CLIP, LOG_STD_RANGE = 100.0, (-20.0, 2.0)


def mlp(*sizes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class TwinQ(nn.Module):
    def __init__(self, observations: int, actions: int, hidden: int) -> None:
        super().__init__()
        self.q1 = mlp(observations + actions, hidden, hidden, 1)
        self.q2 = mlp(observations + actions, hidden, hidden, 1)

    def forward(self, s: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        sa = torch.cat([s, a], -1)
        return self.q1(sa).squeeze(-1), self.q2(sa).squeeze(-1)


class Policy(nn.Module):
    def __init__(self, observations: int, actions: int, hidden: int) -> None:
        super().__init__()
        self.net = nn.Sequential(*mlp(observations, hidden, hidden, actions), nn.Tanh())
        self.log_std = nn.Parameter(torch.zeros(actions))

    def forward(self, s: Tensor) -> torch.distributions.Normal:
        return torch.distributions.Normal(self.net(s), self.log_std.clamp(*LOG_STD_RANGE).exp())


class Trainer:
    def __init__(self, columns: list[Tensor], seed: int, batch_size: int = 256, hidden: int = 256):
        torch.manual_seed(seed)
        self.columns, self.batch_size = columns, batch_size
        observations, actions = columns[0].shape[1], columns[1].shape[1]
        dtype = columns[0].dtype
        self.q = TwinQ(observations, actions, hidden).to(dtype)
        self.v = mlp(observations, hidden, hidden, 1).to(dtype)
        self.policy = Policy(observations, actions, hidden).to(dtype)
        self.q_target = copy.deepcopy(self.q).requires_grad_(False)
        self.v_optimizer = torch.optim.Adam(self.v.parameters(), lr=LEARNING_RATE)
        self.q_optimizer = torch.optim.Adam(self.q.parameters(), lr=LEARNING_RATE)
        self.policy_optimizer = torch.optim.Adam(self.policy.parameters(), lr=LEARNING_RATE)

    def sample(self) -> list[Tensor]:
        rows = torch.randint(len(self.columns[0]), (self.batch_size,))
        return [column[rows] for column in self.columns]

    def update(self, s: Tensor, a: Tensor, r: Tensor, mask: Tensor, s_next: Tensor) -> list[Tensor]:
        """One step on a batch; the losses of V, Q and the policy."""
        with torch.no_grad():
            v_next = self.v(s_next).squeeze(-1)
            q = torch.minimum(*self.q_target(s, a))

        v = self.v(s).squeeze(-1)
        u = q - v
        v_loss = torch.mean(torch.abs(EXPECTILE - (u < 0).to(u.dtype)) * u**2)
        self.v_optimizer.zero_grad()
        v_loss.backward()
        self.v_optimizer.step()

        target = r + DISCOUNT * mask * v_next
        q_loss = sum(functional.mse_loss(q, target) for q in self.q(s, a)) / 2
        self.q_optimizer.zero_grad()
        q_loss.backward()
        self.q_optimizer.step()
        with torch.no_grad():
            for slow, fast in zip(self.q_target.parameters(), self.q.parameters(), strict=True):
                slow.copy_((1 - POLYAK) * slow + POLYAK * fast)

        weight = torch.exp(TEMPERATURE * u.detach()).clamp(max=WEIGHT_CLIP)
        policy_loss = torch.mean(weight * -self.policy(s).log_prob(a).sum(-1))
        self.policy_optimizer.zero_grad()
        policy_loss.backward()
        self.policy_optimizer.step()
        return [v_loss.detach(), q_loss.detach(), policy_loss.detach()]
