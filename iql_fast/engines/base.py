"""What every training engine promises.

An engine owns the networks, their optimiser state and the batches they are trained on, for S
seeds at once: S is a leading axis on every weight. Behind this interface stand ``reference``
(pure torch, the specification), ``cpu`` (C++), ``cuda`` and ``graph`` (torch on a CUDA device).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iql_fast.data.dataset import FloatArray
from iql_fast.data.replay import Replay
from iql_fast.methods import ranges
from iql_fast.methods.iql import IQL, TRAINED
from iql_fast.policies.acting import Acting

#: ``mixed``: fp32, but what hidden layers put out and its gradients are rounded to bf16, and so are
#: the weights between hidden layers where products read them.
#: ``bf16x3``: fp32, with every product taken as three products of bf16 on tensor cores, each
#: operand being split into two bf16; almost as exact as fp32.
#: ``tf32``: fp32, with the operands of every product rounded to 10 bits of mantissa for tensor
#: cores, as XLA does by default on devices that have them; gradients are off by some percent.
Precision = Literal["fp32", "fp64", "mixed", "bf16x3", "tf32"]
#: What each engine trains IQL in.
PRECISIONS: dict[str, tuple[Precision, ...]] = {
    "cuda": ("fp32", "bf16x3", "tf32"),
    "graph": ("fp32", "fp64"),
    "cpu": ("fp32", "fp64", "mixed"),
    "reference": ("fp32", "fp64"),
}
#: What parameters, their moments and the targets are kept in.
DTYPES = {
    "fp32": torch.float32,
    "fp64": torch.float64,
    "mixed": torch.float32,
    "bf16x3": torch.float32,
    "tf32": torch.float32,
}

#: Why an engine cannot be used where some steps train some networks only.
TRAINS_ALL = "it trains all networks in every step (so not with --extraction after)"

#: Per-step quantities that ``Engine.run`` averages over the steps of a call, one value a seed.
#: ``weight_max`` is the largest over the call; ``advantage_std`` is over all rows of the call.
#: Steps that do not compute a quantity are left out of its mean, which is NaN where none does.
METRICS = (
    "value_loss",
    "critic_loss",
    "actor_loss",
    "value",
    "q",
    "advantage",
    "advantage_std",
    "weight",
    "weight_max",
    "weight_clipped",
)

#: Networks one of which a step must train for it to compute a metric.
MEASURED_WITH = {
    **{f"{net}_loss": (net,) for net in TRAINED},
    **dict.fromkeys(("value", "q"), ("value", "actor")),
    **dict.fromkeys(
        ("advantage", "advantage_std", "weight", "weight_max", "weight_clipped"), ("actor",)
    ),
}

#: Metric name -> float64 array ``[S]``.
Metrics = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class NetworkSpec:
    """Sizes of the networks: MLPs with ReLU (paper, appendix B).

    Raises:
        ValueError: a size is not a positive whole number.
    """

    obs_dim: int
    act_dim: int
    hidden: tuple[int, ...] = (256, 256)
    critics: int = 2

    def __post_init__(self) -> None:
        ranges.check(vars(self))


#: IQL's settings, which its own engines are made for; the sizes of its networks are theirs from a
#: ``NetworkSpec``.
Hyperparameters = IQL
#: Names of the hyperparameters that are one value a seed.
PER_SEED = IQL.per_seed_names()


def lacks(engine: str, precision: Precision) -> str:
    """Why an engine cannot train IQL in that precision, and which can; empty where it can."""
    if precision in PRECISIONS[engine]:
        return ""
    others = [name for name, has in PRECISIONS.items() if precision in has]
    return f"it has no {precision} precision, which {', '.join(others)} can do"


def check_steps(steps: int) -> None:
    """Raise a ``ValueError`` where that is not a number of steps."""
    if steps != int(steps) or steps < 0:
        raise ValueError(f"steps is {steps!r}; expected a whole number of at least 0")


class Engine(Protocol):
    """The training step of S seeds over one dataset.

    Every method raises a ``RuntimeError`` in a forked process and while another thread is in one
    (``iql_fast.engines.exclusive``).
    """

    @property
    def name(self) -> str:
        """``"reference"``, ``"cpu"``, ``"graph"`` or ``"cuda"``."""

    @property
    def seeds(self) -> Sequence[int]:
        """The S seeds, each the key of its own random stream."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """What ``run`` measures, in the order of a log's columns."""

    @property
    def step(self) -> int:
        """Training steps done so far."""

    @property
    def data_on_host(self) -> bool:
        """Whether the dataset, for want of memory, is not on the device that trains."""

    def run(self, steps: int) -> Metrics:
        """Do ``steps`` steps on batches drawn from the dataset; metrics averaged over them.

        Raises:
            ValueError: ``steps`` is negative.
            NonFiniteLoss: a loss was not finite. The engine's state is then not to be used.
            KeyboardInterrupt: Ctrl-C, answered between two steps; the state is that after a whole
                number of steps, and ``step`` says how many.
        """

    def step_on(self, batch: Any) -> Metrics:
        """Do one step on the given batch: a ``methods.base.Batch``, or ``methods.dt.Windows`` for
        the method that is trained on those. The random stream advances as it does in ``run``."""

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of the complete state, on the CPU.

        ``{net}.layers.{i}.weight`` ``[S, out, in]`` and ``.bias`` ``[S, out]`` for the nets
        ``value``, ``actor``, and with an ensemble axis after S ``critic`` and ``target``;
        ``actor.log_std`` ``[S, A]``; ``adam.m.*`` and ``adam.v.*`` beside each trained tensor;
        ``step``, an int64 scalar.
        """

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over a state from ``state_dict`` (any engine's of the same precision)."""

    def policy(self, index: int) -> Acting:
        """The policy of the ``index``-th seed, as plain arrays that evaluation can ship around."""


class OnlineEngine(Engine, Protocol):
    """An engine whose seeds can meet transitions of their own while they are trained."""

    def meet(self, replay: Replay) -> None:
        """Train on a replay of the dataset from now on; what it holds is read at each ``run``.
        Of what counted in a ``run``, only the newest transition may change after it; before
        ``load_state_dict``, all may."""

    def advance(self, steps: int) -> None:
        """As ``run``, but what is measured is kept: the metrics of the next ``run`` are of these
        steps, too. A loss that was not finite may be told by a later call."""

    def draws_next(self, place: int) -> bool:
        """Whether the next step's batch, of any seed, has the transition at that place of its
        replay."""

    def explore(self, observations: FloatArray, noise: FloatArray) -> FloatArray:
        """Sampled actions ``[S, A]``, not clipped, for an observation of each seed ``[S, O]`` and
        standard normal noise ``[S, A]``."""
