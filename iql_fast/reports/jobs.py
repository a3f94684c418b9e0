"""The runs that a page is about: those that are named, or those of a sweep's folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from iql_fast import methods
from iql_fast.runs import settings, standing
from iql_fast.runs.standing import Standing
from iql_fast.runs.summary import task_label
from iql_fast.support.errors import UserError
from iql_fast.support.files import read_json

#: Of a sweep, in its folder.
SWEEP = "sweep.json"


@dataclass(frozen=True)
class Job:
    """A run that was asked for.

    Attributes:
        name: what the page calls it.
        path: its folder.
        run: as it stands; None where it has not begun or cannot be read.
        missing: why ``run`` is None.
        task: its data, as the page calls them.
        method: its title.
        seeds: training seeds.
        settings: of each seed.
        swept: what the sweep calls its task whose folder lists it, and whose seeds of one setting
            belong together; "" where it is of none.
    """

    name: str
    path: Path
    run: Standing | None
    missing: str
    task: str
    method: str
    seeds: tuple[int, ...]
    settings: tuple[Mapping[str, Any], ...]
    swept: str = ""


def of_paths(paths: Sequence[Path]) -> list[Job]:
    """The jobs in folders: of runs, and of sweeps.

    Raises:
        UserError: a folder is neither.
    """
    jobs: list[Job] = []
    for path in dict.fromkeys(paths):
        jobs += _of_sweep(path) if (path / SWEEP).exists() else [_of_run(path)]
    return _told_apart(jobs)


def _of_run(path: Path) -> Job:
    run = standing.read(path)
    departing, varying = settings.of_seeds(run.options), settings.varying(run.options)
    each = tuple(one | own for one, own in zip(departing, varying, strict=True))
    seeds = run.options.seed_list
    return Job(run.name, path, run, "", run.title, run.method, seeds, each)


def _told_apart(jobs: list[Job]) -> list[Job]:
    """With the folders above in the names of those that have the same."""
    names = [job.name for job in jobs]
    return [replace(job, name=str(job.path)) if names.count(job.name) > 1 else job for job in jobs]


def _of_sweep(folder: Path) -> list[Job]:
    """The jobs of a sweep, in its order; one that was not begun, or cannot be read, says so.

    Raises:
        UserError: its list of jobs is damaged.
    """
    path = folder / SWEEP
    listed = read_json(path, f"{folder} is not the folder of a sweep").get("jobs")
    if not isinstance(listed, list) or not listed:
        raise UserError(f"{path}: 'jobs' is not a list of jobs. Bring back the sweep's own file.")
    return [_of_entry(folder, entry, f"{path}: job {i}") for i, entry in enumerate(listed, 1)]


def _of_entry(folder: Path, entry: Any, where: str) -> Job:
    for key, kind in _ENTRY.items():
        if not isinstance(entry, dict) or not isinstance(entry.get(key), kind):
            raise UserError(f"{where} has no {key!r} as it should be. Bring back the file.")
    seeds, each = entry["seeds"], entry["settings"]
    right = all(type(s) is int for s in seeds) and all(isinstance(one, dict) for one in each)
    if not right or len(seeds) != len(each) or not seeds:
        raise UserError(f"{where} does not have 'settings' for each of its 'seeds'.")
    path, run, missing = folder / entry["folder"], None, ""
    if not (path / "config.json").exists():
        missing = "not begun"
    else:
        try:
            run = standing.read(path)
        except UserError as error:  # of one job: the others are told all the same
            missing = str(error)
    if run is not None and run.options.seed_list != tuple(seeds):
        run, missing = None, f"{path} holds a run of other seeds"
    method = entry["method"]
    title = methods.get(method).title if method in methods.NAMES else method
    task = entry["task"] if run is None else task_label(entry["task"], run.title)
    of_sweep = entry["task"] or "task"
    return Job(entry["name"], path, run, missing, task, title, tuple(seeds), tuple(each), of_sweep)


_ENTRY = {"name": str, "folder": str, "task": str, "method": str, "seeds": list, "settings": list}
