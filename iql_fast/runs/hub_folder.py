"""A policy as a folder for a hub of models: its card, its weights, what they are, and pictures.

The folder knows its own: ``config.json`` holds the SHA-256 of every other file, so that one that
somebody has added to or edited is never replaced.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from iql_fast.policies import safetensors_file
from iql_fast.policies.observations import Layout
from iql_fast.policies.portable import MARK, Portable
from iql_fast.support import digest
from iql_fast.support.errors import UserError
from iql_fast.support.files import read_json, write_json

CARD, WEIGHTS, CONFIG = "README.md", "model.safetensors", "config.json"
#: Key of ``config.json`` under which the other files and their SHA-256 stand.
FILES = "files"


class Held(NamedTuple):
    """What a folder holds.

    Attributes:
        whole: what computes the policy.
        task, data, seed, step, layout: see ``iql_fast.runs.trained.TrainedPolicy``.
    """

    whole: Portable
    task: str
    data: str
    seed: int
    step: int
    layout: Layout | None


def is_one(path: Path) -> bool:
    """Whether a folder says that it is such a folder, whole or not."""
    return _told(path).keys() >= {MARK, FILES}


def is_untouched(path: Path) -> bool:
    """Whether a folder holds what was exported, and nothing else."""
    files = _told(path).get(FILES)
    if not isinstance(files, dict) or path.is_symlink():  # a link leads to somebody's own folder
        return False
    found = {entry.name for entry in path.iterdir()}
    return found == {CONFIG, *files} and all(
        (path / name).is_file() and digest.of_file(path / name) == sha256
        for name, sha256 in files.items()
    )


def _told(path: Path) -> dict[str, Any]:
    try:
        return read_json(path / CONFIG, "")
    except UserError:
        return {}


def check_place(path: Path) -> None:
    """Raise a ``UserError`` where a folder would be lost by exporting to it."""
    if path.is_dir() and not any(path.iterdir()):
        return
    if (path.exists() or path.is_symlink()) and not (path.is_dir() and is_untouched(path)):
        raise UserError(
            f"{path} exists, and is no former export as it was written, so it will not be touched. "
            "Move it away, or name another folder with --out."
        )


@contextmanager
def written(path: Path, told: Mapping[str, Any]) -> Iterator[Path]:
    """A new folder beside ``path`` to put files into; it takes the name when the block succeeds.

    Args:
        told: what ``config.json`` says.

    Raises:
        UserError: what is there is not to be lost, or nothing can be written.
    """
    check_place(path)
    partial, old = (path.with_name(f".{path.name}.{os.getpid()}.{x}") for x in ("partial", "old"))
    try:
        partial.mkdir(parents=True)
        yield partial
        files = {file.name: digest.of_file(file) for file in sorted(partial.iterdir())}
        write_json(partial / CONFIG, {**told, FILES: files})
        if path.exists():
            os.replace(path, old)
        os.replace(partial, path)
    except OSError as error:
        if old.exists() and not path.exists():
            os.replace(old, path)
        raise UserError(
            f"{path} cannot be written ({error.strerror or error}). Free some space, make the "
            "folder writable, or name another with --out."
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def read(path: Path) -> Held:
    """The policy in a folder.

    Raises:
        UserError: something is missing or damaged; names the file.
    """
    otherwise = f"{path} holds no whole policy"
    told = read_json(path / CONFIG, otherwise)
    kinds = {"task": str, "data": str, "seed": int, "step": int}
    for name, kind in kinds.items():
        if type(told.get(name)) is not kind:
            raise UserError(f"{otherwise}: {CONFIG} has no {name!r} as it should be.")
    try:
        content = (path / WEIGHTS).read_bytes()
    except OSError as error:
        raise UserError(f"{otherwise}: {WEIGHTS} cannot be read ({error.strerror}).") from None
    try:
        whole = safetensors_file.decode(content)
    except Exception as error:  # whatever its reader makes of other bytes
        raise UserError(f"{otherwise}: {WEIGHTS} is damaged ({error}).") from None
    if (wrong := safetensors_file.misfit(whole)) is not None:
        raise UserError(f"{otherwise}: in {WEIGHTS}, {wrong} does not fit.")
    layout = _layout(told, otherwise, len(whole.obs_mean))
    return Held(whole, told["task"], told["data"], told["seed"], told["step"], layout)


def _layout(told: Mapping[str, Any], otherwise: str, obs_dim: int) -> Layout | None:
    given = told.get("observation_layout")
    if given is None:
        return None
    try:
        parts = tuple((str(part), int(size)) for part, size in given)
    except (TypeError, ValueError):
        parts = ()
    if sum(size for _, size in parts) != obs_dim:
        raise UserError(f"{otherwise}: {CONFIG} has an observation_layout of another size.")
    return parts
