"""What is trained in a benchmark: the sizes, the data, and the arithmetic of a step."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np

from iql_fast.data.dataset import Transitions
from iql_fast.engines import Hyperparameters, NetworkSpec

#: Rows of its trajectories, where they are read as such.
TRAJECTORY = 1000


@dataclass(frozen=True)
class Workload:
    """A training's sizes; by default hopper's, with the paper's networks and batch.

    Attributes:
        rows: of the dataset.
    """

    obs_dim: int = 11
    act_dim: int = 3
    hidden: tuple[int, ...] = (256, 256)
    critics: int = 2
    batch: int = 256
    rows: int = 1_000_000

    @property
    def network(self) -> NetworkSpec:
        return NetworkSpec(self.obs_dim, self.act_dim, self.hidden, self.critics)

    @property
    def hyper(self) -> Hyperparameters:
        return Hyperparameters(batch_size=self.batch)

    @property
    def data_bytes(self) -> int:
        """Size of the dataset in memory."""
        return 4 * self.rows * (2 * self.obs_dim + self.act_dim + 2)

    def transitions(self) -> Transitions:
        """A linear system under a noisy linear policy, which is rewarded for motion along one axis
        and pays for its actions; a few of its transitions terminal.

        There is something to learn in it, so that half of the hidden units stay active, as on the
        tasks' own data (see ``bench/activity.py``). On numbers without structure two thirds of
        them fall silent, and an engine that skips what is silent looks faster than it is.
        """
        rng = np.random.default_rng(0)

        def normal(*shape: int) -> np.ndarray:
            return rng.standard_normal(shape, dtype=np.float32)

        policy = normal(self.obs_dim, self.act_dim) / np.float32(self.obs_dim**0.5)
        control = 0.1 * normal(self.act_dim, self.obs_dim)
        drift = 0.1 * normal(self.obs_dim, self.obs_dim) / np.float32(self.obs_dim**0.5)
        observations = normal(self.rows, self.obs_dim)
        actions = np.tanh(observations @ policy + 0.5 * normal(self.rows, self.act_dim))
        next_observations = observations + observations @ drift + actions @ control
        return Transitions(
            observations=observations,
            actions=actions,
            rewards=next_observations[:, 0] - 0.1 * np.square(actions).sum(1),
            masks=(rng.random(self.rows) > 2e-3).astype(np.float32),
            next_observations=next_observations,
        )

    def trajectories(self) -> Transitions:
        """The same as trajectories of ``TRAJECTORY`` rows, for methods that read such."""
        data = self.transitions()
        times = np.arange(self.rows) % TRAJECTORY
        togo = np.concatenate(
            [
                np.cumsum(data.rewards[begin : begin + TRAJECTORY][::-1])[::-1]
                for begin in range(0, self.rows, TRAJECTORY)
            ]
        )
        return replace(data, returns_to_go=togo.astype(np.float32), times=times.astype(np.float32))


def flops_a_step(workload: Workload) -> int:
    """Floating-point operations of one seed's step in the authors' order: its matrix products.

    What is not a product (biases, ReLU, losses, Adam, Polyak, sampling) is left out, so a rate of
    these operations understates the work done. Factors that are zero count like others, though our
    engine skips some.
    """
    batch, hidden = workload.batch, workload.hidden
    sa_dim = workload.obs_dim + workload.act_dim

    def forward(inputs: int, outputs: int) -> int:
        return sum(2 * batch * a * b for a, b in itertools.pairwise([inputs, *hidden, outputs]))

    def backward(inputs: int, outputs: int) -> int:
        # Each layer: the gradient of the weights and that of its input, which the first one's
        # input (the data) does not need.
        widths = [inputs, *hidden, outputs]
        return 2 * forward(inputs, outputs) - 2 * batch * widths[0] * widths[1]

    v, pi = (workload.obs_dim, 1), (workload.obs_dim, workload.act_dim)
    q = (sa_dim, 1)
    value = forward(*v) + backward(*v) + 2 * forward(*v)  # the new V is read at s and at s'
    actor = forward(*pi) + backward(*pi)
    critics = workload.critics * (forward(*q) + forward(*q) + backward(*q))  # target, then online
    return value + actor + critics
