"""``python -m iql_fast.table``: table 1 of the paper, trained here, beside what was published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from iql_fast import methods
from iql_fast.data import resolve
from iql_fast.engines import Precision
from iql_fast.runs import config, ensure, table1
from iql_fast.runs.config import Evaluation, Records, TrainConfig
from iql_fast.runs.launch import check_learner
from iql_fast.support import cli
from iql_fast.support.errors import UserError
from iql_fast.support.files import write_json, written_beside
from iql_fast.support.output import Output
from iql_fast.tasks import catalogue
from iql_fast.tasks.catalogue import Physics

#: (task, method) -> its run.
Runs = Mapping[tuple[str, str], TrainConfig]


@dataclass
class Options:
    """Train every task of table 1 whose data can be had, and set the scores beside those that
    were published. What is in --out already is kept and what was begun is gone on with, so the same
    command finishes a table that was interrupted at any moment."""

    tasks: tuple[str, ...] = ()
    """tasks (default: those of table 1 whose data can be had)"""
    methods: tuple[Literal[(*methods.NAMES, "all")], ...] = ("iql",)  # type: ignore[valid-type]
    """columns of ours: methods of table 1, or all"""
    seeds: int = 10
    """seeds of each task, trained at once"""
    steps: int | None = None
    """training steps (default: each method's own, a million but for DT's)"""
    out: Path = Path("runs/table1")
    """folder of the runs, one a task, and of table.md, table.csv, table.json and table.png"""
    seed: int = 0
    """the first seed; the others count up from it"""
    eval_episodes: int | None = None
    """episodes a seed each time (default: the authors')"""
    eval_interval: int | None = None
    """steps from one evaluation to the next (default: the authors')"""
    log_interval: int = 1000
    """steps that a row of metrics.csv is averaged over; the other intervals are multiples of it"""
    checkpoint_interval: int = 10_000
    """steps from one checkpoint to the next: what an interruption costs at most"""
    engine: Literal["auto", "cuda", "graph", "cpu", "reference"] = "auto"
    """auto takes the fastest that works here"""
    precision: Precision = "fp32"
    """of the training arithmetic"""
    threads: int = 0
    """CPU threads (0: all cores)"""
    eval_workers: int | None = None
    """worker processes of evaluations (default: all cores)"""
    offline: bool = False
    """do not try to download datasets"""
    data_seed: int = 0
    """seed of regenerated data"""
    physics: Physics = "d4rl"
    """mechanics that policies are scored in and data regenerated in (gymnasium: locomotion only)"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line; check, train what is missing, print and write the table."""
    options = tyro.cli(Options, args=arguments, prog="python -m iql_fast.table")
    chosen = options.tasks or obtainable(options.offline)
    asked = methods.NAMES if "all" in options.methods else tuple(dict.fromkeys(options.methods))
    runs = {
        (name, method): options_of(name, method, options)
        for name in dict.fromkeys(chosen)
        for method in asked
    }
    out = Output(options.out, "table")
    for key, run in runs.items():  # every error that can be seen now, before hours of training
        check_learner(run, run.engine)
        ensure.check(run, options.out / folder_of(*key))
    ours: dict[str, list[table1.Row]] = {}
    for done, (key, run) in enumerate(runs.items()):
        name, method = key
        title = methods.get(method).title
        print(f"{name}, {title}: {done + 1} of {len(runs)}", flush=True)
        summary = ensure.finished(run, options.out / folder_of(*key))
        ours.setdefault(title, []).append(table1.row(name, summary))
        # After each run: what there is, is in the table.
        report(out, ours, options, done + 1, runs)
    print()
    print((options.out / "table.md").read_text())
    for kind in ("md", "csv", "json", "png"):
        print(options.out / f"table.{kind}")


def obtainable(offline: bool) -> tuple[str, ...]:
    """The tasks of table 1 whose data are here, can be made here or can be downloaded now; says
    which are left out, and why."""
    found = []
    for name in (task for group in table1.GROUPS.values() for task in group):
        reason = resolve.missing(catalogue.get(name), offline)
        if reason:
            print(f"{name} is left out: {reason}")
        else:
            found.append(name)
    return tuple(found)


def folder_of(name: str, method: str) -> str:
    """Of a run, within the table's: the task's own for IQL."""
    return name if method == "iql" else f"{name}-{method}"


def options_of(name: str, method: str, options: Options) -> TrainConfig:
    """The training run of a task.

    Raises:
        UserError: there is no such task, or an option is out of range.
    """
    if options.eval_episodes == 0:
        raise UserError("--eval-episodes is 0; a table of scores needs at least 1.")
    return config.completed(
        TrainConfig(
            task=name,
            method=method,
            steps=options.steps,
            seeds=options.seeds,
            seed=options.seed,
            engine=options.engine,
            precision=options.precision,
            threads=options.threads,
            offline=options.offline,
            data_seed=options.data_seed,
            physics=options.physics,
            evaluation=Evaluation(
                options.eval_episodes, options.eval_interval, options.eval_workers
            ),
            records=Records(options.log_interval, options.checkpoint_interval),
        )
    )


def report(out: Output, ours: table1.Ours, options: Options, done: int, runs: Runs) -> None:
    """Write the table of the runs that are done."""
    steps = " or ".join(f"{steps:,}" for steps in sorted({run.updates for run in runs.values()}))
    title = f"Table 1: {steps} steps, {options.seeds} seed(s)"
    if done < len(runs):
        title += f" ({done} of {len(runs)} runs so far)"
    note = (
        "Normalised scores; ours: mean of the last ten evaluations (or of as many as there were), "
        "+- standard deviation over seeds. Published scores are of a million steps on D4RL's own "
        "data"
    )
    if any(row.regenerated for rows in ours.values() for row in rows):
        note += "; a score marked (regenerated) is on other data and does not compare with them"
    text = table1.markdown(ours, title, note + ".")
    with written_beside(options.out / "table.md") as partial:
        partial.write_text(text)
    table1.write_csv(options.out / "table.csv", ours)
    numbers = {
        method: {
            "rows": [vars(row) for row in rows],
            "interquartile_mean": table1.aggregate(rows),
        }
        for method, rows in ours.items()
    }
    write_json(out.numbers, {"title": title, "methods": numbers})
    table1.draw(out.picture, ours, title)


if __name__ == "__main__":
    cli.main(main)
