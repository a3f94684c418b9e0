"""A sweep's folder: which sweep it is of, its jobs, and where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import iql_fast
from iql_fast.runs.folder import is_leftover
from iql_fast.support import digest
from iql_fast.support.errors import UserError
from iql_fast.support.files import read_json, write_json
from iql_fast.sweeps import packing
from iql_fast.sweeps.packing import Packed
from iql_fast.sweeps.spec import Spec

NAME = "sweep.json"


class Book:
    """``sweep.json``: written before the first job and whenever the jobs change.

    Attributes:
        jobs: as they are, of those that were parted the parts.
        parted: what was done to the jobs of the spec, in order: a job's name, and the seed whose
            loss was not finite there.
    """

    def __init__(self, folder: Path, spec: Spec) -> None:
        self.folder = folder
        self.spec = spec
        self.jobs: list[Packed] = []
        self.parted: list[tuple[str, int]] = []

    def open(self, jobs: Sequence[Packed]) -> None:
        """Take over what the folder holds; nothing is written.

        Args:
            jobs: of the spec.

        Raises:
            UserError: the folder holds another sweep, or something else.
        """
        self.jobs = list(jobs)
        for name, seed in self._stored():
            self._part(name, seed)

    def part(self, job: Packed, seed: int) -> list[Packed]:
        """Replace a job by the parts around the setting that has this seed, which are returned."""
        parts = self._part(job.name, seed)
        self.write()
        return parts

    def path(self, job: Packed) -> Path:
        """Of a job's run."""
        return self.folder / "jobs" / job.name

    def write(self) -> None:
        """Bring the record to the disk."""
        spec = self.spec.record()
        write_json(
            self.folder / NAME,
            {
                "format": 1,
                "version": iql_fast.__version__,
                "spec": spec,
                "spec_sha256": digest.of_json(spec),
                "seeds": packing.RULE,
                "parted": [list(part) for part in self.parted],
                "jobs": [job.record() for job in self.jobs],
            },
        )

    def _part(self, name: str, seed: int) -> list[Packed]:
        at = next((i for i, job in enumerate(self.jobs) if job.name == name), None)
        if at is None:
            raise UserError(
                f"{self.folder / NAME} is damaged: it parts {name!r}, which is no job. Bring back "
                "the sweep's own file."
            )
        parts = self.jobs[at].parted(seed)
        self.jobs[at : at + 1] = parts
        self.parted.append((name, seed))
        return parts

    def _stored(self) -> list[tuple[str, int]]:
        path = self.folder / NAME
        if not path.exists():
            if self.folder.exists() and not (
                self.folder.is_dir() and all(map(is_leftover, self.folder.iterdir()))
            ):
                raise UserError(
                    f"{self.folder} is not the folder of a sweep, so nothing in it will be "
                    "touched. Name another with --out."
                )
            return []
        stored, asked = read_json(path, f"{self.folder} holds no sweep"), self.spec.record()
        before = stored.get("spec")
        if before != asked:
            before = before if isinstance(before, dict) else {}
            changed = [key for key in asked if asked[key] != before.get(key)]
            raise UserError(
                f"{self.folder} holds another sweep: {', '.join(changed) or 'its spec'} "
                "differ(s). Bring back its spec, or name another folder with --out."
            )
        try:
            return [(str(name), int(seed)) for name, seed in stored["parted"]]
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{path} is damaged: 'parted' is not as it was written.") from None


def numbers(folder: Path) -> dict[str, Any]:
    """The record of the sweep in a folder.

    Raises:
        UserError: there is none.
    """
    return read_json(folder / NAME, f"{folder} holds no sweep")
