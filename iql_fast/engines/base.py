"""What every training engine promises.

An engine owns the networks, their optimiser state and the batches they are trained on, for S
seeds at once: S is a leading axis on every weight. Behind this interface stand ``reference``
(pure torch, the specification), ``cpu`` (C++), ``cuda`` and ``graph`` (torch on a CUDA device).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iql_fast.methods import ranges
from iql_fast.methods.base import Batch, PerSeed
from iql_fast.policies.acting import Acting

#: ``mixed``: fp32, but what hidden layers put out and its gradients are rounded to bf16, and so are
#: the weights between hidden layers where products read them.
#: ``bf16x3``: fp32, with every product taken as three products of bf16 on tensor cores, each
#: operand being split into two bf16; almost as exact as fp32.
Precision = Literal["fp32", "fp64", "mixed", "bf16x3"]
#: What parameters, their moments and the targets are kept in.
DTYPES = {
    "fp32": torch.float32,
    "fp64": torch.float64,
    "mixed": torch.float32,
    "bf16x3": torch.float32,
}

#: The networks that are trained, in the order of their updates. ``target``, the critics' slow
#: copy, moves with the critics.
TRAINED = ("value", "actor", "critic")

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


@dataclass(frozen=True)
class Stage:
    """Steps that train the same networks and leave the others, bit for bit, as they are.

    Attributes:
        trains: one or more of ``"value"``, ``"actor"`` and ``"critic"``. The target critics move
            only with the critics.
        steps: how many; ``None``: all that follow.

    Raises:
        ValueError: a network does not exist or stands twice, none is named, or there are no steps.
    """

    trains: tuple[str, ...] = TRAINED
    steps: int | None = None

    def __post_init__(self) -> None:
        if unknown := [net for net in self.trains if net not in TRAINED]:
            raise ValueError(
                f"a stage cannot train {unknown[0]!r}; the networks are {', '.join(TRAINED)}"
            )
        if not self.trains or len(set(self.trains)) < len(self.trains):
            raise ValueError(
                f"a stage trains each network at most once, and one at least; "
                f"this one is to train {self.trains}"
            )
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"a stage has {self.steps} steps; it needs at least 1")


@dataclass(frozen=True)
class Hyperparameters:
    """Everything that the update rule reads; defaults are the authors' for locomotion.

    Those typed ``PerSeed`` may differ from seed to seed, so that one run sweeps them.

    Attributes:
        expectile: tau of the value loss (paper, equation 5).
        temperature: beta, the inverse temperature of the policy extraction (equation 7).
        discount: gamma.
        polyak: alpha, the step of the target critics towards the critics.
        weight_clip: upper bound on exp(beta * advantage).
        value_lr, critic_lr, actor_lr: Adam's learning rates.
        actor_schedule_steps: the actor's learning rate follows a cosine from ``actor_lr`` to 0 over
            this many steps; 0 keeps it constant.
        batch_size: rows drawn with replacement each step.
        actor_dropout: probability of dropping a hidden unit of the actor, in training only.
        value_order: ``"new"`` (the authors': V is updated first, and the actor and the critics read
            the new V) or ``"old"`` (every loss reads the V from before the step; a departure).
        deterministic_policy: regress tanh(mean) on the actions with the same weights instead of
            maximising a Gaussian likelihood (a departure).
        stages: which networks are trained when; the last stage has no end. Adam and the actor's
            schedule count the updates of their own network. Two stages,
            ``(Stage(("value", "critic"), n), Stage(("actor",)))``, extract the policy when V and Q
            are done, as the paper's algorithm 1 is written; V and Q are the same either way, since
            they never read the policy.

    Raises:
        ValueError: a value is out of its range (``iql_fast.methods.ranges``); names it.
    """

    expectile: PerSeed = 0.7
    temperature: PerSeed = 3.0
    discount: PerSeed = 0.99
    polyak: PerSeed = 0.005
    weight_clip: PerSeed = 100.0
    value_lr: PerSeed = 3e-4
    critic_lr: PerSeed = 3e-4
    actor_lr: PerSeed = 3e-4
    actor_schedule_steps: int = 1_000_000
    batch_size: int = 256
    actor_dropout: float = 0.0
    value_order: str = "new"
    deterministic_policy: bool = False
    stages: tuple[Stage, ...] = (Stage(),)

    def __post_init__(self) -> None:
        ranges.check(vars(self))
        if self.value_order not in ("new", "old"):
            raise ValueError(f"value_order is {self.value_order!r}; expected 'new' or 'old'")
        endless = [stage.steps is None for stage in self.stages]
        if endless != [False] * (len(endless) - 1) + [True]:
            raise ValueError("the last of the stages, and no other, has no number of steps")

    def stage_at(self, step: int) -> Stage:
        """The stage of a (0-based) step."""
        for stage in self.stages:
            if stage.steps is None or step < stage.steps:
                return stage
            step -= stage.steps
        raise AssertionError("the last stage has no end")

    def acts(self, steps: int) -> bool:
        """Whether there is a policy to score after so many steps."""
        return self.updates(steps, "actor") > 0

    @property
    def trains_all(self) -> bool:
        """Whether every step trains all networks."""
        return all(set(stage.trains) == set(TRAINED) for stage in self.stages)

    def updates(self, step: int, *nets: str) -> int:
        """How many of the first ``step`` steps train one of the networks."""
        count = 0
        for stage in self.stages:
            steps = step if stage.steps is None else min(step, stage.steps)
            count += steps if set(nets) & set(stage.trains) else 0
            step -= steps
        return count

    def per_seed(self, name: str, seeds: int) -> NDArray[np.float64]:
        """The hyperparameter ``name`` as a float64 vector ``[seeds]``."""
        value = getattr(self, name)
        vector = np.atleast_1d(np.asarray(value, dtype=np.float64))
        if vector.shape not in ((1,), (seeds,)):
            raise ValueError(f"{name} has {vector.size} values for {seeds} seeds")
        return np.ascontiguousarray(np.broadcast_to(vector, (seeds,)))


#: Names of the hyperparameters that are one value a seed.
PER_SEED = tuple(field.name for field in fields(Hyperparameters) if "PerSeed" in str(field.type))


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

    def step_on(self, batch: Batch) -> Metrics:
        """Do one step on the given batch. The random stream advances as it does in ``run``."""

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
