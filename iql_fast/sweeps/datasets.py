"""The data of a sweep: found, downloaded or made once, before its jobs begin."""

from __future__ import annotations

import fcntl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from iql_fast import data
from iql_fast.data import resolve
from iql_fast.runs.config import TrainConfig
from iql_fast.support.errors import UserError
from iql_fast.sweeps.storage import Storage
from iql_fast.tasks import catalogue


def prepare(runs: Iterable[TrainConfig], storage: Storage | None = None) -> None:
    """Find or make the data of all runs, each once, and read them, so that what is wrong with them
    is known before any run begins.

    Args:
        storage: where their files go, for machines that have them not.

    Raises:
        UserError: a run has no data; says why and what to do.
    """
    done = set()
    for run in runs:
        search = _search(run)
        if (run.task, search) in done:
            continue
        done.add((run.task, search))
        if _is_to_come(run):
            print(f"data    {run.task}: made or downloaded once, for all jobs", flush=True)
        with _alone():
            data.find(run.task, search)
        if storage is not None:
            for path in _files(run):
                storage.put_file(_stored(path), path)


def present(run: TrainConfig, storage: Storage | None = None) -> None:
    """Have a run's data on this machine, where several jobs may begin at once.

    Raises:
        UserError: there are none.
    """
    with _alone():
        if run.dataset is not None and not run.dataset.exists() and storage is not None:
            storage.get_file(_stored(run.dataset), run.dataset)
        elif _is_to_come(run):
            if storage is not None and any(
                storage.get_file(_stored(path), path) for path in _places(run)
            ):
                return
            data.find(run.task, _search(run))


def _search(run: TrainConfig) -> data.Search:
    return data.Search(
        run.dataset,
        run.env,
        run.reference,
        offline=run.offline,
        seed=run.data_seed,
        physics=run.physics,
    )


def _is_to_come(run: TrainConfig) -> bool:
    """Whether a task's data are not on this machine."""
    return run.dataset is None and not any(path.exists() for path in _places(run))


def _places(run: TrainConfig) -> list[Path]:
    """Where the file of a task of the paper may lie; none for others' data, whose own packages keep
    them."""
    if run.task not in catalogue.names():
        return []
    task = catalogue.get(run.task)
    made = resolve.regenerated_path(task, run.data_seed, run.physics)
    return [resolve.downloaded_path(task), made]


def _files(run: TrainConfig) -> list[Path]:
    """The files that a run's data are read from."""
    own = [] if run.dataset is None else [run.dataset]
    return [path for path in own or _places(run) if path.is_file()][:1]


def _stored(path: Path) -> str:
    return f"data/{path.name}"


@contextmanager
def _alone() -> Iterator[None]:
    """For one process of this machine at a time, so that none makes what another is making."""
    folder = resolve.cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / ".lock", "w")  # noqa: SIM115  closed below
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror}). Set IQL_FAST_DATA to another folder."
        ) from None
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
