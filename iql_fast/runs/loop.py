"""The training loop: engine, evaluation, log and checkpoint, step by step.

Everything that a run computes falls on a grid of ``log_interval`` steps: a row of metrics is the
mean over one interval, evaluations and checkpoints come at its ends. So a run that was killed and
goes on from a checkpoint writes the same rows and ends with the same weights as one that was not.

Episodes may run in their worker processes while training goes on. What was reached in the meantime
then queues until it is their turn: scores are written in order, and a checkpoint only when all
scores up to it are.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from iql_fast import methods
from iql_fast.data import LoadedData
from iql_fast.engines import Engine, Metrics
from iql_fast.environments import simulator
from iql_fast.environments.episodes import Evaluation, EvaluationFailed, Evaluator
from iql_fast.policies.acting import from_state, with_units
from iql_fast.policies.units import Units
from iql_fast.runs import checkpoint, completeness, curves, normal, paths
from iql_fast.runs.checkpoint import Checkpoint
from iql_fast.runs.config import TrainConfig
from iql_fast.runs.finetuning import Ended
from iql_fast.runs.folder import RunFolder
from iql_fast.runs.loggers.mirror import Mirror
from iql_fast.runs.rows import StepTable
from iql_fast.runs.schedule import Schedule
from iql_fast.runs.summary import summarise
from iql_fast.support.errors import NonFiniteLoss, UserError
from iql_fast.support.files import write_json

CURVES_EVERY = 60.0  # seconds
#: Seconds after which the state is copied even where nothing is due: what an interruption loses.
COPY_EVERY = 1.0
#: Evaluations that may be open while training goes on: one whose last episodes are being run, and
#: one whose first episodes keep the other workers busy.
AHEAD = 2
EPISODE_COLUMNS = ("seed", "return", "length")
SCORE_COLUMNS = ("seed", "score", "return", "return_std", "episodes")


def _ignore(_step: int, _rate: float, _text: str) -> None:
    pass


def _relies_on_nothing(_of: Checkpoint) -> None:
    pass


@dataclass(eq=False)
class _Reached:
    """The end of an interval whose records are not complete yet."""

    checkpoint: Checkpoint
    evaluation: Evaluation | None
    save: bool  # the checkpoint is due


@dataclass
class Loop:
    """The training of one run, and what it writes."""

    config: TrainConfig
    folder: RunFolder
    engine: Engine
    data: LoadedData
    evaluator: Evaluator | None
    units: Units
    """of the environment, where the networks' are others"""
    policy: Mapping[str, Any]
    """what acts; see ``iql_fast.policies.acting.from_arrays``"""
    beside: bool = False
    """whether training goes on while episodes run"""
    say: Callable[[str], None] = print
    advance: Callable[[int, float, str], None] = _ignore
    """told of progress: step, steps/s (over all seeds), what to show"""
    identity: str | None = None
    """SHA-256 of the options that the run began with"""
    keep: Callable[[Checkpoint], None] = _relies_on_nothing
    """brings to the disk what a checkpoint relies on, before it is written"""
    episodes: Callable[[], Sequence[Ended]] | None = None
    """those that policies acted in and that ended since it was asked last, where they act"""
    spent: Mapping[str, float] = field(default_factory=dict)
    """seconds that a resumed run has taken so far, by what on"""

    def __post_init__(self) -> None:
        step = self.engine.step
        self.seconds = dict.fromkeys(("training", "evaluation", "records"), 0.0) | dict(self.spent)
        self.learner = self.config.learner()
        self.schedule = Schedule(self.config, self.evaluator is not None)
        self.metrics = StepTable(self.folder.metrics, ("seed", *self.columns, "seconds"))
        self.scores = StepTable(self.folder.scores, SCORE_COLUMNS)
        tables = [self.metrics, self.scores]
        if self.episodes is not None:
            self.acted = StepTable(self.folder.episodes, EPISODE_COLUMNS)
            tables.append(self.acted)
        for table in tables:
            table.cut_after(step)
        names = self.config.records.log
        self.mirror = Mirror(names, self.folder, step, lambda text: self.say(text))
        self.whole = self._checkpoint(step, self.engine.state_dict())
        self.reached: deque[_Reached] = deque()
        self.curves_drawn = self.copied = time.monotonic()

    def train(self) -> dict[str, Any]:
        """Train to the end and write the summary, which is returned.

        Raises:
            NonFiniteLoss: the last checkpoint stays; ``failure.json`` says what happened.
            KeyboardInterrupt: a checkpoint of the last interval was written.
            UserError: the disk is full, or a worker process died; earlier checkpoints stay.
        """
        try:
            with ExitStack() as stack:
                stack.callback(self.mirror.end)
                self._loop()
                summary = self._summary()
                write_json(self.folder.summary, summary)
                self._draw()
                self.mirror.end(summary)
        except UserError:
            self.folder.require()  # a run that was moved could not write its checkpoint either
            raise
        except OSError as error:
            self.folder.require()
            last = checkpoint.steps(self.folder.checkpoints)
            raise UserError(
                f"{self.folder.path} cannot be written ({error.strerror or error}). The checkpoint "
                f"of step {last[-1] if last else 0} is whole: free some space and go on with "
                f"--resume {self.folder.path}."
            ) from None
        return summary

    def _loop(self) -> None:
        try:
            while self.engine.step < self.config.total_steps:
                rate = self._interval()
                text = self._settle(AHEAD if self.beside else 0)
                self.advance(self.engine.step, rate, text)
            self._settle(0)
        except (KeyboardInterrupt, NonFiniteLoss, EvaluationFailed) as stop:
            if isinstance(stop, NonFiniteLoss):
                with suppress(EvaluationFailed):
                    self._settle(0)
            # Back to the end of the last whole interval, evaluation and rows included, from where
            # a resumed run falls into the same rhythm.
            saved = checkpoint.steps(self.folder.checkpoints)
            if not saved or saved[-1] < self.whole.step:
                self._save()
            if isinstance(stop, NonFiniteLoss):
                write_json(self.folder.failure, vars(stop))
            if isinstance(stop, EvaluationFailed):
                raise EvaluationFailed(
                    f"{stop} The run stopped at step {self.whole.step}; go on with --resume "
                    f"{self.folder.path}."
                ) from None
            raise

    def _interval(self) -> float:
        """Train to the next point of the grid, or to the end of a stage, and begin what is due
        there; steps/s."""
        interval = self.schedule.interval(self.engine.step)
        with self._timed("training") as elapsed:
            metrics = self.engine.run(interval)
            rate = interval * len(self.engine.seeds) / elapsed()
        step = self.engine.step
        save = self.schedule.saves(step)
        evaluator = self.evaluator if self.schedule.evaluates(step) else None
        with self._timed("records"):
            self._log(step, metrics)
            if self.episodes is not None:
                self._log_episodes(self.episodes())
            if time.monotonic() - self.curves_drawn > CURVES_EVERY:
                self._draw()
            if not save and evaluator is None and time.monotonic() - self.copied < COPY_EVERY:
                return rate
            state = self.engine.state_dict()
            self.copied = time.monotonic()
        with self._timed("evaluation"):
            evaluation = None if evaluator is None else self._evaluation(step, state, evaluator)
        self._queue(_Reached(self._checkpoint(step, state), evaluation, save))
        return rate

    def _checkpoint(self, step: int, state: dict[str, Tensor]) -> Checkpoint:
        return Checkpoint(step, state, dict(self.seconds), self.identity)

    def _queue(self, now: _Reached) -> None:
        """Add what was reached, in place of what has become superfluous by it: a copy at which
        nothing is due, or a checkpoint that would be removed as soon as it was written."""
        self.reached.append(now)
        unscored = [point for point in self.reached if point.evaluation is None]
        passing = [point for point in unscored[:-1] if not point.save]
        saved = [point for point in unscored if point.save]
        for point in passing + saved[: -checkpoint.KEPT]:
            self.reached.remove(point)

    def _settle(self, ahead: int) -> str:
        """Complete the records of what was reached, in order, as far as it has been scored; wait
        while more than ``ahead`` evaluations are open. Returns what to show of the last score."""
        text = ""
        while self.reached:
            first = self.reached[0]
            if first.evaluation is not None:
                unsettled = sum(point.evaluation is not None for point in self.reached)
                if unsettled <= ahead and not first.evaluation.done():
                    break
                with self._timed("evaluation"):
                    text = self._score(first.checkpoint.step, first.evaluation)
            seconds = first.checkpoint.seconds | {"evaluation": self.seconds["evaluation"]}
            self.whole = replace(first.checkpoint, seconds=seconds)
            if first.save:
                with self._timed("records"):
                    self._save()
            self.reached.popleft()
        return text

    def _save(self) -> None:
        self.keep(self.whole)
        checkpoint.save(self.folder.checkpoints, self.whole)

    @contextmanager
    def _timed(self, what: str) -> Iterator[Callable[[], float]]:
        start = time.perf_counter()
        try:
            yield lambda: time.perf_counter() - start
        finally:
            self.seconds[what] += time.perf_counter() - start

    def _log(self, step: int, metrics: Metrics) -> None:
        rates = self._actor_rates(step)
        rows = []
        for s, seed in enumerate(self.engine.seeds):
            values = {name: float(metrics[name][s]) for name in self.engine.metrics}
            values |= {name: float(x[s]) for name, x in rates.items()}
            row: dict[str, Any] = {"step": step, "seed": seed, **values}
            rows.append(row | {"seconds": round(self.seconds["training"], 3)})
        self.folder.require()
        self.metrics.append(rows)
        self.mirror.rows("metrics", rows)

    def _log_episodes(self, ended: Sequence[Ended]) -> None:
        rows = [dict(zip(self.acted.columns, episode, strict=True)) for episode in ended]
        if rows:
            self.acted.append(rows)
            self.mirror.rows("episodes", rows)

    @property
    def columns(self) -> tuple[str, ...]:
        """What is logged of an interval."""
        return (*self.engine.metrics, *self._actor_rates(0))

    def _actor_rates(self, step: int) -> dict[str, NDArray[np.float64]]:
        """The actor's learning rate after so many steps, where it has one that falls."""
        learner = self.learner
        steps: int | None = getattr(learner, "actor_schedule_steps", None)
        if steps is None:
            return {}
        rates = learner.per_seed("actor_lr", self.config.seeds)
        if steps:
            trained = learner.updates("actor", step)
            rates = rates * 0.5 * (1 + np.cos(np.pi * min(trained, steps) / steps))
        return {"actor_lr": rates}

    def _evaluation(
        self, step: int, state: Mapping[str, Tensor], evaluator: Evaluator
    ) -> Evaluation:
        """Begin the episodes of the policies in a state."""
        seeds = self.engine.seeds
        policies = [
            with_units(from_state(state, s, self.policy), self.units) for s in range(len(seeds))
        ]
        return evaluator.start(policies, seeds, step, self.config.evaluation.eval_episodes or 0)

    def _score(self, step: int, evaluation: Evaluation) -> str:
        """Record the scores of an evaluation; what to show of them."""
        seeds, returns = self.engine.seeds, evaluation.returns()
        if self.evaluator is not None and self.evaluator.layout is not None:
            title, layout = f"{self.data.title}, step {step:,}", self.evaluator.layout
            paths.draw(self.folder.paths, title, layout, seeds, evaluation.paths(), returns)
        scores = self.data.scoring.scores(returns, evaluation.successes())
        rows = []
        for s, seed in enumerate(seeds):
            rows.append(
                {
                    "step": step,
                    "seed": seed,
                    "score": float(scores[s].mean()),
                    "return": float(returns[s].mean()),
                    "return_std": float(returns[s].std()),
                    "episodes": returns.shape[1],
                }
            )
        self.scores.append(rows)
        self.mirror.rows("scores", rows)
        means = scores.mean(1)
        spread = f" +- {means.std():.1f} over {len(seeds)} seeds" if len(seeds) > 1 else ""
        text = f"score {means.mean():.1f}{spread}"
        self.say(f"step {step:>9,}  {text}")
        return text

    def _draw(self) -> None:
        title = methods.get(self.config.method).title
        lines = curves.reference_lines(self.data.scoring, self.data.record, title)
        curves.draw(
            self.folder.curves,
            self.data.title,
            self.folder.metrics,
            self.folder.scores,
            lines,
            self.data.scoring.unit,
            title,
            self.config.seam,
            curves.acted_scores(self.folder, self.data.scoring),
            normal.band(self.config, self.data.record, self.data.scoring, simulator.version()),
        )
        self.curves_drawn = time.monotonic()

    def _summary(self) -> dict[str, Any]:
        steps = self.config.total_steps
        scores = completeness.scores(self.folder, self.schedule, steps)
        metrics = completeness.metrics(self.folder, self.schedule, steps)
        summary: dict[str, Any] = {
            "title": self.data.title,
            "origin": self.data.record["origin"],
            "method": self.config.method,
            "steps": self.config.updates,
            "training_steps": steps,
            "seeds": list(self.engine.seeds),
            "seconds": {name: round(value, 2) for name, value in self.seconds.items()},
            "seed_steps_per_second": steps * self.config.seeds / self.seconds["training"],
            "behaviour_return": self.data.behaviour_return,
            "behaviour_score": None
            if self.data.behaviour_return is None or self.data.scoring.measure != "return"
            else self.data.scoring.score(self.data.behaviour_return),
            "unit": self.data.scoring.unit,
            "published": dict(self.data.scoring.published),
            "warnings": [*metrics.notes, *scores.notes],
        }
        if scores.rows:
            summary["scores"] = summarise(scores.rows, scores.due)
        at_seam = [row for row in scores.rows if int(row["step"]) == self.config.seam]
        if at_seam:
            summary["online"] = {
                "steps": self.config.online.online_steps,
                "before": summarise(at_seam, 1)["last"],
                "after": summary["scores"]["last"],
            }
        return summary
