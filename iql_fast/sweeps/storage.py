"""Run folders on storage that machines share: any path that fsspec knows.

A folder is brought there at its run's checkpoints, and is fetched where a job starts on a machine
that has it not, or an older one. The order of the files is such that what is there can be gone on
with at any moment: the record first, then tables, which may be ahead of the checkpoints, then
checkpoints, each whole when its ``state.json`` is there; old ones are removed last. Every file is
written beside its place and renamed, or by a store that shows whole files alone.
"""

from __future__ import annotations

import os
import shutil
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from iql_fast.runs import checkpoint
from iql_fast.support.errors import UserError
from iql_fast.support.files import PARTIAL

CONFIG, SUMMARY = "config.json", "summary.json"


class Storage:
    """A place for the folders of a sweep.

    Args:
        url: ``s3://bucket/folder``, ``gs://...``, ``file:///...``, or a path.

    Raises:
        UserError: fsspec is missing, does not know the place, or it cannot be written.
    """

    def __init__(self, url: str) -> None:
        try:
            import fsspec
        except ImportError:
            raise UserError(
                "--storage needs fsspec, which is not installed: pip install 'iql-fast[sweep]'."
            ) from None
        self.url = url
        try:
            self._files, self._root = fsspec.core.url_to_fs(url)
            probe = f"{self._root}/.probe-{uuid.uuid4().hex}"  # others may look here now, too
            self._files.makedirs(self._root, exist_ok=True)
            self._files.pipe_file(probe, b"probe")
            whole = self._files.cat_file(probe) == b"probe"
            self._files.rm_file(probe)
        except Exception as error:  # of whichever file system it is
            raise UserError(
                f"--storage {url} cannot be written ({_said(error)}). Name another place, or give "
                "this machine the rights."
            ) from None
        if not whole:
            raise UserError(f"--storage {url} does not give back what was written there.")
        self._pushed: dict[str, tuple[int, int]] = {}

    def newest(self, name: str) -> int:
        """The last step of the run that is there: of its newest whole checkpoint, 0 where there is
        none; ``-1``: there is no run."""
        there = self._listed(name)
        if CONFIG not in there:
            return -1
        steps = [int(path.split("/")[1]) for path in there if _makes_whole(path)]
        return max(steps, default=0)

    def has_ended(self, name: str) -> bool:
        """Whether the run that is there is finished."""
        return SUMMARY in self._listed(name)

    def push_if_saved(self, name: str, folder: Path) -> None:
        """``push`` where there is a checkpoint that was not brought yet."""
        saved = checkpoint.steps(folder / "checkpoint")
        key = f"{name}/checkpoint/{saved[-1]:09d}/{checkpoint.RECORD}" if saved else ""
        if saved and key not in self._pushed:
            self.push(name, folder)

    def push(self, name: str, folder: Path) -> None:
        """Bring what is new in a folder; remove there what it no longer has.

        Raises:
            UserError: the storage cannot be written.
        """
        if not folder.is_dir():
            return
        own = [path for path in folder.rglob("*") if path.is_file()]
        inner = ((path.relative_to(folder), path) for path in own)
        paths = {str(inside): path for inside, path in inner if not _is_partial(inside)}
        try:
            for inside in sorted(paths, key=_order):
                self._put(f"{name}/{inside}", paths[inside])
            gone = self._listed(name) - paths.keys()
            for inside in sorted(gone, key=_order, reverse=True):
                gone_file = f"{self._root}/{name}/{inside}"
                self._files.rm_file(gone_file)
                with suppress(Exception):  # not empty, or no folders there
                    self._files.rmdir(gone_file.rpartition("/")[0])
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{self.url} cannot be written ({_said(error)}).") from error

    def fetch(self, name: str, folder: Path) -> bool:
        """Bring the folder to this machine where the storage is further; whether it was.

        Raises:
            UserError: the storage cannot be read.
        """
        try:
            if not self.is_ahead(name, folder):
                return False
            partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            for inside in sorted(_whole(self._listed(name)), key=_order):
                self._get(f"{name}/{inside}", partial / inside)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{self.url} cannot be read ({_said(error)}).") from error
        if folder.exists():
            old = folder.with_name(f".{folder.name}-old.{os.getpid()}.partial")
            os.replace(folder, old)
            os.replace(partial, folder)
            shutil.rmtree(old)
        else:
            os.replace(partial, folder)
        for path in folder.rglob("*"):
            if path.is_file():
                self._pushed[f"{name}/{path.relative_to(folder)}"] = _stamp(path)
        return True

    def put_file(self, name: str, path: Path, replace: bool = False) -> None:
        """Bring one file, where it is not there yet or is to be replaced."""
        if replace or not self._files.exists(f"{self._root}/{name}"):
            self._put(name, path)

    def get_file(self, name: str, path: Path) -> bool:
        """Fetch one file; whether there is one."""
        self._files.invalidate_cache()
        if not self._files.exists(f"{self._root}/{name}"):
            return False
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        self._get(name, partial)
        os.replace(partial, path)
        return True

    def is_ahead(self, name: str, folder: Path) -> bool:
        """Whether the run that is there is further than that of a folder here."""
        there = self.newest(name)
        if there < 0:
            return False
        if not (folder / CONFIG).exists():
            return True
        if (folder / SUMMARY).exists():
            return False
        here = max(checkpoint.steps(folder / "checkpoint"), default=0)
        return there > here or self.has_ended(name)

    def _listed(self, name: str) -> set[str]:
        """Paths of the files of a folder."""
        self._files.invalidate_cache()
        root = f"{self._root}/{name}"
        found: list[str] = self._files.find(root) if self._files.exists(root) else []
        # Some file systems give paths back with a leading slash, others without.
        inside = (str(path).partition(f"{root.lstrip('/')}/")[2] for path in found)
        return {path for path in inside if path and not _is_partial(Path(path))}

    def _put(self, name: str, path: Path) -> None:
        stamp = _stamp(path)
        if self._pushed.get(name) == stamp:
            return
        target = f"{self._root}/{name}"
        partial = self._beside(target)
        self._files.makedirs(target.rpartition("/")[0], exist_ok=True)
        self._files.put_file(str(path), partial)
        if partial != target:
            self._files.mv(partial, target)
        self._pushed[name] = stamp

    def _get(self, name: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._files.get_file(f"{self._root}/{name}", str(path))

    def _beside(self, target: str) -> str:
        """Where a file is written first: object stores show none but whole ones."""
        protocol: Any = self._files.protocol
        names = (protocol,) if isinstance(protocol, str) else protocol
        if not {"file", "local", "sftp", "ssh", "smb", "hdfs"} & set(names):
            return target
        parent, _, name = target.rpartition("/")
        return f"{parent}/.{name}.{os.getpid()}.partial"


def _order(inside: str) -> tuple[int, str]:
    """Record, tables, states, what makes states whole, the end."""
    rank = 4 if inside == SUMMARY else 3 if _makes_whole(inside) else 1
    if inside.startswith("checkpoint/") and rank == 1:
        rank = 2
    return (0 if inside == CONFIG else rank), inside


def _whole(paths: set[str]) -> set[str]:
    """Those that are not of a checkpoint that was being brought or removed."""
    folders = {path.rpartition("/")[0] for path in paths if _makes_whole(path)}
    return {
        path
        for path in paths
        if not path.startswith("checkpoint/") or path.rpartition("/")[0] in folders
    }


def _makes_whole(inside: str) -> bool:
    parts = inside.split("/")
    return len(parts) == 3 and parts[0] == "checkpoint" and parts[2] == checkpoint.RECORD


def _is_partial(path: Path) -> bool:
    return any(PARTIAL.fullmatch(part) for part in path.parts)


def _stamp(path: Path) -> tuple[int, int]:
    told = path.stat()
    return told.st_size, told.st_mtime_ns


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
