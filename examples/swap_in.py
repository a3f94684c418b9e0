"""iql_after.py beside iql_before.py: the same losses, and how much faster.

    python examples/swap_in.py                  # both checks
    python examples/swap_in.py --threads 1

The losses are compared in float64 on the same batches, from the same weights: in float32 two
orders of summation drift apart over 1,000 steps, whoever sums. The speed is measured in float32
with each trainer's own sampling, in turns.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import iql_after
import iql_before
import torch
from torch import Tensor

#: Largest relative difference of a loss after the steps.
TOLERANCE = 1e-5


def columns(dtype: torch.dtype, rows: int = 100_000) -> list[Tensor]:
    """Transitions without structure, of hopper's sizes: s, a, r, mask, s'."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    mask = (torch.rand(rows, generator=generator) > 0.01).to(dtype)
    return [normal(rows, 11), torch.tanh(normal(rows, 3)), normal(rows), mask, normal(rows, 11)]


def largest_difference(steps: int, batch_size: int, hidden: int) -> float:
    """Relative, of any loss at the last step."""
    data = columns(torch.float64)
    before, after = (
        module.Trainer(data, seed=0, batch_size=batch_size, hidden=hidden)
        for module in (iql_before, iql_after)
    )
    assert steps > 0
    for _ in range(steps):
        batch = after.sample()
        pairs = list(zip(before.update(*batch), after.update(*batch), strict=True))
    return max(abs(b.item() / a.item() - 1) for a, b in pairs)


def speeds(rounds: int, window: float) -> dict[str, list[float]]:
    """Steps a second, one figure a round."""
    data = columns(torch.float32)
    trainers = {
        "before": iql_before.Trainer(data, seed=0),
        "after": iql_after.Trainer(data, seed=0),
    }
    found: dict[str, list[float]] = {name: [] for name in trainers}
    for round_ in range(rounds + 1):
        for name, trainer in trainers.items():
            steps, started = 0, time.perf_counter()
            while (seconds := time.perf_counter() - started) < window:
                trainer.update(*trainer.sample())
                steps += 1
            if round_ > 0:  # the first warms up
                found[name].append(steps / seconds)
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=1000, help="of the comparison of losses")
    parser.add_argument("--batch", type=int, default=256, help="of the comparison of losses")
    parser.add_argument("--hidden", type=int, default=256, help="of the comparison of losses")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--window", type=float, default=2.0, metavar="SECONDS")
    parser.add_argument("--threads", type=int, help="of torch (default: as torch chooses)")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)

    difference = largest_difference(options.steps, options.batch, options.hidden)
    print(f"losses after {options.steps} steps differ by {difference:.1e} at most, relatively")
    found = speeds(options.rounds, options.window)
    for name, values in found.items():
        low, high = min(values), max(values)
        print(f"{name:6s} {statistics.median(values):6.1f} steps/s ({low:.1f} to {high:.1f})")
    gain = statistics.median(a / b for a, b in zip(found["after"], found["before"], strict=True))
    print(f"{gain:.2f} times as fast with {torch.get_num_threads()} thread(s)")
    return 0 if difference <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
