"""Statistics over seeds and tasks, beside small statements of the same by other means."""

import itertools
import math

import numpy as np
import pytest

from iql_fast.runs import statistics


def by_counting(first, second):
    """The probability of improvement by its definition, pair by pair."""
    each = []
    for x, y in zip(first, second, strict=True):
        pairs = list(itertools.product(x, y))
        each.append(sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs) / len(pairs))
    return sum(each) / len(each)


def by_drawing(first, second, resamples, seed):
    """Its interval, sample by sample."""
    rng = np.random.default_rng(seed)
    found = [
        by_counting(
            *([rng.choice(scores, len(scores)) for scores in side] for side in (first, second))
        )
        for _ in range(resamples)
    ]
    return np.percentile(found, [2.5, 97.5])


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([[2.0, 3.0]], [[0.0, 1.0]], 1.0),
        ([[0.0]], [[1.0]], 0.0),
        ([[1.0, 1.0]], [[1.0]], 0.5),
        ([[1.0, 3.0]], [[2.0, 2.0]], 0.5),
        ([[1.0, 2.0, 3.0]], [[2.0, 2.5]], (0 + 0.5 + 0 + 0 + 1 + 1) / 6),
        ([[5.0], [1.0]], [[4.0], [2.0]], 0.5),  # tasks count alike, however far apart they are
        ([[1000.0], [1.0]], [[0.0], [1.0, 2.0, 0.0, 2.0]], (1 + (0.5 + 1) / 4) / 2),
    ],
)
def test_the_probability_of_improvement_by_hand(first, second, expected):
    found = statistics.probability_of_improvement(first, second)
    assert found.value == pytest.approx(expected, abs=1e-12)
    other = statistics.probability_of_improvement(second, first)
    assert other.value == pytest.approx(1 - expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(2))
def test_the_probability_of_improvement_beside_another_statement(seed):
    rng = np.random.default_rng(seed)
    sizes = [(3, 5), (10, 4), (2, 2)]
    first = [rng.integers(0, 6, n).astype(float) for n, _ in sizes]
    second = [rng.integers(0, 5, m).astype(float) for _, m in sizes]
    found = statistics.probability_of_improvement(first, second)
    assert found.value == pytest.approx(by_counting(first, second), abs=1e-12)
    # 1,000 samples tell the ends of an interval as wide as this to about 0.03.
    np.testing.assert_allclose(found[1:], by_drawing(first, second, 1000, seed), atol=0.05)
    assert found.low < found.value < found.high


def test_one_seed_a_task_has_no_interval():
    found = statistics.probability_of_improvement([[1.0], [2.0]], [[0.0], [3.0]])
    assert found.value == 0.5
    assert math.isnan(found.low)
    assert found.shown(2) == "0.50"
    middle = statistics.middle([[1.0], [3.0]])
    assert middle.value == 2.0
    assert math.isnan(middle.high)
    assert middle.shown() == "2.0"


def test_the_middle_is_that_of_the_tables():
    tasks = [[10.0, 20.0, 30.0, 40.0], [0.0, 50.0]]
    low, high = statistics.interval(tasks)
    mean = np.mean([10, 20, 30, 40])  # of six scores one is left out at either end
    assert statistics.middle(tasks) == (mean, low, high)
    assert statistics.middle(tasks).shown() == f"{mean:.1f} ({low:.1f} to {high:.1f})"
