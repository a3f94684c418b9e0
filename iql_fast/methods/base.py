"""What a method is: settings, networks, draws, losses, and the order of its updates.

A method is a frozen dataclass of settings. It is written once, in torch, on networks of S seeds at
once, and never knows which engine runs it; an engine never knows which method it runs.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, Protocol, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import Self

from iql_fast.data.dataset import Transitions
from iql_fast.data.transform import LEAST_DEVIATION
from iql_fast.methods import ranges

#: One setting: the same for all seeds, or one value for each.
PerSeed = float | tuple[float, ...]


@dataclass(frozen=True)
class Batch:
    """One batch for each seed: a leading axis S on every column.

    Attributes:
        observations: ``[S, B, O]``.
        actions: ``[S, B, A]``.
        rewards: ``[S, B]``.
        masks: ``[S, B]``.
        next_observations: ``[S, B, O]``.
        next_actions: of the data's next row, ``[S, B, A]``, for methods that need it.
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    masks: Tensor
    next_observations: Tensor
    next_actions: Tensor | None = None

    def columns(self) -> dict[str, Tensor]:
        """Those that it has, by name."""
        return {name: x for name, x in vars(self).items() if x is not None}


@dataclass(frozen=True)
class Net:
    """An MLP with ReLU between its layers, or an ensemble of equal ones.

    Attributes:
        rate: the method's setting that is its learning rate.
        trained_as: name under which a loss trains it; networks of one loss share one. "": its own.
        ensemble: how many; None: one, whose outputs have no axis for it.
        target: name of its slow copy, which no gradient reaches; "" has none.
        vectors: name -> (size, initial value) of what is trained with it beside its layers, such
            as a log standard deviation that no observation changes.
        dropout: probability of dropping a hidden unit, in training only; not of an ensemble.
        start: how its layers begin. ``"orthogonal"``: gain sqrt(2), as jaxrl; ``"uniform"``:
            torch's default for ``nn.Linear``, biases too; ``"fan_out"``: within
            1 / sqrt(outputs), as rlkit's ``fanin_init``.
        bias: first value of the biases, where ``start`` has none.
        head: bound of the last layer's uniform first values in place of that, biases too.
        head_gain: of the last layer's orthogonal matrix in place of sqrt(2).
        schedule: steps over which the rate falls to 0 along a cosine; 0 keeps it constant.
        decay: factor of an L2 penalty on everything that it trains.
        decoupled_decay: share of everything that it trains that a step of rate 1 takes off, beside
            Adam's (Loshchilov and Hutter, 2019).
    """

    name: str
    inputs: int
    outputs: int
    hidden: tuple[int, ...]
    rate: str
    trained_as: str = ""
    ensemble: int | None = None
    target: str = ""
    vectors: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    dropout: float = 0.0
    start: Literal["orthogonal", "uniform", "fan_out"] = "orthogonal"
    bias: float = 0.0
    head: float | None = None
    head_gain: float | None = None
    schedule: int = 0
    decay: float = 0.0
    decoupled_decay: float = 0.0

    def __post_init__(self) -> None:
        if self.dropout and self.ensemble is not None:
            raise ValueError(f"{self.name}: an ensemble cannot have dropout")


@dataclass(frozen=True)
class Scalar:
    """A number of each seed's that is trained: a temperature, a multiplier.

    Attributes:
        rate: the method's setting that is its learning rate.
    """

    initial: float
    rate: str


@dataclass(frozen=True)
class Draw:
    """Random numbers of a step: ``"normal"`` ones, or ``"uniform"`` ones of [0, 1).

    Attributes:
        shape: without the seeds.
    """

    kind: Literal["normal", "uniform"]
    shape: tuple[int, ...]


class Step(Protocol):
    """What an engine gives a method for one step.

    Attributes:
        index: how many steps came before.
        batch: drawn for it.
    """

    index: int
    batch: Batch

    def setting(self, name: str) -> Tensor:
        """One of the method's settings of each seed, ``[S, 1]``."""

    def draw(self, name: str) -> Tensor:
        """Random numbers that the method declared, ``[S, *shape]``."""

    def net(
        self, name: str, x: Tensor, *, member: int | None = None, fixed: bool = False
    ) -> Tensor:
        """A network's outputs, ``[S, B, in]`` -> ``[S, B, out]`` or ``[S, E, B, out]``.

        Args:
            member: that one of an ensemble alone, ``[S, B, out]``.
            fixed: as it is, without dropout; gradients pass through it to ``x`` alone.
        """

    def vector(self, net: str, name: str) -> Tensor:
        """What a network trains beside its layers, ``[S, size]``."""

    def scalar(self, name: str) -> Tensor:
        """A trained number, ``[S, 1]``."""

    def descend(self, **losses: Tensor) -> None:
        """One Adam step of each network or scalar on its loss ``[S]``, named as it is trained; all
        gradients are taken before the first step. Losses are recorded as ``NAME_loss``."""

    def copy(self, of: str, to: str) -> None:
        """Give a network, or a target, the weights of another of its shape; Adam's moments stay as
        they are."""

    def follow(self, *nets: str) -> None:
        """Move the targets of networks towards them: ``target += polyak (net - target)``."""

    def watch(self, **rows: Tensor) -> None:
        """What losses are made of, ``[S, B]``: its range is told of a loss that is not finite."""

    def record(self, **values: Tensor) -> None:
        """Quantities to be logged, ``[S]``."""


@dataclass(frozen=True)
class Method:
    """Settings that every method has; see the module.

    Attributes:
        discount: gamma.
        polyak: step of the targets towards their networks.
        batch_size: rows drawn with replacement each step.

    Raises:
        ValueError: a value is out of its range (``iql_fast.methods.ranges``); names it.
    """

    name: ClassVar[str]
    #: Its column in table 1 of the paper.
    title: ClassVar[str]
    #: Scale and shift of antmaze's rewards, 0 and 1, that its authors trained with.
    antmaze_rewards: ClassVar[tuple[float, float]] = (1.0, 0.0)
    #: The network that acts, and the parts of its outputs: the mean before its tanh, and then maybe
    #: the log standard deviation.
    policy_net: ClassVar[str] = "actor"
    policy_parts: ClassVar[int] = 1
    #: What it records besides its losses, and what a row of a log has of it.
    records: ClassVar[Mapping[str, Literal["mean", "max"]]] = {}
    #: Whether it can be fine-tuned in the environment (``explore``).
    explores: ClassVar[bool] = False
    #: The columns of a batch that not every method reads, and this one does.
    needs: ClassVar[frozenset[str]] = frozenset()
    #: Updates of a run whose user names none, and its evaluations: (episodes, interval), or None
    #: for those of IQL's authors.
    usual_steps: ClassVar[int] = 1_000_000
    evaluation: ClassVar[tuple[int, int] | None] = None
    #: Added to the standard deviation of an observation's entries, which they are scaled by where
    #: ``normalizes`` says so.
    least_deviation: ClassVar[float] = LEAST_DEVIATION
    #: Whether rewards may be scaled and shifted.
    transforms_rewards: ClassVar[bool] = True

    discount: PerSeed = 0.99
    polyak: PerSeed = 0.005
    batch_size: int = 256

    #: Settings of this class that it does not use.
    unused: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        ranges.check(vars(self))
        for name, hint in get_type_hints(type(self)).items():
            value = getattr(self, name)
            if get_origin(hint) is Literal and value not in get_args(hint):
                raise ValueError(
                    f"{name} is {value!r}; expected one of {', '.join(get_args(hint))}"
                )
            if hint is bool and not isinstance(value, bool):
                raise ValueError(f"{name} is {value!r}; expected True or False")

    def nets(self, obs_dim: int, act_dim: int) -> tuple[Net, ...]:
        """The networks, in the order in which they are initialised."""
        raise NotImplementedError

    def scalars(self, act_dim: int) -> dict[str, Scalar]:  # noqa: ARG002
        """The trained numbers."""
        return {}

    def draws(self, obs_dim: int, act_dim: int) -> dict[str, Draw]:  # noqa: ARG002
        """The random numbers of a step, besides its batch."""
        return {}

    def step(self, on: Step) -> None:
        """One step."""
        raise NotImplementedError

    def branch(self, index: int) -> Hashable:  # noqa: ARG002
        """Which way the step after ``index`` others goes: all that ``step`` decides by that number.
        Two steps of one branch do the same."""
        return None

    def updates(self, name: str, steps: int) -> int:  # noqa: ARG002
        """How many of the first ``steps`` steps have a loss of that name."""
        return steps

    def acts(self, steps: int) -> bool:
        """Whether there is a policy to score after so many steps."""
        return self.updates(self.policy_net, steps) > 0

    def over(self, steps: int) -> Self:  # noqa: ARG002
        """The method for a run of so many steps."""
        return self

    def for_task(self, task: str) -> Self:  # noqa: ARG002
        """The method with its authors' values for data of that name, where none were given."""
        return self

    def for_data(self, data: Transitions) -> Self:  # noqa: ARG002
        """The method with what it takes from the data, where none were given."""
        return self

    def share_of_trajectories(self) -> float | None:
        """Which trajectories it is trained on: that share, of the highest returns; None: all."""
        return None

    def normalizes(self, family: str) -> bool:  # noqa: ARG002
        """Whether observations are scaled to mean 0 and deviation 1, on tasks of a family."""
        return False

    def explore(self, on: Step, observations: Tensor, noise: Tensor) -> Tensor:
        """Actions of the policy as it is sampled while it is fine-tuned, ``[S, B, O]`` and standard
        normal noise ``[S, B, A]`` -> ``[S, B, A]``.

        Raises:
            NotImplementedError: the method is not fine-tuned.
        """
        raise NotImplementedError

    def policy(self) -> dict[str, Any]:
        """What acts; see ``iql_fast.policies.acting.from_arrays``."""
        return {"kind": "mlp", "net": self.policy_net, "parts": self.policy_parts}

    def measured(self, means: dict[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
        """The columns of a log, ``[S]`` each, from what was recorded."""
        return means

    def per_seed(self, name: str, seeds: int) -> NDArray[np.float64]:
        """The setting ``name`` as a float64 vector ``[seeds]``."""
        vector = np.atleast_1d(np.asarray(getattr(self, name), dtype=np.float64))
        if vector.shape not in ((1,), (seeds,)):
            raise ValueError(f"{name} has {vector.size} values for {seeds} seeds")
        return np.ascontiguousarray(np.broadcast_to(vector, (seeds,)))

    @classmethod
    def per_seed_names(cls) -> tuple[str, ...]:
        """The settings that are one value a seed."""
        return tuple(f.name for f in fields(cls) if "PerSeed" in str(f.type))


def recorded(method: Method, obs_dim: int, act_dim: int) -> tuple[str, ...]:
    """What a method's steps record: its losses, and what it says of itself."""
    nets = [net.trained_as or net.name for net in method.nets(obs_dim, act_dim)]
    losses = [f"{name}_loss" for name in dict.fromkeys([*nets, *method.scalars(act_dim)])]
    return (*losses, *method.records)
