"""The batches that every engine draws, and what to say of one that went wrong."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from iql_fast.data.dataset import Transitions
from iql_fast.formulas import philox
from iql_fast.methods.base import Batch


def batch_at(
    data: Transitions, seeds: Sequence[int], step: int, size: int, dtype: torch.dtype
) -> Batch:
    """Each seed's batch at a (0-based) step of ``run``."""
    rows = np.stack([philox.batch_rows(seed, step, size, len(data)) for seed in seeds])
    return Batch(
        **{name: torch.from_numpy(x[rows]).to(dtype) for name, x in data.columns().items()}
    )


def batch_statistics(batch: Batch, index: int) -> dict[str, float]:
    """The range of the columns of the ``index``-th seed's batch."""
    columns = {
        "observation": batch.observations,
        "action": batch.actions,
        "reward": batch.rewards,
        "next observation": batch.next_observations,
    }
    statistics = {}
    for name, column in columns.items():
        statistics[f"{name} min"] = float(column[index].min())
        statistics[f"{name} max"] = float(column[index].max())
    return statistics
