"""What scores of several tasks and seeds come to (Agarwal et al., NeurIPS 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Samples of the bootstrap, and their seed: an interval does not change from call to call.
RESAMPLES, SEED = 20_000, 0


def interquartile_mean(scores: Any) -> NDArray[np.float64]:
    """The mean of the middle half along the last axis: a quarter of the scores is left out at
    either end, rounded down."""
    ordered = np.sort(np.asarray(scores, dtype=np.float64), -1)
    cut = ordered.shape[-1] // 4
    middle = ordered[..., cut : ordered.shape[-1] - cut]
    return np.asarray(middle.mean(-1))


def interval(tasks: Sequence[Sequence[float]], level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of the interquartile mean of all scores, by a bootstrap in which the
    seeds of each task are drawn anew, and its tasks stay.

    Args:
        tasks: the scores of each, one a seed.
    """
    rng = np.random.default_rng(SEED)
    drawn = np.concatenate(
        [rng.choice(np.asarray(scores), (RESAMPLES, len(scores))) for scores in tasks], 1
    )
    low, high = np.percentile(interquartile_mean(drawn), [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)
