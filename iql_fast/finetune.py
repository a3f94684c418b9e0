"""``python -m iql_fast.finetune``: train on a dataset, then go on in the environment.

Two ways to begin::

    python -m iql_fast.finetune --run RUN                        # an offline run that has ended
    python -m iql_fast.finetune --task antmaze-umaze-v2 \\
        --offline-steps 1000000 --online-steps 1000000           # both, one after the other

It is a run as ``iql_fast.train`` makes them, in one folder, with one set of curves; the line in
them is where the environment joins in. ``--resume`` takes it up again where it was, transitions,
episodes and all.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from iql_fast import train
from iql_fast.runs import config
from iql_fast.runs.config import Algorithm, Online, TrainConfig
from iql_fast.runs.folder import RunFolder
from iql_fast.support import cli
from iql_fast.support.errors import UserError
from iql_fast.tasks import presets

USUAL_STEPS = 1_000_000
#: What a run of both stages has that none on a dataset alone has.
DEFAULTS = TrainConfig(
    algorithm=Algorithm(actor_schedule="constant"), online=Online(online_steps=USUAL_STEPS)
)
PROGRAM = "python -m iql_fast.finetune"
#: What is fine-tuned may differ in these from the run that it goes on from.
CHANGES = (
    *config.FREE,
    *("engine", "actor_schedule", "online_steps", "capacity", "env_steps_per_update", "envs"),
)
HELP = """Train on a dataset, then go on in the environment (the paper's second table).

Begin with --run RUN, an offline run that has ended, whose options are taken over; or with --task
and --offline-steps (as --steps; default: a million, on the binary hands 25,000), which trains
offline first. Each update then follows on a step of each seed's policy in the environment
(--env-steps-per-update), with an action that is sampled from
the policy as the last update left it; batches are drawn from the dataset and what was met since
(--capacity). With --envs N each seed acts in N environments by turns, whose simulators have the
time of N steps for one; a transition then joins the replay N - 1 steps after its action was chosen,
by a policy that is as many steps older. Rewards are transformed as the dataset's are. Everything
goes to one folder; a run that was stopped goes on with --resume."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and train."""
    asked = list(sys.argv[1:] if arguments is None else arguments)
    if any(argument.split("=")[0] == "--resume" for argument in asked):
        train.main(asked)
        return
    options, run = asked_for(asked)
    from iql_fast.runs.launch import launch  # loads what --help can do without

    launch(options, goes_on_from=run)


def asked_for(arguments: Sequence[str]) -> tuple[TrainConfig, RunFolder | None]:
    """The options of a run, complete and checked, and the offline run that it goes on from.

    Raises:
        UserError: an option is wrong, or is not the one of the offline run.
    """
    path, rest = _taken_out("--run", list(arguments))
    steps, rest = _taken_out("--offline-steps", rest)
    rest += [] if steps is None else ["--steps", steps]
    if path is None:
        return completed(config.parse(rest, DEFAULTS, PROGRAM, HELP)), None
    run = RunFolder(Path(path))
    stored = config.of_record(run.read_config()["options"])
    run.read_summary()
    before = config.with_options(TrainConfig(), stored, str(run.config))
    if before.online.online_steps:
        raise UserError(f"{run.path} was fine-tuned already. Name the offline run with --run.")
    base = replace(
        before,
        algorithm=replace(before.algorithm, actor_schedule="constant"),
        online=DEFAULTS.online,
        out=run.path.with_name(f"{run.path.name}-online"),
        overwrite=False,
        resume=None,
        config=None,
    )
    asked = config.parse(rest, base, PROGRAM, HELP)
    _require_steps(asked)
    whole = config.completed(asked)
    config.check_same(config.flat(whole), stored, CHANGES)
    return whole, run


def completed(asked: TrainConfig) -> TrainConfig:
    """A run of both stages from its beginning, complete and checked: ``config.completed``, with the
    paper's number of steps on the dataset where none is given.

    Raises:
        UserError: a value is out of its range.
    """
    _require_steps(asked)
    if asked.steps is None:
        steps = presets.OFFLINE_STEPS.get(asked.chosen_preset.family)
        asked = replace(asked, steps=steps)
    return config.completed(asked)


def _require_steps(asked: TrainConfig) -> None:
    if asked.online.online_steps < 1:
        raise UserError(
            f"--online-steps is {asked.online.online_steps}; expected a positive number. "
            "`python -m iql_fast.train` trains on the dataset alone."
        )


def _taken_out(flag: str, arguments: list[str]) -> tuple[str | None, list[str]]:
    """The value of a flag, and the arguments without it."""
    for i, argument in enumerate(arguments):
        if argument == flag:
            if i + 1 == len(arguments):
                raise UserError(f"{flag} needs a value.")
            return arguments[i + 1], arguments[:i] + arguments[i + 2 :]
        if argument.startswith(flag + "="):
            return argument.partition("=")[2], arguments[:i] + arguments[i + 1 :]
    return None, arguments


if __name__ == "__main__":
    cli.main(main)
