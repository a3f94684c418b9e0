"""Logged transitions, as every source of data hands them on, and what is checked of all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iql_fast.support.errors import UserError

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

#: Observations further apart than this do not follow each other (authors' code).
SAME_STATE = 1e-6
#: Rows that are looked at together, so that checks need little memory.
BLOCK = 1 << 16


@dataclass(frozen=True)
class LoggedTransitions:
    """(s, a, r, s', terminal) rows, and where trajectories end.

    Attributes:
        observations: ``[N, O]``.
        actions: ``[N, A]``, in the units of the environment.
        rewards: ``[N]``.
        terminals: ``[N]``, whether s' is worth nothing more.
        next_observations: ``[N, O]``.
        ends: ``[N]``, whether the row is the last of its trajectory.
        tail_is_whole: whether the last trajectory was logged to its end.
        ordered: whether rows follow each other as they were logged. Where they do not, each is a
            trajectory of its own, and there are no returns.
    """

    observations: FloatArray
    actions: FloatArray
    rewards: FloatArray
    terminals: BoolArray
    next_observations: FloatArray
    ends: BoolArray
    tail_is_whole: bool = False
    ordered: bool = True

    def returns(self) -> NDArray[np.float64]:
        """The sum of rewards of each trajectory, the partial tail included."""
        return trajectory_returns(self.rewards, self.ends)

    def whole_returns(self) -> NDArray[np.float64]:
        """And of those alone that were logged to their end, if there is any."""
        returns = self.returns()
        whole = self.tail_is_whole or bool(self.terminals[-1]) or len(returns) == 1
        return returns if whole else returns[:-1]

    def walk_returns(self) -> NDArray[np.float64]:
        """Those of logs that may go on after a terminal row, as AntMaze's do: the ant stays at the
        goal, a trajectory a row. To an evaluation a walk ends there; what follows counts for
        nothing. The log went on where the next row is no farther than a step can be."""
        returns, last = self.whole_returns(), _last_rows(self.ends)
        steps = self.observations[1:] - self.observations[:-1]
        far = np.linalg.norm(steps[~self.ends[:-1]], axis=1).max(initial=0.0)
        ended = last[: len(returns) - 1]
        went_on = self.terminals[ended] & (np.linalg.norm(steps[ended], axis=1) <= far)
        return np.delete(returns, np.flatnonzero(went_on) + 1)

    def lengths(self) -> NDArray[np.int64]:
        """Rows of each trajectory, the partial tail included."""
        return np.diff(_last_rows(self.ends), prepend=-1)


def trajectory_returns(rewards: FloatArray, ends: BoolArray) -> NDArray[np.float64]:
    """The sum of rewards of each trajectory, the partial tail included."""
    totals = np.cumsum(rewards, dtype=np.float64)[_last_rows(ends)]
    return np.diff(totals, prepend=0.0)


def _last_rows(ends: BoolArray) -> NDArray[np.int64]:
    last = np.flatnonzero(ends)
    return last if len(last) and last[-1] == len(ends) - 1 else np.append(last, len(ends) - 1)


def check_shapes(columns: Mapping[str, NDArray[Any]], where: str) -> None:
    """Raise a ``UserError`` where columns are not of one length, or of other dimensions."""
    if columns["observations"].shape[:1] == (0,):
        raise UserError(f"{where} has 0 rows: a transition needs two that follow each other.")
    for key, column in columns.items():
        expected = 2 if key in ("observations", "actions", "next_observations") else 1
        if column.ndim != expected:
            raise UserError(
                f"{where}: {key!r} has shape {column.shape}; expected {expected} dimension(s), the "
                "first being the step."
            )
        if expected == 2 and column.shape[1] == 0:
            raise UserError(f"{where}: {key!r} has no columns: there is nothing in a row.")
    rows = len(columns["observations"])
    for key, column in columns.items():
        if len(column) != rows:
            raise UserError(
                f"{where}: {key!r} has {len(column)} rows, but 'observations' has {rows}. Every "
                "column must have one row a step."
            )
    if "next_observations" in columns:
        wide, narrow = columns["next_observations"].shape[1], columns["observations"].shape[1]
        if wide != narrow:
            raise UserError(
                f"{where}: 'next_observations' has {wide} columns, but 'observations' has {narrow}."
            )


def check_sizes(
    columns: Mapping[str, NDArray[Any]], where: str, obs_dim: int | None, act_dim: int | None
) -> None:
    """Raise a ``UserError`` where a task has other sizes than its data."""
    for key, width in (("observations", obs_dim), ("actions", act_dim)):
        if width is not None and columns[key].shape[1] != width:
            raise UserError(
                f"{where}: {key!r} has {columns[key].shape[1]} columns, but the task has {width}. "
                "Is it the file of another task? Data of your own need no task: leave out --task."
            )


def _row(row: int) -> str:
    return f"row {row}"


def check_finite(
    columns: Mapping[str, NDArray[Any]], where: str, place: Callable[[int], str] = _row
) -> None:
    """Raise a ``UserError`` where a number is not finite.

    Args:
        place: says where a row stands in the source.
    """
    for key, column in columns.items():
        first, count = None, 0
        for start in range(0, len(column), BLOCK):
            block = column[start : start + BLOCK]
            wrong = ~np.isfinite(block).reshape(len(block), -1).all(1)
            if wrong.any():
                first = start + int(np.argmax(wrong)) if first is None else first
                count += int(wrong.sum())
        if first is not None:
            raise UserError(
                f"{where}: {key!r} is not finite in {place(first)} ({count} such row(s); float32 "
                "ends at 3.4e38). Remove the trajectories that hold them, or repair what logged "
                "them."
            )
