"""The wall time of a whole training's steps on a CUDA device, without its evaluations.

    python bench/million_steps.py [--steps 1000000] [--seeds 1] [--engine cuda] [--precision fp32]
                                  [--json FILE]

Sizes are hopper's, the data those of ``bench/workload.py``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))  # after an installed iql_fast

from bench.options import add_sizes, workload
from iql_fast import engines
from iql_fast.support import cli


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=1_000_000, metavar="N")
    parser.add_argument("--seeds", type=int, default=1, metavar="S")
    parser.add_argument("--precision", choices=engines.PRECISIONS["cuda"], default="fp32")
    parser.add_argument("--engine", choices=["cuda", "graph"], default="cuda")
    add_sizes(parser)
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    sizes = workload(arguments)
    engine = engines.create(
        arguments.engine,
        sizes.network,
        sizes.hyper,
        sizes.transitions(),
        range(arguments.seeds),
        precision=arguments.precision,
    )
    start = time.perf_counter()
    metrics = engine.run(arguments.steps)
    seconds = time.perf_counter() - start
    rate = arguments.steps / seconds
    print(
        f"{arguments.engine}, {arguments.steps:,} steps of {arguments.seeds} seeds in "
        f"{arguments.precision}: "
        f"{seconds:.1f} s, {rate:,.0f} steps/s, {rate * arguments.seeds:,.0f} seed-steps/s"
    )
    if arguments.json:
        record = {
            "engine": arguments.engine,
            "steps": arguments.steps,
            "seeds": arguments.seeds,
            "precision": arguments.precision,
            "seconds": seconds,
            "metrics": {name: values.tolist() for name, values in metrics.items()},
        }
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    cli.main(main)
