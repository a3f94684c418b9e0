"""What a page tells of each single run: settings, data, versions, and how to do it again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from iql_fast import methods
from iql_fast.environments import simulator
from iql_fast.reports import pictures
from iql_fast.reports.jobs import Job
from iql_fast.reports.pictures import Picture
from iql_fast.runs import completeness, config, normal, settings
from iql_fast.runs.method_options import option_of, own_settings
from iql_fast.runs.schedule import Schedule
from iql_fast.runs.standing import Standing
from iql_fast.support.errors import UserError
from iql_fast.support.files import read_json

#: Names and values, for people.
Facts = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Details:
    """Of one run.

    Attributes:
        verdict: where its score lies among our own runs'.
        failure: what the loss came from that was not finite; empty where none was.
        picture: of an episode; a sentence where there is none.
    """

    name: str
    path: str
    verdict: str
    notes: Sequence[str]
    failure: Facts
    command: str
    data: Facts
    scoring: Facts
    software: Facts
    machine: Facts
    picture: Picture | str


def of_run(name: str, run: Standing, filmed: bool) -> Details:
    """See ``pictures.of_run`` for ``filmed``."""
    record = run.record
    came_from = record.get("goes_on_from")
    before = came_from.get("path") if isinstance(came_from, dict) else None
    data = {key: value for key, value in record["data"].items() if key != "notes"}
    where = dict(record["scoring"]) | {"published": None}
    if run.scoring.environment is not None:
        where["environment"] = simulator.label(run.scoring.environment)
    machine = record.get("machine")
    engine = {"engine": record["engine"], "chosen since": record.get("engine_because")}
    return Details(
        name,
        str(run.folder.path),
        normal.sentence(run),
        notes(run),
        list(facts(_failure(run))),
        settings.command(run.options, before if isinstance(before, str) else None),
        list(facts(data)),
        list(facts(where)),
        list(facts(record.get("versions"))),
        list(facts(engine | (machine if isinstance(machine, dict) else {}))),
        pictures.of_run(run, filmed),
    )


def notes(run: Standing) -> list[str]:
    """What its reader should know, a sentence each."""
    schedule = Schedule(run.options, run.scoring.environment is not None)
    found = [*completeness.metrics(run.folder, schedule, run.step).notes, *run.scores.notes]
    told = run.record["data"].get("notes")
    return [*found, *(map(str, told) if isinstance(told, list) else ())]


def _failure(run: Standing) -> dict[str, Any]:
    if run.state != "failed":
        return {}
    try:
        told = read_json(run.folder.failure, f"{run.folder.path} failed")
    except UserError as error:
        return {"failure": str(error)}
    statistics = told.pop("statistics", None)
    return told | (statistics if isinstance(statistics, dict) else {})


def facts(record: Any, above: str = "") -> Iterator[tuple[str, str]]:
    """The values of a record, which may be anything, by their names; what is nothing is left
    out."""
    if not isinstance(record, Mapping):
        return
    for key, value in record.items():
        name = f"{above}{str(key).replace('_', ' ')}"
        if isinstance(value, Mapping):
            yield from facts(value, f"{name}: ")
        elif value not in (None, "", []):
            yield name, _shown(value)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    if isinstance(value, bool):
        return settings.shown(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Option:
    """A line of the table of settings.

    Attributes:
        values: of each run, for people.
        departs: whether each is another than the default.
    """

    name: str
    values: Sequence[str]
    departs: Sequence[bool]

    @property
    def tells(self) -> bool:
        """Whether it differs from the default, or between runs."""
        return any(self.departs) or len(set(self.values)) > 1


def options_of(jobs: Sequence[Job]) -> list[Option]:
    """Of the runs that there are, those that tell something first."""
    runs = [job.run for job in jobs if job.run is not None]
    used = {run.options.method for run in runs}
    others = {
        option_of(name, f.name)
        for name in methods.NAMES
        if name not in {*used, "iql"}
        for f in own_settings(methods.get(name))
    }
    each = [(config.flat(run.options), settings.departures(run.options)) for run in runs]
    names = (
        [x for x in config.flat(runs[0].options) if x not in {*others, *config.FREE}]
        if runs
        else []
    )
    found = [
        Option(
            name.replace("_", " "),
            [_option(values[name]) for values, _ in each],
            [name in departing for _, departing in each],
        )
        for name in names
    ]
    return sorted(found, key=lambda option: not option.tells)


def _option(value: Any) -> str:
    return "-" if value in (None, "", []) else settings.shown(value)
