"""What a dataset holds, for people."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from iql_fast.data import own
from iql_fast.data.resolve import Found

BINS = 20
BAR = 50  # characters of the longest


def show(found: Found) -> None:
    """Print rows, trajectories, returns as a histogram, the range of actions, jumps, and what was
    inferred or dropped."""
    logged = found.logged
    for line in (
        f"{found.record.get('path', found.title)}",
        "checks: keys, lengths, finite: passed",
        f"rows logged {found.rows or len(logged.rewards)}, transitions {len(logged.rewards)}",
        f"observations of {logged.observations.shape[1]} numbers, actions of "
        f"{logged.actions.shape[1]}",
    ):
        print(line)
    if found.parts:
        print("observations are", ", ".join(f"{path} [{size}]" for path, size in found.parts))
    for note in found.notes:
        print(f"note: {note}")
    print(f"terminal rows {int(logged.terminals.sum())}")
    _show_actions(found)
    distance = own.distances(logged)[~logged.terminals]
    if len(distance):
        print(
            f"from s to s': median {np.median(distance):.4g}, 99.9% below "
            f"{np.quantile(distance, 0.999):.4g}, largest {distance.max():.4g}"
        )
    print(_scored(found))
    if logged.ordered:
        _show_trajectories(found)


def _show_actions(found: Found) -> None:
    actions = found.logged.actions
    print(f"actions from {actions.min():.4g} to {actions.max():.4g}", end="")
    if found.bounds is None:
        outside = float((np.abs(actions) > 1).mean())
        print(f", bounds -1 and 1 ({outside:.2%} of them outside)")
    elif np.isfinite(found.bounds.low).all() and np.isfinite(found.bounds.high).all():
        low, high = found.bounds.low, found.bounds.high
        outside = float(((actions < low) | (actions > high)).mean())
        print(f", bounds {low.min():.4g} to {high.max():.4g} ({outside:.2%} of them outside)")
    else:
        print(", scaled by the data's own range where they have no bound")


def _scored(found: Found) -> str:
    where = found.scoring
    if where.environment is None:
        return f"scored: nowhere, {where.note}"
    from iql_fast.environments import simulator

    return f"scored: in {simulator.label(where.environment)}, {where.horizon} steps, {where.unit}"


def _show_trajectories(found: Found) -> None:
    returns, lengths = found.logged.whole_returns(), found.logged.lengths()
    print(
        f"trajectories {len(lengths)}, lengths {lengths.min()} to {lengths.max()}, mean length "
        f"{lengths.mean():.1f}"
    )
    score = ""
    if found.scoring.reference is not None:
        score = f", normalised mean {found.scoring.score(float(returns.mean())):.1f}"
    print(
        f"returns: mean {returns.mean():.1f}, std {returns.std():.1f}, min {returns.min():.1f}, "
        f"max {returns.max():.1f}{score}"
    )
    if len(returns) < len(lengths):
        print(f"the last trajectory, of {lengths[-1]} row(s), was not logged to its end")
    if "antmaze" in (found.scoring.environment or ""):
        walks = found.logged.walk_returns()
        print(f"walks {len(walks)}, of which {np.mean(walks > 0):.1%} reach the goal")
    counts, edges = _histogram(returns)
    for count, low, high in zip(counts, edges[:-1], edges[1:], strict=True):
        print(f"{low:10.1f} .. {high:10.1f} {count:7d} {'#' * round(BAR * count / counts.max())}")


def _histogram(returns: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Counts, and edges one more; a single bin where returns are too much alike for several."""
    low, high = returns.min(), returns.max()
    if high - low <= 2 * BINS * np.spacing(np.abs(returns).max()):
        return np.array([len(returns)]), np.array([low, high])
    return np.histogram(returns, bins=BINS)
