"""IQL in torch with the kernels of iql_fast.ops: twin critics, one optimizer a network."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from iql_fast import ops

EXPECTILE, TEMPERATURE, DISCOUNT, POLYAK, LEARNING_RATE = 0.7, 3.0, 0.99, 0.005, 3e-4
WEIGHT_CLIP, LOG_STD_RANGE = 100.0, (-20.0, 2.0)


class TwinQ(nn.Module):
    def __init__(self, observations: int, actions: int, hidden: int) -> None:
        super().__init__()
        self.q = ops.EnsembleMLP(2, [observations + actions, hidden, hidden, 1])

    def forward(self, s: Tensor, a: Tensor) -> Tensor:
        sa = torch.cat([s, a], -1)
        return self.q(sa).squeeze(-1)


class Policy(nn.Module):
    def __init__(self, observations: int, actions: int, hidden: int) -> None:
        super().__init__()
        self.net = ops.EnsembleMLP(1, [observations, hidden, hidden, actions])
        self.log_std = nn.Parameter(torch.zeros(actions))

    def forward(self, s: Tensor) -> tuple[Tensor, Tensor]:
        return torch.tanh(self.net(s)[0]), self.log_std.clamp(*LOG_STD_RANGE)


class Trainer:
    def __init__(self, columns: list[Tensor], seed: int, batch_size: int = 256, hidden: int = 256):
        torch.manual_seed(seed)
        self.columns, self.batch_size = columns, batch_size
        observations, actions = columns[0].shape[1], columns[1].shape[1]
        dtype = columns[0].dtype
        self.q = TwinQ(observations, actions, hidden).to(dtype)
        self.v = ops.EnsembleMLP(1, [observations, hidden, hidden, 1]).to(dtype)
        self.policy = Policy(observations, actions, hidden).to(dtype)
        self.q_target = copy.deepcopy(self.q).requires_grad_(False)
        self.v_optimizer = ops.FusedAdam(self.v.parameters(), lr=LEARNING_RATE)
        self.q_optimizer = ops.FusedAdam(
            self.q.parameters(), lr=LEARNING_RATE, targets=self.q_target.parameters(), polyak=POLYAK
        )
        self.policy_optimizer = ops.FusedAdam(self.policy.parameters(), lr=LEARNING_RATE)
        self.generator = torch.tensor([seed, 0])

    def sample(self) -> list[Tensor]:
        return ops.sample_batch(self.columns, self.batch_size, self.generator)

    def update(self, s: Tensor, a: Tensor, r: Tensor, mask: Tensor, s_next: Tensor) -> list[Tensor]:
        """One step on a batch; the losses of V, Q and the policy."""
        with torch.no_grad():
            v_next = self.v(s_next).flatten()
            q = self.q_target(s, a).unbind()

        v = self.v(s).flatten()
        v_loss = ops.expectile_loss(q, v, EXPECTILE)
        self.v_optimizer.zero_grad()
        v_loss.backward()
        self.v_optimizer.step()

        q_loss = ops.twin_q_loss(self.q(s, a), r, mask, v_next, DISCOUNT) / 2
        self.q_optimizer.zero_grad()
        q_loss.backward()
        self.q_optimizer.step()

        policy_loss = ops.gaussian_awr_loss(
            q, v.detach(), *self.policy(s), a, TEMPERATURE, WEIGHT_CLIP
        )
        self.policy_optimizer.zero_grad()
        policy_loss.backward()
        self.policy_optimizer.step()
        return [v_loss.detach(), q_loss.detach(), policy_loss.detach()]
