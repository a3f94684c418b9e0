"""``python -m iql_fast.table``: a table of the paper, trained here, beside what was published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import tyro

from iql_fast import finetune, methods
from iql_fast.data import resolve
from iql_fast.engines import Precision
from iql_fast.runs import config, ensure, loggers, table1, table2
from iql_fast.runs.config import Evaluation, Records, TrainConfig
from iql_fast.runs.folder import RunFolder
from iql_fast.runs.launch import check_learner
from iql_fast.runs.tables import PaperTable
from iql_fast.support import cli
from iql_fast.support.errors import UserError
from iql_fast.support.files import write_json, written_beside
from iql_fast.support.output import Output
from iql_fast.sweeps import datasets, executors
from iql_fast.sweeps.course import require_all
from iql_fast.sweeps.executors import On
from iql_fast.sweeps.jobs import Job, Outcome
from iql_fast.sweeps.plan import Listed
from iql_fast.sweeps.storage import Storage
from iql_fast.tasks import catalogue
from iql_fast.tasks.catalogue import Physics

#: (task, method) -> its run.
Runs = Mapping[tuple[str, str], TrainConfig]


@dataclass
class Options:
    """Train every task of table 1 whose data can be had, or with --fine-tuning of table 2, and set
    the scores beside those that were published. What is in --out already is kept and what was begun
    is gone on with, so the same command finishes a table that was interrupted at any moment."""

    fine_tuning: bool = False
    """table 2: training on the dataset, then in the environment, scored before and after"""
    published: bool = False
    """print the table as it was published, and train nothing"""
    tasks: tuple[str, ...] = ()
    """tasks (default: those of the table); one whose data cannot be had is named and left out"""
    methods: tuple[Literal[(*methods.NAMES, "all")], ...] = ("iql",)  # type: ignore[valid-type]
    """columns of ours: methods of the table, or all; with --fine-tuning iql, awac and cql"""
    seeds: int = 10
    """seeds of each task, trained at once"""
    steps: int | None = None
    """training steps on the dataset (default: each method's own, a million but for DT's; with
    --fine-tuning 25,000 on the binary hands)"""
    online_steps: int | None = None
    """steps in the environment, with --fine-tuning (default: a million)"""
    out: Path | None = None
    """folder of the runs, one a task, and of table.md, table.csv, table.json and table.png
    (default: runs/table1, or runs/table2 with --fine-tuning)"""
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
    log: tuple[str, ...] = ()
    """trackers beside metrics.csv and TensorBoard: wandb, mlflow, trackio (docs/logging.md)"""
    on: On = "sequence"
    """where runs are trained: one after the other, or side by side on Ray, each on --threads cores
    (default there: 1); auto: on Ray where it is installed. docs/sweeps.md says more"""
    address: str | None = None
    """of a Ray cluster (default: a Ray on this machine)"""
    storage: str | None = None
    """where runs are kept for all machines of a cluster, as fsspec spells it"""

    @property
    def table(self) -> PaperTable:
        """The one that is asked for."""
        if self.fine_tuning:
            return table2
        return table1

    @property
    def folder(self) -> Path:
        return self.out or Path("runs") / ("table2" if self.fine_tuning else "table1")

    @property
    def asked_methods(self) -> tuple[str, ...]:
        """Each once; all that the table can have, where all are asked for."""
        able = (n for n in methods.NAMES if methods.get(n).explores or not self.fine_tuning)
        return tuple(able if "all" in self.methods else dict.fromkeys(self.methods))


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line; check, train what is missing, print and write the table."""
    options = tyro.cli(Options, args=arguments, prog="python -m iql_fast.table")
    if options.published:
        title = f"Table {2 if options.fine_tuning else 1} as it was published"
        note = f"Normalised scores {options.table.PUBLISHED}."
        print(options.table.markdown({}, title, note))
        return
    asked = runs_of(options)
    out = Output(options.folder, "table")
    for key, run in asked.items():  # every error that can be seen now, before hours of training
        check_learner(run, run.engine)
        loggers.check(run.records.log)
        ensure.check(run, options.folder / folder_of(*key))
    runs = with_data(asked, options)
    failures = trained(runs, out, options)
    print()
    if len(failures) == len(runs):
        require_all(failures, len(runs))
    print((options.folder / "table.md").read_text())
    for kind in ("md", "csv", "json", "png"):
        print(options.folder / f"table.{kind}")
    require_all(failures, len(runs))


def trained(runs: Runs, out: Output, options: Options) -> dict[str, str]:
    """Train what is missing, and write the table whenever a run has ended; why runs failed, by
    their names."""
    by_name = {folder_of(*key): key for key in runs}
    done: dict[tuple[str, str], Any] = {}
    failures: dict[str, str] = {}

    def take(key: tuple[str, str]) -> None:
        summary = RunFolder(options.folder / folder_of(*key)).read_summary()
        done[key] = options.table.line(key[0], summary)

    def on_end(job: Job, outcome: Outcome) -> tuple[Job, ...]:
        if outcome.kind == "finished":
            take(by_name[job.name])
            report(out, columns(done, runs), options, len(done), runs)
        else:
            failures[job.name] = outcome.why
        return ()

    jobs = []
    for key, run in runs.items():
        path = options.folder / folder_of(*key)
        if ensure.check(run, path) == "finished":
            take(key)
        else:
            title = f"{key[0]}, {methods.get(key[1]).title}"
            jobs.append(Job(folder_of(*key), title, run, path))
    if done:
        report(out, columns(done, runs), options, len(done), runs)
    if jobs:
        storage = None if options.storage is None else Storage(options.storage)
        if options.on != "sequence":  # which makes each as it comes to it
            datasets.prepare((job.options for job in jobs), storage)
        with executors.opened(
            options.on,
            options.address,
            cores=options.threads or None,
            gpus=None,
            on_gpu=options.engine in ("auto", "cuda", "graph"),
            at_once=None,
            storage=storage,
            logs=options.folder / "logs",
        ) as executor:
            executor.run(Listed(jobs, on_end))
    return failures


def columns(done: Mapping[tuple[str, str], Any], runs: Runs) -> dict[str, list[Any]]:
    """Title of a method -> the lines that are done, in the order of the table."""
    ours: dict[str, list[Any]] = {}
    for key in runs:
        if key in done:
            ours.setdefault(methods.get(key[1]).title, []).append(done[key])
    return ours


def runs_of(options: Options) -> Runs:
    """The runs of a table, in its order.

    Raises:
        UserError: there is no such task, or an option is out of range.
    """
    of_table = [task for group in options.table.GROUPS.values() for task in group]
    return {
        (name, method): options_of(name, method, options)
        for name in dict.fromkeys(options.tasks or of_table)
        for method in options.asked_methods
    }


def with_data(asked: Runs, options: Options) -> Runs:
    """The runs that have ended, or whose data are here, can be made here or can be downloaded now;
    says which tasks are left out, and why.

    Raises:
        UserError: there are none.
    """
    wanting = {
        key[0]
        for key, run in asked.items()
        if ensure.check(run, options.folder / folder_of(*key)) != "finished"
    }
    without = set()
    for name in dict.fromkeys(name for name, _ in asked):
        if name in wanting and (why := resolve.missing(catalogue.get(name), options.offline)):
            print(f"{name} is left out: {why}", flush=True)
            without.add(name)
    found = {key: run for key, run in asked.items() if key[0] not in without}
    if not found:
        raise UserError("There are no data for any of the tasks; what is printed above says why.")
    return found


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
    run = TrainConfig(
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
        evaluation=Evaluation(options.eval_episodes, options.eval_interval, options.eval_workers),
        records=Records(options.log_interval, options.checkpoint_interval, options.log),
    )
    given = options.online_steps
    if options.fine_tuning:
        own = finetune.DEFAULTS
        online = own.online if given is None else replace(own.online, online_steps=given)
        return finetune.completed(replace(run, algorithm=own.algorithm, online=online))
    if given is not None:
        raise UserError("--online-steps is of table 2: add --fine-tuning.")
    return config.completed(run)


def report(
    out: Output, ours: Mapping[str, Sequence[Any]], options: Options, done: int, runs: Runs
) -> None:
    """Write the table of the runs that are done."""
    title = options.table.about(runs.values())
    note = (
        f"Normalised scores; ours: {options.table.OURS}. Published scores are "
        f"{options.table.PUBLISHED}"
    )
    if done < len(runs):
        title += f" ({done} of {len(runs)} runs so far)"
    if any(line.regenerated for lines in ours.values() for line in lines):
        note += "; a score marked (regenerated) is on other data and does not compare with them"
    with written_beside(options.folder / "table.md") as partial:
        partial.write_text(options.table.markdown(ours, title, f"{note}."))
    options.table.write_csv(options.folder / "table.csv", ours)
    write_json(out.numbers, {"title": title, "methods": options.table.numbers(ours)})
    options.table.draw(out.picture, ours, title)


if __name__ == "__main__":
    cli.main(main)
