"""``python -m iql_fast.info`` as a user runs it."""

from __future__ import annotations

import subprocess
import sys

from iql_fast import engines
from iql_fast.support import extension


def test_info_names_every_engine_and_why_it_cannot_be_used() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "iql_fast.info"], capture_output=True, text=True, check=True
    )
    lines = [line.split() for line in result.stdout.splitlines()]
    verdicts = {line[1]: " ".join(line[2:]) for line in lines if line[:1] == ["engine"]}
    for name, reason in engines.available().items():
        precisions = ", ".join(engines.PRECISIONS[name])
        assert verdicts[name] == (f"no: {reason}" if reason else f"yes, in {precisions}")
    chosen, why = engines.choose("auto")
    assert verdicts["auto"] == f"takes {chosen} ({why})"
    if not extension.unavailable_reason():
        build = extension.load().build_config()
        assert build["compiler"] in result.stdout
        assert build["torch"] in result.stdout
        assert build["flags"] in result.stdout
        for precision in ("fp32", "mixed"):
            sets = extension.load().cpu_kernel_sets(mixed=precision == "mixed")
            found = next(line for line in lines if line[:2] == ["kernels", precision])
            assert found[2] in sets
            assert " ".join(found).endswith(f"can run: {', '.join(sets)}")


def test_an_option_that_does_not_exist_is_refused() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "iql_fast.info", "--bogus"], capture_output=True, text=True
    )
    assert result.returncode == 2
    assert "--bogus" in result.stderr
