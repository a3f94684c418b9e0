"""What a sweep gains by packing: settings of one task in one job, against a job each.

    python bench/sweeps.py [--settings 8] [--threads 0] [--rounds 9] [--json FILE]

Eight settings of IQL, one seed each: first in one engine that trains them side by side, then in an
engine each, one after the other, in windows that take turns in random order. Seed-steps a second of
training alone; hopper's sizes, the paper's networks, data of ``bench/workload.py``. The third row
is the ceiling of what packing can gain on a CPU: an engine of one seed with one thread, times the
threads, as if all of them were always busy.

What packing saves besides is the start of a process, torch's import and the reading of the data,
once a job: ``--start`` measures that by the time of a job of one step.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent))  # after an installed iql_fast

import numpy as np

from bench import console
from bench.options import add_rounds, positive, write_text
from bench.rounds import SETTLE_SECONDS
from bench.workload import Workload
from iql_fast import engines
from iql_fast.engines import Engine
from iql_fast.runs import machine as computer
from iql_fast.support import cli
from iql_fast.support.cores import usable_cores

#: Steps of an engine in one call.
CHUNK = 20


def settings(count: int) -> list[float]:
    """Expectiles of a grid."""
    return [float(tau) for tau in np.linspace(0.5, 0.9, count).round(3)]


def maker_of(sizes: Workload, name: str) -> Callable[[list[float], int, int], Engine]:
    """Makes engines that train a setting a seed, as a sweep's job does, from its expectiles, the
    first seed and threads."""
    data = sizes.transitions()

    def made(taus: list[float], first: int, threads: int) -> Engine:
        hyper = replace(sizes.hyper, expectile=taus[0] if len(taus) == 1 else tuple(taus))
        seeds = range(first, first + len(taus))
        return engines.create(name, sizes.network, hyper, data, seeds, threads=threads)

    return made


def window(turns: list[Engine], seconds: float) -> float:
    """Seed-steps a second of engines that are run one after the other, as long each."""
    steps, spent = 0, 0.0
    for engine in turns:
        start = time.perf_counter()
        while time.perf_counter() - start < seconds / len(turns):
            engine.run(CHUNK)
            steps += CHUNK * len(engine.seeds)
        spent += time.perf_counter() - start
    return steps / spent


def start_seconds() -> float:
    """Of a job of one step: a process, its imports, the data of hopper's size, the folder."""
    with tempfile.TemporaryDirectory() as folder:
        sizes = Workload().transitions()
        np.savez(
            Path(folder) / "data.npz",
            observations=sizes.observations,
            actions=sizes.actions,
            rewards=sizes.rewards,
            terminals=sizes.masks == 0,
        )
        arguments = ["--dataset", "data.npz", "--steps", "1", "--out", "run"]
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "iql_fast.train", *arguments],
            check=True,
            cwd=folder,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path[:1] + sys.path[-1:])},
        )
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--settings", type=positive, default=8, metavar="N", help="default: 8")
    parser.add_argument("--engine", choices=["cpu", "cuda", "graph"], default="cpu")
    parser.add_argument(
        "--threads", type=int, default=0, metavar="N", help="of each job (default: all cores)"
    )
    parser.add_argument("--start", action="store_true", help="measure the start of a job, too")
    add_rounds(parser, Workload().rows)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here")
    arguments = parser.parse_args()
    sizes = Workload(rows=arguments.rows)
    threads = arguments.threads or usable_cores()
    taus, name = settings(arguments.settings), arguments.engine
    make = maker_of(sizes, name)
    packed = [make(taus, 0, threads)]
    alone = [make([tau], k, threads) for k, tau in enumerate(taus)]
    contenders: dict[str, Callable[[], float]] = {
        "one job": lambda: window(packed, arguments.window),
        "a job each": lambda: window(alone, arguments.window),
    }
    if name == "cpu":
        single = [make(taus[:1], 0, 1)]
        contenders["ceiling"] = lambda: threads * window(single, arguments.window)
    rates: dict[str, list[float]] = {key: [] for key in contenders}
    starts = []
    order = random.Random(0)
    for measure in contenders.values():
        measure()  # warm-up
    with console.progress(arguments.rounds * len(contenders), "measuring") as advance:
        for _ in range(arguments.rounds):
            for key in order.sample(list(contenders), len(contenders)):
                advance(key)
                time.sleep(SETTLE_SECONDS)
                rates[key].append(contenders[key]())
            if arguments.start:
                starts.append(start_seconds())
    report(arguments, threads, rates, starts)


def report(
    arguments: argparse.Namespace,
    threads: int,
    rates: dict[str, list[float]],
    starts: list[float],
) -> None:
    """Print the table; write the JSON file."""
    print(f"{arguments.settings} settings, {threads} thread(s), {arguments.rounds} rounds")
    print("| | seed-steps/s | times a job each |")
    print("|---|---|---|")
    rows: list[dict[str, Any]] = []
    for key, found in rates.items():
        ratios = [own / other for own, other in zip(found, rates["a job each"], strict=True)]
        row = {"name": key, "seed_steps_per_s": statistics.median(found), "all": found}
        row |= {"ratio": statistics.median(ratios), "ratio_min": min(ratios)}
        row |= {"ratio_max": max(ratios)}
        rows.append(row)
        spread = f"({min(found):,.0f} to {max(found):,.0f})"
        print(
            f"| {key} | {row['seed_steps_per_s']:,.0f} {spread} | {row['ratio']:.2f} "
            f"({row['ratio_min']:.2f} to {row['ratio_max']:.2f}) |"
        )
    if starts:
        spread = f"({min(starts):.1f} to {max(starts):.1f})"
        print(f"start of a job: {statistics.median(starts):.1f} s {spread}")
    if arguments.json:
        record = {
            "machine": computer.machine() | computer.versions(),
            "engine": arguments.engine,
            "settings": arguments.settings,
            "threads": threads,
            "rounds": arguments.rounds,
            "window_seconds": arguments.window,
            "results": rows,
            "start_seconds": starts,
        }
        write_text(arguments.json, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    cli.main(main)
