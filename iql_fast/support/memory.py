"""How much memory this process may still take."""

from __future__ import annotations

import os
from pathlib import Path

from iql_fast.support.errors import UserError


def available_bytes() -> int | None:
    """The least of what the machine has free, what the container may use and what the process may
    address; None where the system tells none of them."""
    limits = [_free(), _container(), _address_space()]
    known = [limit for limit in limits if limit is not None]
    return min(known) if known else None


def require(needed: int, what: str) -> None:
    """Raise a ``UserError`` where so many bytes are more than what is left."""
    left = available_bytes()
    if left is not None and needed > left:
        raise UserError(
            f"{what} takes {needed / 2**30:.1f} GiB of memory, and {left / 2**30:.1f} GiB are left "
            "here. Divide it, or free some memory."
        )


def _free() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return None


def _container() -> int | None:
    """Of the control group that a container has to itself (version 2)."""
    group = Path("/sys/fs/cgroup")
    try:
        most = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
        return None if most == "max" else max(int(most) - used, 0)
    except (OSError, ValueError):
        return None


def _address_space() -> int | None:
    try:
        import resource

        most, _ = resource.getrlimit(resource.RLIMIT_AS)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        taken = pages * os.sysconf("SC_PAGE_SIZE")
    except (ImportError, OSError, ValueError):
        return None
    return None if most == resource.RLIM_INFINITY else max(most - taken, 0)
