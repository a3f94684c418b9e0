"""Writing files so that nobody ever sees half of one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from iql_fast.errors import UserError


@contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``; it takes the name ``path`` when the block succeeds.

    Raises:
        UserError: the folder cannot be written, or its disk is full.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror or error}). Free some space, make the "
            "folder writable, or choose another."
        ) from None
    finally:
        with suppress(OSError):  # what was wrong with the folder has been said
            partial.unlink(missing_ok=True)
