"""The contenders' processes, seen from the benchmark that asks them for windows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.contenders import KINDS, Contender
from iql_fast.support.cores import usable_cores

WORKER = Path(__file__).with_name("worker.py")


@dataclass(frozen=True)
class Window:
    """What a contender did when it was asked to work for a while.

    Attributes:
        steps: training steps over all seeds; the floor's may be fractional.
        seconds: what they took.
        cpu_seconds: CPU time of the contender's own process.
        busy_seconds: time for which anything at all ran on its cores, or on others of the same
            physical cores. None where the system does not tell.
        active: share of the hidden units that were active at its end, where that makes a
            difference.
    """

    steps: float
    seconds: float
    cpu_seconds: float
    busy_seconds: float | None
    active: float | None = None

    @property
    def rate(self) -> float:
        """Training steps a second."""
        return self.steps / self.seconds


class Failed(Exception):
    """A contender's process ended, or could not be set up; the message says why."""


class ContenderProcess:
    """A contender in a process of its own, idle but for the windows that it is asked for."""

    def __init__(self, contender: Contender) -> None:
        self.contender = contender
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed by close()
        self._process = subprocess.Popen(
            [sys.executable, str(WORKER), json.dumps(contender.to_json())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=os.environ | settings(contender),
        )

    @property
    def pid(self) -> int:
        """Of the process, for tools that watch it."""
        return self._process.pid

    def wait_until_ready(self) -> None:
        """Wait for set-up and warm-up.

        Raises:
            Failed: with the reason.
        """
        answer = self._answer()
        if "unavailable" in answer:
            raise Failed(answer["unavailable"])

    def window(self, seconds: float) -> Window:
        """Work for about so many seconds.

        Raises:
            Failed: the process has ended.
        """
        assert self._process.stdin is not None
        try:
            print(seconds, file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise Failed(self._last_words()) from None
        return Window(**self._answer())

    def close(self) -> None:
        """End the process at once."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Failed(self._last_words())
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _last_words(self) -> str:
        status = self._process.wait()
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors if line.strip()]
        said = f": {lines[-1]}" if lines else ""
        return f"its process ended with status {status}{said}"


def settings(contender: Contender) -> dict[str, str]:
    """Environment variables that hold the libraries to a contender's threads and its device."""
    threads = contender.threads
    count = str(threads)
    xla = f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'}"
    flags = (os.environ.get("XLA_FLAGS", ""), xla, f"intra_op_parallelism_threads={count}")
    return {
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "OPENBLAS_NUM_THREADS": count,
        "NPROC": count,  # XLA's pool of threads; the prefixed name is the older one
        "PJRT_NPROC": count,
        "XLA_FLAGS": " ".join(flag for flag in flags if flag),
        "JAX_PLATFORMS": KINDS[contender.kind].device,
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # of a device's memory, which others need too
    }


class Processes:
    """The contenders' processes; all end when the block is left.

    Attributes:
        ready: those that can be asked for windows.
        left_out: contender -> why it cannot.
    """

    def __init__(self) -> None:
        self.ready: dict[Contender, ContenderProcess] = {}
        self.left_out: dict[Contender, str] = {}
        self._all: list[ContenderProcess] = []
        self._pool = ThreadPoolExecutor(min(4, usable_cores()))

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in self._all:
            process.close()

    def start(
        self, contenders: Sequence[Contender], on_start: Callable[[], object] = lambda: None
    ) -> None:
        """Set up and warm up, some at the same time.

        Args:
            on_start: called whenever one is ready or found missing.
        """
        futures = {self._pool.submit(self._start, contender): contender for contender in contenders}
        for future in as_completed(futures):
            contender = futures[future]
            try:
                self.ready[contender] = future.result()
            except Failed as failure:
                self.left_out[contender] = str(failure)
            on_start()

    def stop(self, contenders: Iterable[Contender]) -> None:
        """End the processes of contenders that are no longer needed."""
        for contender in contenders:
            if process := self.ready.pop(contender, None):
                self._all.remove(process)
                process.close()

    def drop(self, contender: Contender, reason: str) -> None:
        """Leave out a contender that has failed."""
        self.left_out[contender] = reason
        self.stop([contender])

    def _start(self, contender: Contender) -> ContenderProcess:
        if reason := KINDS[contender.kind].missing():
            raise Failed(reason)
        process = ContenderProcess(contender)
        self._all.append(process)
        process.wait_until_ready()
        return process
