"""One job of a sweep: a run in its folder, followed while it trains, and stopped where asked."""

from __future__ import annotations

import os
import socket
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from iql_fast.runs import config, folder, progress
from iql_fast.runs.config import TrainConfig
from iql_fast.runs.folder import RunFolder
from iql_fast.runs.rows import read_rows
from iql_fast.support.errors import UserError
from iql_fast.support.files import read_json

if TYPE_CHECKING:
    from rich.console import Console

    from iql_fast.runs.loop import Loop
    from iql_fast.sweeps.storage import Storage

#: Seconds that a job waits for a killed one before it to let go of the folder.
PATIENCE = 60.0


@dataclass(frozen=True)
class Job:
    """A run that is to be finished.

    Attributes:
        name: unique in its sweep.
        title: for people.
        options: completed.
        folder: of the run.
    """

    name: str
    title: str
    options: TrainConfig
    folder: Path

    @property
    def seed_steps(self) -> int:
        """Training steps over all seeds."""
        return self.options.total_steps * self.options.seeds

    def flat(self) -> dict[str, Any]:
        """As JSON holds it, which another process or machine is given."""
        whole = {"name": self.name, "title": self.title, "folder": str(self.folder)}
        return whole | {"options": config.flat(self.options)}

    @classmethod
    def from_flat(cls, flat: Mapping[str, Any]) -> Job:
        """The job of ``flat``."""
        options = config.with_options(TrainConfig(), flat["options"], flat["name"])
        return cls(flat["name"], flat["title"], options, Path(flat["folder"]))


@dataclass(frozen=True)
class Reached:
    """Where a job is.

    Attributes:
        step: of its run.
        began: the step that it was taken up at.
        scores: evaluations so far: step, mean over seeds.
        where: host and process.
    """

    step: int
    began: int
    scores: tuple[tuple[int, float], ...] = ()
    where: str = ""

    def flat(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)

    @classmethod
    def from_flat(cls, flat: Mapping[str, Any]) -> Reached:
        """What ``flat`` was made of."""
        scores = tuple((int(step), float(score)) for step, score in flat["scores"])
        return cls(flat["step"], flat["began"], scores, flat["where"])


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Attributes:
        kind: stopped is what was asked to; its checkpoint stays.
        why: it failed, for people.
        diverged: the seed whose loss was not finite.
    """

    kind: Literal["finished", "stopped", "failed"]
    why: str = ""
    diverged: int | None = None


def failed(error: Exception) -> Outcome:
    """Of what a job raised."""
    known = isinstance(error, UserError)
    return Outcome("failed", str(error) if known else f"{type(error).__name__}: {error}")


#: Is told where a job is; answers whether it is to stop.
Tell = Callable[[Reached], bool]


class _Stopped(KeyboardInterrupt):
    """What the loop takes for an interruption: it keeps a checkpoint of the last interval."""


def train(
    job: Job, tell: Tell, storage: Storage | None = None, quiet: Path | None = None
) -> Outcome:
    """Bring a job to its end.

    Args:
        storage: that its folder is fetched from before, and brought to at each checkpoint.
        quiet: a file that takes what the run prints.

    Raises:
        KeyboardInterrupt: somebody interrupted it; a checkpoint was kept.
    """
    with _printed_to(quiet):
        try:
            return _trained(job, tell, storage)
        except _Stopped:
            if storage is not None:
                storage.push(job.name, job.folder)
            return Outcome("stopped")
        except SystemExit:  # a loss was not finite, which the run has said already
            failure = read_json(RunFolder(job.folder).failure, f"{job.folder} failed")
            network, seed, step = (failure[name] for name in ("network", "seed", "step"))
            why = f"the {network} loss of seed {seed} is not finite at step {step:,}"
            return Outcome("failed", why, seed)
        except Exception as error:  # others go on
            if not isinstance(error, UserError):
                traceback.print_exc()
            return failed(error)


def _trained(job: Job, tell: Tell, storage: Storage | None) -> Outcome:
    from iql_fast.runs import ensure  # loads torch

    if storage is not None:
        storage.fetch(job.name, job.folder)
    _wait_until_free(job.folder)

    @contextmanager
    def watched(loop: Loop, console: Console) -> Iterator[None]:
        with progress.shown(loop, console):
            shown = loop.advance
            began, scores = loop.engine.step, _scores(loop.folder)
            where = f"{socket.gethostname()}:{os.getpid()}"

            def advance(step: int, rate: float, text: str) -> None:
                nonlocal scores
                shown(step, rate, text)
                scores = _scores(loop.folder) if text else scores
                if storage is not None:
                    storage.push_if_saved(job.name, job.folder)
                ends = step >= loop.config.total_steps
                if tell(Reached(step, began, scores, where)) and not ends:
                    raise _Stopped

            loop.advance = advance
            if tell(Reached(began, began, scores, where)):
                raise _Stopped
            yield

    ensure.finished(job.options, job.folder, watched)
    if storage is not None:
        storage.push(job.name, job.folder)
    return Outcome("finished")


def placed(options: TrainConfig, cores: int | None, shared: bool) -> TrainConfig:
    """A run with as many cores, which changes no result.

    Args:
        cores: None: all.
        shared: whether other runs go on beside it: it then waits while episodes are run.
    """
    own = options.evaluation
    beside = "never" if shared and own.eval_beside == "auto" else own.eval_beside
    evaluation = replace(own, eval_workers=cores or own.eval_workers, eval_beside=beside)
    return replace(options, threads=cores or options.threads, evaluation=evaluation)


def _scores(run: RunFolder) -> tuple[tuple[int, float], ...]:
    """Evaluations in a run's table: step, mean over seeds."""
    by_step: dict[int, list[float]] = {}
    for row in read_rows(run.scores) if run.scores.exists() else ():
        by_step.setdefault(int(row["step"]), []).append(float(row["score"]))
    return tuple((step, float(np.mean(scores))) for step, scores in by_step.items())


def _wait_until_free(path: Path) -> None:
    """Wait for a process that trains here and is ending, having been killed."""
    end = time.monotonic() + PATIENCE
    while path.is_dir():
        try:
            with folder.lock(path):
                return
        except UserError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


def _printed_to(path: Path | None) -> AbstractContextManager[Any]:
    @contextmanager
    def printed() -> Iterator[None]:
        if path is None:
            yield
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a") as file, redirect_stdout(file), redirect_stderr(file):
            print(f"=== {time.strftime('%F %T')}, {socket.gethostname()}, process {os.getpid()}")
            file.flush()
            yield

    return printed()
