"""Batches from columns of transitions."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from iql_fast.ops import native as _native
from iql_fast.ops import plain

_batch_rows_ = _native.operator("batch_rows_")
_gather_rows = _native.operator("gather_rows")


def sample_batch(
    columns: Sequence[Tensor], n: int, state: Tensor, *, native: bool = True
) -> list[Tensor]:
    """``n`` rows of every column, drawn uniformly with replacement.

    Args:
        columns: [N, ...] each, N below 2**32, any dtypes.
        state: the generator's, an int64 tensor ``[seed, step]`` on the columns' device. The rows
            depend on nothing else (Philox4x32-10), and every call moves the step on by 1: save and
            restore this tensor to go on with the same batches.

    Returns:
        [n, ...] each.

    Raises:
        RuntimeError: columns of unequal length, or on several devices; no rows to draw from.
    """
    if not columns:
        raise ValueError("sample_batch: there is no column")
    if native and _native.AVAILABLE:
        batch: list[Tensor] = _gather_rows(columns, _batch_rows_(state, n, columns[0].shape[0]))
        return batch
    return plain.gather_rows(columns, plain.batch_rows_(state, n, columns[0].shape[0]))
