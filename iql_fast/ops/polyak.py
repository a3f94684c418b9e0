"""The slow copy of the critics (section 4.3)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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
        alpha: the share of the way, between 0 and 1. A tensor of one number will do outside of
            ``torch.compile``; reading it waits for its device.

    Raises:
        ValueError: alpha is no such share.
        RuntimeError: lists, shapes, dtypes or devices that differ; or dtypes other than float32,
            float64 and bfloat16.
    """
    check_share("alpha", alpha)
    to, of = listed(targets), listed(params)
    if not to and not of:
        return
    if native and _native.AVAILABLE:
        _polyak_update_(to, of, alpha)
    else:
        _check(to, of)  # the operator does
        with torch.no_grad():
            plain.polyak_update_(to, of, alpha)


def check_share(name: str, value: float) -> None:
    """Raises ValueError where the value does not lie between 0 and 1, or is NaN."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is {float(value)}; it must lie between 0 and 1")


def listed(tensors: Tensor | Iterable[Tensor]) -> list[Tensor]:
    """One tensor or some of them, as a list."""
    if type(tensors) is list:  # asked first, since isinstance(..., Tensor) is slow
        return tensors
    return [tensors] if isinstance(tensors, Tensor) else list(tensors)


def _check(targets: Sequence[Tensor], params: Sequence[Tensor]) -> None:
    if len(targets) != len(params):
        raise RuntimeError(
            f"polyak_update_: the lists have {len(targets)} and {len(params)} tensors"
        )
    for target, param in zip(targets, params, strict=True):
        if target.shape != param.shape:
            raise RuntimeError(
                f"polyak_update_: the tensors have shapes {list(target.shape)} and "
                f"{list(param.shape)}; they must be equal"
            )
        if (target.dtype, target.device) != (param.dtype, param.device):
            raise RuntimeError(
                f"polyak_update_: the tensors are {target.dtype} on {target.device} and "
                f"{param.dtype} on {param.device}; they must be alike"
            )
        if target.dtype not in plain.DTYPES:
            raise RuntimeError(
                f"polyak_update_: dtype {target.dtype} is not supported; use float32, float64 or "
                "bfloat16"
            )
