"""IQL's losses (Kostrikov, Nair, Levine, ICLR 2022).

Where a function takes ``q``, that is one tensor or a sequence of critics, whose elementwise minimum
is then taken inside. Tensors of one call have one dtype (float32, float64 or bfloat16) and one
device; one may be broadcast to another's shape, as in torch. Two that would both grow, such as
``[B, 1]`` against ``[B]``, are refused: the ``[B, B]`` that torch makes of them is never meant.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from iql_fast.ops import native as _native
from iql_fast.ops import plain

#: Reductions by name, as torch numbers them.
REDUCTIONS = {"none": plain.NONE, "mean": plain.MEAN, "sum": plain.SUM}

_expectile_loss = _native.operator("expectile_loss")
_awr_weights = _native.operator("awr_weights")
_awr_loss = _native.operator("awr_loss")
_gaussian_awr_loss = _native.operator("gaussian_awr_loss")
_twin_q_loss = _native.operator("twin_q_loss")


def expectile_loss(
    q: Tensor | Sequence[Tensor],
    v: Tensor,
    tau: float,
    reduction: str = "mean",
    *,
    native: bool = True,
) -> Tensor:
    """``|tau - 1(u < 0)| u^2`` with ``u = q - v`` (equation 5).

    Args:
        q: [...], or critics of that shape. Gradients flow into it as well as into ``v``; where
            critics tie, they share theirs.
        v: [...].
        tau: the expectile, between 0 and 1.
        reduction: ``mean``, ``sum`` or ``none``.

    Returns:
        A tensor without dimensions, or [...] without reduction. It can be differentiated once.

    Raises:
        ValueError: an unknown reduction, shapes that do not go together, or a number out of range.
        RuntimeError: dtypes or devices that differ or are not supported.
    """
    _require(0 < tau < 1, "tau", tau, "a number between 0 and 1")
    number = _reduction(reduction)
    qs, (v,) = _aligned(q, v)
    if native and _native.AVAILABLE:
        loss: Tensor = _expectile_loss(qs, v, tau, number)
        return loss
    return plain.expectile_loss(qs, v, tau, number)


def _require(holds: bool, name: str, value: float, expected: str) -> None:
    if not holds:
        raise ValueError(f"{name} is {value}; expected {expected}")


def _check_weights(beta: float, clip: float) -> None:
    _require(0 <= beta < math.inf, "beta", beta, "a finite number of at least 0")
    _require(clip > 0, "clip", clip, "a positive number")


def awr_weights(
    q: Tensor | Sequence[Tensor],
    v: Tensor,
    beta: float,
    clip: float = 100.0,
    *,
    native: bool = True,
) -> Tensor:
    """``min(exp(beta (q - v)), clip)``, [...], without gradient (equation 7; the authors' clip).

    Args:
        q: [...], or critics of that shape.
        v: [...].
        beta: the inverse temperature.

    Raises:
        ValueError, RuntimeError: as for ``expectile_loss``.
    """
    _check_weights(beta, clip)
    qs, (v,) = _aligned(q, v)
    if native and _native.AVAILABLE:
        weights: Tensor = _awr_weights(qs, v, beta, clip)
        return weights
    return plain.awr_weights(qs, v, beta, clip)


def awr_loss(
    q: Tensor | Sequence[Tensor],
    v: Tensor,
    log_prob: Tensor,
    beta: float,
    clip: float = 100.0,
    reduction: str = "mean",
    *,
    native: bool = True,
) -> Tensor:
    """``-min(exp(beta (q - v)), clip) log_prob`` (equation 7).

    Args:
        q: [...], or critics of that shape; no gradient flows into it, nor into ``v``.
        v: [...].
        log_prob: [...], the policy's at the actions of the data.
        beta, clip: as for ``awr_weights``.
        reduction: ``mean``, ``sum`` or ``none``.

    Raises:
        ValueError, RuntimeError: as for ``expectile_loss``.
    """
    _check_weights(beta, clip)
    number = _reduction(reduction)
    qs, (v, log_prob) = _aligned(q, v, log_prob)
    if native and _native.AVAILABLE:
        loss: Tensor = _awr_loss(qs, v, log_prob, beta, clip, number)
        return loss
    return plain.awr_loss(qs, v, log_prob, beta, clip, number)


def gaussian_awr_loss(
    q: Tensor | Sequence[Tensor],
    v: Tensor,
    mean: Tensor,
    log_std: Tensor,
    action: Tensor,
    beta: float,
    clip: float = 100.0,
    reduction: str = "mean",
    *,
    native: bool = True,
) -> Tensor:
    """``awr_loss`` with the log-probability of a diagonal Gaussian (equation 7).

    Args:
        q: [...], or critics of that shape; no gradient flows into it, nor into ``v``.
        v: [...].
        mean, action: [..., A].
        log_std: [A] or [..., A], clipped already where the policy clips it.
        beta, clip: as for ``awr_weights``.
        reduction: ``mean``, ``sum`` or ``none``.

    Returns:
        As ``expectile_loss``; gradients flow into ``mean``, ``log_std`` and ``action``.

    Raises:
        ValueError, RuntimeError: as for ``expectile_loss``.
    """
    _check_weights(beta, clip)
    number = _reduction(reduction)
    qs, (v,) = _aligned(q, v)
    if native and _native.AVAILABLE:
        loss: Tensor = _gaussian_awr_loss(qs, v, mean, log_std, action, beta, clip, number)
        return loss
    return plain.gaussian_awr_loss(qs, v, mean, log_std, action, beta, clip, number)


def twin_q_loss(
    qs: Tensor | Sequence[Tensor],
    r: Tensor,
    mask: Tensor,
    next_v: Tensor,
    discount: float,
    reduction: str = "mean",
    *,
    native: bool = True,
) -> Tensor:
    """``(r + discount mask next_v - q)^2``, summed over critics (equation 6).

    Args:
        qs: critics [...] each, or stacked as one tensor [E, ...].
        r, mask, next_v: [...]; the mask is 0 where the transition ended its episode. No gradient
            flows into the target.
        reduction: over [...]: ``mean``, ``sum`` or ``none``.

    Raises:
        ValueError, RuntimeError: as for ``expectile_loss``.
    """
    _require(0 <= discount <= 1, "discount", discount, "a number of 0 to 1")
    number = _reduction(reduction)
    critics = _listed(qs)
    if not r.shape == mask.shape == next_v.shape:
        r, mask, next_v = _broadcast(r, mask, next_v)
    if native and _native.AVAILABLE:
        loss: Tensor = _twin_q_loss(critics, r, mask, next_v, discount, number)
        return loss
    return plain.twin_q_loss(critics, r, mask, next_v, discount, number)


def _reduction(name: str) -> int:
    if name not in REDUCTIONS:
        raise ValueError(f"reduction is {name!r}; it must be one of {', '.join(REDUCTIONS)}")
    return REDUCTIONS[name]


def _aligned(
    q: Tensor | Sequence[Tensor], *others: Tensor
) -> tuple[list[Tensor], Sequence[Tensor]]:
    """(Critics, the other tensors) of one shape."""
    qs = _listed(q)
    shape = others[0].shape
    for tensor in (*qs, *others):  # no generator: it would take as long as the rest
        if tensor.shape != shape:
            tensors = _broadcast(*qs, *others)
            return tensors[: len(qs)], tensors[len(qs) :]
    return qs, others


def _listed(q: Tensor | Sequence[Tensor]) -> list[Tensor]:
    # By the sequences' types, since isinstance(q, Tensor) is slow.
    return list(q) if isinstance(q, (list, tuple)) else [q]  # type: ignore[list-item]


def _broadcast(*tensors: Tensor) -> list[Tensor]:
    shapes = [tuple(tensor.shape) for tensor in tensors]
    try:
        shape = torch.broadcast_shapes(*shapes)  # type: ignore[no-untyped-call]
    except RuntimeError:
        raise ValueError(f"the shapes {_shapes(shapes)} do not go together") from None
    if tuple(shape) not in shapes:
        raise ValueError(
            f"the shapes {_shapes(shapes)} would all be broadcast to {list(shape)}; reshape one "
            "of them"
        )
    return [tensor.expand(shape) for tensor in tensors]


def _shapes(shapes: Sequence[tuple[int, ...]]) -> str:
    return " and ".join(str(list(shape)) for shape in shapes)
