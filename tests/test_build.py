"""The build's own logic: the list of sources, the toolchains, what it asks pip for."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent


def load(folder: str, name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of the repository that is not installed."""
    if not (ROOT / folder).exists():
        pytest.skip("only in a checkout: the build's files are not installed")
    monkeypatch.syspath_prepend(str(ROOT / folder))
    return importlib.import_module(name)


@pytest.fixture
def native_build(monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in ("CXX", "NVCC", "CUDA_HOME", "CUDA_PATH", "IQL_FAST_CUDA", "TORCH_CUDA_ARCH_LIST"):
        monkeypatch.delenv(name, raising=False)
    return load("build_backend", "native_build", monkeypatch)


def test_every_source_file_is_listed_once(native_build: Any) -> None:
    kinds = ("core", "core-x86", "cuda", "binding", "test", "emulated-core-x86", "emulator")
    kinds += ("emulated-test",)
    listed = [source.path for source in native_build.sources(*kinds)]
    files = [
        *ROOT.glob("csrc/**/*.cpp"),
        *ROOT.glob("csrc/**/*.cu"),
        *ROOT.glob("tests/cpp/**/*.cpp"),
    ]
    assert sorted(listed) == sorted(str(file.relative_to(ROOT)) for file in files)


def test_a_compiler_that_does_not_work_is_passed_over_with_the_reason(
    native_build: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "/nowhere/c++")
    assert native_build.find_compiler() == (None, "/nowhere/c++: No such file or directory")
    monkeypatch.setenv("CXX", "false")
    compiler, reason = native_build.find_compiler()
    assert compiler is None
    assert "false cannot build" in reason


def test_a_compiler_too_old_for_the_kernels_is_named(
    native_build: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(native_build, "core_kinds", lambda: ["core", "core-x86"])
    old = tmp_path / "old-c++"
    old.write_text(
        '#!/bin/sh\nfor flag in "$@"; do case $flag in -mavx512bf16)\n'
        'echo "error: unrecognized option $flag" >&2; exit 1;; esac; done\n'
    )
    old.chmod(0o755)
    monkeypatch.setenv("CXX", str(old))
    compiler, reason = native_build.find_compiler()
    assert compiler is None
    assert reason.endswith("unrecognized option -mavx512bf16")


def fake_toolkit(folder: Path) -> Path:
    """A toolkit and, apart from it, an nvcc that is a wrapper script."""
    (folder / "toolkit" / "lib64").mkdir(parents=True)
    (folder / "toolkit" / "lib64" / "libcudart_static.a").touch()
    nvcc = folder / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text(
        '#!/bin/sh\ncase "$1" in\n'
        f"  --dryrun) echo '#$ TOP={folder}/toolkit' >&2 ;;\n"
        "  --list-gpu-code) printf 'sm_80\\nsm_90\\n' ;;\nesac\n"
    )
    nvcc.chmod(0o755)
    return nvcc


def test_the_toolkit_of_a_wrapped_nvcc(
    native_build: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NVCC", str(fake_toolkit(tmp_path)))
    toolkit = native_build.find_cuda()
    assert toolkit.library == tmp_path / "toolkit" / "lib64"
    assert toolkit.include == tmp_path / "toolkit" / "include"
    assert toolkit.architectures == ["8.0", "9.0a"]  # 10.0 is not among those that it knows


def test_architectures_asked_for(
    native_build: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NVCC", str(fake_toolkit(tmp_path)))
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.6;9.0+PTX")
    flags = native_build.find_cuda().code_flags
    assert [flag for flag in flags if flag != "-gencode"] == [
        "arch=compute_86,code=sm_86",
        "arch=compute_90,code=sm_90",
        "arch=compute_90,code=compute_90",
    ]
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "Hopper")
    with pytest.raises(SystemExit, match="Hopper"):
        native_build.find_cuda()


def test_cuda_can_be_forbidden_and_insisted_on(
    native_build: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NVCC", str(fake_toolkit(tmp_path)))
    monkeypatch.setenv("IQL_FAST_CUDA", "0")
    assert native_build.find_cuda() is None
    monkeypatch.setenv("IQL_FAST_CUDA", "1")
    with monkeypatch.context() as context:
        context.setattr(native_build.shutil, "which", lambda _: None)
        with pytest.raises(SystemExit, match="no nvcc was found"):
            native_build.find_cuda()
    monkeypatch.setenv("IQL_FAST_CUDA", "emulated")
    assert native_build.find_cuda() is None
    monkeypatch.setenv("IQL_FAST_CUDA", "yes")
    with pytest.raises(SystemExit, match="must be 0, 1, emulated or unset"):
        native_build.find_cuda()


def test_torch_is_asked_for_only_where_there_is_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    backend = load("build_backend", "iql_fast_build", monkeypatch)
    monkeypatch.setattr(backend, "_site_packages", lambda: [str(tmp_path)])
    assert backend.get_requires_for_build_wheel() == ["torch==2.13.0"]
    assert backend.get_requires_for_build_editable() == ["torch==2.13.0"]
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").touch()
    importlib.invalidate_caches()
    assert backend.get_requires_for_build_wheel() == []
    assert backend.get_requires_for_build_editable() == []


PTXAS = """\
ptxas info    : Compiling entry function '_Z4fullPf' for 'sm_80'
ptxas info    : Function properties for _Z4fullPf
    8 bytes stack frame, 12 bytes spill stores, 16 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 4096 bytes smem, 372 bytes cmem[0]
ptxas info    : Compiling entry function '_Z5smallPf' for 'sm_80'
ptxas info    : Function properties for _Z5smallPf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 28 registers, used 0 barriers, 372 bytes cmem[0]
"""


def test_the_spill_gate_reads_ptxas(monkeypatch: pytest.MonkeyPatch) -> None:
    check = load("tools", "check_cuda", monkeypatch)
    full, small = check.kernel_uses(PTXAS)
    assert full == ("_Z4fullPf", 255, 12, 16, 4096, 8)
    assert small == ("_Z5smallPf", 28, 0, 0, 0, 0)
    assert check.may_spill(full.kernel, "x\n// spills allowed: full\n")
    assert not check.may_spill(full.kernel, "// spills allowed: small\n")
    waits = (
        "ptxas info : (C7513) ... wgmma.mma_async instructions are serialized due to ... in '_Z4f'"
    )
    assert check.serialized(f"{PTXAS}{waits}\n") == [waits]
    assert not check.serialized(PTXAS)


def test_the_table_of_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    check = load("tools", "check_cuda", monkeypatch)
    names = {
        "_ZN3iql4cuda11rows_kernelINS0_6Bf16x3ELi32EEEvNS0_7ProblemENS0_8RowsPassE": (
            "rows_kernel<Bf16x3, 32>"
        ),
        "_ZN3iql4cuda13update_kernelINS0_4Fp32EEEvNS0_7ProblemEi": "update_kernel<Fp32>",
        "_ZN3iql4cuda11rows_kernelINS0_10Bf16x3RowsILi1EEELi32EEEvNS0_7ProblemENS0_8RowsPassE": (
            "rows_kernel<Bf16x3Rows<1>, 32>"
        ),
        "_ZN3iql4cuda47_GLOBAL__N__957e8e9e_14_elementwise_cu_f3789b5913polyak_kernelEPfPKflf": (
            "polyak_kernel"
        ),
        # The namespace's hash happens to be the length of what follows it.
        "_ZN3iql4cuda47_GLOBAL__N__53cb96a5_14_elementwise_cu_ecc5c7e618awr_weights_kernelEPf": (
            "awr_weights_kernel"
        ),
    }
    for mangled, name in names.items():
        assert check.readable(mangled) == name
    rows, update, *_ = (check.KernelUse(name, 100, 0, 0, 0, 0) for name in names)
    made = check.table(
        {"80": [rows, update], "100": [update, rows._replace(spill_loads=4)]}, "13.0"
    )
    assert "| `rows_kernel<Bf16x3, 32>` | 100, 0 | 100, 4 |" in made.splitlines()
    stated, _ = check.documented()
    lines = [line.strip("| ").split(" | ") for line in stated.splitlines()[3:-1]]
    assert len(lines) >= len(names)
    sources = "".join(path.read_text() for path in (ROOT / "csrc" / "cuda").glob("*.cu"))
    allowed = re.findall(r"^// spills allowed: (\w+)$", sources, re.MULTILINE)
    for kernel, *cells in lines:
        may = kernel.strip("`").partition("<")[0] in allowed
        assert may or all(cell.endswith(", 0") for cell in cells), f"{kernel} spills"


WITHOUT_EXTENSION = """
import sys, warnings
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name == "iql_fast._C":
            raise ModuleNotFoundError("No module named 'iql_fast._C'", name=name)
sys.meta_path.insert(0, Absent())
import torch
from iql_fast import engines
assert "not built" in engines.available()["cpu"]
name, why = engines.choose("auto")
assert name == "reference" and "not built" in why, (name, why)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from iql_fast import ops
    assert ops.awr_weights(torch.zeros(2), torch.zeros(2), 3.0).tolist() == [1, 1]
    critics, slow = ops.EnsembleMLP(2, [3, 8, 1]), ops.EnsembleMLP(2, [3, 8, 1])
    adam = ops.FusedAdam(critics.parameters(), targets=slow.parameters(), polyak=1.0)
    (s,) = ops.sample_batch([torch.randn(9, 3)], 4, torch.tensor([0, 0]))
    q = critics(s).squeeze(-1)
    ops.twin_q_loss(q, q[0].detach(), q[0].detach(), q[0].detach(), 0.9).backward()
    adam.step()
    torch.testing.assert_close(slow.weights[0], critics.weights[0])
assert len(caught) == 1 and "not built" in str(caught[0].message), caught
"""


def test_without_the_extension_the_reference_engine_works_and_says_so_once() -> None:
    subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTENSION], check=True, cwd=ROOT, env=dict(os.environ)
    )
