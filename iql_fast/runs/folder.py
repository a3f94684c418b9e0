"""A run's folder: what lies where, and who may write it."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iql_fast.policies import formats
from iql_fast.runs import checkpoint, hub_folder, met
from iql_fast.runs.record import fault
from iql_fast.support import digest
from iql_fast.support.errors import UserError
from iql_fast.support.files import PARTIAL, read_json

PROBE = ".probe"  # written and removed to see whether a folder can be written

#: What tells a report from another page.
REPORT_MARK = '<meta name="generator" content="iql_fast.report">'

#: What the record of a run holds at least, and as what.
RECORD = {"options": dict, "engine": str, "data": dict, "scoring": dict}


#: What a record says besides its options that scores and actions depend on.
SETTLED = ("policy", "scoring", "observation_scaling", "action_bounds", "observation_layout")


def settled(record: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a record that ``settled_sha256`` is of."""
    return {name: record.get(name) for name in SETTLED}


@dataclass(frozen=True)
class RunFolder:
    """The files of one run."""

    path: Path

    @property
    def config(self) -> Path:
        """Everything needed to repeat the run."""
        return self.path / "config.json"

    @property
    def metrics(self) -> Path:
        """One row a log interval and seed."""
        return self.path / "metrics.csv"

    @property
    def scores(self) -> Path:
        """One row an evaluation and seed."""
        return self.path / "scores.csv"

    @property
    def episodes(self) -> Path:
        """One row an episode that a policy acted in while it was trained."""
        return self.path / "episodes.csv"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoint"

    @property
    def met(self) -> Path:
        """The transitions that a run in the environment has met."""
        return self.path / "met"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def logged(self) -> Path:
        """The run in each tracker that it is logged to, and how far."""
        return self.path / "logged.json"

    @property
    def curves(self) -> Path:
        return self.path / "curves.png"

    @property
    def paths(self) -> Path:
        """The ways through the maze of the last evaluation, where the task has a maze."""
        return self.path / "paths.png"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def failure(self) -> Path:
        """What a loss that was not finite came from."""
        return self.path / "failure.json"

    @property
    def evaluation(self) -> Path:
        """What ``python -m iql_fast.evaluate`` found."""
        return self.path / "evaluation.json"

    @property
    def report(self) -> Path:
        """The page that ``python -m iql_fast.report`` makes of the run."""
        return self.path / "report.html"

    def exports(self) -> list[Path]:
        """What ``python -m iql_fast.export`` wrote here under names of its own."""
        return [path for path in self.path.glob("policy*") if formats.is_export(path)]

    def hub_folders(self) -> list[Path]:
        """Those of ``--to hub-folder`` here under names of its own, as they were written."""
        return [path for path in self.path.glob("hub*") if hub_folder.is_untouched(path)]

    def read_config(self) -> dict[str, Any]:
        """The record that the run began with.

        Raises:
            UserError: this is not the folder of a run, or its record is damaged.
        """
        otherwise = f"{self.path} is not the folder of a run"
        record = read_json(self.config, otherwise)
        for name, kind in RECORD.items():
            if not isinstance(record.get(name), kind):
                raise UserError(f"{otherwise}: {self.config.name} has no {name!r} as it should be.")
        if (wrong := fault(record)) is not None:
            raise UserError(f"{otherwise}: in {self.config.name}, {wrong}. Bring back the file.")
        for what, known, own in (
            ("options", record.get("options_sha256"), record["options"]),
            ("scoring, policy and units", record.get("settled_sha256"), settled(record)),
        ):
            if known is not None and known != digest.of_json(own):
                raise UserError(
                    f"{self.config} was changed since the run began: its {what} do not fit their "
                    "SHA-256. Bring back the file; a run with other options is a new run."
                )
        return record

    def require(self) -> None:
        """Raise a ``UserError`` where the folder has gone while the run went on."""
        if not self.config.exists():
            raise UserError(
                f"{self.path} was moved or removed while the run went on. Its files are whole up "
                "to the last checkpoint: go on with --resume where it is now."
            )

    def read_summary(self) -> dict[str, Any]:
        """The scores of a run that has ended.

        Raises:
            UserError: it has not.
        """
        return read_json(self.summary, f"{self.path} holds no finished run")


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """The folder for this process alone, until the block is left or the process ends, however it
    ends.

    Raises:
        UserError: another process trains in it.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:  # some network file systems have no locks: then nobody has one
            if error.errno == errno.EWOULDBLOCK:
                raise UserError(
                    f"Another process is training in {path}. Wait for it or stop it, or name "
                    "another folder with --out."
                ) from None
        yield
    finally:
        os.close(descriptor)


def check(path: Path, overwrite: bool, needed_bytes: int) -> None:
    """The errors of ``create``, leaving everything as it is."""
    try:
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    except OSError as error:  # a name that is too long, a folder that may not be read
        raise UserError(
            f"{path} cannot be used ({error.strerror}). Name another with --out."
        ) from None
    try:
        _prepare(path, overwrite, needed_bytes)
    finally:
        for folder in missing:
            with suppress(OSError):  # not made, or somebody uses it by now
                folder.rmdir()


def create(path: Path, overwrite: bool, needed_bytes: int) -> RunFolder:
    """A new, empty run folder.

    Args:
        needed_bytes: what the run will write at most at one time; less free space is an error.

    Raises:
        UserError: the folder holds a run already, cannot be written, or its disk is full.
    """
    _prepare(path, overwrite, needed_bytes)
    folder = RunFolder(path)
    checkpoint.remove_all(folder.checkpoints)
    met.remove_all(folder.met)
    for events in folder.tensorboard.glob("events.out.tfevents.*"):
        events.unlink()
    with suppress(OSError):  # what else lies there is not ours
        folder.tensorboard.rmdir()
    for old in (
        *filter(is_leftover, path.iterdir()),
        *(folder.metrics, folder.scores, folder.curves, folder.paths, folder.summary),
        *(folder.failure, folder.evaluation, folder.episodes, folder.logged, *folder.exports()),
        *([folder.report] if is_report(folder.report) else []),
    ):
        old.unlink(missing_ok=True)
    for exported in folder.hub_folders():
        shutil.rmtree(exported)
    return folder


def is_report(path: Path) -> bool:
    """Whether a file is a page that ``python -m iql_fast.report`` wrote."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return REPORT_MARK.encode() in file.read(1000)


def is_leftover(path: Path) -> bool:
    """Whether a file is what a process of this package leaves behind that is killed as it begins a
    run."""
    ours = path.name == PROBE or PARTIAL.fullmatch(path.name) is not None
    return ours and path.is_file() and not path.is_symlink()


def _prepare(path: Path, overwrite: bool, needed_bytes: int) -> None:
    """A folder at ``path`` that can be written and holds no run that is to be kept."""
    folder = RunFolder(path)
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file. Name another folder with --out.")
    if path.is_dir() and not all(map(is_leftover, path.iterdir())):
        if not folder.config.exists():
            raise UserError(
                f"{path} is not empty and holds no run, so nothing in it will be touched. Name "
                "another folder with --out."
            )
        if not overwrite:
            raise UserError(
                f"{path} already holds a run. Go on with it (--resume {path}), name another folder "
                "with --out, or replace it with --overwrite."
            )
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / PROBE
        probe.write_bytes(b"\0" * 4096)
        probe.unlink()
        free = shutil.disk_usage(path).free
    except OSError as error:
        raise UserError(
            f"The folder {path} cannot be written ({error.strerror}). Name another with --out."
        ) from None
    if free < needed_bytes:
        raise UserError(
            f"{path} has {free >> 20} MiB free, but the run needs {needed_bytes >> 20}. "
            "Free some space, or name a folder on another disk with --out."
        )
