"""What runs were asked for beyond the defaults: what tells them apart, and how to ask again."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from iql_fast.runs import config
from iql_fast.runs.config import TrainConfig
from iql_fast.runs.method_options import per_seed_options

#: Options that say which data are trained on and scored where.
SOURCE = ("task", "dataset", "env", "reference", "physics", "data_seed")
#: Options that change neither what is learned nor from what: how much is trained at once, on what,
#: and how often somebody looks.
_BESIDE = (
    *(*config.FREE, *SOURCE, "method", "seed", "seeds", "engine", "log_interval"),
    *("checkpoint_interval", "eval_episodes", "eval_interval", "capacity"),
)

Settings = Mapping[str, Any]


def defaults(options: TrainConfig) -> dict[str, Any]:
    """Option name -> its value where a run of the same method on the same data gives none."""
    a = options
    given = TrainConfig(
        *(a.task, a.dataset, a.env, a.reference, a.preset),
        physics=a.physics,
        method=a.method,
    )
    return config.flat(config.completed(given)) | {"preset": None}


def departures(options: TrainConfig) -> dict[str, Any]:
    """The options that differ from the defaults and change what a run computes.

    Args:
        options: completed (``config.completed``).
    """
    usual, own = defaults(options), config.flat(options)
    skipped = {*config.FREE, *SOURCE, "method"}
    return {x: own[x] for x in own if x not in skipped and own[x] != usual[x]}


def of_seeds(options: TrainConfig) -> list[dict[str, Any]]:
    """``of_seed`` of each."""
    return [of_seed(options, place) for place in range(options.seeds)]


def varying(options: TrainConfig) -> list[dict[str, Any]]:
    """Of each seed, the settings in which the seeds of the run differ, defaults among them."""
    own = config.flat(options)
    names = [
        name for name in own if name in per_seed_options(options.method) and len(set(own[name])) > 1
    ]
    return [{name: [own[name][place]] for name in names} for place in range(options.seeds)]


def of_seed(options: TrainConfig, place: int) -> dict[str, Any]:
    """The departures that make a learner of its own of the seed at that place: without what changes
    nothing of what is learned, and with its own value where seeds have different ones."""
    several, own = per_seed_options(options.method), config.flat(options)
    usual = defaults(options)
    found = {}
    for name in own.keys() - set(_BESIDE):
        value, default = own[name], usual[name]
        if name in several and len(value) > 1:
            value = [value[place]]
        if value != default:
            found[name] = value
    return {name: found[name] for name in own if name in found}


def common(each: Iterable[Settings]) -> dict[str, Any]:
    """The settings that all of them have, with the same values."""
    rows = list(each)
    first = rows[0] if rows else {}
    return {x: v for x, v in first.items() if all(x in row and row[x] == v for row in rows)}


def without(settings: Settings, others: Settings) -> dict[str, Any]:
    """The settings that are not among the others."""
    return {name: value for name, value in settings.items() if name not in others}


def label(settings: Settings) -> str:
    """For people: ``expectile 0.9, hidden 64 64``; empty where nothing departs."""
    return ", ".join(f"{name.replace('_', ' ')} {shown(v)}" for name, v in settings.items())


def shown(value: Any) -> str:
    """A value as the command line takes it; yes and no for those that it takes none for."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return " ".join(map(shown, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def command(options: TrainConfig, goes_on_from: str | None = None) -> str:
    """The command that does a run again, from whichever folder it is entered.

    Args:
        options: completed (``config.completed``).
        goes_on_from: the folder of the run whose steps are the first of this one.
    """
    own = config.flat(options)
    usual = config.flat(TrainConfig())
    wanted = {name: own[name] for name in ("task", "dataset", "env", "reference", "physics")}
    wanted = {name: value for name, value in wanted.items() if value != usual[name]}
    wanted |= {name: own[name] for name in ("data_seed", "method") if own[name] != usual[name]}
    wanted |= departures(options)
    if goes_on_from is None:
        return _spelled("python -m iql_fast.train", wanted)
    before = departures(replace(options, online=TrainConfig().online))
    changed = {x: v for x, v in wanted.items() if before.get(x) != v and x not in SOURCE}
    changed.pop("method", None)
    return _spelled(f"python -m iql_fast.finetune --run {shlex.quote(goes_on_from)}", changed)


def _spelled(program: str, options: Settings) -> str:
    parts = [program]
    for name, value in options.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            parts.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            values = value if isinstance(value, list | tuple) else [value]
            parts += [f"--{flag}", *(shlex.quote(str(v)) for v in values)]
    return " ".join(parts)
