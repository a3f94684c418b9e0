"""Compiles every .cu of csrc/sources.txt with nvcc and tables what each kernel takes.

    python tools/check_cuda.py [--architectures 80 90a 100]

Fails where a kernel spills registers. One that may spill says so in its source file, on a line of
its own: ``// spills allowed: NAME``.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "build_backend"))

from native_build import CUDA_FLAGS, INCLUDE_DIRS, find_cuda, sources  # noqa: E402


class KernelUse(NamedTuple):
    """What ptxas says of a kernel; bytes, but for the registers."""

    kernel: str
    registers: int
    spill_stores: int
    spill_loads: int
    shared: int


def kernel_uses(ptxas: str) -> list[KernelUse]:
    """The kernels in the output of ``ptxas -v``, under their mangled names."""
    uses = []
    for block in re.split(r"Compiling entry function '", ptxas)[1:]:
        # A function that is not inlined has lines of its own after the kernel's; all count.
        stores = re.findall(r"(\d+) bytes spill stores", block)
        loads = re.findall(r"(\d+) bytes spill loads", block)
        registers = re.search(r"Used (\d+) registers", block)
        shared = re.search(r"(\d+) bytes smem", block)
        if registers is None:
            raise ValueError(f"ptxas said nothing of the registers in: {block[:200]}")
        uses.append(
            KernelUse(
                block.partition("'")[0],
                int(registers[1]),
                sum(map(int, stores)),
                sum(map(int, loads)),
                int(shared[1]) if shared else 0,
            )
        )
    return uses


def may_spill(kernel: str, source: str) -> bool:
    """Whether the source file allows this (mangled) kernel to spill."""
    names = re.findall(r"^// spills allowed: (\w+)$", source, re.MULTILINE)
    return any(f"{len(name)}{name}" in kernel for name in names)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architectures", nargs="+", default=["80", "90a", "100"])
    arguments = parser.parse_args()
    toolkit = find_cuda()
    if toolkit is None:
        print("no nvcc was found: put it on the PATH or set CUDA_HOME", file=sys.stderr)
        return 2
    failed = False
    print(f"{'arch':<6}{'registers':>10}{'spills':>8}{'shared':>8}  kernel")
    for source in sources("cuda"):
        path = ROOT / source.path
        if path.suffix != ".cu":  # host code
            continue
        for architecture in arguments.architectures:
            with tempfile.TemporaryDirectory() as folder:
                code = f"arch=compute_{architecture},code=sm_{architecture}"
                command = [toolkit.nvcc, *CUDA_FLAGS, "-Xptxas", "-v", "-gencode", code]
                command += [*(f"-I{d}" for d in INCLUDE_DIRS), *source.flags, "-c", str(path)]
                result = subprocess.run(
                    [*command, "-o", str(Path(folder) / "out.o")], capture_output=True, text=True
                )
            if result.returncode != 0:
                print(result.stderr, file=sys.stderr)
                return 1
            uses = kernel_uses(result.stderr)
            if not uses:
                print(f"{source.path}: no kernel was compiled", file=sys.stderr)
                return 1
            for use in uses:
                spills = use.spill_stores + use.spill_loads
                bad = spills > 0 and not may_spill(use.kernel, path.read_text())
                failed |= bad
                print(
                    f"{architecture:<6}{use.registers:>10}{spills:>8}{use.shared:>8}  {use.kernel}"
                    + ("  SPILLS" if bad else "")
                )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
