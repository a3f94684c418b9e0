"""The kernels for use in other torch trainers, with a pure-torch statement of each.

Where the extension is missing (a warning says so once), or with ``native=False``, the pure-torch
statement computes the result.
"""

from __future__ import annotations

import functools
import warnings

import torch
from torch import Tensor

from iql_fast import extension
from iql_fast.engines import reference


@functools.cache
def _extension_works() -> bool:
    reason = extension.unavailable_reason()
    if reason:
        warnings.warn(f"iql_fast.ops computes in plain torch: {reason}", stacklevel=4)
    return not reason


def _native(native: bool) -> bool:
    return native and _extension_works()


def expectile_loss(q: Tensor, v: Tensor, tau: float, *, native: bool = True) -> Tensor:
    """``mean |tau - 1(u < 0)| u^2`` with ``u = q - v`` (paper, equation 5), a scalar.

    Args:
        q, v: equal shapes, float32 or float64 (float32 on CUDA); both may need gradients.
    """
    if _native(native):
        loss, _ = torch.ops.iql_fast.expectile(q, v, tau)
        return torch.mean(loss)
    return reference.expectile_loss(q - v, torch.as_tensor(tau, dtype=q.dtype)).mean()


def awr_weights(
    advantage: Tensor, beta: float, clip: float = 100.0, *, native: bool = True
) -> Tensor:
    """``min(exp(beta A), clip)`` (equation 7), of the advantage's shape, without gradient."""
    advantage = advantage.detach()
    if _native(native):
        weights: Tensor = torch.ops.iql_fast.awr_weights(advantage, beta, clip)
        return weights
    tensors = (torch.as_tensor(x, dtype=advantage.dtype) for x in (beta, clip))
    return reference.awr_weights(advantage, *tensors)


@torch.no_grad()
def polyak_(target: Tensor, source: Tensor, alpha: float, *, native: bool = True) -> Tensor:
    """``target += alpha (source - target)`` in place over one contiguous tensor; returns it."""
    if _native(native):
        torch.ops.iql_fast.polyak_(target, source, alpha)
    else:
        target += alpha * (source - target)
    return target
