"""Neighbours on a shared machine: busy loops that contend for a benchmark's cores."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from iql_fast.support.cores import usable_cores
from iql_fast.support.errors import UserError


@contextmanager
def busy(count: int) -> Iterator[list[int]]:
    """So many loops meanwhile, each on a core of its own, the last ones; their processes' numbers.

    Raises:
        UserError: there are fewer cores.
    """
    if count > usable_cores():
        raise UserError(f"--neighbours is {count}, but there are {usable_cores()} cores.")
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        if hasattr(os, "sched_setaffinity"):
            cores = sorted(os.sched_getaffinity(0))
            for loop, core in zip(loops, reversed(cores), strict=False):
                os.sched_setaffinity(loop.pid, {core})
        yield [loop.pid for loop in loops]
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
