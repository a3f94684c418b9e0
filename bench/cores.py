"""Which cores a contender runs on, and how busy they are."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from iql_fast.support.cores import usable_cores

TOPOLOGY = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


def for_threads(threads: int) -> tuple[int, ...]:
    """The logical cores for so many threads: different physical ones while there are any.

    Empty where processes cannot be bound to cores (macOS), or where there are fewer cores.
    """
    if not hasattr(os, "sched_getaffinity") or threads > usable_cores():
        return ()
    allowed = sorted(os.sched_getaffinity(0))
    first = [core for core in allowed if core == min(siblings(core) & set(allowed))]
    return tuple((first + [core for core in allowed if core not in first])[:threads])


@contextmanager
def unbound() -> Iterator[None]:
    """Processes that are started meanwhile may use every core, whatever this one is bound to."""
    if not hasattr(os, "sched_getaffinity"):
        yield
        return
    bound = os.sched_getaffinity(0)
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    try:
        yield
    finally:
        os.sched_setaffinity(0, bound)


def siblings(core: int) -> set[int]:
    """The logical cores of the same physical core, itself included."""
    try:
        return parse_list(Path(TOPOLOGY.format(core)).read_text()) | {core}
    except OSError:
        return {core}


def parse_list(text: str) -> set[int]:
    """The kernel's notation, as in ``0-3,8``."""
    found: set[int] = set()
    for part in text.strip().split(","):
        low, _, high = part.partition("-")
        found |= set(range(int(low), int(high or low) + 1))
    return found


def busy_seconds(watched: Collection[int], stat: Path = Path("/proc/stat")) -> float | None:
    """CPU seconds since boot for which any process, or another guest of the host, had the cores.

    None where no cores are given, or there is no /proc/stat, or it does not know them.
    """
    try:
        lines = stat.read_text().splitlines()
    except OSError:
        return None
    ticks, seen = 0, 0
    for line in lines:
        name, *fields = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in watched:
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
            ticks += user + nice + system + irq + softirq + steal
            seen += 1
    return ticks / os.sysconf("SC_CLK_TCK") if 0 < seen == len(watched) else None
