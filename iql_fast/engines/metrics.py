"""Sums over training steps from which ``Engine.run`` reports its metrics."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from iql_fast.engines.base import METRICS, Metrics


class MetricSums:
    """Per-seed float64 sums of the metrics over steps (maximum for ``weight_max``)."""

    def __init__(self, seeds: int) -> None:
        self.steps = 0
        self.sums = {name: np.zeros(seeds) for name in METRICS}
        self.squared_advantage = np.zeros(seeds)

    def add(
        self,
        losses: dict[str, Tensor],
        value: Tensor,
        q: Tensor,
        advantage: Tensor,
        weight: Tensor,
        clipped: Tensor,
    ) -> None:
        """One step: losses ``[S]`` by network, the others ``[S, B]``."""
        self.steps += 1
        for net, loss in losses.items():
            self.sums[f"{net}_loss"] += loss.double().numpy()
        for name, rows in {
            "value": value,
            "q": q,
            "advantage": advantage,
            "weight": weight,
            "weight_clipped": clipped,
        }.items():
            self.sums[name] += rows.double().mean(-1).numpy()
        self.squared_advantage += (advantage.double() ** 2).mean(-1).numpy()
        largest = weight.double().amax(-1).numpy()
        self.sums["weight_max"] = np.maximum(self.sums["weight_max"], largest)

    def means(self) -> Metrics:
        return metric_means(self.sums, self.squared_advantage, self.steps)


def metric_means(sums: Metrics, squared_advantage: np.ndarray, steps: int) -> Metrics:
    """Metrics from their sums over ``steps`` steps; NaN where there were none."""
    with np.errstate(invalid="ignore"):
        means = {name: sums[name] / steps if steps else sums[name] * np.nan for name in METRICS}
        means["weight_max"] = sums["weight_max"].copy()
        variance = squared_advantage / max(steps, 1) - means["advantage"] ** 2
        means["advantage_std"] = np.sqrt(np.maximum(variance, 0))
    return means
