"""A tracker in a thread of its own: however slow it is, and whatever it raises, the run goes on."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from iql_fast.runs.loggers.base import Row, Told, Tracker

#: Rows that wait for a tracker at most; those that come then are lost to it.
MOST_WAITING = 10_000
#: Rows that a tracker is given at once at most.
MOST_AT_ONCE = 100
#: Seconds that the end of a run waits for a tracker at most.
PATIENCE = 60.0
#: Of those, after which the end of a run says that it waits.
SAID_AFTER = 2.0
REMEDY = "metrics.csv and scores.csv have them all, and --resume of the run sends them again"

#: Table -> the last step of it that has arrived.
Arrived = dict[str, int]


class Background:
    """Hands rows to a tracker, in order.

    Args:
        history: rows of the run up to where it goes on from.
        arrived: of the run in the tracker so far; what has arrived there is not sent again.
        mark: told of the tracker's name for the run, and of what has arrived, as it does.
        say: shows a line to the user.
    """

    def __init__(
        self,
        name: str,
        tracker: Tracker,
        run: Told,
        history: Sequence[Row],
        arrived: Arrived,
        mark: Callable[[str, Arrived], None],
        say: Callable[[str], None],
    ) -> None:
        self._name, self._tracker, self._run = name, tracker, run
        self._history, self._before = history, arrived
        self._mark, self._say = mark, say
        self._waiting: queue.Queue[Row] = queue.Queue(MOST_WAITING)
        self._over = threading.Event()
        self._summary: Row | None = None
        self._unsent = len(history)
        self._given: deque[tuple[float, Arrived]] = deque()
        self._gap = self._warned = self._given_up = False
        self._count = threading.Lock()
        self._thread = threading.Thread(target=self._work, name=f"log-{name}", daemon=True)
        self._thread.start()

    def rows(self, rows: Iterable[Row]) -> None:
        """Leave rows to be sent; returns at once."""
        for row in rows:
            with self._count:
                self._unsent += 1
            try:
                self._waiting.put_nowait(row)
            except queue.Full:
                self._gap = True

    def end(self, summary: Row | None) -> None:
        """Let the tracker finish; returns at once."""
        self._summary = summary
        self._over.set()

    def wait(self, until: float) -> None:
        """Wait for that, up to a moment of ``time.monotonic``, and say what has not arrived."""
        patience = max(0.0, until - time.monotonic())
        self._thread.join(min(patience, SAID_AFTER))
        if self._thread.is_alive() and patience > SAID_AFTER:
            self._say(f"log     waiting for {self._name}, {patience:.0f} s at most")
            self._thread.join(patience - SAID_AFTER)
        self._given_up = self._thread.is_alive()
        said = []
        if self._given_up:
            said.append("it did not finish in time")
            with suppress(Exception):
                self._tracker.abandon()
        if self._unsent:
            said.append(f"{self._unsent:,} rows did not arrive; {REMEDY}")
        if said:
            self._say(f"warning --log {self._name}: {'; '.join(said)}")

    def _work(self) -> None:
        if not self._try(self._begin):
            return
        for first in range(0, len(self._history), MOST_AT_ONCE):
            self._send(self._history[first : first + MOST_AT_ONCE])
        while not (self._over.is_set() and self._waiting.empty()):
            self._send(self._next())
            self._settle(time.monotonic() - self._tracker.settles)
        if self._try(lambda: self._tracker.end(self._summary)):
            self._settle(time.monotonic())

    def _begin(self) -> None:
        begun = self._tracker.begin(self._run)
        if not begun.goes_on:
            self._before = {}
        self._identity, self._arrived = begun.run, dict(self._before)
        self._mark(begun.run, self._arrived)
        self._say(f"log     {self._name}: {begun.where}")

    def _next(self) -> list[Row]:
        """What waits; nothing where that is nothing for a moment."""
        rows: list[Row] = []
        try:
            rows.append(self._waiting.get(timeout=0.1))
            while len(rows) < MOST_AT_ONCE:
                rows.append(self._waiting.get_nowait())
        except queue.Empty:
            pass
        return rows

    def _send(self, rows: Sequence[Row]) -> None:
        new = [row for row in rows if row.step > self._before.get(row.table, 0)]
        if self._given_up or (new and not self._try(lambda: self._tracker.rows(new))):
            self._gap = True  # what comes next may arrive, but is not all
            return
        with self._count:
            self._unsent -= len(rows)
        if new and not self._gap:
            self._given.append((time.monotonic(), {row.table: row.step for row in new}))

    def _settle(self, until: float) -> None:
        """Mark what the tracker was given up to a moment."""
        before = dict(self._arrived)
        while self._given and self._given[0][0] <= until:
            self._arrived |= self._given.popleft()[1]
        if self._arrived != before:
            self._try(lambda: self._mark(self._identity, self._arrived))

    def _try(self, what: Callable[[], None]) -> bool:
        """Whether it was done; the first time that it is not, the user reads why."""
        try:
            what()
        except BaseException as error:  # a package may call sys.exit
            if not (self._warned or self._given_up):
                self._warned = True
                said = " ".join(f"{type(error).__name__} {error}".split())[:300]
                self._say(f"warning --log {self._name} failed ({said}); training goes on")
            return False
        return True
