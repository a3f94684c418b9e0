"""A search for the settings with the best score: Optuna asks, jobs answer.

Each task and method has a search of its own, whose trial k is a job with the seeds
``seed + k * seeds`` and those that count up from it. What was tried is kept in ``search.json``,
from which a search that was killed is built up again and goes on with the trials that were under
way. The sampler is seeded for each trial, so in sequence it ends as if nothing had happened. Side
by side the order in which trials end decides what the next are, so there two searches differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from iql_fast.runs.folder import RunFolder
from iql_fast.runs.method_options import per_seed_options
from iql_fast.support.errors import UserError
from iql_fast.support.files import read_json, write_json
from iql_fast.sweeps import packing
from iql_fast.sweeps.course import Course
from iql_fast.sweeps.jobs import Job, Outcome, Reached
from iql_fast.sweeps.packing import Packed
from iql_fast.sweeps.plan import Executor
from iql_fast.sweeps.spec import Learner, Options, Search, Spec, Task

if TYPE_CHECKING:
    import optuna

NAME = "search.json"


@dataclass
class Trial:
    """What is kept of a trial.

    Attributes:
        params: as Optuna has them: of choices the number.
        state: ``"begun"``, ``"finished"``, ``"pruned"`` or ``"failed"``.
        value: its score; None where there is none.
        scores: step -> mean over seeds.
    """

    params: dict[str, float]
    state: str = "begun"
    value: float | None = None
    scores: dict[int, float] = field(default_factory=dict)


class Study:
    """The search for the settings of a task and method."""

    def __init__(self, spec: Spec, task: Task, learner: Learner, where: str) -> None:
        assert spec.search is not None
        self.spec, self.task, self.learner, self.where = spec, task, learner, where
        self.search: Search = spec.search
        self.name = packing.label(task.name, learner.method)
        self.trials: list[Trial] = []
        self._asked: dict[int, Any] = {}
        self._first = {name: range_.ends()[0] for name, range_ in self.search.space.items()}
        for name, range_ in self.search.space.items():
            for value in range_.ends():
                self._run(self._first | {name: value})
        if not self._run(self._first).evaluation.eval_episodes:
            raise UserError(f"{where}: a search needs scores, but eval_episodes is 0.")

    @property
    def sample(self) -> Packed:
        """A job as those of the search will be."""
        return self._packed(0, self._first)

    def job(self, number: int) -> Packed:
        """Of a trial."""
        return self._packed(number, self._setting(self.trials[number].params))

    def begin(self, trials: Sequence[Trial]) -> None:
        """Build the study up from what was tried before."""
        import optuna

        self.trials = list(trials)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._study = optuna.create_study(direction="maximize", pruner=self._pruner())
        states = optuna.trial.TrialState
        for number, trial in enumerate(self.trials):
            if trial.state == "begun":
                self._study.enqueue_trial(trial.params)
                self._asked[number] = self._study.ask(self._distributions())
                continue
            kind = {"finished": states.COMPLETE, "pruned": states.PRUNED}.get(
                trial.state, states.FAIL
            )
            self._study.add_trial(
                optuna.trial.create_trial(
                    state=kind,
                    value=trial.value if kind != states.FAIL else None,
                    params=trial.params,
                    distributions=self._distributions(),
                    intermediate_values=trial.scores,
                )
            )

    def under_way(self) -> list[int]:
        """Trials that were begun and have not ended."""
        return [number for number, trial in enumerate(self.trials) if trial.state == "begun"]

    def ask(self) -> int | None:
        """The number of a new trial; None where all have been begun."""
        if len(self.trials) >= self.search.trials:
            return None
        number = len(self.trials)
        self._study.sampler = self._sampler(number)
        asked = self._study.ask(self._distributions())
        self._asked[number] = asked
        self.trials.append(Trial(dict(asked.params)))
        return number

    def reached(self, number: int, scores: Sequence[tuple[int, float]]) -> bool:
        """Tell of scores; whether the trial is to be pruned."""
        trial, asked = self.trials[number], self._asked[number]
        new = [(step, score) for step, score in scores if step not in trial.scores]
        told = set(self._study.trials[asked.number].intermediate_values)
        for step, score in scores:
            trial.scores[step] = score
            if step not in told:
                asked.report(score, step)
        return bool(new) and self.search.pruner != "none" and bool(asked.should_prune())

    def tell(self, number: int, outcome: Outcome, run: RunFolder) -> None:
        """Tell of a trial's end."""
        import optuna

        trial, asked = self.trials[number], self._asked.pop(number)
        states = optuna.trial.TrialState
        if outcome.kind == "finished":
            self.finish(trial, run)
            self._study.tell(asked, trial.value)
        elif outcome.kind == "stopped":
            trial.state = "pruned"
            trial.value = list(trial.scores.values())[-1] if trial.scores else None
            self._study.tell(asked, state=states.PRUNED)
        else:
            trial.state = "failed"
            self._study.tell(asked, state=states.FAIL)

    def finish(self, trial: Trial, run: RunFolder) -> None:
        """Take the score of a finished run."""
        told = run.read_summary().get("scores")
        if told is None:
            raise UserError(f"{run.path} was not scored: there is nothing to search for.")
        trial.state, trial.value = "finished", float(told[self.search.score]["mean"])

    def _setting(self, params: dict[str, float]) -> Options:
        space = self.search.space
        return {
            name: space[name].choices[int(value)] if space[name].choices else value
            for name, value in params.items()
        }

    def _run(self, setting: Options) -> Any:
        return packing.member(self.spec, self.task, self.learner, setting, self.where)

    def _packed(self, number: int, setting: Options) -> Packed:
        digits = len(str(max(self.search.trials - 1, 1)))
        run = packing.with_seed(self._run(setting), number)
        told = packing.shown(run, setting)
        return Packed(f"{self.name}-{number:0{digits}d}", self.task.name, (told,), (run,))

    def _distributions(self) -> dict[str, optuna.distributions.BaseDistribution]:
        from optuna import distributions

        found: dict[str, distributions.BaseDistribution] = {}
        whole = self._whole()
        for name, range_ in self.search.space.items():
            if range_.choices:
                found[name] = distributions.CategoricalDistribution(range(len(range_.choices)))
            elif name in whole:
                low, high = int(range_.low or 0), int(range_.high or 0)
                found[name] = distributions.IntDistribution(low, high, log=range_.log)
            else:
                low_, high_ = float(range_.low or 0), float(range_.high or 0)
                found[name] = distributions.FloatDistribution(low_, high_, log=range_.log)
        return found

    def _whole(self) -> set[str]:
        """Options of the space that are whole numbers."""
        run = self._run(self._first)
        per_seed = per_seed_options(run.method)
        told = packing.shown(run, self._first)
        return {name for name, value in told.items() if type(value) is int} - per_seed

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        from optuna import samplers

        seed = int(np.random.SeedSequence((self.spec.seed, number)).generate_state(1)[0])
        if self.search.sampler == "random":
            return samplers.RandomSampler(seed=seed)
        return samplers.TPESampler(n_startup_trials=self.search.startup, seed=seed)

    def _pruner(self) -> optuna.pruners.BasePruner:
        from optuna import pruners

        if self.search.pruner == "median":
            return pruners.MedianPruner(n_startup_trials=self.search.startup)
        if self.search.pruner == "halving":
            return pruners.SuccessiveHalvingPruner()
        return pruners.NopPruner()


class SearchPlan:
    """A plan (``iql_fast.sweeps.plan``) that asks the studies in turn."""

    def __init__(self, course: Course, studies: Sequence[Study], finish_pruned: bool) -> None:
        self.course, self.studies, self.finish_pruned = course, studies, finish_pruned
        self._turn = 0
        self._of: dict[str, tuple[Study, int]] = {}
        self._waiting = [(study, n) for study in studies for n in study.under_way()]
        left = sum(study.search.trials - len(study.trials) for study in studies)
        self.known = left + len(self._waiting)
        self.seed_steps = self.known * course.job(studies[0].sample).seed_steps
        self._finishing = False

    def next(self) -> Job | None:
        """See ``Plan``."""
        if self._waiting:
            return self._begun(*self._waiting.pop(0))
        for _ in self.studies:
            study = self.studies[self._turn % len(self.studies)]
            self._turn += 1
            if (number := study.ask()) is not None:
                return self._begun(study, number)
        if self.finish_pruned and not self._finishing and not self._of:
            self._finishing = True
            self._waiting = [
                (study, n)
                for study in self.studies
                for n, trial in enumerate(study.trials)
                if trial.state == "pruned"
            ]
            self.known += len(self._waiting)
            steps = self.course.job(self.studies[0].sample).seed_steps
            self.seed_steps += steps * len(self._waiting)
            return self.next()
        return None

    def _begun(self, study: Study, number: int) -> Job:
        packed = study.job(number)
        self._of[packed.name] = study, number
        if packed.name not in [job.name for job in self.course.book.jobs]:
            self.course.book.jobs.append(packed)
        self.write()  # before the job: one that is killed knows its setting
        self.course.book.write()
        return self.course.job(packed)

    def reached(self, job: Job, where: Reached) -> bool:
        """See ``Plan``."""
        study, number = self._of[job.name]
        if self._finishing or not where.scores:
            return False
        return study.reached(number, where.scores)

    def ended(self, job: Job, outcome: Outcome) -> None:
        """See ``Plan``."""
        study, number = self._of.pop(job.name)
        run, trial = RunFolder(job.folder), study.trials[number]
        if not self._finishing:
            study.tell(number, outcome, run)
        elif outcome.kind == "finished":
            study.finish(trial, run)
        if trial.state == "pruned":
            self.course.states[job.name] = "pruned"
        self.write()
        self.course.ended(study.job(number), outcome)

    def write(self) -> None:
        """What was tried."""
        path = self.course.book.folder / NAME
        write_json(path, {s.name: [asdict(trial) for trial in s.trials] for s in self.studies})


def studies_of(spec: Spec, where: str) -> list[Study]:
    """The searches of a sweep.

    Raises:
        UserError: Optuna is missing, or an end of a range is wrong for a task or method.
    """
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise UserError(
            "A search needs Optuna, which is not installed: pip install 'iql-fast[sweep]'."
        ) from None
    return [Study(spec, task, learner, where) for task in spec.tasks for learner in spec.learners]


def train(
    course: Course, executor: Executor, studies: Sequence[Study], finish_pruned: bool
) -> None:
    """Search; see ``SearchPlan``."""
    stored = _stored(course.book.folder / NAME)
    for study in studies:
        before = stored.get(study.name, [])
        for trial in before:  # what failed is tried again
            trial.state = "begun" if trial.state == "failed" else trial.state
        study.begin(before)
        course.book.jobs += [study.job(number) for number in range(len(study.trials))]
        for number, trial in enumerate(study.trials):
            if trial.state == "pruned":
                course.states[study.job(number).name] = trial.state
    executor.run(SearchPlan(course, studies, finish_pruned))
    for study in studies:
        done = [(n, t) for n, t in enumerate(study.trials) if t.state == "finished"]
        if done:
            number, best = max(done, key=lambda pair: pair[1].value or -np.inf)
            told = ", ".join(f"{k} {v}" for k, v in study.job(number).settings[0].items())
            print(f"best    {study.name}: {best.value:.4g} with {told}")


def _stored(path: Path) -> dict[str, list[Trial]]:
    if not path.exists():
        return {}
    try:
        return {
            name: [
                Trial(
                    t["params"],
                    t["state"],
                    t["value"],
                    {int(step): float(score) for step, score in t["scores"].items()},
                )
                for t in trials
            ]
            for name, trials in read_json(path, f"{path.parent} holds no search").items()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error!r}). Bring back the file.") from None
