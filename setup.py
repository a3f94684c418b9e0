"""Builds the extension ``iql_fast._C``.

The torch-free core and the CUDA code are compiled here through ninja, since each file may have
flags of its own; the binding goes through torch's build helper, which knows what its headers need.

Environment: IQL_FAST_EXTENSION=0 builds none; IQL_FAST_CUDA=0|1 leaves CUDA out or insists on it
(otherwise it is in where nvcc is found), and IQL_FAST_CUDA=emulated builds it over the tests'
emulator; TORCH_CUDA_ARCH_LIST, CUDA_HOME, NVCC and CXX as usual.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from setuptools import setup

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "build_backend"))

from iql_fast_build import DEFAULT_TORCH  # noqa: E402
from native_build import (  # noqa: E402
    CORE_FLAGS,
    CUDA_FLAGS,
    EMULATED,
    EMULATOR_FLAGS,
    INCLUDE_DIRS,
    Cuda,
    core_kinds,
    find_compiler,
    find_cuda,
    sources,
)

OBJECTS = ROOT / "build" / "objects"

REQUIREMENTS = [
    "gymnasium>=1.2,<2",
    "gymnasium-robotics>=1.4",  # for the model files of hands and kitchens alone
    "h5py>=3.10",
    "imageio",  # gymnasium's MuJoCo environments import imageio and packaging
    "matplotlib>=3.8",
    "minari[hdf5,hf]>=0.5.3,<0.6",  # its own interface is still changing
    "pillow",  # minari's HDF5 storage imports it
    "mujoco>=3.2.3,!=4.0.0",  # see iql_fast/environments/physics.py
    "msgspec>=0.19",
    "numpy>=1.26",
    "packaging",
    "pyyaml",
    "requests>=2.31",
    "rich>=13",
    "safetensors>=0.4",
    "tensorboard>=2.15",
    "tyro>=0.9",
]


def torch_requirement() -> str:
    """The torch that the extension is built against: its C++ interface is not a stable one."""
    if importlib.util.find_spec("torch") is None:
        return DEFAULT_TORCH
    import torch

    return "torch==" + str(torch.__version__).partition("+")[0]


def emulated() -> bool:
    """Whether the CUDA code is to be built over the emulator."""
    return os.environ.get("IQL_FAST_CUDA") == EMULATED


def compile_objects(cxx: str, toolkit: Cuda | None) -> list[str]:
    """Compiles the core, and the CUDA code where there is a toolkit; the object files."""
    includes = [f"-I{folder}" for folder in INCLUDE_DIRS]
    commands = {"cxx": [*shlex.split(cxx), *CORE_FLAGS, *includes, "-MMD"]}
    kinds = core_kinds()
    if toolkit is not None:
        commands["nvcc"] = [toolkit.nvcc, *CUDA_FLAGS, *toolkit.code_flags, *includes, "-MD"]
        kinds.append("cuda")
    elif emulated():
        commands["emulated"] = [*commands["cxx"], *EMULATOR_FLAGS]
        kinds += ["cuda", "emulator"]
    lines = []
    for rule, command in commands.items():
        lines += [
            f"rule {rule}",
            f"  command = {shlex.join(command)} $flags -MF $out.d -c $in -o $out",
            "  depfile = $out.d",
            "  deps = gcc",
        ]
    objects = []
    for source in sources(*kinds):
        name = source.path.replace("/", "_") + ".o"
        on_device = "emulated" if "emulated" in commands else "nvcc"
        rule = on_device if source.kind in ("cuda", "emulator") else "cxx"
        path = str(ROOT / source.path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")
        lines += [f"build {name}: {rule} {path}", f"  flags = {shlex.join(source.flags)}"]
        objects.append(str(OBJECTS / name))
    OBJECTS.mkdir(parents=True, exist_ok=True)
    (OBJECTS / "build.ninja").write_text("\n".join(lines) + "\n")
    module = importlib.util.find_spec("ninja") is not None
    ninja = [sys.executable, "-m", "ninja"] if module else [shutil.which("ninja") or "ninja"]
    try:
        subprocess.run([*ninja, "-C", str(OBJECTS)], check=True)
    except FileNotFoundError:
        sys.exit("iql_fast: ninja is missing: `pip install ninja`, or build with isolation.")
    except subprocess.CalledProcessError:
        sys.exit(
            "iql_fast: compiling the extension failed, see above. IQL_FAST_CUDA=0 leaves the CUDA "
            "code out; IQL_FAST_EXTENSION=0 installs without the extension."
        )
    return objects


def extension() -> dict[str, Any]:
    """setup()'s arguments for the extension; empty where none can or shall be built."""
    without = "no extension is built, and training runs on the reference engine"
    if os.environ.get("IQL_FAST_EXTENSION") == "0":
        print(f"iql_fast: IQL_FAST_EXTENSION=0: {without}")
        return {}
    if importlib.util.find_spec("torch") is None:
        print(f"iql_fast: this build sees no torch: {without}")
        return {}
    cxx, reason = find_compiler()
    if cxx is None:
        print(f"iql_fast: no working C++ compiler ({reason}): {without}")
        return {}
    os.environ["CXX"] = cxx  # torch's helper reads it: one compiler for both parts

    import pybind11
    import torch
    from torch.utils.cpp_extension import BuildExtension, CppExtension, include_paths

    toolkit = find_cuda()
    guard = Path(include_paths()[0], "c10/core/impl/VirtualGuardImpl.h").read_text()
    old_torch = toolkit is not None and "getStreamNativeHandle" not in guard
    if old_torch and torch.version.cuda is None:
        # Such a torch tells the stream only through its CUDA headers, and has no CUDA tensors.
        reason = "a CPU build of this old torch cannot hold CUDA code"
        if os.environ.get("IQL_FAST_CUDA") == "1":
            sys.exit(f"IQL_FAST_CUDA=1, but {reason}.")
        print(f"iql_fast: {reason}: it is left out")
        toolkit, old_torch = None, False
    version = torch_requirement().partition("==")[2]
    macros: list[tuple[str, str | None]] = [
        ("IQL_TORCH_VERSION", f'"{version}"'),
        ("IQL_CORE_FLAGS", f'"{" ".join(CORE_FLAGS)}"'),
    ]
    link = ["-lpthread"]
    compile_args = ["-O2", "-g0", "-fvisibility=hidden"]
    if sys.platform == "linux":
        # at::parallel_for works in the threads of the libgomp that torch has loaded.
        compile_args.append("-fopenmp")
        link.append("-fopenmp")
    if toolkit is not None:
        architectures = " ".join(toolkit.architectures)
        macros += [("IQL_WITH_CUDA", None), ("IQL_CUDA_ARCHITECTURES", f'"{architectures}"')]
        link += [f"-L{toolkit.library}", "-l:libcudart_static.a", "-ldl", "-lrt"]
    elif emulated():
        macros += [("IQL_WITH_CUDA", None), ("IQL_CUDA_ARCHITECTURES", f'"{EMULATED}"')]
    includes = [*map(str, INCLUDE_DIRS), pybind11.get_include()]
    if toolkit is not None and old_torch:
        macros.append(("IQL_OLD_TORCH", None))
        includes.append(str(toolkit.include))
        link.append("-lc10_cuda")
    binding = CppExtension(
        "iql_fast._C",
        [source.path for source in sources("binding")],
        include_dirs=includes,
        define_macros=macros,
        extra_compile_args=compile_args,
        extra_link_args=link,
    )

    class Build(BuildExtension):  # type: ignore[misc]
        def build_extensions(self) -> None:
            binding.extra_objects = compile_objects(cxx, toolkit)
            super().build_extensions()

    return {"ext_modules": [binding], "cmdclass": {"build_ext": Build}}


setup(install_requires=[torch_requirement(), *REQUIREMENTS], **extension())
