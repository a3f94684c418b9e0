"""Checkpoints: the engine's state in safetensors, the rest in JSON, never half of one."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from iql_fast.support import digest
from iql_fast.support.errors import UserError
from iql_fast.support.files import PARTIAL

if TYPE_CHECKING:  # a policy is read where there may be no torch
    from torch import Tensor

Content = TypeVar("Content")

KEPT = 2
#: 1 had no SHA-256 of the state; such checkpoints are still read.
FORMAT = 2
STATE, RECORD = "state.safetensors", "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """A training state.

    Attributes:
        step: training steps done.
        state: ``Engine.state_dict()``.
        seconds: wall-clock seconds spent so far, by what on.
        run: SHA-256 of the options of the run that it is of; None where that is not known.
    """

    step: int
    state: dict[str, Tensor]
    seconds: dict[str, float]
    run: str | None = None


def require_run(found: str | None, record: Mapping[str, Any], folder: Path, step: int) -> None:
    """Raise a ``UserError`` where a checkpoint is of another run than the record says.

    Args:
        found: ``Checkpoint.run``.
    """
    own = record.get("options_sha256")
    if None not in (found, own) and found != own:
        raise UserError(
            f"The checkpoint of step {step} in {folder} is of a run with other options (another "
            "seed or method, say) than this one. Bring back the run's own."
        )


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
        folder.mkdir(exist_ok=True)  # not its parents: a run that was moved is not made anew
        partial.mkdir()
        save_file(checkpoint.state, partial / STATE)
        record = {
            "format": FORMAT,
            "step": checkpoint.step,
            "sha256": digest.of_file(partial / STATE),
            "seconds": checkpoint.seconds,
        } | ({} if checkpoint.run is None else {"run": checkpoint.run})
        (partial / RECORD).write_text(json.dumps(record, indent=1) + "\n")
        for name in (STATE, RECORD):
            with open(partial / name, "rb+") as file:
                os.fsync(file.fileno())
        if final.exists():  # of the same step: a resumed run that came here again
            _remove(final)
        if final.exists():  # what else lies in it is not ours; the record last: it makes it whole
            for name in (STATE, RECORD):
                os.replace(partial / name, final / name)
            partial.rmdir()
        else:
            os.replace(partial, final)
    except Exception as error:
        shutil.rmtree(partial, ignore_errors=True)
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UserError(
            f"Checkpoint {checkpoint.step} could not be written to {folder} ({reason}). "
            "Earlier checkpoints are whole: free some space and go on with --resume."
        ) from error
    for old in _complete(folder)[:-KEPT]:
        _remove(old)
    _remove_leftovers(folder)


def remove_all(folder: Path) -> None:
    """Remove all checkpoints of a folder, and the folder where nothing else is in it."""
    for old in _complete(folder):
        _remove(old)
    _remove_leftovers(folder)
    with suppress(OSError):
        folder.rmdir()


def _remove(path: Path) -> None:
    """Remove a checkpoint; what else lies in its folder stays, and so does the folder then."""
    for name in (RECORD, STATE):  # the record first: without it nothing takes the rest for whole
        (path / name).unlink(missing_ok=True)
    with suppress(OSError):
        path.rmdir()


def _remove_leftovers(folder: Path) -> None:
    """Of processes that were killed while they wrote."""
    for leftover in folder.glob(".*.partial"):
        if PARTIAL.fullmatch(leftover.name):
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

    path = _find(folder, step)
    record, state = _read(path, load_file)
    inside = state.get("step")
    if inside is None or inside.numel() != 1 or inside.item() != record["step"]:
        raise _refused(path, "holds the state of another step")
    return Checkpoint(int(record["step"]), state, record["seconds"], record.get("run"))


def actor(
    folder: Path, of: Mapping[str, Any], index: int, step: int | None = None, net: str = "actor"
) -> tuple[int, dict[str, NDArray[np.floating]]]:
    """The step of a checkpoint, and the arrays of a net of the ``index``-th seed in it, which is of
    the run with that record. Nothing else is read, and without torch.

    Raises:
        UserError: as ``load``.
    """
    from safetensors import safe_open

    def read(path: Path) -> dict[str, NDArray[np.floating]]:
        with safe_open(path, framework="numpy") as file:
            names = [name for name in file.keys() if name.startswith(f"{net}.")]  # noqa: SIM118
            return {name: file.get_slice(name)[index : index + 1][0] for name in names}

    record, arrays = _read(_find(folder, step), read)
    require_run(record.get("run"), of, folder, int(record["step"]))
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
    """The record of a checkpoint, and what ``reader`` makes of its state.

    Raises:
        UserError: it is damaged, or not the one that the folder's name says; names the one before.
    """
    try:
        record = json.loads((path / RECORD).read_text())
        damage = _damage(path, record)
        if damage is None:
            return record, reader(path / STATE)
    except Exception as error:
        damage = f"cannot be read ({error})"
    raise _refused(path, damage)


def _refused(path: Path, damage: str) -> UserError:
    """What to say of a damaged checkpoint, and of the one before it."""
    older = [step for step in steps(path.parent) if step < int(path.name)]
    way_out = (
        f"Remove it to go on from step {older[-1]:,}."
        if older
        else "It is the only one, so the run has to be begun anew."
    )
    return UserError(f"The checkpoint {path} {damage}. {way_out}")


def _damage(path: Path, record: Any) -> str | None:
    """What is wrong with a checkpoint, by its record."""
    if not isinstance(record, dict) or not isinstance(record.get("seconds"), dict):
        return f"has a damaged {RECORD}"
    if not all(map(_is_duration, record["seconds"].values())):
        return f"has a damaged {RECORD}: 'seconds' holds what is no number of them"
    if record.get("format") not in (1, FORMAT):
        return f"has format {record.get('format')!r}, and this version reads up to {FORMAT}"
    if type(record.get("step")) is not int or record["step"] != int(path.name):
        return f"says that it is of step {record.get('step')!r}"
    if record["format"] > 1 and record.get("sha256") != digest.of_file(path / STATE):
        return f"is damaged: {STATE} does not fit its SHA-256"
    return None


def _is_duration(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value >= 0


def _complete(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    names = (path for path in folder.iterdir() if path.name.isascii() and path.name.isdigit())
    whole = [path for path in names if (path / RECORD).exists() or (path / STATE).exists()]
    return sorted(whole, key=lambda path: int(path.name))  # 1000000000 is after 999999999
