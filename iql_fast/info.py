"""``python -m iql_fast.info``: the build, the machine, and the engines with what bars them."""

from __future__ import annotations

from dataclasses import dataclass

import tyro

from iql_fast import engines
from iql_fast.runs import machine
from iql_fast.support import cli, extension


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
        sets = ", ".join(native.cpu_kernel_sets())
        print(f"CPU kernels    {native.cpu_kernel_set()} (this machine can run: {sets})")
        if reason := native.mixed_unavailable_reason():
            print(f"  mixed        none: {reason}")
        else:
            sets = ", ".join(native.cpu_kernel_sets(mixed=True))
            print(f"  mixed        {native.cpu_kernel_set(mixed=True)} (can run: {sets})")
    for name, reason in engines.available().items():
        print(f"engine {name:10} {f'no: {reason}' if reason else 'yes'}")
    chosen, why = engines.choose("auto")
    print(f"engine auto       takes {chosen} ({why})")


if __name__ == "__main__":
    cli.main(main)
