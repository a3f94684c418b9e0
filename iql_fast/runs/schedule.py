"""What is due at which step of a run: rows, scores and checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from iql_fast.methods.base import Method
from iql_fast.runs.config import TrainConfig


@dataclass(frozen=True)
class Schedule:
    """The grid of a run: intervals end at multiples of ``log_interval`` and at ends of stages, of
    which fine-tuning is one.

    Args:
        scored: whether the run has an environment to score policies in.
    """

    options: TrainConfig
    scored: bool

    def interval(self, step: int) -> int:
        """Steps from a step to the end of its interval."""
        log, stage = self.options.records.log_interval, self.options.updates
        online = self.options.seam is not None and step >= self.options.seam
        left = self.options.total_steps - step if online else stage - step % stage
        return min(log - step % log, left)

    def saves(self, step: int) -> bool:
        """Whether a checkpoint is due after ``step`` steps."""
        return self._due(step, self.options.records.checkpoint_interval)

    def evaluates(self, step: int) -> bool:
        """Whether scores are due after ``step`` steps: there is no score before the policy was
        trained."""
        return (
            self.scored
            and self._due(step, self.options.evaluation.eval_interval)
            and self._learner.acts(step)
        )

    def ends(self, last: int) -> Iterator[int]:
        """The steps up to ``last`` at which an interval ends."""
        step = self.interval(0)
        while step <= last:
            yield step
            if step == self.options.total_steps:
                return
            step += self.interval(step)

    def _due(self, step: int, interval: int | None) -> bool:
        if step in (self.options.total_steps, self.options.seam):
            return True
        return bool(interval) and step % (interval or 1) == 0

    @cached_property
    def _learner(self) -> Method:
        return self.options.learner()
