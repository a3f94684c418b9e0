"""Where a dataset's policies are scored, and what their returns are measured against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np

from iql_fast.tasks.catalogue import Physics, Task

Returns = TypeVar("Returns", float, np.ndarray)


@dataclass(frozen=True)
class Scoring:
    """The environment of a dataset and its reference returns. A run's record holds it.

    Attributes:
        environment: a Gymnasium id, or an environment's specification in Gymnasium's JSON; None
            where policies trained on the dataset cannot be scored here.
        note: why there is no environment.
        horizon: steps after which an episode is cut.
        reference: returns that count as 0 and as 100 (D4RL: of a random and of an expert policy);
            None where the dataset has none, and scores are then plain returns.
        published: who reports what normalised score of IQL.
        physics: whose mechanics the environment has. A dataset of Minari's is scored in those of
            the environment that it names, as they are.
        measure: what an episode is scored by: its return, or its success, which the environment
            reports.
    """

    environment: str | None
    note: str = ""
    horizon: int = 0
    reference: tuple[float, float] | None = None
    published: Mapping[str, float] = field(default_factory=dict)
    physics: Physics = "gymnasium"
    measure: Literal["return", "success"] = "return"

    @property
    def unit(self) -> str:
        """What a score is."""
        if self.measure == "success":
            return "success in %"
        return "return" if self.reference is None else "normalised score"

    def score(self, episode_return: Returns) -> Returns:
        """``100 (R - min) / (max - min)`` (D4RL), or the return where there is no reference."""
        if self.reference is None:
            return episode_return
        low, high = self.reference
        return 100.0 * (episode_return - low) / (high - low)

    def scores(self, returns: np.ndarray, successes: np.ndarray) -> np.ndarray:
        """Of episodes, by their returns and by whether they succeeded (1 or 0)."""
        if self.measure == "success":
            return 100.0 * successes
        return self.score(returns)

    def record(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


def of_task(task: Task, physics: Physics = "d4rl") -> Scoring:
    """Of a task of the paper.

    Raises:
        UserError: the task is not scored in that physics.
    """
    environment = task.environment
    return Scoring(
        task.environment_id(physics),
        "",
        environment.horizon,
        (environment.min_score, environment.max_score),
        task.published,
        physics,
    )


def from_record(record: Mapping[str, Any]) -> Scoring:
    """The inverse of ``Scoring.record``."""
    reference = record["reference"]
    return Scoring(**{**record, "reference": reference and (reference[0], reference[1])})
