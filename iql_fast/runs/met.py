"""The transitions that a run has met, in files beside its checkpoints.

They only become more, so a checkpoint does not hold them: each time one is written, what was met
since the last goes to a file of its own, whose name says which they are and has its SHA-256.
"""

from __future__ import annotations

import hashlib
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from iql_fast.support import digest
from iql_fast.support.errors import UserError
from iql_fast.support.files import written_beside

if TYPE_CHECKING:  # a policy is read where nothing else of a run is
    from iql_fast.data.replay import Replay

_NAME = re.compile(r"(\d{12})-(\d{12})-([0-9a-f]{64})\.safetensors")


def save(folder: Path, replay: Replay, upto: int) -> None:
    """Bring what was met up to that number (it is not among them) to the disk.

    Raises:
        UserError: it cannot be written.
    """
    from safetensors import numpy as safetensors

    begin = max((end for _, end, _ in _files(folder)), default=0)
    if upto <= begin:
        return
    slots = np.arange(begin, upto) % replay.capacity
    columns = {name: np.ascontiguousarray(x[:, slots]) for name, x in replay.met.items()}
    content = safetensors.save(columns)
    sha256 = hashlib.sha256(content).hexdigest()
    with written_beside(folder / f"{begin:012d}-{upto:012d}-{sha256}.safetensors") as partial:
        partial.write_bytes(content)


def load(folder: Path, replay: Replay, upto: int) -> None:
    """Read what was met up to that number into the replay; what lies beyond is removed.

    Raises:
        UserError: a file is missing or damaged.
    """
    from safetensors import numpy as safetensors

    reached = 0
    for begin, end, path in _files(folder):
        if begin >= upto:
            path.unlink()
            continue
        if begin != reached or end > upto:
            break
        columns = safetensors.load_file(_whole(path))
        slots = np.arange(begin, end) % replay.capacity
        for name, x in replay.met.items():
            x[:, slots] = columns[name]
        reached = end
    if reached != upto:
        raise UserError(
            f"{folder} lacks the transitions that the run met from number {reached:,} to {upto:,}. "
            "Bring back its files, or go on from an earlier checkpoint."
        )


def remove_all(folder: Path) -> None:
    """Remove the files, and the folder where nothing else is in it."""
    for *_, path in _files(folder):
        path.unlink()
    with suppress(OSError):
        folder.rmdir()


def _whole(path: Path) -> Path:
    if _NAME.fullmatch(path.name)[3] != digest.of_file(path):  # type: ignore[index]
        raise UserError(
            f"{path} is damaged: it does not fit the SHA-256 in its name. Bring back the run's own "
            "file."
        )
    return path


def _files(folder: Path) -> list[tuple[int, int, Path]]:
    """First number, end and path of each, in order."""
    if not folder.is_dir():
        return []
    matches = [(_NAME.fullmatch(path.name), path) for path in folder.iterdir()]
    return sorted((int(m[1]), int(m[2]), path) for m, path in matches if m is not None)
