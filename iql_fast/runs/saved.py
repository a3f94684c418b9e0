"""The policies of a checkpoint, as evaluation runs them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from iql_fast.policies import units
from iql_fast.policies.acting import Acting, from_state, with_units
from iql_fast.runs import checkpoint, trained
from iql_fast.runs.folder import RunFolder

#: Keeps episodes of evaluations by hand apart from those of training's own, which are keyed by the
#: step.
KEY_OFFSET = 1 << 40


class Saved(NamedTuple):
    """The policies of all seeds of a run after ``step`` steps."""

    step: int
    policies: list[Acting]

    @property
    def key(self) -> int:
        """Seeds episodes, with a policy's seed and the episode's number."""
        return KEY_OFFSET + self.step


def policies(
    run: RunFolder,
    record: Mapping[str, Any],
    step: int | None = None,
    asked: Mapping[str, Any] | None = None,
) -> Saved:
    """Those of a checkpoint (None: the last).

    Args:
        record: of the run.
        asked: in place of what the record says of what acts.

    Raises:
        UserError: there is no such checkpoint, or it is another run's.
    """
    saved = checkpoint.load(run.checkpoints, step)
    checkpoint.require_run(saved.run, record, run.checkpoints, saved.step)
    own, acting = units.from_record(record), trained.acting(record) | dict(asked or {})
    places = range(len(trained.seeds(record)))
    return Saved(saved.step, [with_units(from_state(saved.state, s, acting), own) for s in places])
