"""The slow copy of the critics (section 4.3)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from iql_fast.ops import native as _native
from iql_fast.ops import plain

_polyak_update_ = _native.operator("polyak_update_")


def polyak_update_(
    targets: Tensor | Iterable[Tensor],
    params: Tensor | Iterable[Tensor],
    alpha: float,
    *,
    native: bool = True,
) -> None:
    """``target += alpha (param - target)`` in place, in one call for all tensors.

    Args:
        targets, params: lists of equal shapes, such as ``target.parameters()`` and
            ``critic.parameters()``; or one tensor each, a flat one that holds all parameters, say.
            Each target must be dense.
        alpha: the share of the way, between 0 and 1.

    Raises:
        RuntimeError: lists, shapes, dtypes or devices that differ.
    """
    to, of = _listed(targets), _listed(params)
    if not to and not of:
        return
    if native and _native.AVAILABLE:
        _polyak_update_(to, of, alpha)
    else:
        with torch.no_grad():
            plain.polyak_update_(to, of, alpha)


def _listed(tensors: Tensor | Iterable[Tensor]) -> list[Tensor]:
    if type(tensors) is list:  # asked first, since isinstance(..., Tensor) is slow
        return tensors
    return [tensors] if isinstance(tensors, Tensor) else list(tensors)
