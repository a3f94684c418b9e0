"""The scores that a run comes to, beside the published ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

#: Evaluations that the final score averages over: one alone is noisy.
FINAL_EVALUATIONS = 10


def summarise(rows: Sequence[dict[str, str]], due: int, key: str = "score") -> dict[str, Any]:
    """Final, last and best score of each seed, and their mean and standard deviation over seeds.

    Args:
        rows: of scores.csv.
        due: evaluations that each seed should have.
        key: ``"score"``, or ``"return"`` where the task has no reference scores.
    """
    by_seed: dict[int, list[float]] = {}
    for row in rows:
        by_seed.setdefault(int(row["seed"]), []).append(float(row[key]))
    kinds: dict[str, Callable[[list[float]], float]] = {
        "final": lambda scores: float(np.mean(scores[-FINAL_EVALUATIONS:])),
        "last": lambda scores: scores[-1],
        "best": max,
    }
    summary: dict[str, Any] = {}
    for kind, reduce in kinds.items():
        values = {seed: reduce(scores) for seed, scores in by_seed.items()}
        array = np.array(list(values.values()))
        summary[kind] = {
            "per_seed": {str(seed): value for seed, value in values.items()},
            "mean": float(array.mean()),
            "std": float(array.std()),
        }
    fewest = min(map(len, by_seed.values()))
    summary["final"]["evaluations"] = min(fewest, FINAL_EVALUATIONS)
    summary["final"]["due"] = min(due, FINAL_EVALUATIONS)
    return summary


def task_label(task: str, title: str) -> str:
    """The name that a sweep gives a task, beside the title of its data, which says where they are
    from, where that does not begin with it."""
    return title if title.startswith(task) else f"{task} ({title})"
