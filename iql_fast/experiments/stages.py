"""What policy extraction costs beside TD learning: a question that the paper's discussion leaves.

V and the critics never read the policy, so it can be trained beside them, as the authors' code
does, or extracted when they are done, as the paper's algorithm 1 is written. Both ways V and Q end
the same, bit for bit. The difference is in time, since a stage of its own computes Q and V anew,
and in score, since the policy follows values that still move or values that stand.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from iql_fast import data, engines
from iql_fast.engines import Stage
from iql_fast.environments import scoring
from iql_fast.experiments.expectiles import Array
from iql_fast.runs import checkpoint, config, ensure
from iql_fast.runs.config import Departures, Evaluation, Records, TrainConfig
from iql_fast.runs.curves import by_seed, reference_lines, steps_axis
from iql_fast.runs.folder import RunFolder
from iql_fast.runs.rows import read_rows
from iql_fast.support import output
from iql_fast.support.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: What is timed: the name of a kind of step, and the networks that it trains.
KINDS = {
    "V and Q alone": Stage(("value", "critic")),
    "policy alone": Stage(("actor",)),
    "joint": Stage(),
}
#: How the policy is trained, and how a curve is drawn.
EXTRACTIONS: dict[Literal["joint", "after"], str] = {"joint": "C0", "after": "C1"}


@dataclass
class Stages:
    """What policy extraction costs beside TD learning, in time and in score: steps/s of either
    stage alone and of both jointly, and scores against time of training with the policy beside V
    and Q and after them. The runs that an interruption left are gone on with by the same
    command."""

    tasks: tuple[str, ...] = ("hopper-medium-v2", "halfcheetah-medium-v2")
    """tasks that can be scored here"""
    seeds: int = 2
    """networks trained at once"""
    steps: int = 100_000
    """updates of each network"""
    quick: bool = False
    """2,000 updates, one seed, short timings: to see the picture, not to be judged"""
    out: Path = Path("experiments")
    """folder of stages.png and stages.json, and of the runs, stages-TASK-joint and -after"""
    windows: int = 7
    """timings of each kind of step, in turn, whose median counts"""
    window_seconds: float = 1.0
    """how long one takes"""
    eval_episodes: int | None = None
    """episodes a network each time (default: the authors')"""
    eval_interval: int | None = None
    """steps from one evaluation to the next (default: the authors')"""
    log_interval: int = 1000
    """steps that a row of the runs' metrics is averaged over"""
    engine: Literal["auto", "cpu", "reference"] = "auto"
    """auto takes the fastest that works here and can train the stages apart"""
    threads: int = 0
    """CPU threads (0: all cores)"""
    eval_workers: int | None = None
    """worker processes of evaluations (default: all cores)"""
    offline: bool = False
    """do not try to download the datasets"""

    def run(self) -> None:
        """Train, time, print, draw.

        Raises:
            UserError: an option is out of range, a task cannot be scored here, or the folder holds
                something else.
        """
        if not self.tasks or self.windows < 1 or not self.window_seconds > 0:
            raise UserError(
                "--tasks needs at least one task, and --windows and --window-seconds must be "
                "positive."
            )
        runs = {
            (task, extraction): self.training(task, extraction)
            for task in dict.fromkeys(self.tasks)
            for extraction in EXTRACTIONS
        }
        out = output.Output(self.out, "stages")
        for key, options in runs.items():
            ensure.check(options, self.folder(*key))
        for key, options in runs.items():
            ensure.finished(options, self.folder(*key))
        results = [self.result(task, runs[task, "joint"]) for task in dict.fromkeys(self.tasks)]
        output.print_table(
            f"{runs[self.tasks[0], 'joint'].steps:,} updates of each network",
            ("", *(r.title for r in results)),
            [(name, *(cells(r)[name] for r in results)) for name in cells(results[0])],
        )
        for r in results:
            same = "the same bit for bit" if r.same_values else "NOT the same"
            print(f"{r.title}: V and Q of both ways are {same}.")
        figure = output.new_figure(16, 4.6 * len(results))
        for axes, r in zip(figure.subplots(len(results), 3, squeeze=False), results, strict=True):
            draw_speeds(axes[0], r)
            draw_scores(axes[1], r, against_time=True)
            draw_scores(axes[2], r, against_time=False)
        out.write(figure, {"seeds": self.seeds, "tasks": [record(r) for r in results]})

    def folder(self, task: str, extraction: str) -> Path:
        """Where a run is."""
        return self.out / f"stages-{task}-{extraction}"

    def training(self, task: str, extraction: Literal["joint", "after"]) -> TrainConfig:
        """The run of a task with the policy trained that way."""
        if self.eval_episodes == 0:
            raise UserError("--eval-episodes is 0; scores need at least 1.")
        options = config.completed(
            TrainConfig(
                task=task,
                steps=2_000 if self.quick else self.steps,
                seeds=1 if self.quick else self.seeds,
                engine=self.engine,
                threads=self.threads,
                offline=self.offline,
                departures=Departures(extraction=extraction),
                evaluation=Evaluation(
                    2 if self.quick else self.eval_episodes,
                    self.log_interval if self.quick else self.eval_interval,
                    self.eval_workers,
                ),
                records=Records(self.log_interval, 10 * self.log_interval),
            )
        )
        # Both ways on the same engine: one that can do both.
        after = replace(options, departures=Departures(extraction="after"))
        name, _ = engines.choose(self.engine, hyper=after.hyperparameters())
        return replace(options, engine=name)  # type: ignore[arg-type]

    def result(self, task: str, options: TrainConfig) -> Result:
        """Times a task's steps from the weights that training came to, and reads its runs."""
        folders = {x: RunFolder(self.folder(task, x)) for x in EXTRACTIONS}
        states = {x: checkpoint.load(f.checkpoints).state for x, f in folders.items()}
        scores = {}
        for extraction, folder in folders.items():
            steps, values = by_seed(read_rows(folder.scores), "score")
            before = options.updates if extraction == "after" else 0
            scores[extraction] = (steps - before, values)
        record = folders["joint"].read_config()
        return Result(
            title=record["data"]["title"],
            updates=options.updates,
            seeds=options.seeds,
            speeds=self.speeds(task, options, states["joint"]),
            scores=scores,
            final={x: f.read_summary()["scores"]["final"] for x, f in folders.items()},
            same_values=all(
                bool((tensor == states["after"][name]).all())
                for name, tensor in states["joint"].items()
                if name.startswith(("value", "critic", "target"))
            ),
            references=reference_lines(scoring.from_record(record["scoring"]), record["data"]),
        )

    def speeds(
        self, task: str, options: TrainConfig, state: Mapping[str, Any]
    ) -> dict[str, list[float]]:
        """Steps/s over all seeds of each kind of step, one number a window; the windows of all
        kinds come in turn, so that what else the machine does falls on all of them."""
        transitions = data.load(task, offline=self.offline).transitions
        trained = {}
        for kind, stage in KINDS.items():
            trained[kind] = engines.create(
                options.engine,
                options.network(transitions.obs_dim, transitions.act_dim),
                replace(options.hyperparameters(), stages=(stage,)),
                transitions,
                options.seed_list,
                threads=options.threads,
            )
            trained[kind].load_state_dict(state)

        def seconds(kind: str, steps: int) -> float:
            start = time.perf_counter()
            trained[kind].run(steps)
            return time.perf_counter() - start

        least = 0.2 if self.quick else self.window_seconds
        steps = {}
        for kind in KINDS:
            steps[kind] = 8
            while (taken := seconds(kind, steps[kind])) < least / 2:
                steps[kind] *= 2
            steps[kind] = max(1, round(steps[kind] * least / taken))
        found: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for _ in range(self.windows):
            for kind in KINDS:
                rate = steps[kind] * options.seeds / seconds(kind, steps[kind])
                found[kind].append(rate)
        return found


@dataclass(frozen=True)
class Result:
    """What came of one task.

    Attributes:
        updates: of each network.
        speeds: kind of step -> steps/s over all seeds, one a window.
        scores: extraction -> updates of the policy ``[T]`` and scores ``[T, seeds]``.
        final: extraction -> the run's final score (``iql_fast.runs.summary``).
        same_values: whether V, Q and the target critics are the same both ways, bit for bit.
        references: label -> score.
    """

    title: str
    updates: int
    seeds: int
    speeds: dict[str, list[float]]
    scores: dict[Literal["joint", "after"], tuple[Array, Array]]
    final: dict[Literal["joint", "after"], dict[str, Any]]
    same_values: bool
    references: dict[str, float]

    def speed(self, kind: str) -> float:
        """Steps/s over all seeds: the median of the windows."""
        return float(np.median(self.speeds[kind]))

    def minutes(self, kind: str, updates: float | Array) -> Any:
        """What so many steps of all seeds take at that speed."""
        return updates * self.seeds / self.speed(kind) / 60

    def minutes_at(self, extraction: str, policy_updates: Array) -> Array:
        """Minutes of training until the policy has had so many updates."""
        if extraction == "joint":
            return np.asarray(self.minutes("joint", policy_updates))
        td = self.minutes("V and Q alone", self.updates)
        return np.asarray(td + self.minutes("policy alone", policy_updates))

    @property
    def share(self) -> float:
        """Of a joint step's time, the part that it takes longer than one of V and Q alone."""
        return 1 - self.speed("joint") / self.speed("V and Q alone")


def cells(r: Result) -> dict[str, str]:
    """The lines of the printed table."""
    lines = {
        f"steps/s, {kind}": f"{r.speed(kind):.0f} ({min(rates):.0f} to {max(rates):.0f})"
        for kind, rates in r.speeds.items()
    }
    lines["the policy's share of a joint step"] = f"{100 * r.share:.0f}%"
    for extraction in EXTRACTIONS:
        score = r.final[extraction]
        lines[f"minutes, {extraction}"] = f"{r.minutes_at(extraction, np.array(r.updates)):.1f}"
        lines[f"score, {extraction}"] = f"{score['mean']:.1f} +- {score['std']:.1f}"
    return lines


def record(r: Result) -> dict[str, Any]:
    """A result as JSON holds it."""
    return {
        "title": r.title,
        "updates": r.updates,
        "seeds": r.seeds,
        "steps_per_second": r.speeds,
        "policy_share_of_a_joint_step": r.share,
        "v_and_q_same_bit_for_bit": r.same_values,
        "ways": {
            extraction: {
                "final": r.final[extraction],
                "policy_updates": updates.tolist(),
                "minutes": r.minutes_at(extraction, updates).tolist(),
                "scores": scores.tolist(),
            }
            for extraction, (updates, scores) in r.scores.items()
        },
    }


# Pictures.


def draw_speeds(axes: Axes, r: Result) -> None:
    """Steps/s of each kind of step, the lowest and the highest window as whiskers; beside them what
    one step of either stage comes to, one after the other."""
    names = [*KINDS, "one, then\nthe other"]
    both = [
        1 / (1 / td + 1 / policy)
        for td, policy in zip(r.speeds["V and Q alone"], r.speeds["policy alone"], strict=True)
    ]
    rates = [*r.speeds.values(), both]
    middle = np.array([np.median(x) for x in rates])
    whiskers = [middle - [min(x) for x in rates], [max(x) for x in rates] - middle]
    axes.bar(names, middle, yerr=whiskers, capsize=4, color=["C2", "C4", "C0", "C1"])
    for place, rate in enumerate(middle):
        axes.annotate(f"{rate:.0f}", (place, rate / 2), ha="center", va="center", color="white")
    axes.set(title=f"{r.title}: speed", ylabel=f"steps/s over {r.seeds} seed(s)")
    axes.grid(alpha=0.3, axis="y")
    axes.set_axisbelow(True)


def draw_scores(axes: Axes, r: Result, against_time: bool) -> None:
    """Scores, mean and range over seeds, against minutes of training or updates of the policy."""
    for extraction, color in EXTRACTIONS.items():
        updates, scores = r.scores[extraction]
        x = r.minutes_at(extraction, updates) if against_time else updates
        label = {"joint": "policy beside V and Q", "after": "policy after V and Q"}[extraction]
        axes.plot(x, scores.mean(1), ".-", color=color, label=label)
        axes.fill_between(x, scores.min(1), scores.max(1), color=color, alpha=0.2)
    for label, score in list(r.references.items())[:1]:  # the data's
        axes.axhline(score, linestyle="--", color="0.5", label=label.partition(" (")[0])
    if against_time:
        td = r.minutes("V and Q alone", r.updates)
        axes.axvline(td, linestyle=":", color=EXTRACTIONS["after"], label="V and Q are done")
        axes.set(xlabel="minutes of training, at the speeds on the left", xlim=(0, None))
    else:
        steps_axis(axes)
        axes.set(xlabel="updates of the policy", xlim=(0, None))
    axes.set(title=f"{r.title}: score", ylabel="normalised score")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
