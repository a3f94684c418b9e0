"""What each launch of a training step takes on a CUDA device, and the step as a whole.

    python bench/cuda_launches.py [--seeds 1 16] [--precision fp32 tf32]
        [--forms launches resident] [--json FILE]

A launch is timed by repeating it alone, so the sum leaves out how launches follow each other; the
step is timed as training runs it. A resident step is part of one launch of many
(docs/performance.md), in which not all seeds need be trained at the same time; where the networks
are too large for that, the reason is given.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any, get_args

sys.path.append(str(Path(__file__).resolve().parent.parent))  # after an installed iql_fast

from bench.options import add_sizes, workload
from bench.workload import Workload
from iql_fast import engines
from iql_fast.engines.cuda import CudaEngine, StepForm
from iql_fast.runs import machine as computer
from iql_fast.support import cli


def measure(
    sizes: Workload, seeds: int, precision: engines.Precision, form: StepForm, repeats: int
) -> dict[str, Any]:
    """The launches of one engine, in microseconds; or why it has not that form."""
    data = sizes.transitions()
    os.environ["IQL_FAST_CUDA_STEP"] = form
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        engine = CudaEngine(sizes.network, sizes.hyper, data, range(seeds), precision)
    which = {"seeds": seeds, "precision": precision, "form": form}
    if engine.step_form != form:
        return which | {"reason": str(caught[-1].message)}
    engine.run(repeats)
    start = time.perf_counter()
    engine.run(repeats)
    step = (time.perf_counter() - start) / repeats * 1e6
    launches = engine.time_launches(repeats)
    return which | {"at_once": engine.seeds_at_once, "step": step, "launches": launches}


def machine() -> dict[str, Any]:
    """The device and the software."""
    import torch

    found = torch.cuda.is_available()  # not so under the emulator
    return {
        "device": torch.cuda.get_device_name() if found else "emulated",
        "cuda": torch.version.cuda,
        **computer.machine(),
        **computer.versions(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 16], metavar="S")
    parser.add_argument("--forms", nargs="+", default=["launches"], choices=get_args(StepForm))
    has = engines.PRECISIONS["cuda"]
    parser.add_argument("--precision", nargs="+", choices=has, default=has, metavar="NAME")
    parser.add_argument("--repeats", type=int, default=1000, metavar="N")
    add_sizes(parser)
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    engines.choose("cuda")  # or says why not
    rows = []
    for precision in arguments.precision:
        for seeds, form in itertools.product(arguments.seeds, arguments.forms):
            row = measure(workload(arguments), seeds, precision, form, arguments.repeats)
            rows.append(row)
            what = f"{precision}, {seeds} seeds, {form}"
            if "reason" in row:
                print(f"{what}: none. {row['reason']}")
                continue
            turns = "" if row["at_once"] == seeds else f", {row['at_once']} at a time"
            print(f"{what}{turns}: {row['step']:.1f} us a step")
            for name, microseconds in row["launches"].items():
                print(f"  {microseconds:7.1f} us  {name}")
    if arguments.json:
        record = {"machine": machine(), "results": rows}
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    cli.main(main)
