"""Runs of one method with the same settings, over tasks: what they come to together, and how likely
they are to do better than others (Agarwal et al., NeurIPS 2021)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from iql_fast.runs import settings, statistics
from iql_fast.runs.standing import Standing
from iql_fast.runs.statistics import Estimate
from iql_fast.support.errors import UserError


class Problem(NamedTuple):
    """What scores have in common that may be compared: data, where policies are scored, and what a
    score is. The data's mean return tells apart those of one name."""

    title: str
    physics: str
    unit: str
    data_return: float | None

    @property
    def label(self) -> str:
        return self.title if self.physics == "d4rl" else f"{self.title}, {self.physics} physics"


@dataclass
class ScoreSet:
    """Scores of a method with its settings.

    Attributes:
        method: its title.
        settings: those that depart from the defaults and are not everybody's, for people.
        tasks: problem -> training seed -> final score.
        twice: how many scores were left out, of seeds that were there already.
    """

    method: str
    settings: str
    tasks: dict[Problem, dict[int, float]] = field(default_factory=dict)
    twice: int = 0

    @property
    def label(self) -> str:
        return f"{self.method}, {self.settings}" if self.settings else self.method

    @property
    def units(self) -> set[str]:
        return {problem.unit for problem in self.tasks}

    @property
    def scores(self) -> list[list[float]]:
        """Of each task, one a seed."""
        return [list(seeds.values()) for seeds in self.tasks.values()]

    def middle(self) -> Estimate | None:
        """Interquartile mean of all scores and its interval; None where they have not one unit, or
        are returns of several tasks, which are not on one scale."""
        if len(self.units) != 1 or (self.units == {"return"} and len(self.tasks) > 1):
            return None
        return statistics.middle(self.scores)

    def add(self, problem: Problem, scores: Mapping[int, float]) -> None:
        """Take in the scores of seeds; one that is there already counts once."""
        known = self.tasks.setdefault(problem, {})
        self.twice += len(known.keys() & scores.keys())
        self.tasks[problem] = {**scores, **known}


class Improvement(NamedTuple):
    """Of one set over another.

    Attributes:
        probability: that a score of the first is higher, mean over ``tasks``.
        left_out: labels of the tasks that only one of them has.
    """

    probability: Estimate
    tasks: list[str]
    left_out: list[str]


def problem_of(run: Standing) -> Problem:
    mean = run.record["data"]["return_mean"]
    return Problem(run.title, run.scoring.physics, run.scoring.unit, mean)


def shared_settings(runs: Iterable[Standing]) -> dict[str, Any]:
    """Those that depart from the defaults in all seeds of all runs, alike."""
    return settings.common(one for run in runs for one in settings.of_seeds(run.options))


def gathered(runs: Iterable[Standing], shared: Mapping[str, Any]) -> list[ScoreSet]:
    """The sets that runs with scores make up, in the order in which they come. The seeds of a run
    that have settings of their own are of several sets.

    Args:
        shared: settings of all runs, which need not be named.
    """
    found: dict[tuple[str, str], ScoreSet] = {}
    for run in runs:
        final = run.final
        for seed, own in zip(run.options.seed_list, settings.of_seeds(run.options), strict=True):
            if seed not in final:
                continue
            told = settings.label(settings.without(own, shared))
            one = found.setdefault((run.method, told), ScoreSet(run.method, told))
            one.add(problem_of(run), {seed: final[seed]})
    return list(found.values())


def improvement(first: ScoreSet, second: ScoreSet) -> Improvement | None:
    """How likely the first is to do better than the second; None where they share no task."""
    shared = [problem for problem in first.tasks if problem in second.tasks]
    if not shared:
        return None
    ours, theirs = ([list(side.tasks[p].values()) for p in shared] for side in (first, second))
    alone = first.tasks.keys() ^ second.tasks.keys()
    return Improvement(
        statistics.probability_of_improvement(ours, theirs),
        [problem.label for problem in shared],
        sorted({problem.label for problem in alone}),
    )


def one_of(sets: Sequence[ScoreSet], where: str) -> ScoreSet:
    """The set that all runs of one side belong to.

    Raises:
        UserError: they belong to several.
    """
    if len(sets) != 1:
        listed = "; ".join(one.label for one in sets)
        raise UserError(
            f"The runs {where} are of several methods or settings ({listed}), so that there is no "
            "one thing to hold against the other side. Name runs of one."
        )
    return sets[0]
