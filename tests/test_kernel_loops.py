"""The bounds that tools/kernel_loops.py counts, of loops that are counted by hand."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tools.kernel_loops import CORES, Loop, loops, row

LINES = (
    "mov    (%rdi,%rsi,1),%eax",
    "vbroadcastf32x4 (%r11,%rsi,4),%zmm1",
    "movzbl %al,%r9d",
    "vpermilps $0x0,%zmm1,%zmm20",
    "vmovaps %zmm20,%zmm2",  # renamed away: no unit computes it
    "shl    $0x7,%r9",
    "vfmadd231ps (%r9),%zmm20,%zmm5",
    "vfmadd132ps 0x40(%r13,%r9,1),%zmm5,%zmm2",
    "vdpbf16ps %zmm1,%zmm3,%zmm4",
    "lea    (%r15,%rdx,4),%rdx",
    "cmp    %esi,%r8d",
    "jg     10",
)


def test_a_loop_is_bound_by_what_it_holds() -> None:
    loop = Loop("f", LINES)
    assert (loop.multiplications, loop.pairs, loop.products) == (2, 1, 3)
    assert loop.bounds(CORES["golden-cove"]) == {
        "multiply": 2 / 2 + 1 / 0.5,
        "load": 4 / 2,
        "vector": 4 / 2,
        "units": 9 / 5,  # those, and movzbl, shl, lea, cmp, jg
        "begin": 13 / 6,  # one address of a multiplication has an index
    }
    assert loop.bounds(CORES["zen5"])["begin"] == 12 / 8
    assert row(loop, CORES["golden-cove"]).split()[-1] == "1.00"
    assert row(loop, CORES["zen4"]).split()[-1] == "0.75"  # 3 of 4 cycles: a load each


@pytest.mark.skipif(
    shutil.which("objdump") is None or shutil.which("g++") is None, reason="no objdump or g++"
)
def test_innermost_loops_are_found(tmp_path: Path) -> None:
    source = tmp_path / "two.s"
    source.write_text(
        ".text\n.globl f\nf:\n1:\n mov %edi, %eax\n2:\n"
        " vfmadd231ps (%rsi), %ymm1, %ymm2\n dec %eax\n jg 2b\n dec %edi\n jg 1b\n ret\n"
    )
    compiled = tmp_path / "two.o"
    subprocess.run(["g++", "-c", str(source), "-o", str(compiled)], check=True)
    (loop,) = loops(compiled)
    assert loop.function == "f"
    assert [line.split()[0] for line in loop.instructions] == ["vfmadd231ps", "dec", "jg"]
