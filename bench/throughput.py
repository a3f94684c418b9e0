"""Training steps per second of the CPU engine, beside eager torch, torch.compile and JAX.

    python bench/throughput.py            # every contender, a few minutes
    python bench/throughput.py --quick    # under a minute

Every contender is a process of its own, bound to as many cores as it has threads. All live through
the whole run, one works at a time: each round gives every contender one window, in random order, so
that a machine whose speed drifts drifts for all. Starting, compiling and warming up are not timed;
drawing the batches is. The data are synthetic, with hopper's sizes.

The floor is the rate of a step that does nothing but its matrix products, and these as fast as
torch's own 256x256x256 sgemm or as multiplications and additions in registers alone, whichever is
faster; both are measured in the same rounds. "to floor", "to eager" and "to best rival" divide
medians at the same number of threads; a rival may train as many seeds at once as the row does, or
fewer, in fp32 or in the row's precision. "others" is the share of a contender's cores that other
processes had during its windows; where it, or the spread of the floor, is too large, the rows are
marked, and the JSON's machine has "noisy": true.

The products of iql_fast skip the zeros behind a ReLU, so its speed depends on how many hidden units
are active ("active", measured): about half, in these data as in the tasks' own. It is one way in
which it can pass the floor. The others' speed does not depend on it.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent))  # after an installed iql_fast

from bench import console, methods, neighbours, plots, processes, results, rounds
from bench.contenders import KINDS, Contender
from bench.options import QUICK_SECONDS, add_outputs, positive, positive_seconds, write_text
from bench.workload import Workload, flops_a_step
from iql_fast.support import cli
from iql_fast.support.cores import usable_cores
from iql_fast.support.errors import UserError

NAMES = list(dict.fromkeys(name for kind in KINDS.values() for name in kind.precisions))
#: What bounds all others.
FLOORS = [name for name, kind in KINDS.items() if kind.role == "floor"]
CHOICES = [name for name, kind in KINDS.items() if kind.role != "floor" and kind.precisions]


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="3 rounds of half a second on 100,000 rows, without what is slow to compile",
    )
    parser.add_argument(
        "--device",
        choices=["cpu", "cuda"],
        default="cpu",
        help="where all compute; on cuda there is no floor (default: cpu)",
    )
    parser.add_argument(
        "--contenders",
        nargs="+",
        choices=CHOICES,
        metavar="NAME",
        help=f"which of {', '.join(CHOICES)} (default: all; with --quick, all but compile); the "
        "floor is always measured",
    )
    parser.add_argument(
        "--threads", type=positive, nargs="+", metavar="N", help="default: 1, and all cores"
    )
    parser.add_argument(
        "--seeds",
        type=positive,
        nargs="+",
        metavar="S",
        help="trained at once by iql_fast and JAX (default: 1, and as many as threads; on cuda 1 "
        "and 16)",
    )
    parser.add_argument(
        "--precision",
        nargs="+",
        choices=NAMES,
        default=NAMES,
        metavar="NAME",
        help=f"which of {', '.join(NAMES)}, where a contender has it; the rivals and the floor are "
        "always in fp32 too (default: all)",
    )
    parser.add_argument("--rounds", type=positive, metavar="N", help="default: 11")
    parser.add_argument(
        "--window",
        type=positive_seconds,
        metavar="SECONDS",
        help="of a contender in a round (default: 1)",
    )
    parser.add_argument(
        "--rows", type=positive, metavar="N", help="of the dataset (default: 1,000,000)"
    )
    parser.add_argument(
        "--neighbours",
        type=positive,
        default=0,
        metavar="N",
        help="busy loops on so many of the cores meanwhile, as on a shared machine (default: 0)",
    )
    parser.add_argument(
        "--methods",
        action="store_true",
        help="time every method beside its floor instead: python bench/methods.py --help",
    )
    add_outputs(parser)
    return parser


def line_up(arguments: argparse.Namespace) -> list[Contender]:
    """The contenders that the command line asks for, in the order of the table."""
    rows = arguments.rows or (100_000 if arguments.quick else 1_000_000)
    workload = Workload(rows=rows)
    on_device = arguments.device == "cuda"
    choices = [name for name in CHOICES if KINDS[name].device == arguments.device]
    kinds = arguments.contenders or [
        name for name in choices if not (arguments.quick and KINDS[name].slow_to_start)
    ]
    if elsewhere := [name for name in kinds if name not in choices]:
        raise UserError(
            f"--device {arguments.device} has no contender {', '.join(elsewhere)}; "
            f"it has {', '.join(choices)}."
        )
    contenders = []
    for threads in sorted(set(arguments.threads or ({1} if on_device else {1, usable_cores()}))):
        if not on_device:
            contenders += [Contender(kind, threads, workload=workload) for kind in FLOORS]
        for kind in (kind for kind in choices if kind in kinds):
            seeds_wanted = set(arguments.seeds or ({1, 16} if on_device else {1, threads}))
            asked = set(arguments.precision)
            if KINDS[kind].role == "rival":
                asked.add("fp32")
            precisions = [p for p in KINDS[kind].precisions if p in asked]
            contenders += [
                Contender(kind, threads, seeds, precision, workload)
                for precision in precisions
                for seeds in (sorted(seeds_wanted) if KINDS[kind].many_seeds else [1])
            ]
    return contenders


def to_json(table: list[results.Row], machine: dict[str, Any]) -> str:
    """The JSON file; the floors are in ``machine``, for they train nothing."""
    rows = [results.to_json(row, table) for row in table if not row.contender.bounds]
    return json.dumps({"machine": machine, "results": rows}, indent=1) + "\n"


def main() -> None:
    began = time.monotonic()
    if "--methods" in sys.argv[1:]:
        methods.main([argument for argument in sys.argv[1:] if argument != "--methods"])
        return
    arguments = parser().parse_args()
    rounds_wanted = arguments.rounds or (3 if arguments.quick else 11)
    seconds = arguments.window or (0.5 if arguments.quick else 1.0)
    contenders = line_up(arguments)
    workload = contenders[0].workload

    with processes.Processes() as running:
        with console.progress(len(contenders), "starting") as advance:
            running.start(contenders, on_start=advance)
        with (
            neighbours.busy(arguments.neighbours),
            console.progress(rounds_wanted * len(running.ready), "measuring") as advance,
        ):
            measured = rounds.measure(
                running,
                contenders,
                rounds_wanted,
                seconds,
                on_window=lambda contender: advance(results.describe(contender, workload)),
                deadline=began + QUICK_SECONDS if arguments.quick else math.inf,
            )
    table = results.rows(measured)
    if not table:
        reasons = "; ".join(dict.fromkeys(running.left_out.values()))
        raise UserError(f"Nothing could be measured: {reasons}.")
    machine = results.machine(table, running.left_out, workload)
    machine["neighbours"] = arguments.neighbours

    title = f"{machine['processor']}, {machine['cores_usable']} cores, torch {machine['torch']}"
    footnote = (
        f"hopper's sizes, {workload.rows:,} rows, {flops_a_step(workload) / 1e6:.0f} MFLOP a step; "
        f"{results.medians_of(table, seconds)}"
    )
    if arguments.neighbours:
        footnote += f"; {results.count(arguments.neighbours, 'busy loop')} beside"
    out = console.console()
    out.print(console.throughput_table(table, title))
    out.print(footnote, highlight=False)
    for line in console.remarks(table, running.left_out, workload):
        out.print(line, highlight=False, markup=False)
    if arguments.json:
        write_text(arguments.json, to_json(table, machine))
    if arguments.plot:
        plots.throughput(arguments.plot, table, title, footnote)


if __name__ == "__main__":
    cli.main(main)
