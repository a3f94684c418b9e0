"""D4RL's HDF5 layout: reading it, checking it, and turning it into transitions as D4RL does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iql_fast.support.errors import UserError

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

REQUIRED_KEYS = ("observations", "actions", "rewards", "terminals")
#: |action| up to here is clipped, as the authors do: human demonstrations overshoot to 1.4. Beyond,
#: the file is not in D4RL's units.
ACTION_LIMIT = 2.0
#: Observations further apart than this do not follow each other (authors' code).
SAME_STATE = 1e-6


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


@dataclass(frozen=True)
class LoggedTransitions:
    """(s, a, r, s', terminal) rows, and where trajectories end.

    Attributes:
        next_observations: ``[N, O]``.
        ends: ``[N]``, whether the row is the last of its trajectory.
    """

    observations: FloatArray
    actions: FloatArray
    rewards: FloatArray
    terminals: BoolArray
    next_observations: FloatArray
    ends: BoolArray


def read(path: Path, obs_dim: int | None = None, act_dim: int | None = None) -> LoggedSteps:
    """Read and check a file in D4RL's layout.

    Raises:
        UserError: naming the file, the key and the row, and what to do.
    """
    import h5py

    if not path.is_file():
        raise UserError(f"There is no dataset file {path}.")
    try:
        with h5py.File(path, "r") as file:
            missing = [key for key in REQUIRED_KEYS if key not in file]
            if missing:
                raise UserError(
                    f"{path} lacks the key {missing[0]!r}. A file in D4RL's layout holds "
                    f"{', '.join(REQUIRED_KEYS)} and usually timeouts, one row a step; this one "
                    f"holds {', '.join(sorted(file)) or 'nothing'}."
                )
            columns = {key: file[key][()] for key in REQUIRED_KEYS}
            timeouts = file["timeouts"][()] if "timeouts" in file else None
    except OSError as error:
        raise UserError(
            f"{path} cannot be read as HDF5 ({error}). It is truncated or not an HDF5 file: fetch "
            "or make it again."
        ) from None
    steps = LoggedSteps(
        observations=np.ascontiguousarray(columns["observations"], dtype=np.float32),
        actions=np.ascontiguousarray(columns["actions"], dtype=np.float32),
        rewards=_flat(columns["rewards"]).astype(np.float32),
        terminals=_flat(columns["terminals"]).astype(bool),
        timeouts=None if timeouts is None else _flat(timeouts).astype(bool),
    )
    check(steps, str(path), obs_dim, act_dim)
    return steps


def _flat(column: NDArray[Any]) -> NDArray[Any]:
    """``[N]`` from ``[N]`` or ``[N, 1]``; anything else is left for ``check`` to name."""
    return column[:, 0] if column.ndim == 2 and column.shape[1] == 1 else column


def check(steps: LoggedSteps, where: str, obs_dim: int | None, act_dim: int | None) -> None:
    """Raise a ``UserError`` that says what is wrong with the columns read from ``where``."""
    columns = {key: getattr(steps, key) for key in (*REQUIRED_KEYS, "timeouts")}
    columns = {key: column for key, column in columns.items() if column is not None}
    for key, column in columns.items():
        expected = 2 if key in ("observations", "actions") else 1
        if column.ndim != expected:
            raise UserError(
                f"{where}: {key!r} has shape {column.shape}; expected {expected} dimension(s), the "
                "first being the step."
            )
    rows = len(steps.observations)
    for key, column in columns.items():
        if len(column) != rows:
            raise UserError(
                f"{where}: {key!r} has {len(column)} rows, but 'observations' has {rows}. Every "
                "column must have one row a step."
            )
    if rows < 2:
        raise UserError(
            f"{where} has {rows} row(s): a transition needs two that follow each other."
        )
    for key, width in (("observations", obs_dim), ("actions", act_dim)):
        if width is not None and columns[key].shape[1] != width:
            raise UserError(
                f"{where}: {key!r} has {columns[key].shape[1]} columns, but the task has {width}. "
                "Is it the file of another task?"
            )
    for key in ("observations", "actions", "rewards"):
        finite = np.isfinite(columns[key]).reshape(rows, -1).all(1)
        if not finite.all():
            row = int(np.argmin(finite))
            count = int((~finite).sum())
            raise UserError(
                f"{where}: {key!r} is not finite in row {row} ({count} such row(s)). Remove the "
                "trajectories that hold them, or repair what logged them."
            )
    out_of_range = np.abs(steps.actions).max(1, initial=0) > ACTION_LIMIT
    if out_of_range.any():
        row = int(np.argmax(out_of_range))
        raise UserError(
            f"{where}: 'actions' reaches {np.abs(steps.actions[row]).max():.4g} in row {row} "
            f"({int(out_of_range.sum())} such row(s)). Actions belong in [-1, 1] (up to 2 they are "
            "clipped): rescale them."
        )


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
        keep[_last_allowed_steps(steps.terminals[:-1], horizon)] = False
    rows = np.flatnonzero(keep)
    observations = steps.observations[rows]
    next_observations = steps.observations[rows + 1]
    terminals = steps.terminals[rows]
    ends = np.ones(len(rows), dtype=bool)
    gaps = np.linalg.norm(observations[1:] - next_observations[:-1], axis=1) > SAME_STATE
    ends[:-1] = gaps | terminals[:-1]
    return LoggedTransitions(
        observations, steps.actions[rows], steps.rewards[rows], terminals, next_observations, ends
    )


def _last_allowed_steps(terminals: BoolArray, horizon: int) -> NDArray[np.int64]:
    """Rows at step ``horizon - 1`` of their episode, counted from 0 after each terminal or such
    row."""
    cuts = []
    start = 0
    for end in [*np.flatnonzero(terminals).tolist(), len(terminals) - 1]:
        # Between two terminals, every horizon-th row reaches the limit.
        cuts.append(np.arange(start + horizon - 1, end + 1, horizon))
        start = end + 1
    return np.concatenate(cuts)


def trajectory_returns(rewards: FloatArray, ends: BoolArray) -> NDArray[np.float64]:
    """The sum of rewards of each trajectory, the partial tail included."""
    last = np.flatnonzero(ends)
    if len(last) == 0 or last[-1] != len(rewards) - 1:
        last = np.append(last, len(rewards) - 1)
    totals = np.cumsum(rewards, dtype=np.float64)[last]
    return np.diff(totals, prepend=0.0)
