"""What there is of a run by now: what it was asked for, how far it came, and its scores."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from iql_fast import methods
from iql_fast.environments import scoring
from iql_fast.environments.scoring import Scoring
from iql_fast.runs import completeness, config
from iql_fast.runs.completeness import Compared
from iql_fast.runs.config import TrainConfig
from iql_fast.runs.folder import RunFolder
from iql_fast.runs.rows import last_step
from iql_fast.runs.schedule import Schedule
from iql_fast.runs.summary import summarise


@dataclass(frozen=True)
class Standing:
    """A run as its folder shows it.

    Attributes:
        record: of its config.json.
        options: completed.
        state: ``"unfinished"`` where it goes on or was stopped, which a folder does not tell.
        step: of the last row of metrics.csv; 0 where there is none.
        scores: its rows of scores.csv, beside those that there should be by now.
    """

    folder: RunFolder
    record: dict[str, Any]
    options: TrainConfig
    scoring: Scoring
    state: Literal["finished", "failed", "unfinished"]
    step: int
    scores: Compared

    @property
    def name(self) -> str:
        """That of its folder."""
        return self.folder.path.name or str(self.folder.path)

    @property
    def method(self) -> str:
        """What its method is called."""
        return methods.get(self.options.method).title

    @property
    def title(self) -> str:
        """What its data are called."""
        return str(self.record["data"]["title"])

    @property
    def versions(self) -> dict[str, str]:
        """Package -> version that the run had, as far as its record tells."""
        told = self.record.get("versions")
        return {str(x): str(v) for x, v in told.items()} if isinstance(told, dict) else {}

    @cached_property
    def summary(self) -> dict[str, Any] | None:
        """See ``summarise``; None where there are no scores yet."""
        return summarise(self.scores.rows, self.scores.due) if self.scores.rows else None

    @property
    def final(self) -> dict[int, float]:
        """Training seed -> the mean of its last evaluations; empty where there are none yet."""
        if self.summary is None:
            return {}
        return {int(seed): x for seed, x in self.summary["final"]["per_seed"].items()}


def read(path: Path) -> Standing:
    """The run in a folder.

    Raises:
        UserError: it is not the folder of a run, or one of its files is damaged.
    """
    run = RunFolder(path.absolute() if path.name in ("", "..") else path)
    record = run.read_config()
    where = scoring.from_record(record["scoring"])
    options = config.with_options(
        TrainConfig(), config.of_record(record["options"]), str(run.config)
    )
    schedule = Schedule(options, scored=where.environment is not None)
    scored = last_step(run.scores) if run.scores.exists() else 0
    finished, failed = run.summary.exists(), run.failure.exists()
    return Standing(
        run,
        record,
        options,
        where,
        "finished" if finished else "failed" if failed else "unfinished",
        last_step(run.metrics) if run.metrics.exists() else 0,
        completeness.scores(run, schedule, scored),
    )
