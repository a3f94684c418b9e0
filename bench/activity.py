"""How many hidden units are active, which the speed of our engine depends on.

    python bench/activity.py [--task hopper-medium-v2] [--steps 1000 5000 20000 60000]

Its products skip the zeros that come out of a ReLU; those of the rivals do not. With --task the
networks are trained on that task's data, found or made as for a training, without it on the
benchmarks' own.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parent.parent))  # after an installed iql_fast

from bench.options import positive
from bench.workload import Workload
from iql_fast import data, engines
from iql_fast.engines import Batch
from iql_fast.engines.sampling import batch_at
from iql_fast.runs import config
from iql_fast.support import cli


def active_share(state: Mapping[str, Tensor], batch: Batch) -> float:
    """Share of the hidden activations of the trained networks that are not zero, on a batch."""
    s, a = batch.observations, batch.actions
    sa = torch.cat([s, a], -1)[:, None]  # for the critics' axis
    active = total = 0
    for net, x in {"value": s, "actor": s, "critic": sa}.items():
        layers = sum(name.startswith(f"{net}.layers.") for name in state) // 2
        for i in range(layers - 1):
            weight, bias = (state[f"{net}.layers.{i}.{part}"] for part in ("weight", "bias"))
            x = torch.relu(x @ weight.transpose(-1, -2) + bias.unsqueeze(-2))
            active += int((x > 0).sum())
            total += x.numel()
    return active / total


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", metavar="NAME", help="default: none, the benchmarks' own data")
    parser.add_argument(
        "--steps",
        type=positive,
        nargs="+",
        default=[1000, 5000, 20_000, 60_000],
        metavar="N",
        help="after which to count (default: %(default)s)",
    )
    arguments = parser.parse_args()
    if arguments.task:
        options = config.completed(config.TrainConfig(task=arguments.task))
        transitions = data.load(arguments.task).transitions
        network = options.network(transitions.obs_dim, transitions.act_dim)
        hyper = options.hyperparameters()
    else:
        workload = Workload()
        transitions, network, hyper = workload.transitions(), workload.network, workload.hyper
    engine = engines.create("cpu", network, hyper, transitions, [0])
    for step in sorted(arguments.steps):
        before, start = engine.step, time.perf_counter()
        engine.run(step - before)
        rate = (step - before) / (time.perf_counter() - start)
        batch = batch_at(transitions, engine.seeds, step, hyper.batch_size, torch.float32)
        share = active_share(engine.state_dict(), batch)
        print(f"step {step:>9,}  {share:4.0%} of the hidden units active  {rate:,.0f} steps/s")


if __name__ == "__main__":
    cli.main(main)
