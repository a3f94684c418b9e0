"""The operators of iql_fast.ops beside eager torch, torch._foreach_*, fused Adam and torch.compile.

    python bench/kernels.py                     # every operator, some minutes
    python bench/kernels.py --compile           # torch.compile too: it compiles each loss
    python bench/kernels.py --only expectile    # the operations with this in their name

One process, one contender at a time: each round gives every contender of an operation one window,
in random order. A cell is the median over the rounds, in microseconds a call; "to best" divides the
fastest rival's time by ours, round by round, and takes the median: below 1 a rival is faster, and
the row says which. "floor" is a copy that moves as many bytes as the operation must (each input
read once, each output written once); "calls" counts the operators that torch dispatches, which on
CUDA are launches.

Before it is timed, every contender's result is checked against ours.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent))  # after an installed iql_fast

import torch
from rich.table import Table
from torch.utils._python_dispatch import TorchDispatchMode

from bench import console, kernel_cases
from bench.kernel_cases import Case
from bench.options import positive, positive_seconds, write_text
from iql_fast.runs import machine
from iql_fast.support import extension

SIZES = (256, 4096, 65_536, 1_048_576)
#: Below this a rival counts as faster: twice the noise of a quiet machine.
FASTER = 0.95


@dataclass(frozen=True)
class Row:
    """One operation at one size.

    Attributes:
        rounds: contender -> microseconds a call, one for each round.
        calls: contender -> operators dispatched in a call.
        floor: of the same rounds: a copy of as many bytes.
    """

    case: Case
    rounds: dict[str, list[float]]
    calls: dict[str, int]

    def median(self, contender: str) -> float:
        return statistics.median(self.rounds[contender])

    @property
    def rivals(self) -> list[str]:
        return [name for name in self.rounds if name not in ("iql_fast", "floor")]

    def ratio(self, rival: str) -> float:
        """A rival's time by ours."""
        pairs = zip(self.rounds[rival], self.rounds["iql_fast"], strict=True)
        return statistics.median(theirs / ours for theirs, ours in pairs)

    @property
    def best_rival(self) -> str:
        return min(self.rivals, key=self.ratio)

    @property
    def rival_is_faster(self) -> bool:
        return self.ratio(self.best_rival) < FASTER

    def to_json(self) -> dict[str, Any]:
        return {
            "operation": self.case.operation,
            "size": self.case.size,
            "elements": self.case.n,
            "bytes": self.case.bytes,
            "microseconds": {name: self.median(name) for name in self.rounds},
            "rounds": self.rounds,
            "ratio": {rival: self.ratio(rival) for rival in self.rivals},
            "calls": self.calls,
            "faster_rival": self.best_rival if self.rival_is_faster else None,
        }


class _Count(TorchDispatchMode):
    """Counts operators, those of autograd's backward pass too; views launch nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.operators = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operators += not func.is_view
        return func(*args, **(kwargs or {}))


def count(call: Callable[[], Any]) -> int:
    """Operators that a call dispatches."""
    with _Count() as counted:
        call()
    return counted.operators


def seconds_a_call(call: Callable[[], Any], calls: int, clock_of: str) -> float:
    """By the clock of ``cpu``, ``cuda`` or ``cpu time``."""
    if clock_of == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(calls):
            call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3 / calls
    clock = time.thread_time if clock_of == "cpu time" else time.perf_counter
    started = clock()
    for _ in range(calls):
        call()
    return (clock() - started) / calls


def floor(case: Case) -> Callable[[], Any]:
    """A copy that moves the case's bytes."""
    source = torch.zeros(max(1, case.bytes // 8))
    target = torch.zeros_like(source)
    return lambda: target.copy_(source)


def add_compiled(case: Case) -> None:
    """torch.compile of the eager loss as one more contender, where it is a loss."""
    if case.eager is not None and case.timed is not None and case.results is not None:
        torch._dynamo.reset()
        function = torch.compile(case.eager)
        case.calls["compile"] = case.timed(function)
        case.check["compile"] = case.results(function)


def check(case: Case) -> None:
    """All contenders' results against ours.

    Raises:
        AssertionError: they differ by more than differently ordered sums may.
    """
    ours = case.check["iql_fast"]()
    for name, result in case.check.items():
        for a, b in zip(ours, result(), strict=True):
            torch.testing.assert_close(
                a,
                b,
                rtol=2e-5,
                atol=2e-6,
                msg=lambda text, name=name: f"{case.operation}, {name}: {text}",
            )


def measure(case: Case, rounds: int, window: float, clock_of: str) -> Row:
    contenders = case.calls | {"floor": floor(case)}
    calls = {}
    for name, call in contenders.items():
        call()
        once = seconds_a_call(call, 3, clock_of)
        calls[name] = max(1, min(100_000, int(window / max(once, 1e-7))))
    found: dict[str, list[float]] = {name: [] for name in contenders}
    order = list(contenders)
    for _ in range(rounds):
        random.shuffle(order)
        for name in order:
            found[name].append(1e6 * seconds_a_call(contenders[name], calls[name], clock_of))
    counted = {name: count(call) for name, call in case.calls.items() if name != "compile"}
    return Row(case, found, counted)


def table(rows: list[Row], title: str) -> Table:
    shown = Table(title=title, title_justify="left")
    shown.add_column("", no_wrap=True)
    shown.add_column("size", justify="right", no_wrap=True)
    contenders = list(dict.fromkeys(name for row in rows for name in row.rounds))
    for heading in (*contenders, "to best", "calls", "faster rival"):
        shown.add_column(heading, justify="right")
    for row in rows:
        calls = [row.calls[name] for name in ("iql_fast", "eager")]
        shown.add_row(
            row.case.operation,
            row.case.size,
            *(console.number(row.median(n) if n in row.rounds else None, 1) for n in contenders),
            console.number(row.ratio(row.best_rival)),
            f"{calls[0]} / {calls[1]}",
            row.best_rival if row.rival_is_faster else "-",
        )
    return shown


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", metavar="TEXT", default="", help="operations with this in the name"
    )
    parser.add_argument("--sizes", nargs="+", type=positive, default=SIZES, metavar="N")
    parser.add_argument("--compile", action="store_true", help="torch.compile as a contender too")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=positive, default=1, help="of torch on the CPU")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="time on the processor instead of by the clock, for a machine that others use; of one "
        "thread on the CPU",
    )
    parser.add_argument("--rounds", type=positive, default=9)
    parser.add_argument("--window", type=positive_seconds, default=0.02, metavar="SECONDS")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here")
    return parser


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    if reason := extension.unavailable_reason():
        print(f"There is nothing to measure: {reason}", file=sys.stderr)
        return 1
    if options.cpu_time and (options.threads > 1 or options.device != "cpu"):
        print("--cpu-time counts one thread on the CPU.", file=sys.stderr)
        return 1
    torch.set_num_threads(options.threads)
    if options.device != "cpu":  # it makes every call of torch pass through Python
        torch.set_default_device(options.device)
    chosen = [c for c in kernel_cases.cases(options.sizes) if options.only in c.operation]
    clock = "cpu time" if options.cpu_time else options.device
    rows = []
    with console.progress(len(chosen), "kernels") as advance:
        for case in chosen:
            if options.compile:
                add_compiled(case)
            check(case)
            rows.append(measure(case, options.rounds, options.window, clock))
            advance(f"{case.operation}, {case.size}")
    on = "CUDA" if options.device == "cuda" else f"the CPU, {options.threads} thread(s)"
    on += ", in time on the processor" if options.cpu_time else ""
    console.console().print(table(rows, f"Microseconds a call on {on}"))
    if options.json:
        record = {
            "machine": machine.machine()
            | machine.versions()
            | {"threads": options.threads, "device": options.device, "cpu_time": options.cpu_time},
            "results": [row.to_json() for row in rows],
        }
        write_text(options.json, json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
