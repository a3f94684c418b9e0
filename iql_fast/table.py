"""``python -m iql_fast.table``: table 1 of the paper, trained here, beside what was published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from iql_fast import engines
from iql_fast.data import resolve
from iql_fast.engines import Precision
from iql_fast.runs import config, ensure, table1
from iql_fast.runs.config import Evaluation, Records, TrainConfig
from iql_fast.support import cli
from iql_fast.support.errors import UserError
from iql_fast.support.files import write_json, written_beside
from iql_fast.support.output import Output
from iql_fast.tasks import catalogue
from iql_fast.tasks.catalogue import Physics


@dataclass
class Options:
    """Train every task of table 1 whose data can be had, and set the scores beside those that
    were published. What is in --out already is kept and what was begun is gone on with, so the same
    command finishes a table that was interrupted at any moment."""

    tasks: tuple[str, ...] = ()
    """tasks (default: those of table 1 whose data can be had)"""
    seeds: int = 10
    """seeds of each task, trained at once"""
    steps: int = 1_000_000
    """training steps"""
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
    engine: Literal["auto", "cuda", "cpu", "reference"] = "auto"
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
    runs = {name: options_of(name, options) for name in dict.fromkeys(chosen)}
    engines.choose(options.engine, options.precision)
    out = Output(options.out, "table")
    for name, run in runs.items():  # every error that can be seen now, before hours of training
        ensure.check(run, options.out / name)
    rows: list[table1.Row] = []
    for name, run in runs.items():
        print(f"{name}: task {len(rows) + 1} of {len(runs)}", flush=True)
        summary = ensure.finished(run, options.out / name)
        rows.append(table1.row(name, summary))
        report(out, rows, options, len(runs))  # after each task: what there is, is in the table
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


def options_of(name: str, options: Options) -> TrainConfig:
    """The training run of a task.

    Raises:
        UserError: there is no such task, or an option is out of range.
    """
    if options.eval_episodes == 0:
        raise UserError("--eval-episodes is 0; a table of scores needs at least 1.")
    return config.completed(
        TrainConfig(
            task=name,
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


def report(out: Output, rows: list[table1.Row], options: Options, wanted: int) -> None:
    """Write the table of the tasks that are done."""
    title = f"Table 1: {options.steps:,} steps, {options.seeds} seed(s)"
    if len(rows) < wanted:
        title += f" ({len(rows)} of {wanted} tasks so far)"
    note = (
        "Normalised scores; ours: mean of the last ten evaluations (or of as many as there were), "
        "+- standard deviation over seeds. Published scores are of a million steps on D4RL's own "
        "data"
    )
    if any(row.regenerated for row in rows):
        note += "; a score marked (regenerated) is on other data and does not compare with them"
    text = table1.markdown(rows, title, note + ".")
    with written_beside(options.out / "table.md") as partial:
        partial.write_text(text)
    table1.write_csv(options.out / "table.csv", rows)
    write_json(out.numbers, {"title": title, "rows": [vars(row) for row in rows]})
    table1.draw(out.picture, rows, title)


if __name__ == "__main__":
    cli.main(main)
