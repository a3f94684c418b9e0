"""Builds the package against several torches, under several Pythons, and tries it with each.

    python tools/try_versions.py [--torch 2.10.0 2.14.1 newest] [--python python3.11 python3.13]
                                 [--tests tests/test_engines.py ...] [--cuda]

Each pair of an interpreter that is installed and a version of torch gets a temporary environment
and a copy of the checkout, installs it with its tests as the README says, and runs quick tests
in which the extension meets torch. Prints a table with the minutes that each took; fails where one
failed, and shows the end of what it printed. MuJoCo's versions are for tools/check_physics.py.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

TORCHES = ["2.10.0", "newest"]
#: Where C++ meets torch: engines, operators under autograd and torch.compile, the build's record.
TESTS = [
    *("tests/test_engines.py", "tests/test_cpu_engine.py", "tests/test_ops_drop_in.py"),
    *("tests/test_ops_torch.py", "tests/test_info.py", "tests/test_kernel_choice.py"),
]

#: Prints what was tried.
FOUND = "import platform, torch; print(f'{platform.python_version()}, torch {torch.__version__}')"


def attempt(python: str, torch: str, tests: list[str], cuda: bool) -> tuple[str, str]:
    """What became of it, in a word or two, and what it printed."""
    with tempfile.TemporaryDirectory(prefix="iql_fast-try-") as folder:
        place = Path(folder)
        tree = place / "tree"
        copy_checkout(tree)
        own = place / "venv" / "bin" / "python"
        wanted = "torch" if torch == "newest" else f"torch=={torch}"
        environment = {**os.environ, "IQL_FAST_DATA": str(place / "data"), "MUJOCO_GL": "disable"}
        environment.pop("PYTHONPATH", None)
        if not cuda:
            environment["IQL_FAST_CUDA"] = "0"
        steps: list[tuple[str, list[str]]] = [
            ("no environment", [python, "-m", "venv", str(place / "venv")]),
            ("torch not installed", [str(own), "-m", "pip", "install", "--quiet", wanted]),
            ("not built", [str(own), "-m", "pip", "install", "--quiet", "-e", ".[test]"]),
            ("tests failed", [str(own), "-m", "pytest", "-n", "0", *tests]),
        ]
        printed = ""
        for failure, command in steps:
            done = subprocess.run(
                command,
                cwd=tree,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            printed += done.stdout
            if done.returncode:
                return failure, printed
        found = subprocess.run(
            [str(own), "-c", FOUND],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        summary = [line for line in printed.splitlines() if " passed" in line]
        return f"passed: {found}, {summary[-1].strip() if summary else ''}", printed


def copy_checkout(to: Path) -> None:
    """Tracked and new files that git does not ignore."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        check=True,
    ).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--torch", nargs="+", default=TORCHES, help="versions, or newest")
    parser.add_argument("--python", nargs="+", default=[sys.executable], help="interpreters")
    parser.add_argument("--tests", nargs="+", default=TESTS, help="what pytest runs")
    parser.add_argument("--cuda", action="store_true", help="with the CUDA code, where nvcc is")
    asked = parser.parse_args()
    if missing := [python for python in asked.python if shutil.which(python) is None]:
        parser.error(f"not installed: {', '.join(missing)}")
    failed = False
    print(f"{'python':24} {'torch':10} {'minutes':>7}  what became of it", flush=True)
    for python in asked.python:
        for torch in asked.torch:
            began = time.monotonic()
            outcome, printed = attempt(python, torch, asked.tests, asked.cuda)
            minutes = (time.monotonic() - began) / 60
            print(f"{Path(python).name:24} {torch:10} {minutes:7.1f}  {outcome}", flush=True)
            if not outcome.startswith("passed"):
                failed = True
                print("\n".join(printed.splitlines()[-30:]), flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
