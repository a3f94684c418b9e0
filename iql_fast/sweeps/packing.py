"""From a sweep to its jobs: what one engine can train at once becomes one run.

An engine trains networks side by side that differ in their seeds and in the options that take one
value a seed; tasks, methods and all other options are the same for all of it. So the settings of a
task and method fall into groups, and the seeds of a group count up through it: its setting k has
the seeds

    seed + k * seeds ... seed + (k + 1) * seeds - 1

whichever job trains it. A seed ends bit for bit the same whatever is trained beside it, so how many
seeds a job has (``Spec.pack``) changes no result.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from iql_fast.runs import config
from iql_fast.runs.config import TrainConfig
from iql_fast.runs.method_options import per_seed_options
from iql_fast.support import digest
from iql_fast.support.errors import UserError
from iql_fast.sweeps import spec as specs
from iql_fast.sweeps.spec import Learner, Options, Spec, Task

#: What is said of seeds in the record of a sweep.
RULE = (
    "setting k of a group (the settings of a task and method that differ only in options of one "
    "value a seed) has the seeds seed + k * seeds to seed + (k + 1) * seeds - 1, packed or not"
)


@dataclass(frozen=True)
class Packed:
    """One job of a sweep: a run, and the settings that it trains side by side.

    Attributes:
        name: of its folder.
        task: what the sweep calls its data.
        settings: as the sweep varies them, one for as many seeds each.
        members: the runs that it does at once, one a setting, completed.
    """

    name: str
    task: str
    settings: tuple[Options, ...]
    members: tuple[TrainConfig, ...]

    @property
    def options(self) -> TrainConfig:
        """Of the run, completed."""
        return together(self.members)

    def record(self) -> dict[str, Any]:
        """What the record of a sweep says of it."""
        seeds = [seed for member in self.members for seed in member.seed_list]
        each = self.members[0].seeds
        return {
            "name": self.name,
            "folder": f"jobs/{self.name}",
            "task": self.task,
            "method": self.members[0].method,
            "seeds": seeds,
            "settings": [setting for setting in self.settings for _ in range(each)],
        }

    def parted(self, seed: int) -> list[Packed]:
        """Jobs for what comes before the setting that has this seed, for that alone, and for what
        comes after; of the same seeds as before."""
        at = next(i for i, member in enumerate(self.members) if seed in member.seed_list)
        bounds = [(0, at), (at, at + 1), (at + 1, len(self.members))]
        return [
            Packed(f"{self.name}.{i}", self.task, self.settings[a:b], self.members[a:b])
            for i, (a, b) in enumerate(bounds, 1)
            if a < b
        ]


def jobs_of(spec: Spec, where: str) -> list[Packed]:
    """The jobs of a sweep that tries given settings, in its order.

    Raises:
        UserError: an option is out of its range, or two settings are the same.
    """
    jobs = [
        job
        for task in spec.tasks
        for learner in spec.learners
        for job in _of_pair(spec, task, learner, where)
    ]
    names = [job.name for job in jobs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{where}: tasks: two would be trained in a folder {twice[0]}; rename one.")
    return jobs


def member(spec: Spec, task: Task, learner: Learner, setting: Options, where: str) -> TrainConfig:
    """The run of one setting alone with the first seeds, completed.

    Raises:
        UserError: an option is out of its range; names the task, the method and the setting.
    """
    shown = ", ".join(f"{name} {value}" for name, value in setting.items())
    at = f"{where}: {task.name}, {learner.method}" + (f", {shown}" if shown else "")
    run = config.with_options(specs.base(spec, task, learner, at), dict(setting), at)
    flat = config.flat(run)
    for name in per_seed_options(run.method):
        if len(flat[name]) > 1:
            raise UserError(f"{at}: {name} has {len(flat[name])} values; a setting has one.")
    try:
        return config.completed(run)
    except UserError as error:
        raise UserError(f"{at}: {error}") from None


def with_seed(run: TrainConfig, k: int) -> TrainConfig:
    """A run with the seeds of the setting k of its group."""
    return config.completed(replace(run, seed=run.seed + k * run.seeds))


def together(members: Sequence[TrainConfig]) -> TrainConfig:
    """The run that does several at once, completed.

    Args:
        members: alike but for seeds, which count up, and options of one value a seed.
    """
    first, flats = members[0], [config.flat(member) for member in members]
    vectors = {}
    for name in per_seed_options(first.method):
        values = [flat[name] for flat in flats]
        if any(value != values[0] for value in values):
            vectors[name] = [v for value in values for v in value for _ in range(first.seeds)]
    seeds = sum(member.seeds for member in members)
    return config.completed(config.with_options(first, {**vectors, "seeds": seeds}, "a packed job"))


def shown(run: TrainConfig, setting: Options) -> Options:
    """A setting with the values that its run has, one number where an option has one a seed."""
    flat, per_seed = config.flat(run), per_seed_options(run.method)
    return {name: flat[name][0] if name in per_seed else flat[name] for name in setting}


def label(task: str, method: str) -> str:
    """A name for folders."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", f"{task}-{method}").strip(".-") or "job"


def _of_pair(spec: Spec, task: Task, learner: Learner, where: str) -> list[Packed]:
    groups: dict[str, list[tuple[Options, TrainConfig]]] = {}
    seen: dict[str, Options] = {}
    names = list(dict.fromkeys(name for setting in learner.settings for name in setting))
    for setting in learner.settings:
        run = member(spec, task, learner, setting, where)
        whole = digest.of_json(config.flat(run))
        if whole in seen:
            raise UserError(
                f"{where}: {task.name}, {learner.method}: the settings {seen[whole]} and {setting} "
                "are the same."
            )
        seen[whole] = setting
        group = groups.setdefault(_engine(run), [])
        told = shown(run, dict.fromkeys(names))
        group.append((told, with_seed(run, len(group))))
    most = max(1, spec.pack // spec.seeds)
    parts = [group[i : i + most] for group in groups.values() for i in range(0, len(group), most)]
    name = label(task.name, learner.method)
    return [
        Packed(
            name if len(parts) == 1 else f"{name}-{i:0{len(str(len(parts)))}d}",
            task.name,
            tuple(setting for setting, _ in part),
            tuple(run for _, run in part),
        )
        for i, part in enumerate(parts, 1)
    ]


def _engine(run: TrainConfig) -> str:
    """What all that one engine trains has in common."""
    flat, per_seed = config.flat(run), per_seed_options(run.method)
    return digest.of_json({name: flat[name] for name in flat if name not in per_seed})
