"""Windows turned into the rows of a table, and the record of the machine that they hold for."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from typing import Any

from bench import noise
from bench.contenders import KINDS, Contender
from bench.processes import Window
from bench.workload import Workload, flops_a_step
from iql_fast.engines import Precision, kernel_choice
from iql_fast.runs import machine as computer
from iql_fast.support import extension
from iql_fast.support.cores import usable_cores


@dataclass(frozen=True)
class Row:
    """One contender's speed, in training steps a second over all its seeds.

    Attributes:
        median, low, high: over the rounds.
        cores_used: CPU seconds a second of its own process.
        others: share of its cores that other processes had; None if the system does not tell.
        disturbed: why it should not be trusted.
        windows: that it was measured in, one a round.
        active: share of the hidden units that were active in the last.
    """

    contender: Contender
    median: float
    low: float
    high: float
    cores_used: float
    others: float | None
    disturbed: list[str] = field(default_factory=list)
    windows: int = 1
    active: float | None = None

    @property
    def spread(self) -> float:
        return (self.high - self.low) / self.median

    @property
    def gflop_per_s(self) -> float:
        """Billions of floating-point operations of matrix products a second."""
        return self.median * flops_a_step(self.contender.workload) / 1e9


def rows(measured: Mapping[Contender, Sequence[Window]]) -> list[Row]:
    """A row for every contender."""
    disturbed = noise.disturbances(measured)
    found = []
    for contender, windows in measured.items():
        rates = [window.rate for window in windows]
        found.append(
            Row(
                contender,
                statistics.median(rates),
                min(rates),
                max(rates),
                noise.cores_used(windows),
                noise.others_share(contender.threads, windows),
                disturbed.get(contender, []),
                len(windows),
                windows[-1].active,
            )
        )
    return found


@dataclass(frozen=True)
class Point:
    """A row of an axis along which one size varies.

    Attributes:
        sampler: the share of the step's time that drawing the batch takes; None if not measured.
    """

    value: int
    row: Row
    to_floor: float | None
    sampler: float | None = None


def floor_of(row: Row, table: Sequence[Row]) -> Row | None:
    """The floor with as many threads: the better of those that were timed."""
    return _fastest(row, table, lambda c: c.bounds)


def eager_of(row: Row, table: Sequence[Row]) -> Row | None:
    """Eager torch with as many threads."""
    return _fastest(row, table, lambda c: c.kind in ("eager", "cuda-eager"))


def best_rival_of(row: Row, table: Sequence[Row]) -> Row | None:
    """The fastest rival with as many threads and no more seeds, in fp32 or the row's precision."""
    return _fastest(row, table, lambda c: KINDS[c.kind].role == "rival")


def _fastest(row: Row, table: Sequence[Row], wanted: Callable[[Contender], bool]) -> Row | None:
    own = row.contender
    fitting = [
        r
        for r in table
        if r.contender.threads == own.threads
        and r.contender.seeds <= own.seeds
        and r.contender.precision in ("fp32", own.precision)
        and wanted(r.contender)
    ]
    return max(fitting, key=lambda r: r.median, default=None)


def ratio(row: Row, other: Row | None) -> float | None:
    """Quotient of the medians; None without the other."""
    return row.median / other.median if other else None


def ratio_to_floor(row: Row, table: Sequence[Row]) -> float | None:
    """Against a step whose every product runs at the rate of the floor.

    The floor is in steps of its own sizes, so operations are what is compared.
    """
    floor = floor_of(row, table)
    return row.gflop_per_s / floor.gflop_per_s if floor else None


def to_json(row: Row, table: Sequence[Row]) -> dict[str, Any]:
    """A row as the JSON file has it."""
    contender, best = row.contender, best_rival_of(row, table)
    return {
        "name": contender.title,
        "device": KINDS[contender.kind].device,
        "threads": contender.threads,
        "seeds": contender.seeds,
        "precision": contender.precision,
        "steps_per_s": row.median,
        "steps_per_s_min": row.low,
        "steps_per_s_max": row.high,
        "ratio_to_floor": ratio_to_floor(row, table),
        "ratio_to_eager": ratio(row, eager_of(row, table)),
        "ratio_to_best_rival": ratio(row, best),
        "best_rival": best.contender.title if best else None,
        "gflop_per_s": row.gflop_per_s,
        "cores_used": row.cores_used,
        "others_share": row.others,
        "windows": row.windows,
        "active_units": row.active,
        "disturbed": row.disturbed,
    }


def machine(
    table: Sequence[Row], left_out: Mapping[Contender, str], usual: Workload
) -> dict[str, Any]:
    """What ran the benchmark, with what, and whether it was quiet meanwhile.

    Args:
        usual: the sizes that need not be told.
    """
    disturbed = [
        f"{describe(row.contender, usual)}: {', '.join(row.disturbed)}"
        for row in table
        if row.disturbed
    ]
    bounds: dict[str, dict[int, list[float]]] = {"floor": {}, "peak": {}}
    for row in table:
        if row.contender.bounds:
            of_kind = bounds[row.contender.kind]
            of_kind.setdefault(row.contender.threads, []).append(row.gflop_per_s)
    kernels = mixed = ""
    if not extension.unavailable_reason():
        kernels, mixed = _chosen("fp32"), _chosen("mixed")
    versions = computer.versions()
    return computer.machine() | {
        "cores_usable": usable_cores(),
        "cpu_kernels": kernels or "none",
        "cpu_kernels_mixed": mixed or "none",
        "python": versions["python"],
        "torch": versions["torch"],
        "jax": _version("jax"),
        **{
            f"{name}_gflop_per_s": {
                str(n): statistics.median(rates) for n, rates in sorted(bounds[kind].items())
            }
            for name, kind in (("sgemm", "floor"), ("peak", "peak"))
        },
        "left_out": {describe(c, usual): reason for c, reason in left_out.items()},
        "noisy": bool(disturbed),
        "noise": "; ".join(dict.fromkeys(disturbed)),
    }


def _chosen(precision: Precision) -> str:
    """The kernels that our engine takes for the usual networks."""
    usual = Workload()
    choice = kernel_choice.choose(precision, usual.network, usual.batch)
    return choice.kernels if choice else ""


def describe(contender: Contender, usual: Workload) -> str:
    """A contender in words, with those of its sizes that are not the usual ones."""
    parts = [contender.title, count(contender.threads, "thread")]
    if contender.seeds > 1:
        parts.append(count(contender.seeds, "seed"))
    if contender.precision != "fp32":
        parts.append(contender.precision)
    expected = asdict(usual)
    for name, size in asdict(contender.workload).items():
        if size != expected[name]:
            parts.append(f"{name} {size}")
    return ", ".join(parts)


def medians_of(table: Sequence[Row], seconds: float) -> str:
    """How often and how long was measured, in words."""
    fewest, most = min(row.windows for row in table), max(row.windows for row in table)
    times = count(most, "window") if fewest == most else f"{fewest} to {count(most, 'window')}"
    return f"medians of {times} of {seconds:g} s"


def count(number: int, thing: str) -> str:
    """For a sentence."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
