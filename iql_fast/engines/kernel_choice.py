"""Which kernels the engine on the CPU computes with: those that are fastest here, as measured.

What is fastest (instructions, sums in registers at a time, lists of what is not zero, and up to
which share of it) differs from core to core. A tenth of a second a set tells, once for a processor;
what was found is kept in the cache folder. ``IQL_FAST_CPU_KERNELS`` names a set instead.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from iql_fast.data.resolve import cache_folder
from iql_fast.engines.base import NetworkSpec, Precision
from iql_fast.support import extension
from iql_fast.support.digest import of_json
from iql_fast.support.errors import UserError
from iql_fast.support.files import write_json
from iql_fast.support.processor import processor

KINDS = ("forward", "backward", "weights")

#: Seconds that are measured for, all sets together.
SECONDS = 0.3
#: Sizes beyond which products are not timed: they take long, and lie in memory as these do.
LARGEST = 512
#: Multiplications of a product below which there is nothing to gain.
SMALLEST = 2**21
#: A set of other instructions comes before an earlier one in the list only where it is faster by as
#: much: they may differ in bits, and what is measured differs from hour to hour.
FASTER = 1.05
#: Mixed precision that gains less than this is no faster than fp32.
WORTHWHILE = 1.05


@dataclass(frozen=True)
class KernelChoice:
    """A set of kernels, and how it is used.

    Attributes:
        kernels: the set's name.
        list_density: the share of nonzero elements up to which a product goes by lists, by
            ``KINDS``; None: the set's own.
        because: why this set.
        seconds: of a layer's three products, half of whose elements are zero, in each set that was
            measured.
    """

    kernels: str
    list_density: tuple[float, float, float] | None = None
    because: str = "asked for"
    seconds: Mapping[str, float] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """As a run's record has it."""
        return asdict(self)

    @staticmethod
    def from_record(record: Any, because: str) -> KernelChoice:
        """The one that a record has.

        Raises:
            ValueError: it has none.
        """
        try:
            density = record["list_density"]
            if density is not None:
                density = tuple(float(density[i]) for i in range(len(KINDS)))
                if not all(0 <= share <= 1 for share in density):
                    raise ValueError
            seconds = {str(name): float(of) for name, of in record["seconds"].items()}
            return KernelChoice(str(record["kernels"]), density, because, seconds)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError):
            raise ValueError(f"no choice of kernels: {record!r}") from None


def asked_for() -> str:
    """The set that the user names; empty where it is to be measured."""
    return os.environ.get("IQL_FAST_CPU_KERNELS", "")


def usable(precision: Precision) -> list[str]:
    """The sets that this machine can run, in order of preference where they are as fast."""
    return list(extension.load().cpu_kernel_sets(mixed=precision == "mixed"))


def alike(one: str, other: str) -> bool:
    """Whether two sets compute by the same instructions, and so give the same bits."""
    return one.partition("-")[0] == other.partition("-")[0]


def choose(precision: Precision, network: NetworkSpec, batch_size: int) -> KernelChoice | None:
    """The kernels for networks of those sizes; None: the first that this machine can run, where
    there is nothing to measure.

    Raises:
        UserError: IQL_FAST_CPU_KERNELS names some that it cannot run.
    """
    if asked_for():
        try:
            return KernelChoice(str(extension.load().cpu_kernel_set(mixed=precision == "mixed")))
        except RuntimeError as error:
            raise UserError(str(error)) from None
    layers = list(zip(network.hidden, network.hidden[1:], strict=False))
    if precision == "fp64" or not layers:
        return None
    inputs, outputs = max(layers, key=lambda two: two[0] * two[1])
    if batch_size * inputs * outputs < SMALLEST:
        return None
    sizes = {
        name: min(size, LARGEST)
        for name, size in (("rows", batch_size), ("inputs", inputs), ("outputs", outputs))
    }
    found = _kept(precision, sizes)
    if found is None:
        found = _measured(precision, sizes)
        _keep(precision, sizes, found)
    return found


def gain_of_mixed(network: NetworkSpec, batch_size: int) -> float | None:
    """How many times as fast as fp32's the products of mixed precision are here; None where that
    was not measured."""
    least = []
    both: tuple[Precision, ...] = ("fp32", "mixed")
    for precision in both:
        choice = choose(precision, network, batch_size)
        if choice is None or not choice.seconds:
            return None
        least.append(choice.seconds[choice.kernels])
    return least[0] / least[1]


def _measured(precision: Precision, sizes: Mapping[str, int]) -> KernelChoice:
    """Time the sets that this machine can run; the portable one where there is no other."""
    names = [name for name in usable(precision) if name != "portable"] or ["portable"]
    time, mixed, each = extension.load().time_products, precision == "mixed", SECONDS / len(names)
    times = {name: time(name, mixed=mixed, seconds=each, **sizes) for name in names}
    seconds = {
        name: sum(min(dense, half) for dense, _, half in of_set.values())
        for name, of_set in times.items()
    }
    best = names[0]
    for name in names[1:]:
        if seconds[best] >= seconds[name] * (1 if alike(name, best) else FASTER):
            best = name
    others = ", ".join(
        f"{name} {seconds[name] / seconds[best]:.2f}" for name in names if name != best
    )
    because = f"measured; times as long: {others}" if others else "the only ones here"
    forward, backward, weights = (_density(*times[best][kind]) for kind in KINDS)
    return KernelChoice(best, (forward, backward, weights), because, seconds)


def _density(dense: float, quarter: float, half: float) -> float:
    """Up to which share of nonzero elements a product is faster by lists, whose time grows evenly
    with it.

    Args:
        dense: seconds without lists.
        quarter, half: with them, at the densities of ``timed_densities``.
    """
    low, high = extension.load().timed_densities
    if half <= quarter:  # disturbed, or no lists, whose times are infinite
        return 1.0 if half < dense else 0.0
    return float(min(1.0, max(0.0, low + (high - low) * (dense - quarter) / (half - quarter))))


def _path(precision: Precision, sizes: Mapping[str, int]) -> Path:
    of = {
        "processor": processor(),
        "sets": usable(precision),
        "build": extension.load().build_config(),
        **sizes,
    }
    return cache_folder() / "kernels" / f"{precision}-{of_json(of)[:16]}.json"


def _kept(precision: Precision, sizes: Mapping[str, int]) -> KernelChoice | None:
    """What was measured before, if it can be read."""
    try:
        content = json.loads(_path(precision, sizes).read_text())
        choice = KernelChoice.from_record(content, str(content["because"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    known = choice.kernels in usable(precision) and choice.kernels in choice.seconds
    return choice if known and choice.list_density is not None else None


def _keep(precision: Precision, sizes: Mapping[str, int], choice: KernelChoice) -> None:
    """Where the folder cannot be written, each engine measures for itself."""
    path = _path(precision, sizes)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, choice.record())
    except (OSError, UserError):
        pass
