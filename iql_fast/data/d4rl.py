"""D4RL's own files: reading them, and turning them into transitions as D4RL does.

Its loop is the specification for them; data of a user's own are read by ``iql_fast.data.own``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from iql_fast.data import columns, logged
from iql_fast.data.logged import SAME_STATE, BoolArray, FloatArray, LoggedTransitions
from iql_fast.support.errors import UserError


@dataclass(frozen=True)
class LoggedSteps:
    """The columns of a D4RL file, N rows in the order in which they were logged.

    Attributes:
        observations: ``[N, O]``.
        actions: ``[N, A]``.
        rewards: ``[N]``.
        terminals: ``[N]``, whether the step ended in a terminal state.
        timeouts: ``[N]``, whether the time limit cut the episode after the step; None where the
            file does not say.
    """

    observations: FloatArray
    actions: FloatArray
    rewards: FloatArray
    terminals: BoolArray
    timeouts: BoolArray | None


def read(path: Path, obs_dim: int | None = None, act_dim: int | None = None) -> LoggedSteps:
    """Read and check a file in D4RL's layout.

    Raises:
        UserError: naming the file, the key and the row, and what to do.
    """
    found = columns.read(path)
    names = [name for name in (*columns.REQUIRED, "timeouts") if name in found]
    found = {name: found[name] for name in names}
    where = str(path)
    logged.check_shapes(found, where)
    if len(found["rewards"]) < 2:
        raise UserError(
            f"{where} has {len(found['rewards'])} row(s): a transition needs two that follow each "
            "other."
        )
    logged.check_sizes(found, where, obs_dim, act_dim)
    numbers = ("observations", "actions", "rewards")
    logged.check_finite({name: found[name] for name in numbers}, where)
    return LoggedSteps(*(found.get(name) for name in (*columns.REQUIRED, "timeouts")))  # type: ignore[arg-type]


def transitions(steps: LoggedSteps, horizon: int) -> LoggedTransitions:
    """D4RL's ``qlearning_dataset``, and the authors' trajectory ends.

    Rows 0 to N-2 with ``s' = observations[i + 1]``; a row that the time limit cut is dropped, since
    its s' belongs to the next episode; a terminal row stays. Where the file has no timeouts, the
    row at step ``horizon - 1`` of its episode is the one that is dropped.

    A trajectory ends at a terminal row, and where the next row's observation is not this row's s'.
    """
    keep = np.ones(len(steps.rewards) - 1, dtype=bool)
    if steps.timeouts is not None:
        keep &= ~steps.timeouts[:-1]
    else:
        keep[last_allowed_steps(steps.terminals[:-1], horizon)] = False
    rows = np.flatnonzero(keep)
    observations = steps.observations[rows]
    next_observations = steps.observations[rows + 1]
    terminals = steps.terminals[rows]
    ends = np.ones(len(rows), dtype=bool)
    with np.errstate(over="ignore"):  # what is beyond float32 is far enough
        gaps = np.linalg.norm(observations[1:] - next_observations[:-1], axis=1) > SAME_STATE
    ends[:-1] = gaps | terminals[:-1]
    return LoggedTransitions(
        observations, steps.actions[rows], steps.rewards[rows], terminals, next_observations, ends
    )


def last_allowed_steps(terminals: BoolArray, horizon: int) -> NDArray[np.int64]:
    """``[K]``: rows at step ``horizon - 1`` of their episode, counted from 0 after each terminal
    or such row."""
    cuts = []
    start = 0
    for end in [*np.flatnonzero(terminals).tolist(), len(terminals) - 1]:
        # Between two terminals, every horizon-th row reaches the limit.
        cuts.append(np.arange(start + horizon - 1, end + 1, horizon))
        start = end + 1
    return np.concatenate(cuts)
