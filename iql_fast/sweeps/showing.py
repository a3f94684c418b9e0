"""What a person sees of jobs that are trained side by side."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from typing_extensions import Self

from iql_fast.support import output
from iql_fast.sweeps.jobs import Job, Outcome, Reached

#: Seconds from one plain line to the next, where there is no terminal: at first, and at most.
FIRST, MOST = 10.0, 300.0


class Showing:
    """Steps over all jobs, their rate and an estimate; a line for each job that is under way. On a
    terminal they stand still, elsewhere a plain line comes at times.

    Attributes:
        known: jobs that there are.
        total: training steps over all seeds of all of them.
    """

    def __init__(self, known: int, total: int, console: Console | None = None) -> None:
        self.console = console or output.console()
        self.known, self.total = known, total
        self._ended = self._done = self._new = 0
        self._at: dict[str, tuple[Job, Reached]] = {}
        self._start = self._said = time.monotonic()
        self._pause = FIRST
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[text]}"),
        )
        self._progress = Progress(*columns, console=self.console, transient=True)
        self._bars: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._progress.start()
            self._bars[""] = self._progress.add_task("all jobs", total=self.total, text="")
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def reached(self, job: Job, where: Reached) -> None:
        """Where a job is."""
        before = self._at.get(job.name, (job, Reached(where.began, where.began)))[1]
        # A job that was killed is taken up where its checkpoint is, which may be further back.
        self._new += max(0, where.step - before.step) * job.options.seeds
        self._at[job.name] = job, where
        if self.console.is_terminal:
            if job.name not in self._bars:
                whole = job.options.total_steps
                self._bars[job.name] = self._progress.add_task(job.title, total=whole, text="")
            score = f"score {where.scores[-1][1]:.1f}  " if where.scores else ""
            text = f"step {where.step:,}  {score}on {where.where}"
            self._progress.update(self._bars[job.name], completed=where.step, text=text)

    def ended(self, job: Job, outcome: Outcome) -> None:
        """A job is under way no more."""
        self._ended += 1
        self._done += job.seed_steps
        _, last = self._at.pop(job.name, (job, Reached(0, 0)))
        if outcome.kind == "finished":
            self._new += (job.options.total_steps - last.step) * job.options.seeds
        if job.name in self._bars:
            self._progress.remove_task(self._bars.pop(job.name))
        told = {"finished": "done", "stopped": "stopped"}.get(outcome.kind, outcome.why)
        self.console.print(f"{job.title}: {told}", style=None if not outcome.why else "red")
        self.refresh(force=True)

    def refresh(self, force: bool = False) -> None:
        """Bring the whole up to date."""
        text = self.summary()
        if self.console.is_terminal:
            done = self._done + sum(at.step * job.options.seeds for job, at in self._at.values())
            self._progress.update(self._bars[""], completed=done, total=self.total, text=text)
        elif force or time.monotonic() - self._said > self._pause:
            self._said = time.monotonic()
            self._pause = FIRST if force else min(2 * self._pause, MOST)
            self.console.print(text, soft_wrap=True)
            for job, at in () if force else self._at.values():
                whole = job.options.total_steps
                self.console.print(f"  {job.title}: step {at.step:,} of {whole:,}", soft_wrap=True)

    def summary(self) -> str:
        """All jobs in a line."""
        under_way = sum(at.step * job.options.seeds for job, at in self._at.values())
        done = self._done + under_way
        rate = self._new / max(time.monotonic() - self._start, 1e-9)
        left = f", about {duration((self.total - done) / rate)} left" if rate else ""
        if done >= self.total:
            left = ""
        return (
            f"{self._ended} of {self.known} jobs, {done:,} of {self.total:,} steps of all seeds, "
            f"{rate:,.0f} steps/s{left}"
        )


def duration(seconds: float) -> str:
    """For people: ``45 s``, ``12 min``, ``3 h 20 min``."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
