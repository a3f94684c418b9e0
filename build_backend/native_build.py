"""What the native build is made of: the list of sources, the compilers, and their flags.

setup.py builds the extension with it and tools/check_cuda.py compiles the CUDA code alone; no
torch is needed here.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
INCLUDE_DIRS = [ROOT / "csrc", ROOT / "csrc" / "include"]

# No fast-math, and no fused multiply-add but where sources.txt asks for it: a formula gives the
# same bits wherever it is compiled in. Errors are read from results, so errno is not kept.
CORE_FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off"]
CORE_FLAGS += ["-fno-math-errno", "-Wall", "-Wextra", "-Wno-psabi"]
CUDA_FLAGS = ["-std=c++17", "-O3", "-lineinfo", "-Xcompiler", "-fPIC,-fvisibility=hidden"]
# Ampere, Hopper with its own instructions, Blackwell: those that nvcc knows are built.
DEFAULT_ARCHITECTURES = ["8.0", "9.0a", "10.0"]

# The value of IQL_FAST_CUDA that builds the CUDA code as plain C++ over the tests' emulator: the
# tests that need a device then run, slowly, without one.
EMULATED = "emulated"
EMULATOR_FLAGS = ["-x", "c++", "-Wno-unknown-pragmas"]
EMULATOR_FLAGS += [f"-I{ROOT / 'tests' / 'cpp' / 'cuda_emulator'}"]


class Source(NamedTuple):
    """A line of csrc/sources.txt."""

    kind: str
    path: str
    flags: list[str]


def sources(*kinds: str) -> list[Source]:
    """The lines of csrc/sources.txt of the given kinds."""
    listed = []
    for line in (ROOT / "csrc" / "sources.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            kind, path, *flags = line.split()
            listed.append(Source(kind, path, flags))
    return [source for source in listed if source.kind in kinds]


def core_kinds() -> list[str]:
    """The kinds of source that make up the core on this machine."""
    x86 = platform.machine() in ("x86_64", "AMD64")
    return ["core", "core-x86"] if x86 else ["core"]


def find_compiler() -> tuple[str | None, str]:
    """(a C++ compiler that can build a Python extension and knows the flags of csrc/sources.txt, or
    None; why not).

    CXX names the only candidate where it is set.
    """
    program = b"#include <Python.h>\n#include <vector>\nstd::vector<int> v(3);\n"
    flags = ["-x", "c++", "-std=c++17", "-fPIC", "-shared"]
    flags += sorted({flag for source in sources(*core_kinds()) for flag in source.flags})
    flags.append("-I" + sysconfig.get_path("include"))
    reason = ""
    named = os.environ.get("CXX", "").strip()
    for name in [named] if named else ["g++", "clang++", "c++"]:
        with tempfile.TemporaryDirectory() as folder:
            command = [*shlex.split(name), *flags, "-", "-o", str(Path(folder) / "probe.so")]
            try:
                subprocess.run(command, input=program, check=True, capture_output=True)
            except OSError as error:
                reason = reason or f"{name}: {error.strerror}"
            except subprocess.CalledProcessError as error:
                lines = error.stderr.decode(errors="replace").strip().splitlines()
                reason = f"{name} cannot build a Python extension: " + next(
                    (line for line in lines if "error" in line), "it failed"
                )
            else:
                return name, ""
    return None, reason


class Cuda(NamedTuple):
    """A CUDA toolkit: ``library`` holds libcudart_static.a, ``include`` cuda_runtime.h."""

    nvcc: str
    library: Path
    include: Path
    architectures: list[str]

    @property
    def code_flags(self) -> list[str]:
        """-gencode for each architecture; "8.0+PTX" also keeps the portable code."""
        flags = []
        for architecture in self.architectures:
            number = architecture.removesuffix("+PTX").replace(".", "")
            flags += ["-gencode", f"arch=compute_{number},code=sm_{number}"]
            if architecture.endswith("+PTX"):
                flags += ["-gencode", f"arch=compute_{number},code=compute_{number}"]
        return flags


def find_cuda() -> Cuda | None:
    """The CUDA toolkit to build with, or None; stops with the reason where IQL_FAST_CUDA=1."""
    wanted = os.environ.get("IQL_FAST_CUDA", "")
    if wanted not in ("", "0", "1", EMULATED):
        sys.exit(f"IQL_FAST_CUDA is {wanted!r}; it must be 0, 1, {EMULATED} or unset.")
    if wanted in ("0", EMULATED):
        return None
    homes = [Path(os.environ[n]) for n in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(n)]
    # In this order: what was named, the PATH, the usual place.
    candidates = [os.environ.get("NVCC"), *(str(home / "bin" / "nvcc") for home in homes)]
    candidates += ["nvcc", "/usr/local/cuda/bin/nvcc"]
    nvcc = next((found for c in candidates if c and (found := shutil.which(c))), None)
    if nvcc is None:
        if wanted == "1":
            sys.exit("IQL_FAST_CUDA=1, but no nvcc was found: put it on the PATH or set CUDA_HOME.")
        return None
    # nvcc may be a wrapper script somewhere else: it says itself where its toolkit lies.
    dry_run = subprocess.run(
        [nvcc, "--dryrun", "-x", "cu", os.devnull], capture_output=True, text=True
    )
    if top := re.search(r"TOP=(\S+)", dry_run.stderr):
        homes.insert(0, Path(top[1]))
    target = f"targets/{'sbsa' if platform.machine() == 'aarch64' else 'x86_64'}-linux/lib"
    folders = [home / sub for home in homes for sub in (target, "lib64", "lib")]
    library = next((f for f in folders if (f / "libcudart_static.a").exists()), None)
    if library is None:
        if wanted == "1":
            sys.exit(f"IQL_FAST_CUDA=1, but libcudart_static.a of {nvcc} was not found.")
        return None
    listed = subprocess.run([nvcc, "--list-gpu-code"], capture_output=True, text=True).stdout
    known = {code.removeprefix("sm_") for code in listed.split()}
    if chosen := os.environ.get("TORCH_CUDA_ARCH_LIST", "").strip():
        architectures = re.split(r"[;\s]+", chosen)
        if strange := [a for a in architectures if not re.fullmatch(r"\d+\.\d[af]?(\+PTX)?", a)]:
            sys.exit(
                f"TORCH_CUDA_ARCH_LIST has {', '.join(strange)}; write architectures as numbers, "
                "for example '8.0;9.0a;10.0+PTX'."
            )
    else:
        architectures = [a for a in DEFAULT_ARCHITECTURES if re.sub("[.a]", "", a) in known]
    root = next(home for home in homes if home in library.parents)
    return Cuda(nvcc, library.resolve(), (root / "include").resolve(), architectures)
