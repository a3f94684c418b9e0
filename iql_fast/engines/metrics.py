"""Sums over training steps from which ``Engine.run`` reports its metrics."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from iql_fast.engines.base import MEASURED_WITH, METRICS, Hyperparameters, Metrics


def counts_between(hyper: Hyperparameters, begin: int, end: int) -> dict[str, int]:
    """How many of the steps begin ... end - 1 compute each metric."""
    return {
        name: hyper.steps_with(nets, end) - hyper.steps_with(nets, begin)
        for name, nets in MEASURED_WITH.items()
    }


def metric_means(
    sums: Metrics, squared_advantage: np.ndarray, counts: Mapping[str, int]
) -> Metrics:
    """Metrics from their sums over so many steps; NaN where there were none."""
    with np.errstate(invalid="ignore"):
        means = {
            name: sums[name] / counts[name] if counts[name] else sums[name] * np.nan
            for name in METRICS
        }
        if counts["weight_max"]:
            means["weight_max"] = sums["weight_max"].copy()
        variance = squared_advantage / max(counts["advantage_std"], 1) - means["advantage"] ** 2
        means["advantage_std"] = np.sqrt(np.maximum(variance, 0))
    return means
