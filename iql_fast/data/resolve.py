"""From a task's name to its data: the user's file, the cache, a download, or made anew."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from iql_fast.data import (
    binary_hands,
    columns,
    d4rl,
    download,
    minari,
    ogbench,
    own,
    regenerate,
)
from iql_fast.data.dataset import Transitions
from iql_fast.data.logged import LoggedTransitions
from iql_fast.data.transform import (
    Rewards,
    best,
    to_training,
    with_next_actions,
    with_trajectories,
)
from iql_fast.environments import scoring, simulator
from iql_fast.environments.scoring import Scoring
from iql_fast.environments.spaces import ActionBounds, Part
from iql_fast.policies.units import Units
from iql_fast.support.errors import UserError
from iql_fast.tasks import catalogue, presets
from iql_fast.tasks.catalogue import Physics, Task


@dataclass(frozen=True)
class Found:
    """Logged data as a source hands them on.

    Attributes:
        title: what reports call them; says so where they are regenerated or the user's own.
        source: ``"file"``, ``"cache"``, ``"download"``, ``"regenerated"``, ``"minari"`` or
            ``"ogbench"``.
        record: what a run's record says of where they come from.
        scoring: where policies trained on them are scored.
        bounds: of the actions; None: -1 and 1.
        rows: logged, of which the transitions may lack some.
        parts: of the observations, where they were flattened.
        notes: for the user, a sentence each.
    """

    logged: LoggedTransitions
    title: str
    source: str
    record: Mapping[str, Any]
    scoring: Scoring
    bounds: ActionBounds | None = None
    rows: int | None = None
    parts: list[Part] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class LoadedData:
    """A dataset ready to train on, and where it came from.

    Attributes:
        transitions: after the transforms.
        title: what reports call it; says so where the data are regenerated or the user's own.
        source: see ``Found``.
        record: everything a run's record needs to say about it.
        scoring: where policies trained on it are scored.
        behaviour_return: mean raw return of the trajectories (AntMaze's: share of the walks that
            reach the goal), the partial tail left out; None where rows do not follow each other.
        units: of the actions, where they are not those that networks train in.
        parts: of the observations, in the order in which they were flattened; None where they are
            plain vectors.
        notes: what its user should know, a sentence each.
    """

    transitions: Transitions
    title: str
    source: str
    record: dict[str, Any]
    scoring: Scoring
    behaviour_return: float | None
    units: Units = field(default_factory=Units)
    parts: list[Part] | None = None
    notes: tuple[str, ...] = ()


def cache_folder() -> Path:
    """Where datasets are kept: IQL_FAST_DATA, or the user's cache folder."""
    if own := os.environ.get("IQL_FAST_DATA"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "iql_fast"


def downloaded_path(task: Task) -> Path:
    """Where D4RL's own file of a task lies once it is downloaded; where D4RL has none, the user's
    once it was brought."""
    return cache_folder() / (task.d4rl_file or f"brought/{task.name}.npz")


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
    if not task.d4rl_file:
        return binary_hands.missing(task, downloaded_path(task))
    if offline:
        return "D4RL's file is not in the cache, and downloads were switched off"
    try:
        download.download(task.d4rl_file, downloaded_path(task))
    except UserError as error:
        return str(error)
    return ""


def is_others(task: str, dataset: Path | None = None) -> bool:
    """Whether a name is one of Minari's or OGBench's, in place of a task of the paper."""
    if dataset is not None or task in catalogue.names():
        return False
    return minari.is_id(task) or ogbench.is_name(task)


def preset_of(task: str) -> presets.Preset:
    """The preset that fits the data of a name: a task of the paper, or any other."""
    if task in catalogue.names():
        return presets.Preset(catalogue.get(task).family, "the authors' for the task")
    return presets.of_name(task)


@dataclass(frozen=True)
class Search:
    """Where data may come from, and what is said of them besides.

    Attributes:
        dataset: a file of the user's; nothing else is then looked for.
        env: Gymnasium id of the environment that scores data of the user's own, or Minari's.
        reference: returns that score 0 and 100 there.
        regenerate_ok: whether regenerated data may stand in for D4RL's.
        offline: do not try to download.
        seed: of regenerated data.
        physics: whose mechanics regenerated data are made in and policies scored in. A Minari
            dataset has those of the environment that it names.
        progress: show that of downloading and of making data.
    """

    dataset: Path | None = None
    env: str = ""
    reference: tuple[float, float] | None = None
    regenerate_ok: bool = True
    offline: bool = False
    seed: int = 0
    physics: Physics = "d4rl"
    progress: bool = True


def load(
    task: Task | str,
    *,
    dataset: Path | None = None,
    env: str = "",
    reference: tuple[float, float] | None = None,
    family: presets.Family | None = None,
    rewards: Rewards | None = None,
    regenerate_ok: bool = True,
    offline: bool = False,
    seed: int = 0,
    physics: Physics = "d4rl",
    progress: bool = True,
    top: float | None = None,
    next_actions: bool = False,
    trajectories: bool = False,
) -> LoadedData:
    """Find or make the data of a task, check them and transform them for training.

    Args:
        task: a task of the paper, a Minari id, or a name of OGBench's; ``""`` for a file alone.
        family: whose preset the data are transformed by; None: the one that fits their name.
        rewards: scale and shift of rewards in place of the authors'.
        top: share of the trajectories that are kept, those of the highest returns; None: all.
        next_actions: whether each row has the action of the next; rows that have no next are left
            out.
        trajectories: whether rows have their returns to go and their times; a last trajectory whose
            end was not logged is left out.
        dataset, env, reference, regenerate_ok, offline, seed, physics, progress: see ``Search``.

    Raises:
        UserError: no data could be had, or they are not usable; says why and what to do.
    """
    name = task if isinstance(task, str) else task.name
    search = Search(dataset, env, reference, regenerate_ok, offline, seed, physics, progress)
    found = find(name, search)
    rule, family = rewards or Rewards(), family or preset_of(name).family
    return _finish(found, family, rule, top, next_actions, trajectories)


def find(task: str, search: Search) -> Found:
    """The data of a name as they were logged; see ``load``."""
    if search.dataset is not None and _is_special(search.dataset):
        raise UserError(f"{search.dataset} is neither a file nor a folder: data are read twice.")
    if search.dataset is not None and not task:
        return _own_file(search.dataset, search.env, search.reference)
    if is_others(task, search.dataset):
        if minari.is_id(task):
            return _of_minari(task, search)
        return _of_ogbench(task, search)
    return _of_task(catalogue.get(task), search)


def _is_special(path: Path) -> bool:
    """Whether it is a pipe, a device or a socket, from which reading may never end."""
    return path.exists() and not path.is_file() and not path.is_dir()


def _of_ogbench(task: str, search: Search) -> Found:
    if search.env or search.reference:
        option = "--env" if search.env else "--reference"
        raise UserError(
            f"{option} is for data of your own: {task} is scored by success, in OGBench's own "
            "environment. Leave it out."
        )
    logged, bounds, where = ogbench.load(task, search.offline)
    record = {"origin": "ogbench", "ogbench_name": task}
    return Found(logged, task, "ogbench", record, where, bounds)


def _of_minari(task: str, search: Search) -> Found:
    loaded = minari.load(task, search.offline)
    record = {"origin": "minari", "minari_id": task}
    where = loaded.scoring
    if search.env:
        where = replace(
            _specified(search.env, int(loaded.transitions.lengths().max())),
            reference=where.reference,
        )
    if search.reference:
        where = replace(where, reference=search.reference)
    return Found(
        loaded.transitions,
        task,
        "minari",
        record,
        where,
        loaded.bounds,
        parts=loaded.parts if len(loaded.parts) > 1 else None,
        notes=loaded.notes,
    )


def _specified(env: str, longest: int) -> Scoring:
    """The environment of that id, named as Minari would: the parts of its observations are then
    sorted by their keys."""
    made = simulator.describe(env)
    try:
        spec = made.spec.to_json()
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(
            f"--env {env}: its specification cannot be written down ({error}). Register it with "
            "entry_point='MODULE:CLASS' and plain arguments."
        ) from None
    return Scoring(spec, "", made.horizon or longest)


def _own_file(path: Path, env: str, reference: tuple[float, float] | None) -> Found:
    """A file that is of no task: its sizes are its own, its environment the one that is named."""
    bounds = where = parts = None
    obs_dim = act_dim = horizon = None
    if env:
        made = simulator.describe(env)
        parts, bounds, horizon = made.parts, made.bounds, made.horizon
        obs_dim, act_dim = sum(size for _, size in parts), len(bounds.low)
    read = own.read(path, obs_dim, act_dim, horizon)
    notes = list(read.notes)
    group = columns.group_parts(path)
    if group and env and group != made.sorted_parts:
        raise UserError(
            f"{path}: 'observations' is a group of {_listed(group)}, but those of {env} are "
            f"{_listed(made.sorted_parts)}. Name its arrays as the environment does, or write one "
            "array in the environment's order."
        )
    parts = group or parts
    logged = read.transitions
    if bounds is None:
        bounds, note = _bounds_of(logged)
        notes.append(note)
    longest = int(logged.lengths().max())
    where = _scoring_of(env, reference, horizon or longest)
    if group and env:  # sorted by their keys, and so has the environment to be
        where = replace(_specified(env, longest), reference=reference)
    if env and horizon is None:
        notes.append(f"{env} has no time limit: episodes are cut after {longest} steps")
    return Found(
        logged,
        path.name,
        "file",
        {"path": str(path), "origin": "file"},
        where,
        bounds,
        read.rows,
        parts if parts and len(parts) > 1 else None,
        tuple(notes),
    )


def _listed(parts: list[Part]) -> str:
    return ", ".join(f"{path or 'one array'} [{size}]" for path, size in parts)


def _bounds_of(logged: LoggedTransitions) -> tuple[ActionBounds | None, str]:
    """The bounds of actions that nobody names."""
    largest = float(np.abs(logged.actions).max())
    if largest <= 1:
        return None, "actions are taken to have the bounds -1 and 1, which none exceeds"
    unknown = np.full(logged.actions.shape[1], np.inf, np.float32)
    return ActionBounds(-unknown, unknown), "nothing says which bounds actions have"


def _scoring_of(env: str, reference: tuple[float, float] | None, horizon: int) -> Scoring:
    if not env:
        note = "the data name no environment; --env GYM_ID does"
        return Scoring(None, note, horizon, reference)
    return Scoring(env, "", horizon, reference)


def _of_task(task: Task, search: Search) -> Found:
    where = scoring.of_task(task, search.physics)
    path, source, record, notes = _file(task, search)
    environment = task.environment
    if environment.binary:
        read = binary_hands.read(path, task)
        rows, logged, notes = read.rows, read.transitions, (*notes, *read.notes)
    elif search.dataset is None or download.is_d4rls_own(path):
        steps = d4rl.read(path, environment.obs_dim, environment.act_dim)
        rows, logged = len(steps.rewards), d4rl.transitions(steps, environment.horizon)
    else:
        read = own.read(path, environment.obs_dim, environment.act_dim, environment.horizon)
        rows, logged, notes = read.rows, read.transitions, (*notes, *read.notes)
    titles = {"d4rl": "", "regenerated": " (regenerated)", "file": f" ({path.name})"}
    title = task.name + titles[record["origin"]]
    return Found(
        logged, title, source, {"path": str(path), **record}, where, rows=rows, notes=notes
    )


def _file(task: Task, search: Search) -> tuple[Path, str, dict[str, Any], tuple[str, ...]]:
    """(file, source, record, notes) of a task's data; the record's origin says whose they are."""
    if search.dataset is not None:
        return search.dataset, "file", {"origin": "file"}, ()
    original, made = downloaded_path(task), regenerated_path(task, search.seed, search.physics)
    if original.exists():
        return original, "cache", {"origin": "d4rl" if task.d4rl_file else "file"}, ()
    if not task.d4rl_file:
        raise UserError(binary_hands.missing(task, original))
    can_make = search.regenerate_ok and task.name in regenerate.available()
    regenerated: dict[str, Any] = {
        "origin": "regenerated",
        "seed": search.seed,
        "physics": search.physics,
        "mujoco": simulator.version(),
    }
    if made.exists() and can_make:
        return made, "cache", regenerated, ()
    failure = "Downloads were switched off."
    if not search.offline:
        try:
            record = download.download(task.d4rl_file, original, progress=search.progress)
        except UserError as error:
            failure = str(error)
        else:
            return original, "download", {"origin": "d4rl", **record}, ()
    if not can_make:
        raise UserError(f"There are no data for {task.name}. {failure}")
    regenerate.regenerate(
        task.name,
        made,
        physics=search.physics,
        seed=search.seed,
        progress=search.progress,
    )
    why = f"the data are regenerated, since D4RL's own could not be had: {failure}"
    return made, "regenerated", regenerated | {"download": failure}, (why,)


def _finish(
    found: Found,
    family: presets.Family,
    rewards: Rewards,
    top: float | None,
    next_actions: bool,
    trajectories: bool,
) -> LoadedData:
    logged = found.logged
    where = str(found.record.get("path", found.title))
    kept, chosen = (logged, "") if top is None else best(logged, top, where)
    transitions, units, transform, notes = to_training(kept, family, where, found.bounds, rewards)
    notes = (*notes, chosen) if chosen else notes
    if next_actions:
        transitions, said = with_next_actions(transitions, kept, where)
        notes = (*notes, said)
    if trajectories:
        transitions, said = with_trajectories(transitions, kept, where)
        notes = (*notes, said)
    summary: dict[str, Any] = {
        "title": found.title,
        "source": found.source,
        "rows": len(transitions),
        "rows_logged": found.rows or len(transitions),
        "trajectories": int(logged.ends[:-1].sum()) + 1,
        "return_mean": None,
    }
    if logged.ordered:
        returns = logged.walk_returns() if family == "antmaze" else logged.whole_returns()
        summary |= {
            "return_mean": float(np.mean(returns)),
            "return_std": float(np.std(returns)),
            "return_min": float(np.min(returns)),
            "return_max": float(np.max(returns)),
        }
    notes = (*found.notes, *notes)
    record = summary | transform | dict(found.record) | {"family": family, "notes": list(notes)}
    return LoadedData(
        transitions,
        found.title,
        found.source,
        record,
        found.scoring,
        summary["return_mean"],
        units,
        found.parts,
        notes,
    )
