"""What is to be trained, in which order, and what follows from how it went."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from iql_fast.sweeps.jobs import Job, Outcome, Reached


class Plan(Protocol):
    """What an executor asks for jobs, and tells of them."""

    @property
    def known(self) -> int:
        """Jobs that there will be, as far as is known."""

    @property
    def seed_steps(self) -> int:
        """Training steps over all seeds of all those that are not done."""

    def next(self) -> Job | None:
        """A job to begin; None: no more, at least until one that is under way has ended."""

    def reached(self, job: Job, where: Reached) -> bool:
        """Takes notice; answers whether the job is to stop."""

    def ended(self, job: Job, outcome: Outcome) -> None:
        """Takes notice of a job's end."""


class Executor(Protocol):
    """Where jobs are trained."""

    def run(self, plan: Plan) -> None:
        """Train until the plan has no more jobs.

        Raises:
            UserError: none can be trained.
            KeyboardInterrupt: somebody interrupted it; what was under way is kept.
        """


class Listed:
    """A plan of given jobs.

    Args:
        on_end: told of each end; answers with jobs that take the place of one that failed.
    """

    def __init__(
        self, jobs: Iterable[Job], on_end: Callable[[Job, Outcome], Iterable[Job]]
    ) -> None:
        self._waiting = deque(jobs)
        self._on_end = on_end
        self.known = len(self._waiting)
        self.seed_steps = sum(job.seed_steps for job in self._waiting)

    def next(self) -> Job | None:
        return self._waiting.popleft() if self._waiting else None

    def reached(self, job: Job, where: Reached) -> bool:  # noqa: ARG002
        return False

    def ended(self, job: Job, outcome: Outcome) -> None:
        instead = list(self._on_end(job, outcome))
        self._waiting.extend(instead)
        self.known += len(instead)
        self.seed_steps += sum(new.seed_steps for new in instead)
