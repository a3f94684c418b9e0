"""From a task's name to its data: the user's file, the cache, a download, or made anew."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from iql_fast.data import d4rl, download, minari, regenerate
from iql_fast.data.d4rl import LoggedTransitions
from iql_fast.data.dataset import Transitions
from iql_fast.data.transform import to_training
from iql_fast.environments import scoring, simulator
from iql_fast.environments.scoring import Scoring
from iql_fast.policies.units import Units
from iql_fast.support.errors import UserError
from iql_fast.tasks import catalogue
from iql_fast.tasks.catalogue import Physics, Task


@dataclass(frozen=True)
class LoadedData:
    """A dataset ready to train on, and where it came from.

    Attributes:
        transitions: after the authors' transforms.
        title: what reports call it; says so where the data are regenerated or the user's own.
        source: ``"file"``, ``"cache"``, ``"download"``, ``"regenerated"`` or ``"minari"``.
        record: everything a run's record needs to say about it.
        scoring: where policies trained on it are scored.
        behaviour_return: mean raw return of the trajectories, the partial tail left out.
        units: of the actions, where they are not those that networks train in.
    """

    transitions: Transitions
    title: str
    source: str
    record: dict[str, Any]
    scoring: Scoring
    behaviour_return: float
    units: Units = field(default_factory=Units)


def cache_folder() -> Path:
    """Where datasets are kept: IQL_FAST_DATA, or the user's cache folder."""
    if own := os.environ.get("IQL_FAST_DATA"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "iql_fast"


def downloaded_path(task: Task) -> Path:
    """Where D4RL's own file of a task lies once it is downloaded."""
    return cache_folder() / task.d4rl_file


def regenerated_path(task: Task, seed: int, physics: Physics = "d4rl") -> Path:
    """Where a regenerated dataset lies: never under the name of D4RL's, and never under that of one
    that other behaviour policies, other mechanics or another simulator made."""
    recipe = regenerate.fingerprint(task.name) if task.name in regenerate.available() else "none"
    made_by = f"{physics}-mujoco{simulator.version()}-{recipe}"
    return cache_folder() / "regenerated" / f"{task.name}-seed{seed}-{made_by}.hdf5"


def missing(task: Task, offline: bool = False) -> str:
    """Why the data of a task cannot be had here, or ``""`` where they can: in the cache, by making
    them or, tried now, by downloading them."""
    if downloaded_path(task).exists() or task.name in regenerate.available():
        return ""
    if offline:
        return "D4RL's file is not in the cache, and downloads were switched off"
    try:
        download.download(task.d4rl_file, downloaded_path(task))
    except UserError as error:
        return str(error)
    return ""


def load(
    task: Task | str,
    *,
    dataset: Path | None = None,
    regenerate_ok: bool = True,
    offline: bool = False,
    seed: int = 0,
    physics: Physics = "d4rl",
    progress: bool = True,
) -> LoadedData:
    """Find or make the data of a task, check them and transform them for training.

    Args:
        task: a task, or a Minari id.
        dataset: a file of the user's in D4RL's layout; nothing else is then looked for.
        regenerate_ok: whether regenerated data may stand in for D4RL's.
        offline: do not try to download.
        seed: of regenerated data.
        physics: whose mechanics regenerated data are made in and policies scored in. A Minari
            dataset has those of the environment that it names.

    Raises:
        UserError: no data could be had, or they are not usable; says why and what to do.
    """
    if isinstance(task, str):
        if dataset is None and minari.is_id(task):
            logged, where = minari.load(task, offline)
            record = {"origin": "minari", "minari_id": task}
            return _finish(logged, minari.family(task), task, "minari", record, where)
        task = catalogue.get(task)
    where = scoring.of_task(task, physics)
    path, source, record = _find(task, dataset, regenerate_ok, offline, seed, physics, progress)
    environment = task.environment
    steps = d4rl.read(path, environment.obs_dim, environment.act_dim)
    logged = d4rl.transitions(steps, environment.horizon)
    notes = {"d4rl": "", "regenerated": " (regenerated)", "file": f" ({path.name})"}
    title = task.name + notes[record["origin"]]
    record = {"path": str(path), **record}
    return _finish(logged, task.family, title, source, record, where)


def _find(
    task: Task,
    dataset: Path | None,
    regenerate_ok: bool,
    offline: bool,
    seed: int,
    physics: Physics,
    progress: bool,
) -> tuple[Path, str, dict[str, Any]]:
    """(file, source, record) of a task's data; the record's origin says whose data they are."""
    if dataset is not None:
        return dataset, "file", {"origin": "file"}
    original, made = downloaded_path(task), regenerated_path(task, seed, physics)
    if original.exists():
        return original, "cache", {"origin": "d4rl"}
    can_make = regenerate_ok and task.name in regenerate.available()
    regenerated: dict[str, Any] = {
        "origin": "regenerated",
        "seed": seed,
        "physics": physics,
        "mujoco": simulator.version(),
    }
    if made.exists() and can_make:
        return made, "cache", regenerated
    failure = "Downloads were switched off."
    if not offline:
        try:
            record = download.download(task.d4rl_file, original, progress=progress)
        except UserError as error:
            failure = str(error)
        else:
            return original, "download", {"origin": "d4rl", **record}
    if not can_make:
        raise UserError(f"There are no data for {task.name}. {failure}")
    regenerate.regenerate(task.name, made, physics=physics, seed=seed, progress=progress)
    return made, "regenerated", regenerated | {"download": failure}


def _finish(
    logged: LoggedTransitions,
    family: str,
    title: str,
    source: str,
    record: dict[str, Any],
    where: Scoring,
) -> LoadedData:
    transitions, transform = to_training(logged, family, str(record.get("path", title)))
    returns = d4rl.trajectory_returns(logged.rewards, logged.ends)
    whole = returns[:-1] if len(returns) > 1 and not logged.terminals[-1] else returns
    summary = {
        "title": title,
        "source": source,
        "rows": len(transitions),
        "trajectories": len(returns),
        "return_mean": float(np.mean(whole)),
        "return_std": float(np.std(whole)),
        "return_min": float(np.min(whole)),
        "return_max": float(np.max(whole)),
    }
    return LoadedData(
        transitions, title, source, summary | transform | record, where, float(np.mean(whole))
    )
