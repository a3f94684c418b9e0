"""One table of what ``tools/gpu_check.sh FOLDER`` found: ``python tools/gpu_table.py FOLDER``.

A part says whether it passed and how long it took; below it stand its figures.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PARTS = (
    *("build", "tests", "sanitizer", "launches", "kernels", "throughput"),
    *("methods", "million", "data", "train"),
)
#: Of ``timeout``: the part was stopped.
STOPPED = (124, 137)

Line = tuple[str, str]  # what, figure


def seeds(count: int) -> str:
    return f"{count} seed" + "s" * (count != 1)


def last_line(folder: Path, part: str) -> Iterator[Line]:
    """What a test or a build said last."""
    log = folder / f"{part}.log"
    said = [line.strip() for line in log.read_text().splitlines() if line.strip()]
    if said:
        yield said[-1].strip("= "), ""


def launches(folder: Path) -> Iterator[Line]:
    for path in (folder / "launches.json", *sorted(folder.glob("launches-*.json"))):
        way = path.stem.removeprefix("launches").replace("-", ", ")
        for row in read(path)["results"]:
            what = f"a step, {row['precision']}{way}, {seeds(row['seeds'])}, {row['form']}"
            if "reason" in row:
                yield what, "none"
                continue
            if row["at_once"] < row["seeds"]:
                what += f", {row['at_once']} at a time"
            yield what, f"{row['step']:,.1f} us"
            for name, microseconds in row["launches"].items():
                yield f"  {name}", f"{microseconds:,.1f} us"


def kernels(folder: Path) -> Iterator[Line]:
    """The operators, and those that a rival does sooner."""
    results = read(folder / "kernels.json")["results"]
    yield "operations timed", str(len(results))
    for row in results:
        if row["faster_rival"]:
            what = f"{row['operation']}, {row['size']}: {row['faster_rival']} is faster"
            yield what, f"{row['ratio'][row['faster_rival']]:.2f} x"


def throughput(folder: Path) -> Iterator[Line]:
    record = read(folder / "throughput.json")
    for row in sorted(record["results"], key=lambda row: row["steps_per_s"]):
        what = f"{row['name']}, {row['precision']}, {seeds(row['seeds'])}"
        figure = f"{row['steps_per_s']:,.0f} steps/s"
        if row["ratio_to_best_rival"] and row["name"].startswith("iql_fast"):
            figure += f", {row['ratio_to_best_rival']:.2f} x {row['best_rival']}"
        yield what, figure
    for contender, reason in record["machine"]["left_out"].items():
        yield f"left out: {contender}", reason


def methods(folder: Path) -> Iterator[Line]:
    for row in read(folder / "methods.json")["results"]:
        what = f"{row['title']}, {seeds(row['seeds'])}"
        yield what, f"{row['steps_per_second']:,.0f} steps/s"


def million(folder: Path) -> Iterator[Line]:
    for path in sorted(folder.glob("million-*.json")):
        run = read(path)
        what = f"{run['steps']:,} steps, {run['engine']}, {run['precision']}, {seeds(run['seeds'])}"
        yield what, f"{run['seconds']:.1f} s, {run['steps'] / run['seconds']:,.0f} steps/s"


def train(folder: Path) -> Iterator[Line]:
    summary = read(folder / "hopper-medium" / "summary.json")
    yield f"{summary['title']}, {summary['steps']:,} steps", ""
    for what, duration in summary["seconds"].items():
        yield f"  {what}", f"{duration:.1f} s"
    if "scores" in summary:
        final = summary["scores"]["final"]
        yield "  final score", f"{final['mean']:.1f} (behaviour {summary['behaviour_score']:.1f})"


FIGURES: dict[str, Callable[[Path], Iterator[Line]]] = {
    "launches": launches,
    "kernels": kernels,
    "throughput": throughput,
    "methods": methods,
    "million": million,
    "train": train,
}


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def verdict(status: int) -> str:
    return "passed" if status == 0 else "STOPPED" if status in STOPPED else "FAILED"


def table(folder: Path) -> list[str]:
    """The lines of the table."""
    lines: list[Line] = []
    for part in PARTS:
        path = folder / f"{part}.status.json"
        if not path.exists():
            lines.append((part, "not run"))
            continue
        status = read(path)
        lines.append((part, f"{verdict(status['status'])}, {status['seconds']} s"))
        shown = FIGURES.get(part) if status["status"] == 0 else None
        found = shown(folder) if shown else last_line(folder, part)
        lines += [(f"  {what}", figure) for what, figure in found]
    width = min(72, max(len(what) for what, figure in lines if figure))
    title = str(folder)
    if (folder / "rehearsal").exists():
        title += ": a REHEARSAL without a device, whose figures mean nothing"
    return [title, *(f"{what:<{width}}  {figure}".rstrip() for what, figure in lines)]


if __name__ == "__main__":
    print("\n".join(table(Path(sys.argv[1]))))
