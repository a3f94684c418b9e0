"""The training engines and the one place that chooses among them."""

from __future__ import annotations

from collections.abc import Sequence

from iql_fast.data.dataset import Transitions
from iql_fast.engines.base import (
    METRICS,
    PER_SEED,
    Batch,
    Engine,
    Hyperparameters,
    Metrics,
    NetworkSpec,
)
from iql_fast.errors import UserError

__all__ = [
    "METRICS",
    "PER_SEED",
    "PRECISIONS",
    "Batch",
    "Engine",
    "Hyperparameters",
    "Metrics",
    "NetworkSpec",
    "available",
    "choose",
    "create",
]

NAMES = ("cuda", "cpu", "reference")  # in order of preference
#: Engine name -> the precisions of training arithmetic that it has. In ``bf16x3`` numbers are fp32
#: and matrix products are sums of three bf16 products on tensor cores.
PRECISIONS = {
    "cuda": ("fp32", "bf16x3"),
    "cpu": ("fp32", "fp64"),
    "reference": ("fp32", "fp64"),
}


def available() -> dict[str, str]:
    """Engine name -> ``""`` where it can be used here, else the reason why it cannot."""
    from iql_fast.engines import cpu, cuda

    return {
        "cuda": cuda.unavailable_reason(),
        "cpu": cpu.unavailable_reason(),
        "reference": "",
    }


def choose(name: str, precision: str = "fp32") -> tuple[str, str]:
    """The engine that ``name`` means and why: ``auto`` takes the first that can be used.

    Raises:
        UserError: the engine does not exist, or cannot be used here or in that precision, with the
            reason.
    """
    reasons = available()
    for engine, precisions in PRECISIONS.items():
        if not reasons[engine] and precision not in precisions:
            reasons[engine] = f"it computes in {' or '.join(precisions)}, not in {precision}"
    if name == "auto":
        chosen = next((engine for engine in NAMES if not reasons[engine]), "")
        if not chosen:
            listing = "; ".join(f"{engine}: {reasons[engine]}" for engine in NAMES)
            raise UserError(f"No engine can be used here: {listing}.")
        passed = [f"{e}: {reasons[e]}" for e in NAMES[: NAMES.index(chosen)]]
        return chosen, "; ".join(passed) or "the fastest engine is usable"
    if name not in reasons:
        raise UserError(f"There is no engine {name!r}. Use one of: auto, {', '.join(NAMES)}.")
    if reasons[name]:
        usable = ", ".join(engine for engine in NAMES if not reasons[engine]) or "none"
        raise UserError(
            f"The engine {name!r} cannot be used here: {reasons[name]}. Usable engines: {usable}; "
            "`python -m iql_fast.info` says more."
        )
    return name, "asked for"


def create(
    name: str,
    network: NetworkSpec,
    hyper: Hyperparameters,
    data: Transitions,
    seeds: Sequence[int],
    *,
    dtype: str = "float32",
    products: str = "fp32",
    threads: int = 0,
) -> Engine:
    """An engine with freshly initialised networks.

    Args:
        name: ``"auto"``, ``"cuda"``, ``"cpu"`` or ``"reference"``.
        dtype: ``"float32"`` or ``"float64"``.
        products: how float32 matrices are multiplied: ``"fp32"`` or, by the CUDA engine,
            ``"bf16x3"``.
        threads: CPU threads; 0 takes all cores that this process may use.

    Raises:
        UserError: the engine cannot be used here.
    """
    import torch

    torch_dtype = {"float32": torch.float32, "float64": torch.float64}[dtype]
    name, _ = choose(name, "fp64" if dtype == "float64" else products)
    if name == "cuda":
        from iql_fast.engines.cuda import CudaEngine

        return CudaEngine(network, hyper, data, seeds, products)
    if name == "cpu":
        from iql_fast.engines.cpu import CpuEngine

        return CpuEngine(network, hyper, data, seeds, torch_dtype, threads)
    from iql_fast.engines.reference import ReferenceEngine

    if threads:
        torch.set_num_threads(threads)
    return ReferenceEngine(network, hyper, data, seeds, torch_dtype)
