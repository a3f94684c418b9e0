"""What scores of several tasks and seeds come to (Agarwal et al., NeurIPS 2021)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

#: Samples of the bootstrap, and their seed: an interval does not change from call to call.
RESAMPLES, SEED = 20_000, 0


class Estimate(NamedTuple):
    """A statistic, and the ends of its interval: NaN where no task has a second seed, which another
    draw could take instead."""

    value: float
    low: float
    high: float

    def shown(self, digits: int = 1) -> str:
        """For people: ``55.8 (50.1 to 58.3)``."""
        value, low, high = (f"{x:.{digits}f}" for x in self)
        return value if math.isnan(self.low) else f"{value} ({low} to {high})"


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


def middle(tasks: Sequence[Sequence[float]]) -> Estimate:
    """The interquartile mean of all scores, with its ``interval``."""
    mean = interquartile_mean([score for scores in tasks for score in scores])
    ends = interval(tasks) if max(map(len, tasks)) > 1 else (math.nan, math.nan)
    return Estimate(float(mean), *ends)


def probability_of_improvement(
    first: Sequence[Sequence[float]], second: Sequence[Sequence[float]], level: float = 0.95
) -> Estimate:
    """The mean over tasks of P(X > Y), where X is a score of the first and Y one of the second on
    the same task and a tie counts half, and its percentile interval, by a bootstrap in which the
    seeds of each task and side are drawn anew.

    Args:
        first, second: the scores of each task, one a seed; the same tasks in the same order.
    """
    rng = np.random.default_rng(SEED)
    value, drawn = 0.0, np.zeros(RESAMPLES)
    for xs, ys in zip(first, second, strict=True):
        x, y = (np.asarray(scores, dtype=np.float64) for scores in (xs, ys))
        wins = (np.sign(x[:, None] - y) + 1) / 2  # [seeds of X, seeds of Y]
        value += wins.mean()
        # How often each seed is drawn is all that a mean over drawn seeds depends on.
        of_x, of_y = (
            rng.multinomial(len(scores), np.full(len(scores), 1 / len(scores)), RESAMPLES)
            / len(scores)
            for scores in (x, y)
        )
        drawn += ((of_x @ wins) * of_y).sum(1)
    low, high = math.nan, math.nan
    if max(map(len, (*first, *second))) > 1:
        low, high = np.percentile(drawn, [50 * (1 - level), 50 * (1 + level)]) / len(first)
    return Estimate(float(value / len(first)), float(low), float(high))
