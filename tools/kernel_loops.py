"""What a core could make of the loops that a step's products spend their time in.

    python tools/kernel_loops.py [--object build/objects/csrc_cpu_kernels_avx512.cpp.o]
                                 [--core golden-cove zen4 zen5]

Finds the innermost loops of a compiled set of kernels (by GNU objdump), counts their instructions,
and prints for each loop how many cycles a turn takes at least: for its multiplications, for its
loads, for all that vector and integer units share, and for all that a core begins in a cycle. The
greatest of these bounds it; the last column is the share of the multiplications' peak that is left.
Caches, latencies and branches are not counted, so that it says what cannot be passed, not what is
reached.
"""

from __future__ import annotations

import argparse
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OBJECT = ROOT / "build" / "objects" / "csrc_cpu_kernels_avx512.cpp.o"
#: Multiplications of a loop that is worth a row.
LEAST = 16


@dataclass(frozen=True)
class Core:
    """What a core can begin in a cycle, of operations on 512 bits where they are vectors.

    Attributes:
        multiplications: fused multiply-adds.
        pairs: products of pairs of bf16.
        loads: of 64 bytes.
        vector: shuffles and multiplications together.
        units: those and operations on integers together.
        instructions: of any kind; a multiplication that takes an operand from memory is one.
        splits: whether such a one counts as two where the address has an index.
    """

    multiplications: float
    pairs: float
    loads: float
    vector: float
    units: float
    instructions: float
    splits: bool


#: Intel 64 and IA-32 Architectures Optimization Reference Manual; AMD's Software Optimization
#: Guides for Zen 4 and Zen 5. The rate of pairs is measured on an Emerald Rapids.
CORES = {
    "golden-cove": Core(2, 0.5, 2, 2, 5, 6, True),
    "zen4": Core(1, 1, 1, 2, 6, 6, False),
    "zen5": Core(2, 2, 2, 4, 10, 8, False),
}


@dataclass(frozen=True)
class Loop:
    """An innermost loop of a function."""

    function: str
    instructions: tuple[str, ...]

    def count(self, pattern: str) -> int:
        """Instructions that match from their beginning."""
        return sum(re.match(pattern, line) is not None for line in self.instructions)

    @property
    def multiplications(self) -> int:
        return self.count(r"vfn?m(add|sub)\w+p[sd]")

    @property
    def pairs(self) -> int:
        return self.count("vdpbf16ps")

    @property
    def products(self) -> int:
        return self.multiplications + self.pairs

    def bounds(self, core: Core) -> dict[str, float]:
        """Cycles of a turn, by what takes them."""
        loads = sum("(" in line and not line.startswith("lea") for line in self.instructions)
        moved = self.count(r"v?mov(?![zs])\w*\s+(?!.*\()[^$]*$")  # renamed away
        pure_loads = self.count(r"v?(mov|broadcast)\w*\s+\S*\(")
        shuffles = self.count(r"v(perm|unpck|punpck|pshuf|shuf|broadcast)\w*\s+(?!.*\()")
        vector = self.multiplications + shuffles
        others = len(self.instructions) - vector - self.pairs - moved - pure_loads
        indexed = self.count(r"vfn?m\w+\s+\S*\([^)]*,[^)]*\)") if core.splits else 0
        return {
            "multiply": self.multiplications / core.multiplications + self.pairs / core.pairs,
            "load": loads / core.loads,
            "vector": (vector + self.pairs) / core.vector,
            "units": (vector + self.pairs + others) / core.units,
            "begin": (len(self.instructions) + indexed) / core.instructions,
        }


def loops(compiled: Path) -> Iterator[Loop]:
    """Of all functions of an object file, from the longest on."""
    printed = subprocess.run(
        ["objdump", "--disassemble", "--demangle", "--no-show-raw-insn", str(compiled)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    function, lines = "", list[tuple[int, str]]()
    for line in [*printed.splitlines(), "0 <>:"]:
        if begins := re.match(r"^[0-9a-f]+ <(.*)>:$", line):
            yield from _loops_of(function, lines)
            function, lines = begins[1], []
        elif found := re.match(r"^\s*([0-9a-f]+):\s+([^#]*)", line):
            lines.append((int(found[1], 16), found[2].strip()))


def _loops_of(function: str, lines: list[tuple[int, str]]) -> Iterator[Loop]:
    index = {address: i for i, (address, _) in enumerate(lines)}
    jumps = []
    for i, (_, text) in enumerate(lines):
        to = re.match(r"^j\w+\s+([0-9a-f]+)", text)
        if to and index.get(int(to[1], 16), i + 1) <= i:
            jumps.append((index[int(to[1], 16)], i))
    for begin, end in jumps:
        if not any(begin <= b and e <= end for b, e in jumps if (b, e) != (begin, end)):
            yield Loop(function, tuple(text for _, text in lines[begin : end + 1]))


def short(function: str) -> str:
    """Its name, and what it is made for, without its arguments."""
    plain = re.sub(r"iql::(cpu::)?|\(anonymous namespace\)::|^(void|double) ", "", function)
    return re.sub(r"^\w+::", "", plain.partition("(")[0])


def row(loop: Loop, core: Core) -> str:
    """Of the table."""
    bounds = loop.bounds(core)
    cells = "".join(f"{cycles:9.1f}" for cycles in bounds.values())
    share = bounds["multiply"] / max(bounds.values())
    return f"{short(loop.function)[:44]:44} {loop.products:8}{cells}{share:9.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--object", type=Path, default=OBJECT, help="default: of the last build")
    parser.add_argument(
        "--core", choices=CORES, nargs="+", default=list(CORES), help="default: all"
    )
    asked = parser.parse_args()
    if not asked.object.is_file():
        parser.error(f"there is no {asked.object}; build the package in this folder, or name one")
    found = [loop for loop in loops(asked.object) if loop.products >= LEAST]
    for name in asked.core:
        print(f"{name}: cycles of a turn, at least")
        heads = ("multiply", "load", "vector", "units", "begin", "of peak")
        print(f"{'loop of':44} {'products':>8}" + "".join(f"{head:>9}" for head in heads))
        rows = (row(loop, CORES[name]) for loop in found)
        print(*dict.fromkeys(rows), sep="\n", end="\n\n")


if __name__ == "__main__":
    main()
