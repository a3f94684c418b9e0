"""Training steps per second of the CPU engine against each of its sizes.

    python bench/scaling.py            # every axis, a few minutes
    python bench/scaling.py --quick    # fewer points, under a minute
    python bench/scaling.py --axes rows seeds

One size varies at a time, from hopper's observations and the paper's networks and batch. Each point
is a process of its own; those of an axis are timed in turns, one window each in every round, beside
torch's 256x256x256 sgemm ("floor"). GFLOP/s counts the matrix products of the step, so points of
different sizes can be compared by it. The marks (!), "active", and "noisy" in the JSON's machine
mean what they do in throughput.py.

"sampler" is the share of a step that drawing its batch takes: the time of a step of networks with a
single unit, on the same data, over that of the whole step. Little but the sampler is left in it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent))  # after an installed iql_fast

from bench import console, plots, results, rounds
from bench.contenders import KINDS, PRECISIONS, Contender
from bench.options import QUICK_SECONDS, add_outputs, positive, positive_seconds, write_text
from bench.processes import Processes
from bench.results import Point, Row
from bench.workload import Workload
from iql_fast.support import cli
from iql_fast.support.cores import usable_cores
from iql_fast.support.errors import UserError


@dataclass(frozen=True)
class Axis:
    """One size to vary.

    Attributes:
        values, quick: what it takes, and what it takes in a quick benchmark.
        at: the contender for a value, made of the usual one.
    """

    values: Sequence[int]
    quick: Sequence[int]
    at: Callable[[Contender, int], Contender]


def _sized(name: str) -> Callable[[Contender, int], Contender]:
    """For a field of ``Workload``."""

    def at(usual: Contender, value: int) -> Contender:
        change: dict[str, Any] = {name: value}
        workload = dataclasses.replace(usual.workload, **change)
        return dataclasses.replace(usual, workload=workload)

    return at


def _width(usual: Contender, value: int) -> Contender:
    workload = dataclasses.replace(usual.workload, hidden=(value, value))
    return dataclasses.replace(usual, workload=workload)


def axes() -> dict[str, Axis]:
    """Every axis; hopper has 11 observations, the locomotion tasks 17, ant 111, humanoid 376."""
    cores = usable_cores()
    doubled = [2**i for i in range(cores.bit_length()) if 2**i < cores]
    return {
        "batch": Axis((64, 128, 256, 512, 1024, 2048, 4096), (64, 256, 1024), _sized("batch")),
        "width": Axis((64, 128, 256, 512, 1024), (64, 256, 512), _width),
        "observations": Axis((4, 11, 17, 45, 111, 376), (11, 111), _sized("obs_dim")),
        "critics": Axis((2, 4, 6, 8, 10), (2, 10), _sized("critics")),
        "rows": Axis((10**5, 10**6, 10**7), (10**5, 10**6), _sized("rows")),
        "threads": Axis(
            (*doubled, cores),
            sorted({1, cores}),
            lambda usual, value: dataclasses.replace(usual, threads=value),
        ),
        "seeds": Axis(
            (1, 2, 4, 8), (1, 2), lambda usual, value: dataclasses.replace(usual, seeds=value)
        ),
    }


def parser() -> argparse.ArgumentParser:
    names = list(axes())
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="2 rounds of 0.3 seconds, two or three points an axis, usually 100,000 rows",
    )
    parser.add_argument(
        "--axes",
        nargs="+",
        choices=names,
        metavar="AXIS",
        default=names,
        help=f"which of {', '.join(names)} (default: all)",
    )
    parser.add_argument(
        "--threads",
        type=positive,
        metavar="N",
        default=usable_cores(),
        help="on the axes other than threads (default: all cores)",
    )
    parser.add_argument("--precision", choices=list(PRECISIONS), default="fp32")
    parser.add_argument("--rounds", type=positive, metavar="N", help="default: 7")
    parser.add_argument(
        "--window", type=positive_seconds, metavar="SECONDS", help="of a point in a round (0.5)"
    )
    add_outputs(parser)
    return parser


def single_unit(contender: Contender) -> Contender:
    """The same sampling, next to no training."""
    workload = dataclasses.replace(contender.workload, hidden=(1,), critics=1)
    return dataclasses.replace(contender, workload=workload)


def available_memory() -> float:
    """Bytes that processes may still take; infinite where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return math.inf
    found = [line for line in lines if line.startswith("MemAvailable:")]
    return 1024 * int(found[0].split()[1]) if found else math.inf


def too_large(contenders: Sequence[Contender]) -> dict[Contender, str]:
    """Those whose datasets do not fit in memory beside each other, the largest first."""
    left_out: dict[Contender, str] = {}
    # Twice each, for what is made on the way, and no more than half of the memory in all.
    room = available_memory() / 2
    for contender in sorted(contenders, key=lambda c: c.workload.data_bytes):
        needed = 2 * contender.workload.data_bytes
        if needed > room:
            left_out[contender] = f"it needs {needed / 2**30:.1f} GiB, which are not free"
        else:
            room -= needed
    return left_out


def floor_beside(contender: Contender, usual: Contender) -> Contender:
    """The floor with as many threads."""
    return Contender("floor", contender.threads, workload=usual.workload)


def line_up(axis: str, points: dict[int, Contender], usual: Contender) -> list[Contender]:
    """All that is timed for an axis: its points, their floors, and for rows the sampler."""
    floors = [floor_beside(contender, usual) for contender in points.values()]
    samplers = [single_unit(contender) for contender in points.values()] if axis == "rows" else []
    return list(dict.fromkeys([*floors, *points.values(), *samplers]))


def points_of(table: Sequence[Row], contenders: dict[int, Contender]) -> list[Point]:
    """The rows of an axis in the order of its values, each with its sampler's share."""
    rows = {row.contender: row for row in table}
    points = []
    for value, contender in contenders.items():
        if (row := rows.get(contender)) is not None:
            sampler = rows.get(single_unit(contender))
            share = row.median / sampler.median if sampler else None
            points.append(Point(value, row, results.ratio_to_floor(row, table), share))
    return points


def to_json(found: dict[str, list[Point]], table: list[Row], machine: dict[str, Any]) -> str:
    """The rows of ``throughput.py``, with the axis, the value on it and all sizes."""
    rows = [
        results.to_json(point.row, table)
        | {
            "ratio_to_floor": point.to_floor,
            "axis": axis,
            "value": point.value,
            "sampler_share": point.sampler,
        }
        | dataclasses.asdict(point.row.contender.workload)
        for axis, points in found.items()
        for point in points
    ]
    return json.dumps({"machine": machine, "results": rows}, indent=1) + "\n"


def measure_axes(
    plan: dict[str, dict[int, Contender]],
    usual: Contender,
    rounds_wanted: int,
    seconds: float,
    deadline: float,
) -> tuple[dict[str, list[Point]], list[Row], dict[Contender, str]]:
    """The points of every axis, all rows, and why some are missing."""
    line_ups = {axis: line_up(axis, points, usual) for axis, points in plan.items()}
    kept = {usual, floor_beside(usual, usual)}  # on every axis
    found: dict[str, list[Point]] = {}
    table: list[Row] = []
    total = sum((1 + rounds_wanted) * len(contenders) for contenders in line_ups.values())
    with Processes() as running, console.progress(total, "measuring") as advance:
        for axis, contenders in line_ups.items():
            waiting = [contender for contender in contenders if contender not in running.ready]
            excluded = too_large(waiting)
            running.left_out |= excluded
            waiting = [contender for contender in waiting if contender not in excluded]
            for _ in range(len(contenders) - len(waiting)):
                advance(axis)
            running.start(waiting, on_start=partial(advance, axis))

            def announce(_: Contender, axis: str = axis) -> None:
                advance(axis)

            measured = rounds.measure(
                running,
                contenders,
                rounds_wanted,
                seconds,
                on_window=announce,
                deadline=deadline,
            )
            rows = results.rows(measured)
            found[axis] = points_of(rows, plan[axis])
            table += rows
            running.stop(contender for contender in contenders if contender not in kept)
    return found, table, running.left_out


def main() -> None:
    began = time.monotonic()
    arguments = parser().parse_args()
    if reason := KINDS["iql_fast"].missing():
        raise UserError(f"There is nothing to measure: the engine cannot be used here ({reason}).")
    usual = Contender(
        "iql_fast",
        arguments.threads,
        precision=arguments.precision,
        workload=Workload(rows=10**5 if arguments.quick else 10**6),
    )
    plan = {
        name: {v: axis.at(usual, v) for v in (axis.quick if arguments.quick else axis.values)}
        for name, axis in axes().items()
        if name in arguments.axes
    }
    seconds = arguments.window or (0.3 if arguments.quick else 0.5)
    found, table, left_out = measure_axes(
        plan,
        usual,
        arguments.rounds or (2 if arguments.quick else 7),
        seconds,
        began + QUICK_SECONDS if arguments.quick else math.inf,
    )
    if not table:
        reasons = "; ".join(dict.fromkeys(left_out.values()))
        raise UserError(f"Nothing could be measured: {reasons}.")
    machine = results.machine(table, left_out, usual.workload)

    title = (
        f"iql_fast cpu, {usual.precision}, {results.count(usual.threads, 'thread')} but on that "
        f"axis; {machine['processor']}, {machine['cores_usable']} cores"
    )
    out = console.console()
    out.print(console.scaling_table(found, title))
    sgemm = ", ".join(
        f"{rate:.0f} with {results.count(int(n), 'thread')}"
        for n, rate in machine["sgemm_gflop_per_s"].items()
    )
    footnote = f"{results.medians_of(table, seconds)}; sgemm 256^3, GFLOP/s: {sgemm}"
    out.print(footnote, highlight=False)
    for line in console.remarks(table, left_out, usual.workload):
        out.print(line, highlight=False, markup=False)
    if arguments.json:
        write_text(arguments.json, to_json(found, table, machine))
    if arguments.plot:
        plots.scaling(arguments.plot, found, title, footnote)


if __name__ == "__main__":
    cli.main(main)
