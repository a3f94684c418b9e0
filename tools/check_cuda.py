"""Compiles every .cu of csrc/sources.txt with nvcc and tables what each kernel takes.

    python tools/check_cuda.py [--architectures 80 90a 100] [--write]

Fails where a kernel spills registers. One that may spill says so in its source file, on a line of
its own: ``// spills allowed: NAME``. Fails where ptxas makes asynchronous products wait for each
other. Fails too where the table in docs/performance.md says
something else, if it was made with the same nvcc; --write puts the table there.
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

DOCUMENT = ROOT / "docs" / "performance.md"
ARCHITECTURES = ["80", "90a", "100"]
#: The table in the document, between lines that this program knows again.
BEGIN, END = "<!-- kernels, by nvcc {} -->", "<!-- end of kernels -->"


class KernelUse(NamedTuple):
    """What ptxas says of a kernel; bytes, but for the registers."""

    kernel: str
    registers: int
    spill_stores: int
    spill_loads: int
    shared: int
    stack: int

    @property
    def spills(self) -> int:
        return self.spill_stores + self.spill_loads


def kernel_uses(ptxas: str) -> list[KernelUse]:
    """The kernels in the output of ``ptxas -v``, under their mangled names."""
    uses = []
    for block in re.split(r"Compiling entry function '", ptxas)[1:]:
        # A function that is not inlined has lines of its own after the kernel's; all count.
        stores = re.findall(r"(\d+) bytes spill stores", block)
        loads = re.findall(r"(\d+) bytes spill loads", block)
        stacks = re.findall(r"(\d+) bytes stack frame", block)
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
                sum(map(int, stacks)),
            )
        )
    return uses


def readable(kernel: str) -> str:
    """A mangled kernel's name with its template arguments, as far as ours have any."""
    # Names are their length, then themselves. The last that ends so: nvcc names the namespaces of
    # kernels by a hash of the path, which may by chance hold a number that fits.
    found = [
        match
        for match in re.finditer(r"(?=(\d+)([a-z]\w*))", kernel)
        if match[2][: int(match[1])].endswith("_kernel") and len(match[2]) >= int(match[1])
    ]
    if found:
        name = found[-1][2][: int(found[-1][1])]
        rest = kernel[found[-1].start(2) + len(name) :]
        arguments = re.match(r"I(.*?E)Ev", rest)  # up to the result's type
        listed = re.findall(
            r"NS\d*_\d+([A-Z][a-z]+\d+(?:x\d+)?(?:[A-Z][a-z]+)?)(?:ILi(\d+)EE)?|Li(\d+)",
            arguments[1] if arguments else "",
        )
        inner = ", ".join(
            (f"{kind}<{of}>" if of else kind) or number for kind, of, number in listed
        )
        return name + (f"<{inner}>" if inner else "")
    return kernel


def may_spill(kernel: str, source: str) -> bool:
    """Whether the source file allows this (mangled) kernel to spill."""
    names = re.findall(r"^// spills allowed: (\w+)$", source, re.MULTILINE)
    return any(f"{len(name)}{name}" in kernel for name in names)


def serialized(ptxas: str) -> list[str]:
    """What ``ptxas`` says of asynchronous products that it makes wait for each other."""
    return [line for line in ptxas.splitlines() if "wgmma" in line and "serialized" in line]


def table(uses: dict[str, list[KernelUse]], nvcc: str) -> str:
    """Registers and spilled bytes of every kernel by architecture, in Markdown."""
    kernels = sorted({readable(use.kernel) for listed in uses.values() for use in listed})
    lines = [BEGIN.format(nvcc), "| Kernel | " + " | ".join(f"sm_{a}" for a in uses) + " |"]
    lines.append("|---|" + "---|" * len(uses))
    for kernel in kernels:
        cells = []
        for listed in uses.values():
            use = next(use for use in listed if readable(use.kernel) == kernel)
            cells.append(f"{use.registers}, {use.spills}")
        lines.append(f"| `{kernel}` | " + " | ".join(cells) + " |")
    return "\n".join([*lines, END])


def documented() -> tuple[str, str]:
    """The table in the document, and the nvcc that made it."""
    pattern = re.escape(BEGIN).replace(r"\{\}", r"(\S+)") + r"\n.*?" + re.escape(END)
    found = re.search(pattern, DOCUMENT.read_text(), re.DOTALL)
    if found is None:
        raise ValueError(f"{DOCUMENT} has no table of kernels")
    return found[0], found[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architectures", nargs="+", default=ARCHITECTURES)
    parser.add_argument("--write", action="store_true", help="put the table into the document")
    arguments = parser.parse_args()
    toolkit = find_cuda()
    if toolkit is None:
        print("no nvcc was found: put it on the PATH or set CUDA_HOME", file=sys.stderr)
        return 2
    failed = False
    uses: dict[str, list[KernelUse]] = {a: [] for a in arguments.architectures}
    print(f"{'arch':<6}{'registers':>10}{'spills':>8}{'stack':>8}{'shared':>8}  kernel")
    for source in sources("cuda"):
        path = ROOT / source.path
        if path.suffix != ".cu":  # host code
            continue
        # A kernel's source may lie in the headers beside the .cu.
        allowing = "\n".join(file.read_text() for file in [path, *path.parent.glob("*.h")])
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
            for line in serialized(result.stderr):
                print(line)
                failed = True
            found = kernel_uses(result.stderr)
            if not found:
                print(f"{source.path}: no kernel was compiled", file=sys.stderr)
                return 1
            uses[architecture] += found
            for use in found:
                bad = use.spills > 0 and not may_spill(use.kernel, allowing)
                failed |= bad
                print(
                    f"{architecture:<6}{use.registers:>10}{use.spills:>8}{use.stack:>8}"
                    f"{use.shared:>8}  {readable(use.kernel)}" + ("  SPILLS" if bad else "")
                )
    version = subprocess.run([toolkit.nvcc, "--version"], capture_output=True, text=True).stdout
    release = re.search(r"release (\S+),", version)
    made = table(uses, release[1] if release else "unknown")
    stated, stated_nvcc = documented()
    if arguments.write:
        DOCUMENT.write_text(DOCUMENT.read_text().replace(stated, made))
    elif arguments.architectures == ARCHITECTURES and made != stated:
        if release is None or release[1] != stated_nvcc:
            print(f"{DOCUMENT.name} has the table of nvcc {stated_nvcc}: not compared")
        else:
            print(f"{DOCUMENT.name} says something else: run {Path(__file__).name} --write")
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
