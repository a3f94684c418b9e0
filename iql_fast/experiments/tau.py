"""The trade-off that tau sets: a larger one comes nearer to the optimum of the data's support
(theorem 3) and is harder to fit. Score and value estimates against tau, all values of tau trained
at once in one run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from iql_fast import engines
from iql_fast.environments import scoring
from iql_fast.runs import config, ensure
from iql_fast.runs.config import Algorithm, Evaluation, Records, TrainConfig
from iql_fast.runs.curves import by_seed, reference_lines, steps_axis
from iql_fast.runs.folder import RunFolder
from iql_fast.runs.rows import read_rows
from iql_fast.support import output
from iql_fast.support.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TAUS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


@dataclass
class Tau:
    """Score and value estimates against tau, all values trained at once in one run, which the same
    command takes up again where it was interrupted."""

    task: str = "hopper-medium-v2"
    """task that can be scored here"""
    taus: tuple[float, ...] = TAUS
    """values of tau"""
    seeds: int = 2
    """networks for each value"""
    steps: int = 200_000
    """training steps"""
    quick: bool = False
    """10,000 steps, one seed, three episodes an evaluation: to see the picture, not to be judged"""
    out: Path = Path("experiments")
    """folder of tau-TASK.png and tau-TASK.json, and of the run, tau-TASK"""
    eval_episodes: int | None = None
    """episodes a network each time (default: the authors')"""
    eval_interval: int | None = None
    """steps from one evaluation to the next (default: the authors')"""
    log_interval: int = 1000
    """steps that a row of the run's metrics is averaged over"""
    engine: Literal["auto", "cuda", "cpu", "reference"] = "auto"
    """auto takes the fastest that works here"""
    threads: int = 0
    """CPU threads (0: all cores)"""
    eval_workers: int | None = None
    """worker processes of evaluations (default: all cores)"""
    offline: bool = False
    """do not try to download the dataset"""

    def run(self) -> None:
        """Train, print, draw.

        Raises:
            UserError: an option is out of range, the task cannot be scored here, or the folder
                holds something else.
        """
        options = self.training()
        name = f"tau-{self.task}"
        engines.choose(self.engine)
        out = output.Output(self.out, name)
        path = self.out / name
        ensure.finished(options, path)
        record = RunFolder(path).read_config()
        metrics, scores = (read_rows(p) for p in (RunFolder(path).metrics, RunFolder(path).scores))
        estimates = [
            Estimate.of(tau, self.seeds_of(i, options), metrics, scores)
            for i, tau in enumerate(self.taus)
        ]
        title = f"{record['data']['title']}, {options.steps:,} steps"
        output.print_table(
            title,
            ("tau", "score", "V(s)", "min target Q(s, a)", "share of weights at the clip"),
            [
                (
                    f"{e.tau:g}",
                    f"{np.mean(e.score):.1f} +- {np.std(e.score):.1f}",
                    f"{np.mean(e.value):.1f}",
                    f"{np.mean(e.q):.1f}",
                    f"{np.mean(e.clipped):.3f}",
                )
                for e in estimates
            ],
        )
        figure = output.new_figure(14, 9.5)
        axes = figure.subplots(2, 2)
        lines = reference_lines(scoring.from_record(record["scoring"]), record["data"])
        draw_scores(axes[0, 0], estimates, lines)
        draw_values(axes[0, 1], estimates)
        curves = [self.seeds_of(i, options) for i in range(len(self.taus))]
        draw_curves(axes[1, 0], self.taus, curves, scores, "score", "Score", "normalised score")
        draw_curves(
            axes[1, 1],
            self.taus,
            curves,
            metrics,
            "value",
            "V(s), mean over the data",
            "value (scaled rewards)",
        )
        figure.suptitle(title)
        out.write(
            figure,
            {"title": title, "run": str(path), "estimates": [vars(e) for e in estimates]},
        )

    def training(self) -> TrainConfig:
        """The run: one network for each tau, and that ``seeds`` times over."""
        if not self.taus or self.seeds < 1:
            raise UserError("--taus needs at least one value, and --seeds must be positive.")
        if self.eval_episodes == 0:
            raise UserError("--eval-episodes is 0; scores need at least 1.")
        seeds = 1 if self.quick else self.seeds
        return config.completed(
            TrainConfig(
                task=self.task,
                steps=10_000 if self.quick else self.steps,
                seeds=len(self.taus) * seeds,
                engine=self.engine,
                threads=self.threads,
                offline=self.offline,
                algorithm=Algorithm(expectile=self.taus * seeds),
                evaluation=Evaluation(
                    3 if self.quick else self.eval_episodes, self.eval_interval, self.eval_workers
                ),
                records=Records(self.log_interval, 10 * self.log_interval),
            )
        )

    def seeds_of(self, index: int, options: TrainConfig) -> tuple[int, ...]:
        """The seeds trained with ``taus[index]``."""
        return options.seed_list[index :: len(self.taus)]


@dataclass(frozen=True)
class Estimate:
    """What training with one tau came to, one number a seed: the mean over the last tenth of the
    steps (scores: at least the last evaluation)."""

    tau: float
    score: list[float]
    value: list[float]
    q: list[float]
    clipped: list[float]

    @staticmethod
    def of(
        tau: float,
        seeds: Sequence[int],
        metrics: Sequence[Mapping[str, str]],
        scores: Sequence[Mapping[str, str]],
    ) -> Estimate:
        """From the rows of a run's metrics.csv and scores.csv."""

        def last(rows: Sequence[Mapping[str, str]], column: str) -> list[float]:
            steps, values = by_seed(of_seeds(rows, seeds), column)
            late = steps > 0.9 * steps[-1]
            return [float(x) for x in values[late].mean(0)]

        return Estimate(
            tau,
            last(scores, "score"),
            last(metrics, "value"),
            last(metrics, "q"),
            last(metrics, "weight_clipped"),
        )


def of_seeds(rows: Sequence[Mapping[str, str]], seeds: Sequence[int]) -> list[Mapping[str, str]]:
    """The rows of those seeds."""
    wanted = set(map(str, seeds))
    return [row for row in rows if row["seed"] in wanted]


def draw_scores(axes: Axes, estimates: Sequence[Estimate], references: Mapping[str, float]) -> None:
    """Score against tau: each seed a dot, their mean a line."""
    places = range(len(estimates))
    for place, estimate in zip(places, estimates, strict=True):
        axes.plot([place] * len(estimate.score), estimate.score, "o", color="C0", alpha=0.4)
    axes.plot(places, [np.mean(e.score) for e in estimates], color="C0", label="mean over seeds")
    for i, (label, score) in enumerate(references.items()):
        axes.axhline(score, linestyle="--", color=f"C{i + 1}", label=label)
    axes.set(title="Score", ylabel="normalised score")
    _tau_axis(axes, estimates)


def draw_values(axes: Axes, estimates: Sequence[Estimate]) -> None:
    """Mean V and Q over batches, against tau."""
    places = range(len(estimates))
    axes.plot(places, [np.mean(e.value) for e in estimates], "o-", label="V(s)")
    axes.plot(places, [np.mean(e.q) for e in estimates], "s--", label="min target Q(s, a)")
    axes.set(title="Value estimates, mean over the data", ylabel="value (scaled rewards)")
    _tau_axis(axes, estimates)


def _tau_axis(axes: Axes, estimates: Sequence[Estimate]) -> None:
    """One place a value: on a linear axis the last would lie on each other."""
    axes.set_xticks(range(len(estimates)), [f"{e.tau:g}" for e in estimates])
    axes.set_xlabel(r"$\tau$")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)


def draw_curves(
    axes: Axes,
    taus: Sequence[float],
    seeds: Sequence[Sequence[int]],
    rows: Sequence[Mapping[str, str]],
    column: str,
    title: str,
    label: str,
) -> None:
    """A column against training steps, the mean over the seeds of each tau."""
    from matplotlib import colormaps

    for i, (tau, of_tau) in enumerate(zip(taus, seeds, strict=True)):
        steps, values = by_seed(of_seeds(rows, of_tau), column)
        shade: Any = colormaps["viridis"](i / max(len(taus) - 0.5, 1))
        axes.plot(steps, values.mean(1), color=shade, label=rf"$\tau$ = {tau:g}")
    axes.set(title=title, ylabel=label)
    steps_axis(axes)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
