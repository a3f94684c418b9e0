"""Scores of runs of our own, evaluation by evaluation: what a new run is held against.

One JSON file a kind of run lies in ``curves/``; ``tools/reference_curves.py`` writes them.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from importlib import resources
from typing import Any


@dataclass(frozen=True)
class Kind:
    """What runs have in common whose scores may be compared.

    Attributes:
        task: of the paper, or an id of others' data.
        method: its name, as ``--method`` takes it.
        physics: whose mechanics the policies are scored in, and regenerated data were made in.
        simulator: version of MuJoCo where the mechanics are its own; ``""`` where they are D4RL's,
            which do not depend on it.
        origin: whose data: ``"d4rl"``, ``"regenerated"``, ``"minari"`` or ``"ogbench"``.
        fingerprint: of the recipe and the seed of regenerated data; ``""`` of others.
        settings: those that depart from the paper's, as JSON holds them.
        steps: training steps in all.
    """

    task: str
    method: str
    physics: str
    simulator: str
    origin: str
    fingerprint: str
    settings: Mapping[str, Any]
    steps: int

    def differs(self, other: Kind) -> list[str]:
        """The attributes in which another kind is another."""
        return [f.name for f in fields(self) if getattr(self, f.name) != getattr(other, f.name)]

    @property
    def file_name(self) -> str:
        """That nothing of another kind has."""
        text = json.dumps(asdict(self), sort_keys=True)
        name = "".join(c if c.isalnum() or c == "-" else "_" for c in self.task)
        return f"{name}-{self.method}-{hashlib.sha256(text.encode()).hexdigest()[:8]}.json"


@dataclass(frozen=True)
class Curve:
    """The scores of one seed, in the order of the evaluations, and the versions that it ran with
    (package -> version)."""

    scores: tuple[float, ...]
    versions: Mapping[str, str]


@dataclass(frozen=True)
class ReferenceCurves:
    """Our runs of one kind.

    Attributes:
        steps: at which all of them were scored.
        curves: training seed -> its scores.
    """

    kind: Kind
    steps: tuple[int, ...]
    curves: Mapping[int, Curve]

    def record(self) -> dict[str, Any]:
        """As JSON holds it."""
        curves = {str(seed): asdict(self.curves[seed]) for seed in sorted(self.curves)}
        return {"kind": asdict(self.kind), "steps": self.steps, "curves": curves}


def from_record(record: Mapping[str, Any]) -> ReferenceCurves:
    """The inverse of ``ReferenceCurves.record``."""
    curves = {
        int(seed): Curve(tuple(curve["scores"]), curve["versions"])
        for seed, curve in record["curves"].items()
    }
    return ReferenceCurves(Kind(**record["kind"]), tuple(record["steps"]), curves)


@functools.cache
def ours() -> tuple[ReferenceCurves, ...]:
    """All that come with the package."""
    folder = resources.files("iql_fast.tasks").joinpath("curves")
    files: Iterable[Any] = folder.iterdir() if folder.is_dir() else ()
    texts = [file.read_text() for file in files if file.name.endswith(".json")]
    return tuple(from_record(json.loads(text)) for text in texts)
