"""A run from its options to its summary: the steps in their order, each handing on what it made.

    options -> data -> networks -> engine -> evaluator -> folder -> loop

New runs and resumed ones take the same steps; ``iql_fast.runs.place`` says where they differ.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, NamedTuple

from rich.console import Console

from iql_fast import data, engines, methods
from iql_fast.data import LoadedData
from iql_fast.data.dataset import Transitions
from iql_fast.data.transform import normalised
from iql_fast.engines import Engine, resources
from iql_fast.environments import simulator, workers
from iql_fast.environments.episodes import Evaluator, arrangement
from iql_fast.environments.scoring import Scoring
from iql_fast.methods.base import Method
from iql_fast.methods.iql import IQL
from iql_fast.policies.units import Units
from iql_fast.runs import checkpoint, completeness, config, machine, progress
from iql_fast.runs.config import TrainConfig
from iql_fast.runs.folder import RunFolder, settled
from iql_fast.runs.loop import Loop
from iql_fast.runs.place import NewRun, Place, ResumedRun, default_folder
from iql_fast.support import digest, output
from iql_fast.support.cores import usable_cores
from iql_fast.support.errors import NonFiniteLoss, UserError
from iql_fast.tasks import catalogue, published


def launch(options: TrainConfig, resumed: RunFolder | None = None) -> dict[str, Any]:
    """Do one run; returns its summary.

    Args:
        options: completed (``config.completed``).
        resumed: the run to go on with; None begins a new one.

    Raises:
        UserError: something is wrong with the options, the data, the engine or the folder; nothing
            was overwritten.
    """
    console = output.console()
    place: Place = (
        NewRun(options.out or default_folder(_name(options)), options.overwrite)
        if resumed is None
        else ResumedRun(resumed)
    )
    # What can be seen to fail, before minutes go into the data.
    engine_name = place.engine_name(options.engine)
    check_learner(options, engine_name)
    if note := resources.check_threads(options.threads):
        console.print(f"warning {note}", style="yellow")
    _check_environment(options, console)
    with ExitStack() as stack:
        stack.enter_context(place)
        loaded = data.load(
            options.task,
            dataset=options.dataset,
            offline=options.offline,
            seed=options.data_seed,
            physics=options.physics,
            env=options.env,
            reference=options.reference,
            family=options.chosen_preset.family,
            rewards=options.reward_rule,
            top=options.learner().share_of_trajectories(),
            next_actions="next_actions" in methods.get(options.method).needs,
            trajectories="returns_to_go" in methods.get(options.method).needs,
        )
        loaded = replace(loaded, scoring=_scoring(loaded.scoring, options))
        prepared = _prepare(loaded, options)
        chosen = _choose_engine(prepared, options, engine_name, place.engine_because)
        rows = len(loaded.transitions)
        console.print(f"task    {loaded.title}: {rows:,} transitions ({loaded.source})")
        for note in loaded.notes:
            console.print(f"data    {note}", style="yellow" if "warning" in note else None)
        _say_settings(options, loaded, console)
        console.print(f"engine  {chosen.engine.name} ({chosen.because})")
        if chosen.engine.data_on_host:
            console.print("data    in the host's memory, which is slower than the device's")
        evaluator, beside = _evaluator(loaded.scoring, options, chosen.engine.name, console)
        if evaluator is not None:
            stack.enter_context(evaluator)
            _check_sizes(evaluator, loaded)
        record = _record(options, loaded, prepared, chosen)
        folder, spent = place.open(chosen.engine, record, options)  # touched from here on
        if resumed is not None:
            console.print(f"resumed from step {chosen.engine.step:,}")
        console.print(f"run     {folder.path}")
        loop = Loop(
            options,
            folder,
            chosen.engine,
            loaded,
            evaluator,
            prepared.units,
            prepared.learner.policy(),
            beside,
            identity=folder.read_config().get("options_sha256"),
            spent=spent,
        )
        if resumed is not None:
            for table in (completeness.metrics, completeness.scores):
                for note in table(folder, loop.schedule, chosen.engine.step).notes:
                    console.print(f"warning {note}", style="yellow")
        stack.enter_context(progress.shown(loop, console))
        summary = _until_the_end(loop, console)
    progress.print_summary(summary, console)
    return summary


def check_learner(options: TrainConfig, engine: str) -> None:
    """Raise a ``UserError`` where the engine cannot train that, whatever the data are."""
    learner = options.learner()
    if not isinstance(learner, IQL):
        engines.choose_for(learner, engine, options.precision)
        resources.check_method_memory(learner, 1, 1, options.seeds, options.precision)
        return
    engines.check(engine, options.precision, hyper=learner)
    resources.check_memory(options.network(1, 1), learner, options.seeds, options.precision)


def _scoring(scoring: Scoring, options: TrainConfig) -> Scoring:
    """``scoring`` with what was published for the method."""
    if options.method == "iql":
        return scoring
    row = published.table1().get(options.task, {})
    title = methods.get(options.method).title
    return replace(scoring, published={"paper": row[title]} if title in row else {})


def _name(options: TrainConfig) -> str:
    """What a run is called whose user names no folder."""
    return options.task or (options.dataset.stem if options.dataset else "run")


def _say_settings(options: TrainConfig, loaded: LoadedData, console: Console) -> None:
    """Whose settings were taken, and what was done to the rewards."""
    preset, record = options.chosen_preset, loaded.record
    console.print(f"method  {methods.get(options.method).title}")
    console.print(f"preset  {preset.family} ({preset.because})")
    scale, shift = record["reward_scale"], record["reward_shift"]
    if scale != 1 or shift != 0:
        moved = f" {'+' if shift >= 0 else '-'} {abs(shift):g}" if shift else ""
        console.print(f"rewards {scale:.6g} * reward{moved}")


def _check_sizes(evaluator: Evaluator, loaded: LoadedData) -> None:
    """Raise a ``UserError`` where policies of the data do not fit the environment."""
    own = loaded.transitions.obs_dim, loaded.transitions.act_dim
    for name, size, needed in zip(("observations", "actions"), own, evaluator.sizes, strict=True):
        if size != needed:
            raise UserError(
                f"{loaded.title} has {name} of {size} numbers, but {evaluator.label} has {needed}. "
                "Name the environment of the data with --env, or train with --eval-episodes 0."
            )


def _check_environment(options: TrainConfig, console: Console) -> None:
    """Make the environment of a task of the paper once; a note where the simulator is untried."""
    if not options.evaluation.eval_episodes or options.task not in catalogue.names():
        return  # others' data name their environment themselves
    name = catalogue.get(options.task).environment_id(options.physics)
    if note := simulator.require(f"Evaluation in {name}"):
        console.print(f"note    {note}")
    if options.physics == "d4rl":
        workers.environment(name)


class _Prepared(NamedTuple):
    """What is trained, and on what."""

    transitions: Transitions
    units: Units
    learner: Method
    """what reads them, with what it takes from the data"""


class _Chosen(NamedTuple):
    engine: Engine
    because: str


def _prepare(loaded: LoadedData, options: TrainConfig) -> _Prepared:
    learner = options.learner().for_data(loaded.transitions)
    if options.normalizes:
        transitions, mean, scale = normalised(loaded.transitions, learner.least_deviation)
        units = replace(loaded.units, obs_mean=mean, obs_scale=scale)
        return _Prepared(transitions, units, learner)
    return _Prepared(loaded.transitions, loaded.units, learner)


def _choose_engine(
    prepared: _Prepared, options: TrainConfig, name: str, because: str | None
) -> _Chosen:
    """The engine, with fresh networks of the data's sizes.

    Args:
        name: as asked for; ``"auto"`` leaves the choice to the sizes.
        because: why it is asked for, where that is not the user's wish.
    """
    transitions, hyper = prepared.transitions, prepared.learner
    if not isinstance(hyper, IQL):
        name, why = engines.choose_for(hyper, name, options.precision)
        made = engines.for_method(
            hyper,
            transitions,
            options.seed_list,
            name=name,
            precision=options.precision,
            threads=options.threads,
        )
        return _Chosen(made, because or why)
    network = options.network(transitions.obs_dim, transitions.act_dim)
    name, why = engines.choose(name, options.precision, network, hyper)
    engine = engines.create(
        name,
        network,
        hyper,
        transitions,
        options.seed_list,
        precision=options.precision,
        threads=options.threads,
    )
    return _Chosen(engine, because or why)


def _evaluator(
    scoring: Scoring, options: TrainConfig, engine: str, console: Console
) -> tuple[Evaluator | None, bool]:
    """The evaluator, if one is wanted and the task has a simulator, and whether training goes on
    beside it."""
    asked = options.evaluation
    if not asked.eval_episodes:
        return None, False
    if scoring.environment is None:
        console.print(f"scores  none: {scoring.note}")
        return None, False
    on_cpu = engine in ("cpu", "reference")
    workers, beside = arrangement(
        asked.eval_beside, on_cpu, options.threads, asked.eval_workers, usable_cores()
    )
    goes_on = "goes on meanwhile" if beside else "waits meanwhile"
    console.print(f"scores  episodes in {workers} worker process(es); training {goes_on}")
    return Evaluator(scoring.environment, scoring.horizon, workers), beside


def _record(
    options: TrainConfig, loaded: LoadedData, prepared: _Prepared, chosen: _Chosen
) -> dict[str, Any]:
    """Everything needed to repeat the run, as config.json holds it."""
    record = {
        "options": config.flat(options),
        "options_sha256": digest.of_json(config.flat(options)),
        "engine": chosen.engine.name,
        "engine_because": chosen.because,
        "data_on_host": chosen.engine.data_on_host,
        "data": loaded.record | {"sha256": digest.of_columns(loaded.transitions.columns())},
        "scoring": loaded.scoring.record(),
        "policy": prepared.learner.policy(),
        **prepared.units.record(),
        "observation_layout": loaded.parts,
        "versions": machine.versions(),
        "machine": machine.machine(),
    }
    return record | {"settled_sha256": digest.of_json(settled(record))}


def _until_the_end(loop: Loop, console: Console) -> dict[str, Any]:
    """Train; say how to go on where that is interrupted, and what may help where it fails."""
    path, checkpoints = loop.folder.path, loop.folder.checkpoints
    try:
        return loop.train()
    except KeyboardInterrupt:
        last = checkpoint.steps(checkpoints)
        at = f"at step {last[-1]:,}" if last else "before its first checkpoint"
        console.print(f"Stopped {at}. Go on with: python -m iql_fast.train --resume {path}")
        raise
    except NonFiniteLoss as failure:
        last = checkpoint.steps(checkpoints)
        console.print(str(failure), style="red")
        console.print(
            f"The last good checkpoint is that of step {last[-1] if last else 0}; "
            f"{loop.folder.failure} holds the statistics. A smaller learning rate, or data without "
            "outliers, usually helps."
        )
        sys.exit(1)
