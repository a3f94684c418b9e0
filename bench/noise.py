"""Whether the machine was quiet enough for its timings to be trusted."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from bench.contenders import Contender
from bench.processes import Window

#: Largest share of a contender's cores that other processes may have had.
OTHERS_LIMIT = 0.05
#: Largest (max - min) / median of the floor over the rounds.
FLOOR_SPREAD_LIMIT = 0.10


def spread(values: Sequence[float]) -> float:
    """(max - min) / median."""
    return (max(values) - min(values)) / statistics.median(values)


def others_share(threads: int, windows: Sequence[Window]) -> float | None:
    """Share of a contender's cores that others had during its windows; None if not known."""
    busy = [window.busy_seconds for window in windows]
    own = sum(window.cpu_seconds for window in windows)
    known = [seconds for seconds in busy if seconds is not None]
    # Some sandboxes show a /proc/stat that stands still: less than our own work alone.
    if len(known) < len(busy) or sum(known) < own / 2:
        return None
    available = threads * sum(window.seconds for window in windows)
    return max(0.0, sum(known) - own) / available


def cores_used(windows: Sequence[Window]) -> float:
    """Cores that a contender kept busy on average."""
    return sum(w.cpu_seconds for w in windows) / sum(w.seconds for w in windows)


def disturbances(measured: Mapping[Contender, Sequence[Window]]) -> dict[Contender, list[str]]:
    """Why rows are not to be trusted; rows without a reason are left out.

    What disturbs the floor disturbs the ratios of every row with as many threads.
    """
    own = {contender: _own(contender, windows) for contender, windows in measured.items()}
    found: dict[Contender, list[str]] = {}
    for contender in measured:
        floors = [c for c in measured if c.bounds and c.threads == contender.threads]
        reasons = own[contender]
        if not reasons and any(own[c] for c in floors):
            reasons = ["its floor was disturbed"]
        if reasons:
            found[contender] = reasons
    return found


def _own(contender: Contender, windows: Sequence[Window]) -> list[str]:
    reasons = []
    share = others_share(contender.threads, windows)
    if share is not None and share > OTHERS_LIMIT:
        reasons.append(f"others had {share:.0%} of its cores")
    if (used := cores_used(windows)) > contender.threads * 1.05 + 0.05:
        reasons.append(f"used {used:.2f} cores for {contender.threads} threads")
    if contender.bounds:
        if len(windows) < 2:
            reasons.append("one round cannot show its spread")
        wide = spread([window.rate for window in windows])
        if wide > FLOOR_SPREAD_LIMIT:
            reasons.append(f"spread {wide:.0%} over the rounds")
    return reasons
