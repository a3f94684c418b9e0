"""Where a step of the CPU engine spends its time.

    python bench/step_profile.py
    python bench/step_profile.py --precision fp32 mixed --threads 2

Linux's perf samples the engine while it trains on the synthetic data of bench/throughput.py;
samples in other code (Python, the C library) are left out. The times are shares of the step's time
without perf, which is measured first. They are of the CPU: with two threads, twice the step's.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))  # after an installed iql_fast

from rich.table import Table

from bench import console
from bench.contenders import PRECISIONS, Contender
from bench.options import positive, positive_seconds
from bench.processes import ContenderProcess, Failed, Processes
from bench.workload import Workload
from iql_fast.support import cli
from iql_fast.support.errors import UserError

#: What the functions of csrc/cpu/kernels.h and csrc/engine do for a step, in the table's order.
PARTS = {
    "hidden products, forward": ("forward_lists", "tiled_forward", "dense_forward"),
    "hidden products, towards the input": (
        "backward_lists",
        "backward",
        "tiled_backward",
        "dense_backward",
    ),
    "hidden products, towards the weights": (
        "weight_gradient_lists",
        "tiled_weight_gradient",
        "dense_weight_gradient",
    ),
    "listing nonzero elements": ("list_rows", "list_columns"),
    "first layer (and hidden products without lists)": ("forward", "weight_gradient"),
    "heads": (
        "head_forward",
        "head_rows",
        "head_backward",
        "head_gradient",
        "head_gradient_panels",
    ),
    "biases' gradients": ("bias_gradient",),
    "Adam and Polyak": ("adam",),
    "copies of the weights for products": (
        "transpose_panel",
        "operands",
        "transpose_square",
        "interleave",
        "pair_rows",
    ),
    "sampling and gathering": ("gather",),
    "losses and metrics": ("value_head", "actor_head", "critic_head", "add_metrics"),
}
OTHER = "other"
_PART_OF = {function: part for part, functions in PARTS.items() for function in functions}
_FUNCTIONS = re.compile(rf"\b({'|'.join(sorted(_PART_OF, key=len, reverse=True))})(?=[<(]|$)")


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--precision",
        nargs="+",
        choices=list(PRECISIONS),
        default=["fp32"],
        metavar="NAME",
        help=f"which of {', '.join(PRECISIONS)}, a column each (default: fp32)",
    )
    parser.add_argument("--threads", type=positive, default=1, metavar="N", help="default: 1")
    parser.add_argument(
        "--seconds", type=positive_seconds, default=5.0, help="of sampling (default: 5)"
    )
    return parser


def part_of(symbol: str) -> str:
    """The part of the step that a function belongs to, by its demangled name.

    A product's loops are inlined into templates that carry the kernel's name in their arguments, so
    the last name that is known decides.
    """
    found = _FUNCTIONS.findall(symbol)
    return _PART_OF[found[-1]] if found else OTHER


def shares(report: str) -> dict[str, float]:
    """Part -> its share of the samples in the extension, from ``perf report``'s lines
    ``percent|object|symbol``."""
    sums: defaultdict[str, float] = defaultdict(float)
    for line in report.splitlines():
        fields = [field.strip() for field in line.split("|", 2)]
        percent, shared_object, symbol = fields if len(fields) == 3 else ("", "", "")
        if percent.endswith("%") and "_C." in shared_object:
            sums[part_of(symbol)] += float(percent.rstrip("%"))
    total = sum(sums.values())
    return {part: value / total for part, value in sums.items()} if total else {}


def sample(process: ContenderProcess, seconds: float) -> dict[str, float]:
    """``shares`` of a process that trains for about so many seconds."""
    with tempfile.TemporaryDirectory() as folder:
        data = str(Path(folder, "perf.data"))
        recorder = subprocess.Popen(
            ["perf", "record", "--quiet", "-o", data, "-p", str(process.pid)],
            stderr=subprocess.PIPE,
            text=True,
        )
        process.window(seconds)
        recorder.terminate()
        _, errors = recorder.communicate()
        report = subprocess.run(
            ["perf", "report", "--stdio", "-i", data, "-F", "overhead,dso,sym", "-t", "|"],
            capture_output=True,
            text=True,
            check=False,
        )
    found = shares(report.stdout)
    if not found:
        said = (errors.strip() or report.stderr.strip() or "no samples").splitlines()[-1]
        raise UserError(f"perf could not sample the engine: {said}")
    return found


def main() -> None:
    arguments = parser().parse_args()
    if shutil.which("perf") is None:
        raise UserError("This needs Linux's perf (package linux-perf or linux-tools), not found.")
    contenders = [
        Contender("iql_fast", arguments.threads, 1, precision, Workload(rows=100_000))
        for precision in arguments.precision
    ]
    columns: list[tuple[str, float, dict[str, float]]] = []
    with Processes() as running:
        running.start(contenders)
        for contender in contenders:
            if contender not in running.ready:
                raise UserError(f"{contender.precision}: {running.left_out[contender]}")
            process = running.ready[contender]
            try:
                step = arguments.threads / process.window(arguments.seconds).rate
                columns.append((contender.precision, step, sample(process, arguments.seconds)))
            except Failed as error:
                raise UserError(str(error)) from None
    table = Table(title="microseconds of a step, and their share", title_justify="left")
    table.add_column("")
    for precision, _, _ in columns:
        table.add_column(precision, justify="right")
    for part in (*PARTS, OTHER):
        cells = [
            f"{step * 1e6 * found.get(part, 0.0):,.0f}  {found.get(part, 0.0):4.0%}"
            for _, step, found in columns
        ]
        table.add_row(part, *cells)
    table.add_section()
    table.add_row("all", *(f"{step * 1e6:,.0f}  100%" for _, step, _ in columns))
    console.console().print(table)


if __name__ == "__main__":
    cli.main(main)
