"""The course of a sweep: checked, its data had once, its jobs trained, its results gathered."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from iql_fast.runs import ensure
from iql_fast.runs.launch import check_learner
from iql_fast.support.errors import UserError
from iql_fast.sweeps import datasets, gather, packing
from iql_fast.sweeps.jobs import Job, Outcome
from iql_fast.sweeps.packing import Packed
from iql_fast.sweeps.plan import Executor, Listed
from iql_fast.sweeps.record import Book
from iql_fast.sweeps.spec import Spec
from iql_fast.sweeps.storage import Storage

#: Seconds between two pictures and tables of what is done so far.
WRITE_EVERY = 30.0


class Course:
    """A sweep on its way.

    Args:
        book: opened.
        storage: where the folders of runs are brought, too.
        here: whether jobs are trained on this machine, whose engines can be checked then.

    Attributes:
        states: job -> ``"failed"`` or ``"pruned"``.
        failures: job -> why.
    """

    def __init__(self, book: Book, title: str, storage: Storage | None, here: bool) -> None:
        self.book = book
        self.title = title
        self.storage = storage
        self.here = here
        self.states: dict[str, str] = {}
        self.failures: dict[str, str] = {}
        self._written = time.monotonic()

    def check(self, jobs: Iterable[Packed]) -> None:
        """Raise a ``UserError`` where a job cannot be trained as far as can be seen now."""
        for job in jobs:
            run = job.options
            if run.dataset is not None and not run.dataset.exists():
                raise UserError(f"There is no dataset file {run.dataset}.")
            if self.here:
                check_learner(run, run.engine)
            ensure.check(run, self.book.path(job))

    def left(self, jobs: Sequence[Packed]) -> list[Packed]:
        """The jobs that are not finished, here or in the storage; the folders of those that are
        finished there are fetched, and those of which this machine has more are brought there."""
        found = []
        for job in jobs:
            path, state = self.book.path(job), ensure.check(job.options, self.book.path(job))
            if self.storage is not None and state != "finished":
                if self.storage.has_ended(job.name):
                    self.storage.fetch(job.name, path)
                    state = ensure.check(job.options, path)
                elif state == "begun" and not self.storage.is_ahead(job.name, path):
                    self.storage.push(job.name, path)
            if state != "finished":
                found.append(job)
        return found

    def prepare_data(self, jobs: Iterable[Packed]) -> None:
        """See ``datasets.prepare``."""
        datasets.prepare((job.members[0] for job in jobs), self.storage)

    def job(self, packed: Packed) -> Job:
        """For an executor."""
        return Job(packed.name, packed.name, packed.options, self.book.path(packed))

    def ended(self, packed: Packed, outcome: Outcome) -> None:
        """Take notice of a job's end, and write what there is."""
        if outcome.kind == "failed":
            self.failures[packed.name] = outcome.why
            self.states[packed.name] = "failed"
        self.write(WRITE_EVERY)

    def write(self, every: float = 0.0) -> None:
        """The results of what is done.

        Args:
            every: seconds that must lie between two.
        """
        if time.monotonic() - self._written < every:
            return
        found = self.results()
        if any(row.scores or row.losses for row in found):
            gather.write(self.book.folder, self.title, found)
        self._written = time.monotonic()

    def results(self) -> list[gather.Row]:
        """A row for each setting."""
        return gather.rows(self.book.jobs, self.book.folder / "jobs", self.states)

    def require_all(self) -> None:
        """Raise a ``UserError`` that names the jobs that failed."""
        require_all(self.failures, len(self.book.jobs))


def train_all(course: Course, executor: Executor, jobs: Sequence[Packed]) -> None:
    """Train given jobs. One of several settings of which one's loss is not finite is parted, so
    that the others go on as they would without it."""
    by_name = {job.name: job for job in jobs}

    def on_end(job: Job, outcome: Outcome) -> list[Job]:
        packed = by_name[job.name]
        if outcome.diverged is not None and len(packed.members) > 1:
            parts = course.book.part(packed, outcome.diverged)
            print(f"{job.name}: {outcome.why}; its settings are trained apart", flush=True)
            by_name.update({part.name: part for part in parts})
            return [course.job(part) for part in parts]
        course.ended(packed, outcome)
        return []

    executor.run(Listed(map(course.job, jobs), on_end))


def require_all(failures: Mapping[str, str], jobs: int) -> None:
    """Raise a ``UserError`` where jobs failed; the others are done by then."""
    if failures:
        told = "; ".join(f"{name}: {why}" for name, why in failures.items())
        raise UserError(
            f"{len(failures)} of {jobs} jobs failed, the others are done. {told} "
            "The same command tries those again."
        )


def title(spec: Spec, jobs: Sequence[Packed]) -> str:
    """Of the results."""
    of = spec.tasks[0].name if len(spec.tasks) == 1 else f"{len(spec.tasks)} tasks"
    each = f"with {spec.seeds} seed(s) each"
    if spec.search is not None:
        return f"Search for {of}: {spec.search.trials} trials of a method {each}"
    return f"Sweep of {of}: {sum(len(job.members) for job in jobs)} setting(s) {each}"


def default_folder(spec: Path) -> Path:
    """Where a sweep goes whose user names no folder."""
    return Path("runs") / packing.label(spec.stem, "sweep")
