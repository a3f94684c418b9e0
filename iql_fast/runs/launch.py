"""A run from its options to its summary: the steps in their order, each handing on what it made.

    options -> data -> networks -> engine -> evaluator -> folder -> loop

New runs and resumed ones take the same steps; ``iql_fast.runs.place`` says where they differ.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from typing import Any, NamedTuple, cast

from rich.console import Console

from iql_fast import data, engines, methods
from iql_fast.data import LoadedData
from iql_fast.data.dataset import Transitions
from iql_fast.data.replay import Replay
from iql_fast.data.transform import normalised
from iql_fast.engines import Engine, KernelChoice, kernel_choice, resources
from iql_fast.engines.base import OnlineEngine
from iql_fast.engines.cpu import CpuEngine
from iql_fast.engines.cuda import CudaEngine
from iql_fast.environments import simulator, workers
from iql_fast.environments.episodes import Evaluator, arrangement
from iql_fast.environments.scoring import Scoring
from iql_fast.environments.stepping import Stepping
from iql_fast.methods.base import Method
from iql_fast.methods.iql import IQL
from iql_fast.policies.units import Units
from iql_fast.runs import checkpoint, completeness, config, loggers, machine, met, progress
from iql_fast.runs.checkpoint import Checkpoint
from iql_fast.runs.config import TrainConfig
from iql_fast.runs.finetuning import FineTuning
from iql_fast.runs.folder import RunFolder, settled
from iql_fast.runs.loop import Loop
from iql_fast.runs.place import GrownRun, NewRun, Place, ResumedRun, default_folder
from iql_fast.support import digest, output
from iql_fast.support.cores import usable_cores
from iql_fast.support.errors import NonFiniteLoss, UserError
from iql_fast.tasks import catalogue, published

#: Attaches itself to a loop (``Loop.advance``, ``Loop.say``) while its block is executed.
Shown = Callable[[Loop, Console], AbstractContextManager[None]]


def launch(
    options: TrainConfig,
    resumed: RunFolder | None = None,
    goes_on_from: RunFolder | None = None,
    shown: Shown = progress.shown,
) -> dict[str, Any]:
    """Do one run; returns its summary.

    Args:
        options: completed (``config.completed``).
        resumed: the run to go on with; None begins a new one.
        goes_on_from: another run, whose steps are the first of the new one.
        shown: what follows the loop while it trains.

    Raises:
        UserError: something is wrong with the options, the data, the engine or the folder; nothing
            was overwritten.
    """
    console = output.console()
    place = _place(options, resumed, goes_on_from)
    # What can be seen to fail, before minutes go into the data.
    engine_name = place.engine_name(options.engine)
    check_learner(options, engine_name, place.device)
    notes = loggers.check(options.records.log)
    if note := resources.check_threads(options.threads):
        notes.append(note)
    for note in notes:
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
        chosen = _choose_engine(prepared, options, engine_name, place, console)
        rows = len(loaded.transitions)
        console.print(f"task    {loaded.title}: {rows:,} transitions ({loaded.source})")
        for note in loaded.notes:
            console.print(f"data    {note}", style="yellow" if "warning" in note else None)
        _say_settings(options, loaded, console)
        device = engines.device_of(chosen.engine)
        where = " on a CUDA device" if (chosen.engine.name, device) == ("graph", "cuda") else ""
        console.print(f"engine  {chosen.engine.name}{where} ({chosen.because})")
        _say_kernels(chosen.engine, console)
        if chosen.engine.data_on_host:
            console.print("data    in the host's memory, which is slower than the device's")
        tuning = _fine_tuning(loaded, options, prepared, chosen.engine, console)
        if tuning is not None:
            for environment in itertools.chain(*tuning.environments):
                stack.enter_context(environment)
            chosen = chosen._replace(engine=tuning)
        evaluator, beside = _evaluator(loaded.scoring, options, device, console)
        if evaluator is not None:
            stack.enter_context(evaluator)
            _check_sizes(evaluator, loaded)
        record = _record(options, loaded, prepared, chosen, device)
        if tuning is not None:
            record["met_bytes"] = tuning.replay.bytes_to_come
        folder, spent = place.open(chosen.engine, record, options)  # touched from here on
        if tuning is not None:
            met.load(folder.met, tuning.replay, tuning.replay.met_rows)
        if resumed is not None:
            console.print(f"resumed from step {chosen.engine.step:,}")
        elif goes_on_from is not None:
            console.print(f"goes on from step {chosen.engine.step:,} of {goes_on_from.path}")
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
            episodes=None if tuning is None else tuning.take_episodes,
            keep=_keeper(folder, tuning),
        )
        if resumed is not None:
            for table in (completeness.metrics, completeness.scores):
                for note in table(folder, loop.schedule, chosen.engine.step).notes:
                    console.print(f"warning {note}", style="yellow")
        stack.enter_context(shown(loop, console))
        summary = _until_the_end(loop, console)
    progress.print_summary(summary, console)
    return summary


def _place(
    options: TrainConfig, resumed: RunFolder | None, goes_on_from: RunFolder | None
) -> Place:
    if resumed is not None:
        return ResumedRun(resumed)
    path = options.out or default_folder(_name(options))
    if goes_on_from is not None:
        return GrownRun(path, options.overwrite, goes_on_from)
    return NewRun(path, options.overwrite)


def check_learner(options: TrainConfig, engine: str, device: engines.Device | None = None) -> None:
    """Raise a ``UserError`` where the engine cannot train that, whatever the data are.

    Args:
        device: that it has to train on; None leaves it the choice.
    """
    learner = options.learner()
    if not isinstance(learner, IQL):
        engines.choose_for(learner, engine, options.precision, device)
        resources.check_method_memory(learner, 1, 1, options.seeds, options.precision)
        return
    if options.online.online_steps:
        engines.check_online(engine)
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
    prepared: _Prepared, options: TrainConfig, name: str, place: Place, console: Console
) -> _Chosen:
    """The engine, with fresh networks of the data's sizes.

    Args:
        name: as asked for; ``"auto"`` leaves the choice to the sizes.
    """
    transitions, hyper = prepared.transitions, prepared.learner
    because = place.engine_because
    if options.online.online_steps and isinstance(hyper, IQL) and name == "auto":
        name = "reference" if engines.available(options.precision)["cpu"] else "cpu"
        because = because or "it can meet transitions while it trains"
    if not isinstance(hyper, IQL):
        name, why = engines.choose_for(hyper, name, options.precision, place.device)
        made = engines.for_method(
            hyper,
            transitions,
            options.seed_list,
            name=name,
            precision=options.precision,
            threads=options.threads,
            device=place.device,
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
        kernels=_kernels(place, options, console),
    )
    return _Chosen(engine, because or why)


def _kernels(place: Place, options: TrainConfig, console: Console) -> KernelChoice | None:
    """Those that a run began with, unless the user asks for others or they cannot run here."""
    began_with = place.kernels
    if began_with is None or kernel_choice.asked_for():
        return None
    if began_with.kernels in kernel_choice.usable(options.precision):
        return began_with
    console.print(
        f"warning the run began with the kernels {began_with.kernels}, which this machine cannot "
        "run: it goes on with others, and does not end bit for bit where it would have ended",
        style="yellow",
    )
    return None


def _say_kernels(engine: Engine, console: Console) -> None:
    """What the engine on the CPU computes with, and whether lower precision pays; of the CUDA
    engine, whether its steps are resident, and those of how many seeds at a time."""
    if isinstance(engine, CudaEngine) and engine.step_form == "resident":
        at_once, seeds = engine.seeds_at_once, len(engine.seeds)
        which = "all seeds" if at_once == seeds else f"{at_once} of {seeds} seeds at a time"
        console.print(f"steps   resident: the weights of {which} stay on the chip")
    if not isinstance(engine, CpuEngine):
        return
    console.print(f"kernels {engine.kernel_set} ({engine.kernels.because})")
    if engine.precision != "mixed":
        return
    gain = kernel_choice.gain_of_mixed(engine.network, engine.hyper.batch_size)
    if gain is not None and gain < kernel_choice.WORTHWHILE:
        console.print(
            "warning fp32 is as fast: here the products of mixed precision are "
            f"{gain:.2f} times as fast as its own",
            style="yellow",
        )


def _fine_tuning(
    loaded: LoadedData, options: TrainConfig, prepared: _Prepared, engine: Engine, console: Console
) -> FineTuning | None:
    """The engine as one that goes on in the environment; None where that is not asked for.

    Raises:
        UserError: there is no environment, the dataset does not fit into the replay, or that not
            into the memory.
    """
    asked = options.online
    if not asked.online_steps:
        return None
    scoring, data = loaded.scoring, prepared.transitions
    if scoring.environment is None:
        raise UserError(f"--online-steps: there is no environment to act in: {scoring.note}")
    if asked.capacity < len(data):
        raise UserError(
            f"--capacity is {asked.capacity:,}; the dataset alone has {len(data):,} transitions."
        )
    most = asked.online_steps * asked.env_steps_per_update
    console.print(
        f"online  {asked.online_steps:,} updates from step {options.seam:,} on, "
        f"{asked.env_steps_per_update} step(s) of each seed in {scoring.environment} for one"
    )
    if asked.envs > 1:
        console.print(
            f"        in {asked.envs} environments by turns: a transition joins the replay "
            f"{asked.envs - 1} step(s) after its action was chosen (--envs 1 is the authors' loop)"
        )
    return FineTuning(
        cast(OnlineEngine, engine),
        Replay(data, options.seeds, asked.capacity, most),
        [
            [Stepping(scoring.environment, scoring.horizon, seed) for seed in options.seed_list]
            for _ in range(asked.envs)
        ],
        begins=options.updates,
        env_steps=asked.env_steps_per_update,
        reward=(loaded.record["reward_scale"], loaded.record["reward_shift"]),
        units=prepared.units,
    )


def _keeper(folder: RunFolder, tuning: FineTuning | None) -> Callable[[Checkpoint], None]:
    """What brings to the disk what a checkpoint relies on."""

    def keep(of: Checkpoint) -> None:
        if tuning is not None and "online.met_rows" in of.state:
            met.save(folder.met, tuning.replay, int(of.state["online.met_rows"]))

    return keep


def _evaluator(
    scoring: Scoring, options: TrainConfig, device: engines.Device, console: Console
) -> tuple[Evaluator | None, bool]:
    """The evaluator, if one is wanted and the task has a simulator, and whether training goes on
    beside it."""
    asked = options.evaluation
    if not asked.eval_episodes:
        return None, False
    if scoring.environment is None:
        console.print(f"scores  none: {scoring.note}")
        return None, False
    workers, beside = arrangement(
        asked.eval_beside, device == "cpu", options.threads, asked.eval_workers, usable_cores()
    )
    goes_on = "goes on meanwhile" if beside else "waits meanwhile"
    console.print(f"scores  episodes in {workers} worker process(es); training {goes_on}")
    return Evaluator(scoring.environment, scoring.horizon, workers), beside


def _record(
    options: TrainConfig,
    loaded: LoadedData,
    prepared: _Prepared,
    chosen: _Chosen,
    device: engines.Device,
) -> dict[str, Any]:
    """Everything needed to repeat the run, as config.json holds it."""
    record = {
        "options": config.flat(options),
        "options_sha256": digest.of_json(config.flat(options)),
        "engine": chosen.engine.name,
        "engine_because": chosen.because,
        "device": device,
        "data_on_host": chosen.engine.data_on_host,
        "kernels": chosen.engine.kernels.record() if isinstance(chosen.engine, CpuEngine) else None,
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
