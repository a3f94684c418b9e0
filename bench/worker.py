"""One contender in a process of its own: ``python bench/worker.py '{"kind": ...}'``.

Sets up, warms up and answers ``{"ready": true}``, or ``{"unavailable": reason}``. Then every line
on stdin is a number of seconds, answered by one line: the window that was measured. It ends with
its stdin. ``bench/processes.py`` is the other side.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.append(str(Path(__file__).resolve().parent.parent))  # after an installed iql_fast

if TYPE_CHECKING:
    from bench.contenders import Runner

#: A call of ``run`` is to take about this long, so that neither the call nor the clock counts, nor
#: that the threads of a call wait for the last of them.
CALL_SECONDS = 0.5
WARM_UP_SECONDS = 0.5


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    answer = answers()
    record = json.loads(sys.argv[1])
    watched = bind(record["threads"])
    # Only now: the libraries below count the cores when they are imported.
    from bench import contenders

    contender = contenders.Contender.from_json(record)
    set_torch_threads(contender.threads)
    try:
        runner = contenders.build(contender)
    except contenders.Unavailable as error:
        answer({"unavailable": str(error)})
        return
    units = warm_up(runner)
    answer({"ready": True})
    for line in sys.stdin:
        runner.run(units)  # what ran since may have taken the caches
        answer(window(runner, units, float(line), watched))


def answers() -> Callable[[dict[str, Any]], None]:
    """The channel to the parent; what libraries print goes to stderr from here on."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(record: dict[str, Any]) -> None:
        print(json.dumps(record), file=channel, flush=True)

    return answer


def bind(threads: int) -> set[int]:
    """Bind the process to as many cores; those whose use by others would disturb it."""
    from bench import cores

    chosen = cores.for_threads(threads)
    if chosen:
        os.sched_setaffinity(0, chosen)
    return {beside for core in chosen for beside in cores.siblings(core)}


def set_torch_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    torch.set_num_interop_threads(1)


def warm_up(runner: Runner) -> int:
    """Run until caches, allocators and compilers have settled; the units of work for one call."""
    runner.run(runner.unit)
    done, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < WARM_UP_SECONDS:
        runner.run(runner.unit)
        done += runner.unit
    calls = round(done / elapsed * CALL_SECONDS / runner.unit)
    return max(1, calls) * runner.unit


def window(runner: Runner, units: int, length: float, watched: set[int]) -> dict[str, Any]:
    """Work for about so many seconds; see ``bench.processes.Window``."""
    from bench import cores

    done = 0
    busy, cpu, start = cores.busy_seconds(watched), time.process_time(), time.perf_counter()
    while (elapsed := time.perf_counter() - start) < length:
        runner.run(units)
        done += units
    own = time.process_time() - cpu
    later = cores.busy_seconds(watched)
    return {
        "steps": done * runner.worth,
        "seconds": elapsed,
        "cpu_seconds": own,
        "active": runner.active(),
        "busy_seconds": None if busy is None or later is None else later - busy,
    }


if __name__ == "__main__":
    main()
