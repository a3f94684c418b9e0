"""Files that nobody ever sees half of, and the JSON in them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from iql_fast.support.errors import UserError

#: Names of what a killed process leaves behind beside a file that it was writing.
PARTIAL = re.compile(r"\..+\.\d+\.partial")


@contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``; it takes the name ``path`` when the block succeeds.

    Raises:
        UserError: the folder cannot be written, or its disk is full.
    """
    partial = _partial(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise _not_written(path, error) from None
    finally:
        with suppress(OSError):  # what was wrong with the folder has been said
            partial.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Raise the ``UserError`` of ``written_beside`` before the work whose result goes there."""
    probe = _partial(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"\0" * 4096)  # a full disk takes names but no bytes
    except OSError as error:
        raise _not_written(path, error) from None
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)


def _partial(path: Path) -> Path:
    if path.is_dir():
        raise UserError(f"{path} is a folder. Name a file.")
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


def _not_written(path: Path, error: OSError) -> UserError:
    for above in path.parents:
        if above.is_file():
            return UserError(f"{path} cannot be written: {above} is a file. Name another place.")
    return UserError(
        f"{path} cannot be written ({error.strerror or error}). Free some space, make the folder "
        "writable, or choose another."
    )


def read_json(path: Path, otherwise: str) -> dict[str, Any]:
    """The object in a JSON file; a ``UserError`` that begins with ``otherwise`` where none is."""
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"{otherwise}: {path.name} cannot be read ({error.strerror}).") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{otherwise}: {path.name} is damaged ({error}).") from None
    if not isinstance(content, dict):
        raise UserError(f"{otherwise}: {path.name} holds no JSON object.")
    return content


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write an object so that nobody ever sees half of it."""
    with written_beside(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n")
