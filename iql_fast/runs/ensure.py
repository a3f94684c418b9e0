"""A training run that exists when it is wanted: begun, taken up again, or found finished."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from iql_fast.runs import config, progress
from iql_fast.runs.config import TrainConfig
from iql_fast.runs.folder import RunFolder, is_leftover
from iql_fast.runs.launch import Shown, launch
from iql_fast.support.errors import UserError


def check(options: TrainConfig, path: Path) -> str:
    """What is in a folder: ``"missing"``, ``"begun"`` or ``"finished"``, a run with these options.

    Args:
        options: completed (``config.completed``).

    Raises:
        UserError: the folder holds something else, or a run with other options.
    """
    run = RunFolder(path)
    if not run.config.exists():
        if path.exists() and (not path.is_dir() or not all(map(is_leftover, path.iterdir()))):
            raise UserError(
                f"{path} is not the folder of a run, so nothing in it will be touched. Move it "
                "away, or name another folder with --out."
            )
        return "missing"
    try:
        config.check_same(config.flat(options), run.read_config()["options"], config.FREE)
    except UserError as error:
        raise UserError(f"{path} holds a run with other options. {error}") from None
    return "finished" if run.summary.exists() else "begun"


def finished(options: TrainConfig, path: Path, shown: Shown = progress.shown) -> dict[str, Any]:
    """The summary of the run with these options in the folder ``path``, trained as far as it is
    missing. Killed at any moment, the same call goes on where the run was.

    Args:
        shown: as ``launch``.

    Raises:
        UserError: as ``check``, and what training raises.
    """
    state, run = check(options, path), RunFolder(path)
    if state == "begun":
        launch(options, run, shown=shown)
    elif state == "missing":
        launch(replace(options, out=path), shown=shown)
    return run.read_summary()
