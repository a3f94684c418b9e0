"""Training steps per second of every method, beside the floor of what its step needs.

    python bench/methods.py                       # a few minutes, on a quiet machine
    python bench/throughput.py --methods          # the same
    python bench/methods.py --corl FOLDER         # beside the trainers of a checkout of CORL
    python bench/methods.py --device cuda         # under CUDA graphs, with 1 and with 16 seeds

The floor of a method is the rate at which the matrix products that its step needs
(``bench/method_flops.py``) would run through torch's own 256x256x256 sgemm, measured in the same
rounds: every contender has one window in each, in random order. Sizes are hopper's; each method has
its own batch and networks, but that AWAC's are three layers for the policy and the critics, as
CORL's, and BC has no dropout. A rival is one of CORL's programs as it is
(``bench/rivals/corl.py``), eager and with its own batches.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent))  # after an installed iql_fast

from bench import console, method_flops, results, rounds
from bench.contenders import KINDS, Contender, method_of
from bench.options import add_outputs, add_rounds, positive, write_text
from bench.rivals import corl
from bench.workload import Workload, flops_a_step
from iql_fast.support import cli
from iql_fast.support.cores import usable_cores
from iql_fast.support.errors import UserError


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = method_flops.NAMES
    parser.add_argument(
        "--names",
        nargs="+",
        choices=names,
        default=names,
        metavar="NAME",
        help=f"which of {', '.join(names)} (default: all)",
    )
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="where (default: %(default)s)"
    )
    parser.add_argument(
        "--seeds",
        type=positive,
        nargs="+",
        metavar="N",
        help="trained at once on a CUDA device (default: 1 16)",
    )
    parser.add_argument(
        "--threads", type=positive, nargs="+", metavar="N", help="default: 1, and all cores"
    )
    parser.add_argument(
        "--corl",
        metavar="FOLDER",
        help="a checkout of github.com/corl-team/CORL, whose trainers are timed in the same rounds",
    )
    add_rounds(parser, rows=100_000)
    add_outputs(parser)
    return parser


def main(arguments: list[str] | None = None) -> None:
    asked = parser().parse_args(arguments)
    workload = Workload(rows=asked.rows)
    if asked.device == "cuda":
        contenders = [
            Contender(f"cuda-method-{name}", 1, seeds, workload=workload)
            for seeds in asked.seeds or (1, 16)
            for name in asked.names
        ]
    else:
        contenders = on_the_cpu(asked, workload)
    measured, left_out = rounds.run(
        contenders, asked.rounds, asked.window, lambda contender: contender.title
    )
    table = results.rows(measured)
    found = [line for row in table if (line := line_of(row, table)) is not None]
    if not found:
        reasons = "; ".join(dict.fromkeys(left_out.values()))
        raise UserError(f"Nothing could be measured: {reasons}.")
    show(found, table, left_out, workload)
    if asked.json:
        machine = results.machine(table, left_out, workload)
        write_text(asked.json, json.dumps({"machine": machine, "results": found}, indent=1) + "\n")


def on_the_cpu(asked: argparse.Namespace, workload: Workload) -> list[Contender]:
    """Methods, rivals and the floor, with each number of threads."""
    kinds = ["floor", *(f"method-{name}" for name in asked.names)]
    if asked.corl:
        os.environ[corl.FOLDER] = str(Path(asked.corl).resolve())  # for the contenders' processes
        kinds += [f"corl-{name}" for name in asked.names]
    threads = sorted(set(asked.threads or {1, usable_cores()}))
    return [Contender(kind, count, workload=workload) for count in threads for kind in kinds]


def line_of(row: results.Row, table: list[results.Row]) -> dict[str, Any] | None:
    """What is said of a method; None of the floor."""
    contender = row.contender
    if KINDS[contender.kind].role != "ours":
        return None
    method = method_of(contender)
    needed = method_flops.needed(method, contender.workload.obs_dim, contender.workload.act_dim)
    floor = None if KINDS[contender.kind].device == "cuda" else results.floor_of(row, table)
    steps = None if floor is None else floor.median * flops_a_step(contender.workload) / needed
    rival = next(
        (
            other
            for other in table
            if other.contender.kind == f"corl-{method.name}"
            and other.contender.threads == contender.threads
        ),
        None,
    )
    return {
        "method": method.name,
        "title": method.title,
        "device": KINDS[contender.kind].device,
        "threads": contender.threads,
        "seeds": contender.seeds,
        "steps_per_second": row.median,
        "lowest": row.low,
        "highest": row.high,
        "needed_mflop": needed / 1e6,
        "floor_steps_per_second": steps,
        "to_floor": None if steps is None else row.median / steps,
        "rival_steps_per_second": None if rival is None else rival.median,
        "rival_lowest": None if rival is None else rival.low,
        "rival_highest": None if rival is None else rival.high,
        "times_rival": None if rival is None else row.median / rival.median,
        "disturbed": row.disturbed,
    }


def show(
    found: list[dict[str, Any]],
    table: list[results.Row],
    left_out: dict[Contender, str],
    workload: Workload,
) -> None:
    from rich.table import Table

    machine = results.machine(table, left_out, workload)
    shown = Table(title=f"{machine['processor']}, torch {machine['torch']}")
    headings = ("method", "threads", "seeds", "steps/s", "needed MFLOP", "floor", "to floor")
    for heading in (*headings, "CORL", "times CORL", ""):
        shown.add_column(heading, justify="left" if heading in ("method", "") else "right")
    for line in found:
        shown.add_row(
            line["title"],
            str(line["threads"]),
            str(line["seeds"]),
            f"{line['steps_per_second']:.1f} ({line['lowest']:.1f} to {line['highest']:.1f})",
            f"{line['needed_mflop']:,.0f}",
            console.number(line["floor_steps_per_second"], 1),
            console.number(line["to_floor"]),
            console.number(line["rival_steps_per_second"], 1),
            console.number(line["times_rival"]),
            "noisy" if line["disturbed"] else "",
        )
    out = console.console()
    out.print(shown)
    for contender, reason in left_out.items():
        out.print(f"{contender.title} is left out: {reason}", highlight=False, markup=False)


if __name__ == "__main__":
    cli.main(main)
