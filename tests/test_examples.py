"""The example of swapping the kernels in: the same losses, and the diff that the docs show."""

from __future__ import annotations

import difflib
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"


def test_the_losses_stay_the_same() -> None:
    # Small networks: the full size takes minutes.
    # One thread: on a busy machine two wait for each other longer than they work.
    sizes = ("--steps", "200", "--batch", "32", "--hidden", "32", "--threads", "1")
    done = subprocess.run(
        [sys.executable, EXAMPLES / "swap_in.py", *sizes, "--rounds", "1", "--window", "0.2"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "times as fast" in done.stdout


def test_the_docs_show_the_diff() -> None:
    before, after = (
        (EXAMPLES / f"iql_{name}.py").read_text().splitlines() for name in ("before", "after")
    )
    lines = difflib.unified_diff(
        before, after, "examples/iql_before.py", "examples/iql_after.py", n=1, lineterm=""
    )
    shown = (ROOT / "docs" / "swap_in.md").read_text()
    assert "```diff\n" + "\n".join(lines) + "\n```" in shown
