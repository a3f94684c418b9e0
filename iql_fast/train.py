"""``python -m iql_fast.train --task hopper-medium-v2``: from a task's name to a scored policy."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from iql_fast.runs import config
from iql_fast.runs.config import TrainConfig
from iql_fast.runs.folder import RunFolder
from iql_fast.support import cli
from iql_fast.support.errors import UserError


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and train."""
    options, resumed = asked_for(sys.argv[1:] if arguments is None else arguments)
    from iql_fast.runs.launch import launch  # loads what --help can do without

    launch(options, resumed)


def asked_for(arguments: Sequence[str]) -> tuple[TrainConfig, RunFolder | None]:
    """The options of a run, complete and checked, and the folder of the run to go on with; None
    begins a new one.

    Raises:
        UserError: an option is wrong, or is not the one that the run began with.
    """
    asked = config.parse(arguments)
    if asked.resume is None:
        return config.completed(asked), None
    run = RunFolder(asked.resume)
    if asked.out is not None or asked.overwrite:
        raise UserError("--resume goes on in the run's own folder: leave out --out, --overwrite.")
    stored = config.of_record(run.read_config()["options"])
    base = config.with_options(TrainConfig(), stored, str(run.config))
    parsed = config.parse(arguments, base)
    if parsed.method != base.method:
        raise UserError(
            f"A resumed run cannot change --method {parsed.method} (the run has {base.method}). "
            "Leave it out, or start a new run."
        )
    resumed = config.completed(parsed)
    config.check_same(config.flat(resumed), stored, config.FREE)
    return resumed, run


if __name__ == "__main__":
    cli.main(main)
