"""Windows of all contenders, one at a time, in rounds of random order."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

from bench import console
from bench.contenders import Contender
from bench.processes import Failed, Processes, Window

#: Before each window, for threads of the one before that still spin.
SETTLE_SECONDS = 0.02


def run(
    contenders: Sequence[Contender],
    rounds: int,
    seconds: float,
    called: Callable[[Contender], str],
) -> tuple[dict[Contender, list[Window]], dict[Contender, str]]:
    """Start the contenders, and measure them (``measure``) with their progress shown.

    Args:
        called: what progress calls a contender.

    Returns:
        The windows of those that could be measured, and why the others could not.
    """
    with Processes() as running:
        with console.progress(len(contenders), "starting") as advance:
            running.start(contenders, on_start=advance)
        with console.progress(rounds * len(running.ready), "measuring") as advance:
            measured = measure(
                running,
                contenders,
                rounds,
                seconds,
                on_window=lambda contender: advance(called(contender)),
            )
    return measured, running.left_out


def measure(
    processes: Processes,
    contenders: Sequence[Contender],
    rounds: int,
    seconds: float,
    *,
    on_window: Callable[[Contender], object] = lambda _: None,
    deadline: float = float("inf"),
    seed: int = 0,
) -> dict[Contender, list[Window]]:
    """A window of each contender for every round; one that fails is dropped.

    Every round holds one window of each, so a machine whose speed drifts drifts for all; the order
    is drawn anew, so nobody always follows the same neighbour.

    Args:
        deadline: on the clock of ``time.monotonic``; no round but the first starts that would end
            after it, were it to take as long as the one before.
    """
    order = random.Random(seed)
    measured: dict[Contender, list[Window]] = {c: [] for c in contenders if c in processes.ready}
    for _ in range(rounds):
        start = time.monotonic()
        for contender in order.sample(list(measured), len(measured)):
            time.sleep(SETTLE_SECONDS)
            on_window(contender)
            try:
                window = processes.ready[contender].window(seconds)
            except Failed as failure:
                processes.drop(contender, str(failure))
                del measured[contender]
            else:
                measured[contender].append(window)
        now = time.monotonic()
        if now + (now - start) > deadline:
            break
    return measured
