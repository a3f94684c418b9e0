"""Sums over training steps from which ``Engine.run`` reports its metrics."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from iql_fast.engines.base import MEASURED_WITH, METRICS, Hyperparameters, Metrics


class MetricSums:
    """Per-seed float64 sums of the metrics over steps (maximum for ``weight_max``)."""

    def __init__(self, seeds: int) -> None:
        self.counts = dict.fromkeys(METRICS, 0)
        self.sums = {name: np.zeros(seeds) for name in METRICS}
        self.squared_advantage = np.zeros(seeds)

    def add(self, losses: Mapping[str, Tensor], rows: Mapping[str, Tensor]) -> None:
        """One step: losses ``[S]`` of the networks it trained, and the metrics ``[S, B]``."""
        for name, nets in MEASURED_WITH.items():
            self.counts[name] += bool(losses.keys() & nets)
        for net, loss in losses.items():
            self.sums[f"{net}_loss"] += loss.double().numpy()
        for name, values in rows.items():
            if losses.keys() & MEASURED_WITH[name]:
                self.sums[name] += values.double().mean(-1).numpy()
        if "actor" in losses:
            self.squared_advantage += (rows["advantage"].double() ** 2).mean(-1).numpy()
            largest = rows["weight"].double().amax(-1).numpy()
            self.sums["weight_max"] = np.maximum(self.sums["weight_max"], largest)

    def means(self) -> Metrics:
        return metric_means(self.sums, self.squared_advantage, self.counts)


def counts_between(hyper: Hyperparameters, begin: int, end: int) -> dict[str, int]:
    """How many of the steps begin ... end - 1 compute each metric."""
    return {
        name: hyper.updates(end, *nets) - hyper.updates(begin, *nets)
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
