"""``python -m iql_fast.sweep SPEC.yaml``: many runs side by side, and what they come to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from iql_fast.runs import folder
from iql_fast.support import cli
from iql_fast.support.errors import UserError
from iql_fast.support.output import Output
from iql_fast.sweeps import course, executors, packing, search
from iql_fast.sweeps import spec as specs
from iql_fast.sweeps.course import Course
from iql_fast.sweeps.executors import On
from iql_fast.sweeps.record import Book
from iql_fast.sweeps.storage import Storage


@dataclass
class Options:
    """Train every task by every method with every setting that a YAML file names, or search for the
    best settings. Seeds and settings that one engine can train at once become one job; jobs go side
    by side on Ray. Killed at any moment, the same command goes on, and nothing is trained twice but
    what lies after the last checkpoints. docs/sweeps.md has a file to begin with."""

    spec: Annotated[Path, tyro.conf.Positional]
    """YAML file: tasks, methods, seeds, options, grid, variants, search"""
    out: Path | None = None
    """folder of sweep.json, of the runs (jobs/NAME) and of results.md, .csv, .json and .png
    (default: that of the file, or runs/NAME-sweep)"""
    on: On = "auto"
    """where jobs are trained; auto: on Ray where it is installed. Results are the same"""
    address: str | None = None
    """a Ray cluster: HOST:PORT, or auto for the one that this machine belongs to (default: a Ray on
    this machine, begun and ended with the command)"""
    storage: str | None = None
    """where runs are kept for all machines of a cluster, as fsspec spells it: s3://BUCKET/FOLDER, a
    shared folder, ... (default: at their own paths, which all machines then must share)"""
    at_once: int | None = None
    """jobs at once at most (default: as many as have room)"""
    finish_pruned: bool = False
    """train on what a search has pruned, to its last step"""
    dry_run: bool = False
    """check all, list the jobs, and train nothing"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line; check, train what is missing, gather the results."""
    options = tyro.cli(Options, args=arguments, prog="python -m iql_fast.sweep")
    spec = specs.read(options.spec)
    where = str(options.spec)
    if options.at_once is not None and options.at_once < 1:
        raise UserError(f"--at-once is {options.at_once}; expected a positive number.")
    if options.finish_pruned and spec.search is None:
        raise UserError(f"--finish-pruned: {where} has no search.")
    out = options.out or spec.out or course.default_folder(options.spec)
    studies = [] if spec.search is None else search.studies_of(spec, where)
    jobs = packing.jobs_of(spec, where) if spec.search is None else []
    book = Book(out, spec)
    book.open(jobs)
    title = course.title(spec, book.jobs)
    storage = None if options.storage is None else Storage(options.storage)
    on_way = Course(book, title, storage, here=options.address is None)
    samples = [study.sample for study in studies]
    on_way.check(book.jobs or samples)
    if options.dry_run:
        for job in book.jobs or samples:
            print(f"{job.name}: {len(job.members)} setting(s), seeds {job.record()['seeds']}")
        return
    Output(out, "results")
    with folder.lock(out):
        left = on_way.left(book.jobs)
        on_way.prepare_data(left or samples)
        book.write()
        if left or studies:
            runs = [job.options for job in left or samples]
            with executors.opened(
                options.on,
                options.address,
                cores=spec.cores,
                gpus=spec.gpus,
                on_gpu=any(run.engine != "cpu" and run.engine != "reference" for run in runs),
                at_once=options.at_once,
                storage=storage,
                logs=out / "logs",
            ) as executor:
                if studies:
                    search.train(on_way, executor, studies, options.finish_pruned)
                else:
                    course.train_all(on_way, executor, left)
        on_way.write()
    print()
    print((out / "results.md").read_text())
    for kind in ("md", "csv", "json", "png"):
        print(out / f"results.{kind}")
    on_way.require_all()


if __name__ == "__main__":
    cli.main(main)
