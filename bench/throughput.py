"""Training steps per second of the engines, beside plain eager torch, in one run.

    python bench/throughput.py            # medians of 5 rounds, all threads
    python bench/throughput.py --quick    # under a minute

Every contender gets one window a round, the rounds interleaved, so that a machine whose speed
drifts is fair to all. Synthetic data with hopper's sizes; sampling is part of the step.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from eager_iql import EagerIQL

from iql_fast import environment_record, simulator
from iql_fast.data.dataset import Transitions
from iql_fast.engines import Hyperparameters, NetworkSpec, available, create


def synthetic(rows: int, network: NetworkSpec) -> Transitions:
    """Transitions without structure, a few terminal."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    return Transitions(
        normal(rows, network.obs_dim),
        np.tanh(normal(rows, network.act_dim)),
        normal(rows),
        (rng.random(rows) > 2e-3).astype(np.float32),
        normal(rows, network.obs_dim),
    )


def flops_a_step(network: NetworkSpec, batch: int) -> int:
    """Floating-point operations of the products of one step in the authors' order."""

    def forward(inputs: int, outputs: int) -> int:
        widths = [inputs, *network.hidden, outputs]
        return sum(2 * batch * a * b for a, b in itertools.pairwise(widths))

    v = forward(network.obs_dim, 1)
    pi = forward(network.obs_dim, network.act_dim)
    q = forward(network.obs_dim + network.act_dim, 1)
    first = 2 * batch * network.hidden[0]  # the input needs no gradient

    def backward(inputs: int, total: int) -> int:
        return 2 * total - first * inputs

    trained = v + backward(network.obs_dim, v) + pi + backward(network.obs_dim, pi)
    critic = q + backward(network.obs_dim + network.act_dim, q)
    return 2 * v + trained + network.critics * (q + critic)


def sgemm_seconds_a_step(flops: int) -> Callable[[float], float]:
    """For a window's length: seconds that a step would take were it all 256^3 library products."""
    a, b, out = (torch.randn(256, 256) for _ in range(3))

    def measure(window: float) -> float:
        count, start = 0, time.perf_counter()
        while time.perf_counter() - start < window:
            for _ in range(50):
                torch.mm(a, b, out=out)
            count += 50
        rate = count * 2 * 256**3 / (time.perf_counter() - start)
        return flops / rate

    return measure


def steps_per_second(run: Callable[[int], Any], window: float, seeds: int) -> float:
    """Steps over all seeds in a window of about so many seconds."""
    done, chunk, start = 0, 10, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < window:
        run(chunk)
        done += chunk
    return done * seeds / elapsed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="short windows, fewer rows")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--window", type=float, default=3.0, help="seconds a contender and round")
    parser.add_argument("--threads", type=int, nargs="+", help="default: 1, and all cores")
    parser.add_argument("--json", type=Path, help="write the results here")
    arguments = parser.parse_args()
    window = 1.0 if arguments.quick else arguments.window
    network, hyper = NetworkSpec(11, 3), Hyperparameters()
    data = synthetic(100_000 if arguments.quick else 1_000_000, network)
    flops = flops_a_step(network, hyper.batch_size)
    cores = simulator.cores()
    floor = sgemm_seconds_a_step(flops)

    contenders: dict[tuple[str, int, int], Callable[[int], Any]] = {}
    for threads in arguments.threads or sorted({1, cores}):
        contenders["eager torch", threads, 1] = EagerIQL(network, hyper, data).run
        if not available()["cpu"]:
            for seeds in sorted({1, threads}):
                engine = create("cpu", network, hyper, data, range(seeds), threads=threads)
                contenders["iql_fast cpu", threads, seeds] = engine.run

    rates: dict[tuple[str, int, int], list[float]] = {key: [] for key in contenders}
    floors: dict[int, list[float]] = {threads: [] for _, threads, _ in contenders}
    for run in contenders.values():
        run(20)
    for _ in range(arguments.rounds):
        for threads, measured in floors.items():
            torch.set_num_threads(threads)
            measured.append(1 / floor(window / 3))
        for key, run in contenders.items():
            torch.set_num_threads(key[1])
            rates[key].append(steps_per_second(run, window, key[2]))

    machine = environment_record.machine()
    print(f"{machine['processor']}, {machine['cores']} cores, torch {torch.__version__}")
    print(f"hopper's sizes, fp32; {flops / 1e6:.0f} MFLOP a step; medians of {arguments.rounds}")
    print("floor: every product of the step at the rate of a 256^3 library product")
    print(
        f"{'':16}{'threads':>8}{'seeds':>6}{'steps/s':>9}{'min':>8}{'max':>8}{'floor':>8}{'eager':>7}"
    )
    results = []
    for (name, threads, seeds), measured in rates.items():
        median = statistics.median(measured)
        to_floor = median / statistics.median(floors[threads])
        to_eager = median / statistics.median(rates["eager torch", threads, 1])
        print(
            f"{name:16}{threads:8}{seeds:6}{median:9.1f}{min(measured):8.1f}{max(measured):8.1f}"
            f"{to_floor:8.2f}{to_eager:7.2f}"
        )
        results.append(
            {
                "name": name,
                "device": "cpu",
                "threads": threads,
                "seeds": seeds,
                "precision": "fp32",
                "steps_per_s": median,
                "steps_per_s_min": min(measured),
                "steps_per_s_max": max(measured),
                "ratio_to_floor": to_floor,
            }
        )
    if arguments.json:
        arguments.json.write_text(
            json.dumps({"machine": machine, "results": results}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
