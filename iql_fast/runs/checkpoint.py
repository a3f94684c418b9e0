"""Checkpoints: the engine's state in safetensors, the rest in JSON, never half of one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from iql_fast.support.errors import UserError

if TYPE_CHECKING:  # a policy is read where there may be no torch
    from torch import Tensor

Content = TypeVar("Content")

KEPT = 2
FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """A training state.

    Attributes:
        step: training steps done.
        state: ``Engine.state_dict()``.
        seconds: wall-clock seconds spent so far, by what on.
    """

    step: int
    state: dict[str, Tensor]
    seconds: dict[str, float]


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint beside the others and remove all but the last two.

    Raises:
        UserError: the disk is full or the folder cannot be written; the others stay.
    """
    from safetensors.torch import save_file

    final = folder / f"{checkpoint.step:09d}"
    partial = folder / f".{final.name}.{os.getpid()}.partial"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file(checkpoint.state, partial / "state.safetensors")
        record = {"format": FORMAT, "step": checkpoint.step, "seconds": checkpoint.seconds}
        (partial / "state.json").write_text(json.dumps(record, indent=1) + "\n")
        for name in ("state.safetensors", "state.json"):
            with open(partial / name, "rb+") as file:
                os.fsync(file.fileno())
        if final.exists():  # of the same step: a resumed run that came here again
            shutil.rmtree(final)
        os.replace(partial, final)
    except Exception as error:
        shutil.rmtree(partial, ignore_errors=True)
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UserError(
            f"Checkpoint {checkpoint.step} could not be written to {folder} ({reason}). "
            "Earlier checkpoints are whole: free some space and go on with --resume."
        ) from error
    for old in _complete(folder)[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    for leftover in folder.glob(".*.partial"):  # of a process that was killed
        shutil.rmtree(leftover, ignore_errors=True)


def steps(folder: Path) -> list[int]:
    """The steps of the checkpoints in a folder, in order."""
    return [int(path.name) for path in _complete(folder)]


def load(folder: Path, step: int | None = None) -> Checkpoint:
    """A checkpoint: the last one, or that of ``step``.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    from safetensors.torch import load_file

    record, state = _read(_find(folder, step), load_file)
    return Checkpoint(int(record["step"]), state, record["seconds"])


def actor(
    folder: Path, index: int, step: int | None = None
) -> tuple[int, dict[str, NDArray[np.floating]]]:
    """The step of a checkpoint, and the ``actor.*`` arrays of the ``index``-th seed in it. Nothing
    else is read, and without torch.

    Raises:
        UserError: as ``load``.
    """
    from safetensors import safe_open

    def read(path: Path) -> dict[str, NDArray[np.floating]]:
        with safe_open(path, framework="numpy") as file:
            names = [name for name in file.keys() if name.startswith("actor.")]  # noqa: SIM118
            return {name: file.get_slice(name)[index : index + 1][0] for name in names}

    record, arrays = _read(_find(folder, step), read)
    return int(record["step"]), arrays


def _find(folder: Path, step: int | None) -> Path:
    found = _complete(folder)
    if step is not None:
        found = [path for path in found if int(path.name) == step]
    if not found:
        held = ", ".join(map(str, steps(folder))) or "none"
        wanted = "no checkpoint" if step is None else f"no checkpoint of step {step}"
        raise UserError(f"{folder} holds {wanted} (it holds: {held}).")
    return found[-1]


def _read(path: Path, reader: Callable[[Path], Content]) -> tuple[dict[str, Any], Content]:
    """The record of a checkpoint, and what ``reader`` makes of its state."""
    try:
        record: dict[str, Any] = json.loads((path / "state.json").read_text())
        state = reader(path / "state.safetensors")
    except Exception as error:
        raise UserError(
            f"The checkpoint {path} cannot be read ({error}). Remove it to go on from another."
        ) from None
    if record["format"] != FORMAT:
        raise UserError(
            f"The checkpoint {path} has format {record['format']}; this version reads {FORMAT}."
        )
    return record, state


def _complete(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.name.isdigit())
