"""The table that ``tools/gpu_check.sh`` prints last."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "tools" / "gpu_table.py"


def write(folder: Path, name: str, content: Any) -> None:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def status(folder: Path, part: str, code: int = 0, seconds: int = 3) -> None:
    write(folder, f"{part}.status.json", {"part": part, "status": code, "seconds": seconds})
    write(folder, f"{part}.log", f"first\n==== what {part} said ====\n\n")


def printed(folder: Path) -> list[str]:
    result = subprocess.run(
        [sys.executable, SCRIPT, folder], capture_output=True, text=True, check=True
    )
    return [" ".join(line.split()) for line in result.stdout.splitlines()]


def test_a_table_of_everything(tmp_path: Path) -> None:
    for part in ("build", "tests", "launches", "kernels", "throughput", "million", "train"):
        status(tmp_path, part)
    status(tmp_path, "methods")
    row = {"title": "CQL", "seeds": 16, "steps_per_second": 4321.4}
    write(tmp_path, "methods.json", {"results": [row]})
    launch = {"seeds": 16, "precision": "bf16x3", "form": "launches"}
    timed = launch | {"at_once": 16, "step": 1234.56, "launches": {"rows": 9.0}}
    resident = launch | {"form": "resident"}
    in_turn = resident | {"at_once": 4, "step": 987.65, "launches": {"step": 986.0}}
    none = resident | {"precision": "fp32", "reason": "Steps are launches"}
    write(tmp_path, "launches.json", {"machine": {}, "results": [timed, in_turn, none]})
    by_wgmma = launch | {"at_once": 16, "step": 1000.0, "launches": {"rows": 8.0}}
    write(tmp_path, "launches-wgmma.json", {"machine": {}, "results": [by_wgmma]})
    operations = [
        {"operation": "adam", "size": "256", "faster_rival": None, "ratio": {"eager": 3.0}},
        {"operation": "polyak", "size": "4096", "faster_rival": "foreach",
         "ratio": {"eager": 2.0, "foreach": 0.91}},
    ]  # fmt: skip
    write(tmp_path, "kernels.json", {"results": operations})
    rows = [
        {"name": "iql_fast cuda", "precision": "fp32", "seeds": 16, "steps_per_s": 9000.4,
         "ratio_to_best_rival": 4.5, "best_rival": "JAX lax.scan"},
        {"name": "JAX lax.scan", "precision": "fp32", "seeds": 16, "steps_per_s": 2000.0,
         "ratio_to_best_rival": 1.0, "best_rival": "JAX lax.scan"},
    ]  # fmt: skip
    left_out = {"torch.compile, 1 thread": "torch.compile failed"}
    write(tmp_path, "throughput.json", {"results": rows, "machine": {"left_out": left_out}})
    million = {"steps": 1_000_000, "seconds": 50.0, "precision": "fp32", "seeds": 1}
    write(tmp_path, "million-fp32.json", million | {"engine": "cuda"})
    write(tmp_path, "million-graph.json", million | {"engine": "graph", "steps": 200_000})
    summary = {
        "title": "hopper-medium-v2 (regenerated)",
        "steps": 1_000_000,
        "seconds": {"training": 60.0, "evaluation": 1.5, "records": 2.0},
        "behaviour_score": 31.9,
        "scores": {"final": {"mean": 44.4}},
    }
    write(tmp_path, "hopper-medium/summary.json", summary)
    lines = printed(tmp_path)
    assert lines == [
        str(tmp_path),
        "build passed, 3 s",
        "what build said",
        "tests passed, 3 s",
        "what tests said",
        "sanitizer not run",
        "launches passed, 3 s",
        "a step, bf16x3, 16 seeds, launches 1,234.6 us",
        "rows 9.0 us",
        "a step, bf16x3, 16 seeds, resident, 4 at a time 987.6 us",
        "step 986.0 us",
        "a step, fp32, 16 seeds, resident none",
        "a step, bf16x3, wgmma, 16 seeds, launches 1,000.0 us",
        "rows 8.0 us",
        "kernels passed, 3 s",
        "operations timed 2",
        "polyak, 4096: foreach is faster 0.91 x",
        "throughput passed, 3 s",
        "JAX lax.scan, fp32, 16 seeds 2,000 steps/s",
        "iql_fast cuda, fp32, 16 seeds 9,000 steps/s, 4.50 x JAX lax.scan",
        "left out: torch.compile, 1 thread torch.compile failed",
        "methods passed, 3 s",
        "CQL, 16 seeds 4,321 steps/s",
        "million passed, 3 s",
        "1,000,000 steps, cuda, fp32, 1 seed 50.0 s, 20,000 steps/s",
        "200,000 steps, graph, fp32, 1 seed 50.0 s, 4,000 steps/s",
        "data not run",
        "train passed, 3 s",
        "hopper-medium-v2 (regenerated), 1,000,000 steps",
        "training 60.0 s",
        "evaluation 1.5 s",
        "records 2.0 s",
        "final score 44.4 (behaviour 31.9)",
    ]


@pytest.mark.parametrize(("code", "verdict"), [(1, "FAILED"), (124, "STOPPED"), (137, "STOPPED")])
def test_a_part_that_did_not_pass_shows_no_figures(tmp_path: Path, code: int, verdict: str) -> None:
    status(tmp_path, "million", code, 480)  # and an older run's JSON may lie about
    write(tmp_path, "million-fp32.json", "{}")
    (tmp_path / "rehearsal").touch()
    lines = printed(tmp_path)
    assert "REHEARSAL" in lines[0]
    assert lines.index("what million said") == lines.index(f"million {verdict}, 480 s") + 1


def test_a_part_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    command = ["bash", str(ROOT / "tools" / "gpu_check.sh"), str(tmp_path / "out"), "bild"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    assert "no part bild: build tests" in result.stderr
