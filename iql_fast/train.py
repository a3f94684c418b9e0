"""``python -m iql_fast.train --task hopper-medium-v2``: from a task's name to a scored policy."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iql_fast import cli, config
from iql_fast.config import TrainConfig
from iql_fast.errors import NonFiniteLoss, UserError
from iql_fast.runs import checkpoint, folder
from iql_fast.runs.folder import RunFolder

if TYPE_CHECKING:
    import numpy as np

    from iql_fast.data import Transitions
    from iql_fast.scoring import Scoring


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and train."""
    given = sys.argv[1:] if arguments is None else arguments
    asked = config.parse(given)
    if asked.resume is None:
        train(config.completed(asked), None)
    else:
        run = RunFolder(asked.resume)
        if asked.out is not None or asked.overwrite:
            raise UserError(
                "--resume goes on in the run's own folder: leave out --out, --overwrite."
            )
        stored = run.read_config()["options"]
        base = config.with_options(TrainConfig(), stored, str(run.config))
        resumed = config.completed(config.parse(given, base))
        from iql_fast.training import check_same

        check_same(config.flat(resumed), stored, config.FREE)
        train(resumed, run)


def train(options: TrainConfig, resumed: RunFolder | None) -> dict[str, Any]:
    """Do one run; returns its summary.

    Args:
        resumed: the run to go on with; None begins a new one.

    Raises:
        UserError: something is wrong with the options, the data, the engine or the folder; nothing
            was overwritten.
    """
    from rich.console import Console

    from iql_fast import data, engines, environment_record
    from iql_fast.training import Run, needed_bytes

    console = Console()
    hyper = options.hyperparameters()
    if resumed is None:
        engine_name, why = engines.choose(options.engine, options.precision, hyper=hyper)
    else:  # another engine rounds differently: the run would not end where it was to end
        began_with = resumed.read_config()["engine"]
        engine_name, _ = engines.choose(began_with, options.precision, hyper=hyper)
        why = "the run began with it"
    with ExitStack() as stack:
        path = resumed.path if resumed else options.out or _default_folder(options.task)
        # Before minutes go into the data.
        if resumed is None:
            folder.check(path, options.overwrite, 1 << 20)
        new = not path.is_dir()
        if not new:
            stack.enter_context(folder.lock(path))
        loaded = data.load(
            options.task,
            dataset=options.dataset,
            offline=options.offline,
            seed=options.data_seed,
        )
        transitions, scaling = loaded.transitions, None
        if options.departures.normalize_obs:
            transitions, scaling = _normalised(transitions)
        network = options.network(transitions.obs_dim, transitions.act_dim)
        if resumed is None:  # again, now that the sizes are known
            engine_name, why = engines.choose(options.engine, options.precision, network, hyper)
        engine = engines.create(
            engine_name,
            network,
            hyper,
            transitions,
            options.seed_list,
            precision=options.precision,
            threads=options.threads,
        )
        console.print(f"task    {loaded.title}: {len(transitions):,} transitions ({loaded.source})")
        console.print(f"engine  {engine_name} ({why})")
        on_host = bool(getattr(engine, "data_on_host", False))
        if on_host:
            console.print("data    in the host's memory, which is slower than the device's")

        # What can fail comes before the folder is touched.
        evaluator, beside = None, False
        if options.evaluation.eval_episodes:
            evaluator, beside = _evaluator(loaded.scoring, options, engine_name, console)
            if evaluator is not None:
                stack.enter_context(evaluator)
        if resumed is None:
            state_bytes = sum(t.numel() * t.element_size() for t in engine.state_dict().values())
            run_folder = folder.create(path, options.overwrite, needed_bytes(state_bytes, options))
            if new:
                stack.enter_context(folder.lock(path))
            record = {
                "options": config.flat(options),
                "engine": engine_name,
                "engine_because": why,
                "data_on_host": on_host,
                "data": loaded.record,
                "scoring": loaded.scoring.record(),
                "observation_scaling": scaling and [column.tolist() for column in scaling],
                "versions": environment_record.versions(),
                "machine": environment_record.machine(),
            }
            folder.write_json(run_folder.config, record)
            seconds = None
        else:
            run_folder = resumed
            _check_data(resumed, loaded.record)
            seconds = _restore(engine, resumed)
            console.print(f"resumed from step {engine.step:,}")
        console.print(f"run     {run_folder.path}")
        run = Run(options, run_folder, engine, loaded, evaluator, scaling, beside)
        if seconds is not None:
            run.seconds.update(seconds)
        _show_progress(stack, run, console)
        try:
            summary = run.train()
        except KeyboardInterrupt:
            last = checkpoint.steps(run_folder.checkpoints)
            at = f"at step {last[-1]:,}" if last else "before its first checkpoint"
            command = f"python -m iql_fast.train --resume {run_folder.path}"
            console.print(f"Stopped {at}. Go on with: {command}")
            raise
        except NonFiniteLoss as failure:
            last = checkpoint.steps(run_folder.checkpoints)
            console.print(f"[red]{failure}[/red]")
            console.print(
                f"The last good checkpoint is that of step {last[-1] if last else 0}; "
                f"{run_folder.path / 'failure.json'} holds the statistics. A smaller learning "
                "rate, or data without outliers, usually helps."
            )
            sys.exit(1)
    _print_summary(summary, console)
    return summary


def _default_folder(task: str) -> Path:
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{task.replace('/', '-')}-{now}"


def _normalised(
    transitions: Transitions,
) -> tuple[Transitions, tuple[np.ndarray, np.ndarray]]:
    mean = transitions.observations.mean(0)
    scale = transitions.observations.std(0) + 1e-3
    return replace(
        transitions,
        observations=(transitions.observations - mean) / scale,
        next_observations=(transitions.next_observations - mean) / scale,
    ), (mean, scale)


def _check_data(run: RunFolder, record: dict[str, Any]) -> None:
    """The data of a resumed run must be those that it began with."""
    before = run.read_config()["data"]
    for name in ("title", "rows", "return_mean"):
        if record[name] != before[name]:
            raise UserError(
                f"The run {run.path} began on data whose {name} is {before[name]}, but the data "
                f"found now have {record[name]}. Bring back {before.get('path', 'the data')}."
            )


def _restore(engine: Any, run: RunFolder) -> dict[str, float] | None:
    """The last checkpoint into the engine; a run killed before its first begins anew."""
    if not checkpoint.steps(run.checkpoints):
        return None
    last = checkpoint.load(run.checkpoints)
    engine.load_state_dict(last.state)
    return last.seconds


def _evaluator(
    scoring: Scoring, options: TrainConfig, engine: str, console: Any
) -> tuple[Any, bool]:
    """The evaluator, if the task has a simulator, and whether training goes on beside it."""
    from iql_fast import simulator
    from iql_fast.evaluation import Evaluator, arrangement

    if scoring.environment is None:
        console.print(f"scores  none: {scoring.note}")
        return None, False
    on_cpu = engine in ("cpu", "reference")
    asked = options.evaluation
    workers, beside = arrangement(
        asked.eval_beside, on_cpu, options.threads, asked.eval_workers, simulator.cores()
    )
    goes_on = "goes on meanwhile" if beside else "waits meanwhile"
    console.print(f"scores  episodes in {workers} worker process(es); training {goes_on}")
    return Evaluator(scoring.environment, scoring.horizon, workers), beside


def _show_progress(stack: ExitStack, run: Any, console: Any) -> None:
    """A progress bar with steps/s, time left and the last score."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    progress = stack.enter_context(
        Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]} steps/s"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[score]}"),
            console=console,
        )
    )
    bar = progress.add_task(
        "", total=run.config.total_steps, completed=run.engine.step, rate="-", score=""
    )

    def shown() -> str:
        return str(progress.tasks[0].fields["score"])

    def advance(step: int, rate: float, score: str) -> None:
        progress.update(bar, completed=step, rate=f"{rate:.0f}", score=score or shown())

    run.advance = advance
    run.say = progress.console.print


def _print_summary(summary: dict[str, Any], console: Any) -> None:
    from rich.table import Table

    seconds = summary["seconds"]
    console.print(
        f"{summary['training_steps']:,} steps of {len(summary['seeds'])} seed(s): "
        f"training {seconds['training']:.0f} s ({summary['seed_steps_per_second']:.0f} steps/s "
        f"over all seeds), evaluation {seconds['evaluation']:.0f} s, "
        f"records {seconds['records']:.0f} s"
    )
    if "scores" not in summary:
        return
    table = Table(title=summary["title"])
    table.add_column("")
    table.add_column(summary["unit"], justify="right")
    final, best = summary["scores"]["final"], summary["scores"]["best"]
    table.add_row(
        f"this run, mean of the last {final['evaluations']} evaluation(s)",
        f"{final['mean']:.1f} +- {final['std']:.1f}",
    )
    table.add_row("this run, best evaluation", f"{best['mean']:.1f} +- {best['std']:.1f}")
    table.add_row("mean return of the data", f"{summary['behaviour_score']:.1f}")
    for source, score in summary["published"].items():
        on = "" if summary["origin"] == "d4rl" else " (on D4RL's own data)"
        table.add_row(f"published: {source}{on}", f"{score:.1f}")
    console.print(table)


if __name__ == "__main__":
    cli.main(main)
