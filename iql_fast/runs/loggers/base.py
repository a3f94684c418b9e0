"""What a logger is told of a run, and by which names it shows it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from iql_fast.runs.method_options import options_of_others

#: Name under which runs are gathered, where the tracker's own settings name no other.
PROJECT = "iql_fast"
#: Columns of a table that are shown, and as what; a table that is not named here shows all.
SHOWN = {
    "scores": {"score": "score", "return": "return"},
    "episodes": {"return": "episode_return"},
}
#: Columns that say what a row is of.
KEYS = ("step", "seed", "seconds")


class Row(NamedTuple):
    """What a run's table has of one step.

    Attributes:
        table: its name, ``"metrics"``, ``"scores"`` or ``"episodes"``; or ``"summary"``.
        step: of training.
        values: by the names that loggers show: ``"value_loss/seed0"``, ``"value_loss/mean"``.
    """

    table: str
    step: int
    values: dict[str, float]


class Told(NamedTuple):
    """A run at its beginning, or as it goes on.

    Attributes:
        name: of its folder.
        folder: where it is.
        settings: options, data, versions and machine, as JSON holds them.
        before: the tracker's own name for the run, where it went there before; None begins one.
    """

    name: str
    folder: Path
    settings: dict[str, Any]
    before: str | None


class Begun(NamedTuple):
    """A run in a tracker.

    Attributes:
        run: the tracker's own name for it, by which it goes on there.
        where: what a user reads to find it.
        goes_on: whether it is the one of before, with what it had.
    """

    run: str
    where: str
    goes_on: bool


class Logger(Protocol):
    """Takes the rows of a run. Any of the three may raise anything, or take its time."""

    def begin(self, run: Told) -> Begun:
        """Begin the run, or go on with it."""

    def rows(self, rows: Sequence[Row]) -> None:
        """Log these, steps increasing within a table."""

    def end(self, summary: Row | None) -> None:
        """The last call: the numbers that the run came to, or None where it was stopped."""


class Tracker(Logger, Protocol):
    """A logger of ``--log``, for which something may be missing.

    Attributes:
        settles: seconds after which what it was given is safe, should this process be killed.
    """

    settles: float

    @staticmethod
    def check() -> str | None:
        """What to tell the user before training.

        Raises:
            UserError: nothing could be logged like this; says what to do.
        """

    def abandon(self) -> None:
        """Called from another thread where one of the others does not return: let go of what would
        keep this process from ending."""


def rows_of(table: str, rows: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    """The rows of a run's table as loggers show them: those of a step together, with means over
    seeds where there are several; episodes, which end when they do, one by one. What a stage does
    not compute, NaN, is left out."""
    for step, group in groupby(rows, key=lambda row: int(row["step"])):
        if table == "episodes":
            for row in group:
                yield Row(table, step, _values([row], SHOWN[table]))
            continue
        of_step = list(group)
        shown = SHOWN.get(table) or {name: name for name in of_step[0] if name not in KEYS}
        values = _values(of_step, shown)
        for name in shown.values():
            own = [values[key] for row in of_step if (key := f"{name}/seed{row['seed']}") in values]
            if len(own) > 1:
                values[f"{name}/mean"] = sum(own) / len(own)
        yield Row(table, step, values)


def _values(rows: Sequence[Mapping[str, Any]], shown: Mapping[str, str]) -> dict[str, float]:
    return {
        f"{name}/seed{row['seed']}": value
        for column, name in shown.items()
        for row in rows
        if not math.isnan(value := float(row[column]))
    }


def settings(record: Mapping[str, Any]) -> dict[str, Any]:
    """What of a run's record (config.json) goes along with it: its options by name, without those
    of other methods, and beside them how it is scored, its data, and the software and machine."""
    others = options_of_others(record["options"].get("method", "iql"))
    options = {name: value for name, value in record["options"].items() if name not in others}
    kept = ("engine", "data", "scoring", "versions", "machine", "goes_on_from")
    return {**options, **{name: record[name] for name in kept if name in record}}


def results(summary: Mapping[str, Any]) -> Row:
    """The numbers of a run's summary: ``final_score/mean``, ``final_score/seed0``, ..."""
    numbers = {"seed_steps_per_second": float(summary["seed_steps_per_second"])}
    for kind, found in summary.get("scores", {}).items():
        numbers |= {f"{kind}_score/{name}": float(found[name]) for name in ("mean", "std")}
        for seed, score in found["per_seed"].items():
            numbers[f"{kind}_score/seed{seed}"] = float(score)
    return Row("summary", int(summary["training_steps"]), numbers)


def flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested settings as one level: ``data.title``."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= (
            flat(value, f"{above}{name}.") if isinstance(value, dict) else {above + name: value}
        )
    return found


def silence(url: str) -> str | None:
    """Why a server is not heard, by the proxies of this machine; None where it answers anything."""
    import requests

    try:
        requests.get(url, timeout=3, stream=True).close()
    except requests.RequestException as error:
        return f"{url} does not answer ({type(error).__name__})"
    return None
