"""What a page tells of runs, as plain values: its figures and its look are other files' matter."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from iql_fast.reports.jobs import Job
from iql_fast.runs import curves, normal, sets, settings, statistics
from iql_fast.runs.curves import Points
from iql_fast.runs.normal import Band
from iql_fast.runs.rows import read_rows
from iql_fast.runs.sets import Improvement, ScoreSet
from iql_fast.runs.standing import Standing
from iql_fast.runs.statistics import Estimate

#: The quantity that is not among a method's own.
SCORE = "score"
#: Sets whose every pair is compared.
MOST_COMPARED = 8


class Curve(NamedTuple):
    """A quantity in the course of training: steps ``[T]`` and values ``[T, seeds]``."""

    steps: NDArray[np.float64]
    values: NDArray[np.float64]


class Spread(NamedTuple):
    """Of scores over seeds."""

    mean: float
    std: float
    middle: Estimate


@dataclass(frozen=True)
class Group:
    """Seeds of one setting, which are counted and drawn together.

    Attributes:
        label: what tells it from the page's other groups.
        title: what its data are called.
        settings: those that not all of the page's runs have, for people.
        state: how far its runs came, for people.
        whole: whether all of them have ended.
        final, best: of the scores; None where there are none yet.
        tuned: scores before and after fine-tuning, for people; ``""`` where there was none.
        published: who reports which score; on D4RL's own data, which these may not be.
        data_score: of the mean return of the data; None where returns are not what is scored.
        curves: quantity -> its course.
        acted: steps and scores of single episodes that were acted in during training.
        seam: the step after which training went on in the environment.
        band: our own runs of this kind.
    """

    label: str
    title: str
    method: str
    settings: str
    unit: str
    state: str
    whole: bool
    steps: int
    seeds: int
    final: Spread | None
    best: Spread | None
    tuned: str
    published: Mapping[str, float]
    on_own_data: bool
    data_score: float | None
    curves: Mapping[str, Curve]
    acted: Points | None
    seam: int | None
    band: Band | None


@dataclass(frozen=True)
class Comparison:
    """Over tasks: the sets of the page's runs, and how likely each is to do better than another.

    Attributes:
        improvements: ``[i][j]`` of the set i over the set j; None where they share no task, and
            between a set and itself.
    """

    sets: Sequence[ScoreSet]
    improvements: Sequence[Sequence[Improvement | None]]


def common_settings(jobs: Sequence[Job]) -> dict[str, Any]:
    """The departures from the defaults that all jobs have."""
    return settings.common(one for job in jobs for one in job.settings)


def groups(jobs: Sequence[Job]) -> list[Group]:
    """In the order of the jobs. Of a sweep the seeds of one task, method and setting are one, also
    where they are of several runs; else those of one setting in one run."""
    shared = common_settings(jobs)
    members: dict[tuple[str, ...], list[tuple[Job, list[int]]]] = {}
    told: dict[tuple[str, ...], str] = {}
    for job in jobs:
        for seed, own in zip(job.seeds, job.settings, strict=True):
            where = (job.swept, job.method) if job.swept else (str(job.path),)
            key = (*where, json.dumps(own, sort_keys=True))
            told[key] = settings.label(settings.without(own, shared))
            seeds = members.setdefault(key, [])
            if not seeds or seeds[-1][0] is not job:
                seeds.append((job, []))
            seeds[-1][1].append(seed)
    labels = _labels([(members[key][0], told[key]) for key in members])
    return [
        _group(label, told[key], members[key]) for key, label in zip(members, labels, strict=True)
    ]


def _labels(firsts: Sequence[tuple[tuple[Job, list[int]], str]]) -> list[str]:
    """A name for each group, by its first member and its settings."""
    titles, ways = ({getattr(job, x) for (job, _), _ in firsts} for x in ("task", "method"))
    labels = []
    for (job, seeds), told in firsts:
        if job.swept:
            parts = [job.task] * (len(titles) > 1) + [job.method] * (len(ways) > 1) + [told]
            labels.append(", ".join(filter(None, parts)) or job.task)
        else:
            own = job.settings[job.seeds.index(seeds[0])]
            apart = settings.label(settings.without(own, settings.common(job.settings)))
            labels.append(f"{job.name}, {apart}" if apart else job.name)
    return labels


def _group(label: str, told: str, members: Sequence[tuple[Job, list[int]]]) -> Group:
    first = members[0][0]
    runs = [(job.run, seeds) for job, seeds in members if job.run is not None]
    run = runs[0][0] if runs else None
    return Group(
        label,
        first.task,
        first.method,
        told,
        "" if run is None else run.scoring.unit,
        _states([job for job, _ in members]),
        all(job.run is not None and job.run.state == "finished" for job, _ in members),
        min((r.step for r, _ in runs), default=0),
        sum(len(seeds) for _, seeds in members),
        _spread(runs, "final"),
        _spread(runs, "best"),
        "" if run is None else _tuned(runs),
        {} if run is None else run.scoring.published,
        run is not None and run.record["data"]["origin"] == "d4rl",
        None if run is None else _data_score(run),
        _curves(runs),
        None if run is None else curves.acted_scores(run.folder, run.scoring),
        None if run is None else run.options.seam,
        None if run is None else normal.band_behind(run),
    )


def state_of(job: Job) -> str:
    """How far a job's run came, for people."""
    run = job.run
    if run is None:
        return job.missing
    if run.state == "finished":
        return "finished"
    what = "failed" if run.state == "failed" else "not finished"
    return f"{what}: {run.step:,} of {run.options.total_steps:,} steps"


def _states(jobs: Sequence[Job]) -> str:
    if len(jobs) == 1:
        return state_of(jobs[0])
    ended = sum(job.run is not None and job.run.state == "finished" for job in jobs)
    others = [f"{job.name} {state_of(job)}" for job in jobs if state_of(job) != "finished"]
    return "; ".join([f"{ended} of {len(jobs)} runs finished", *others])


Members = Sequence[tuple[Standing, Sequence[int]]]


def _spread(runs: Members, kind: str) -> Spread | None:
    """Of the final or the best scores."""
    found = [
        run.summary[kind]["per_seed"][str(seed)]
        for run, seeds in runs
        for seed in seeds
        if run.summary is not None and str(seed) in run.summary[kind]["per_seed"]
    ]
    if not found:
        return None
    return Spread(float(np.mean(found)), float(np.std(found)), statistics.middle([found]))


def _tuned(runs: Members) -> str:
    """Scores at the seam and last, where training went on in the environment beyond it."""
    before, after = [], []
    for run, seeds in runs:
        at = {(int(row["step"]), int(row["seed"])): row["score"] for row in run.scores.rows}
        last = max((step for step, _ in at), default=0)
        for seed in seeds:
            if run.options.seam is not None and last > run.options.seam:
                before.append(float(at.get((run.options.seam, seed), "nan")))
                after.append(float(at.get((last, seed), "nan")))
    if not before:
        return ""
    return f"{np.mean(before):.1f} before, {np.mean(after):.1f} after"


def _data_score(run: Standing) -> float | None:
    mean = run.record["data"]["return_mean"]
    if mean is None or run.scoring.measure != "return":
        return None
    return float(run.scoring.score(float(mean)))


def _curves(runs: Members) -> dict[str, Curve]:
    """Of all seeds that have begun; a step counts where all of them have come there."""
    tables: dict[str, list[Curve]] = {}
    for run, seeds in runs:
        if run.scores.rows:
            tables.setdefault(SCORE, []).append(_of_seeds(run.scores.rows, SCORE, seeds))
        rows = read_rows(run.folder.metrics) if run.folder.metrics.exists() else []
        for name in [*rows[0]][2:-1] if rows else []:
            known = [row for row in rows if row[name] != "nan"]
            if known:
                tables.setdefault(name, []).append(_of_seeds(known, name, seeds))
    found = {name: _side_by_side(parts) for name, parts in tables.items()}
    return {name: curve for name, curve in found.items() if len(curve.steps)}


def _of_seeds(rows: curves.Rows, name: str, seeds: Sequence[int]) -> Curve:
    own = [row for row in rows if int(row["seed"]) in seeds]
    return Curve(*curves.by_seed(own, name))


def _side_by_side(parts: Sequence[Curve]) -> Curve:
    steps = parts[0].steps
    for part in parts[1:]:
        steps = np.intersect1d(steps, part.steps)
    return Curve(steps, np.hstack([p.values[np.isin(p.steps, steps)] for p in parts]))


def comparison(jobs: Sequence[Job]) -> Comparison:
    """Of all runs with scores. Of many sets only the best are compared with each other."""
    runs = [job.run for job in jobs if job.run is not None and job.run.final]
    found = sets.gathered(runs, sets.shared_settings(runs))

    def best_first(one: ScoreSet) -> float:
        middle = one.middle()
        return -float("inf") if middle is None else middle.value

    if len(found) > MOST_COMPARED:
        found = sorted(found, key=best_first, reverse=True)
    compared = found[:MOST_COMPARED]
    matrix = [[None if a is b else sets.improvement(a, b) for b in compared] for a in compared]
    return Comparison(found, matrix)
