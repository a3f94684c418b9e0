"""``python -m iql_fast.info``: the build, the machine, and the engines with what bars them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import tyro

from iql_fast import engines
from iql_fast.engines import Hyperparameters, NetworkSpec, Precision, kernel_choice
from iql_fast.runs import machine
from iql_fast.support import cli, extension
from iql_fast.support.errors import UserError


@dataclass
class Options:
    """Show the build, the machine, and which engines can train here, with what bars the others."""


def main() -> None:
    """Print the diagnosis."""
    tyro.cli(Options, prog="python -m iql_fast.info")
    for name, version in machine.versions().items():
        print(f"{name:14} {version}")
    for name, value in machine.machine().items():
        print(f"{name:14} {value}")
    if reason := extension.unavailable_reason():
        print(f"extension      none: {reason}")
    else:
        native = extension.load()
        build = native.build_config()
        print(f"extension      compiled by {build['compiler']}, against torch {build['torch']}")
        print(f"flags          {build['flags']}")
        cuda = build["cuda_architectures"] or "not compiled in (no nvcc, or IQL_FAST_CUDA=0)"
        print(f"CUDA kernels   {cuda}")
        for line in kernels():
            print(line)
    for name, reason in engines.available().items():
        verdict = f"no: {reason}" if reason else f"yes, in {', '.join(engines.PRECISIONS[name])}"
        print(f"engine {name:10} {verdict}")
    chosen, why = engines.choose("auto")
    print(f"engine auto       takes {chosen} ({why})")


def kernels() -> Iterator[str]:
    """Lines on what the engine on the CPU computes with, for the paper's networks."""
    network, batch = NetworkSpec(obs_dim=11, act_dim=3), Hyperparameters().batch_size
    precisions: tuple[Precision, ...] = ("fp32", "mixed")
    for precision in precisions:
        sets = ", ".join(kernel_choice.usable(precision))
        try:
            choice = kernel_choice.choose(precision, network, batch)
        except UserError as error:
            yield f"kernels {precision:6} none: {error}"
            continue
        if choice is None:
            continue
        yield f"kernels {precision:6} {choice.kernels} ({choice.because}); can run: {sets}"
        if choice.list_density is not None:
            shares = zip(kernel_choice.KINDS, choice.list_density, strict=True)
            told = ", ".join(f"{kind} {share:.0%}" for kind, share in shares)
            yield f"               lists of what is not zero, up to a share of: {told}"
    if not kernel_choice.asked_for():
        gain = kernel_choice.gain_of_mixed(network, batch)
        if gain is not None:
            yield f"               its products are {gain:.2f} times as fast as those of fp32"


if __name__ == "__main__":
    cli.main(main)
