"""Builds the extension ``iql_fast._C``.

The torch-free core and the CUDA code are compiled here through ninja, since each file may have flags
of its own; the binding goes through torch's build helper, which knows the flags its headers need.

Environment: IQL_FAST_EXTENSION=0 builds none; IQL_FAST_CUDA=0|1 leaves CUDA out or insists on it
(otherwise it is in where nvcc is found); TORCH_CUDA_ARCH_LIST, CUDA_HOME, NVCC and CXX as usual.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from setuptools import setup

ROOT = Path(__file__).resolve().parent
OBJECTS = ROOT / "build" / "objects"
INCLUDES = ["-I" + str(ROOT / "csrc"), "-I" + str(ROOT / "csrc" / "include")]
CORE_FLAGS = "-std=c++17 -O3 -fPIC -fvisibility=hidden -ffp-contract=off -fno-math-errno".split()
CORE_FLAGS += ["-Wall", "-Wextra", "-Wno-psabi"]
DEFAULT_TORCH = "2.13.0"
DEFAULT_ARCHITECTURES = ["8.0", "9.0a", "10.0"]

REQUIREMENTS = [
    "gymnasium>=1.0,<2",
    "h5py>=3.10",
    "imageio",  # gymnasium's MuJoCo environments import it
    "matplotlib>=3.8",
    "mujoco>=3.1,<3.12",
    "numpy>=1.26",
    "packaging",  # likewise
    "pyyaml",
    "requests>=2.31",
    "rich>=13",
    "safetensors>=0.4",
    "tensorboard>=2.15",
    "tyro>=0.9",
]


class Source(NamedTuple):
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


def torch_version() -> str | None:
    """The version of the torch that this build sees, without its local part."""
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    return str(torch.__version__).partition("+")[0]


def compiler() -> str | None:
    """A C++ compiler that works, or None."""
    for name in filter(None, [os.environ.get("CXX"), "g++", "clang++", "c++"]):
        command = [*shlex.split(name), "-x", "c++", "-std=c++17", "-fsyntax-only", "-"]
        try:
            subprocess.run(command, input=b"#include <vector>\n", check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            continue
        return name
    return None


class Cuda(NamedTuple):
    nvcc: str
    library: Path  # folder of libcudart_static.a
    architectures: list[str]

    @property
    def code_flags(self) -> list[str]:
        flags = []
        for architecture in self.architectures:
            number = architecture.replace(".", "")
            flags += ["-gencode", f"arch=compute_{number},code=sm_{number}"]
        return flags


def cuda() -> Cuda | None:
    """The CUDA toolkit to build with, or None; stops with the reason where IQL_FAST_CUDA=1."""
    wanted = os.environ.get("IQL_FAST_CUDA", "")
    if wanted == "0":
        return None
    homes = [Path(os.environ[name]) for name in ("CUDA_HOME", "CUDA_PATH") if name in os.environ]
    homes.append(Path("/usr/local/cuda"))
    candidates = [os.environ.get("NVCC"), *(str(home / "bin" / "nvcc") for home in homes), "nvcc"]
    nvcc = next((found for c in candidates if c and (found := shutil.which(c))), None)
    if nvcc is None:
        if wanted == "1":
            sys.exit("IQL_FAST_CUDA=1, but no nvcc was found: put it on the PATH or set CUDA_HOME.")
        return None
    # nvcc may be a wrapper script somewhere else: it says itself where its toolkit lies.
    dry_run = subprocess.run([nvcc, "--dryrun", "-x", "cu", os.devnull], capture_output=True)
    if top := re.search(rb"TOP=(\S+)", dry_run.stderr):
        homes.insert(0, Path(os.fsdecode(top[1])))
    folders = [h / sub for h in homes for sub in ("targets/x86_64-linux/lib", "lib64", "lib")]
    library = next((f for f in folders if (f / "libcudart_static.a").exists()), None)
    if library is None:
        if wanted == "1":
            sys.exit(f"IQL_FAST_CUDA=1, but libcudart_static.a of {nvcc} was not found.")
        return None
    listed = subprocess.run([nvcc, "--list-gpu-code"], capture_output=True, text=True).stdout
    known = {code.removeprefix("sm_") for code in listed.split()}
    if chosen := os.environ.get("TORCH_CUDA_ARCH_LIST"):
        architectures = re.split(r"[;\s]+", chosen.replace("+PTX", "").strip())
    else:
        architectures = [a for a in DEFAULT_ARCHITECTURES if re.sub("[.a]", "", a) in known]
    return Cuda(nvcc, library.resolve(), architectures)


def compile_objects(cxx: str, toolkit: Cuda | None) -> list[str]:
    """Compiles the core, and the CUDA code where there is a toolkit; the object files."""
    kinds = ["core", "core-x86"] if platform.machine() in ("x86_64", "AMD64") else ["core"]
    rules = [
        "rule cxx",
        f"  command = {cxx} {' '.join(CORE_FLAGS + INCLUDES)} $flags -MMD -MF $out.d -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
    ]
    if toolkit is not None:
        kinds.append("cuda")
        flags = ["-std=c++17", "-O3", "-lineinfo", "-Xcompiler", "-fPIC,-fvisibility=hidden"]
        flags += [*INCLUDES, *toolkit.code_flags]
        rules += [
            "rule nvcc",
            f"  command = {toolkit.nvcc} {' '.join(flags)} -MD -MF $out.d -c $in -o $out",
            "  depfile = $out.d",
            "  deps = gcc",
        ]
    objects = []
    for source in sources(*kinds):
        target = str(OBJECTS / source.path.replace("/", "_")) + ".o"
        rule = "nvcc" if source.kind == "cuda" else "cxx"
        rules += [
            f"build {target}: {rule} {ROOT / source.path}",
            f"  flags = {' '.join(source.flags)}",
        ]
        objects.append(target)
    OBJECTS.mkdir(parents=True, exist_ok=True)
    (OBJECTS / "build.ninja").write_text("\n".join(rules) + "\n")
    subprocess.run([sys.executable, "-m", "ninja", "-C", str(OBJECTS)], check=True)
    return objects


def extension() -> dict[str, Any]:
    """setup()'s arguments for the extension; empty where none can or shall be built."""
    if os.environ.get("IQL_FAST_EXTENSION") == "0":
        print("iql_fast: IQL_FAST_EXTENSION=0, no extension is built")
        return {}
    if torch_version() is None:
        print("iql_fast: this build sees no torch, no extension is built")
        return {}
    cxx = compiler()
    if cxx is None:
        print(
            "iql_fast: no working C++ compiler, no extension is built; the reference engine works"
        )
        return {}

    import pybind11
    from torch.utils.cpp_extension import BuildExtension, CppExtension

    toolkit = cuda()
    macros: list[tuple[str, str | None]] = [("IQL_TORCH_VERSION", torch_version())]
    link = ["-lpthread"]
    if toolkit is not None:
        architectures = " ".join(toolkit.architectures)
        macros += [("IQL_WITH_CUDA", None), ("IQL_CUDA_ARCHITECTURES", f"'{architectures}'")]
        link += [f"-L{toolkit.library}", "-l:libcudart_static.a", "-ldl", "-lrt"]
    binding = CppExtension(
        "iql_fast._C",
        [source.path for source in sources("binding")],
        include_dirs=[str(ROOT / "csrc"), str(ROOT / "csrc" / "include"), pybind11.get_include()],
        define_macros=macros,
        extra_compile_args=["-O2", "-g0", "-fvisibility=hidden"],
        extra_link_args=link,
    )

    class Build(BuildExtension):  # type: ignore[misc]
        def build_extensions(self) -> None:
            binding.extra_objects = compile_objects(cxx, toolkit)
            super().build_extensions()

    return {"ext_modules": [binding], "cmdclass": {"build_ext": Build}}


setup(install_requires=[f"torch=={torch_version() or DEFAULT_TORCH}", *REQUIREMENTS], **extension())
