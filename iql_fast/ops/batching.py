"""What ``torch.vmap`` makes of the operators: the same operators on tensors with one more axis.

S = the size of the axis that is mapped over. A rule gets every tensor with S in front, computes
without reduction, and reduces all axes but the first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from iql_fast.ops import native, plain


def _expectile_loss(qs: Sequence[Tensor], v: Tensor, tau: float, reduction: int) -> Tensor:
    return _reduced(torch.ops.iql_fast.expectile_loss(qs, v, tau, plain.NONE), reduction)


def _awr_weights(qs: Sequence[Tensor], v: Tensor, beta: float, clip: float) -> Tensor:
    weights: Tensor = torch.ops.iql_fast.awr_weights(qs, v, beta, clip)
    return weights


def _awr_loss(
    qs: Sequence[Tensor], v: Tensor, log_prob: Tensor, beta: float, clip: float, reduction: int
) -> Tensor:
    loss = torch.ops.iql_fast.awr_loss(qs, v, log_prob, beta, clip, plain.NONE)
    return _reduced(loss, reduction)


def _gaussian_awr_loss(
    qs: Sequence[Tensor],
    v: Tensor,
    mean: Tensor,
    log_std: Tensor,
    action: Tensor,
    beta: float,
    clip: float,
    reduction: int,
) -> Tensor:
    if log_std.dim() < mean.dim():  # [S, A], for all rows
        log_std = log_std.reshape(len(v), *[1] * (mean.dim() - 2), -1).expand_as(mean)
    loss = torch.ops.iql_fast.gaussian_awr_loss(
        qs, v, mean, log_std, action, beta, clip, plain.NONE
    )
    return _reduced(loss, reduction)


def _twin_q_loss(
    qs: Sequence[Tensor],
    r: Tensor,
    mask: Tensor,
    next_v: Tensor,
    discount: float,
    reduction: int,
) -> Tensor:
    # Axes that a critic has in front of the target's go in front of S.
    qs = [q.movedim(0, q.dim() - r.dim()) for q in qs]
    loss = torch.ops.iql_fast.twin_q_loss(qs, r, mask, next_v, discount, plain.NONE)
    return _reduced(loss, reduction)


def _stacked_linear(x: Tensor, weight: Tensor, bias: Tensor, relu: bool) -> Tensor:
    S, E = bias.shape[:2]
    if x.dim() == 3:  # [S, rows, in], for all E
        x = x.unsqueeze(1).expand(S, E, *x.shape[1:])
    out: Tensor = torch.ops.iql_fast.stacked_linear(
        x.flatten(0, 1), weight.flatten(0, 1), bias.flatten(0, 1), relu
    )
    return out.reshape(S, E, *out.shape[1:])


def _stacked_mlp(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    S, E = biases[0].shape[:2]
    if x.dim() == 3:  # [S, rows, in], for all E
        x = x.unsqueeze(1).expand(S, E, *x.shape[1:])
    out: Tensor = torch.ops.iql_fast.stacked_mlp(
        x.flatten(0, 1), [w.flatten(0, 1) for w in weights], [b.flatten(0, 1) for b in biases]
    )
    return out.reshape(S, E, *out.shape[1:])


def _gather_rows(columns: Sequence[Tensor], rows: Tensor) -> list[Tensor]:
    own = torch.arange(len(rows), device=rows.device)[:, None]
    return [column[own, rows] for column in columns]


def _reduced(terms: Tensor, reduction: int) -> Tensor:
    if reduction == plain.NONE:
        return terms
    terms = terms.flatten(1)
    return terms.mean(1) if reduction == plain.MEAN else terms.sum(1)


def _with_axis(x: Any, dim: Any, size: int) -> Any:
    """A tensor, or each of a list of them, with S in front; numbers as they are."""
    if isinstance(x, Tensor):
        return x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)
    if isinstance(x, list | tuple):
        return [_with_axis(one, d, size) for one, d in zip(x, dim or [None] * len(x), strict=True)]
    return x


def _rule(batched: Callable[..., Any]) -> Callable[..., Any]:
    def rule(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
        moved = [_with_axis(x, dim, info.batch_size) for x, dim in zip(args, in_dims, strict=True)]
        out = batched(*moved)
        return out, 0 if isinstance(out, Tensor) else [0] * len(out)

    return rule


def _refused(name: str) -> Callable[..., Any]:
    def rule(*_: Any) -> tuple[Any, Any]:
        raise RuntimeError(
            f"iql_fast::{name} writes in place and has no batching rule: call it outside of vmap"
        )

    return rule


if native.AVAILABLE:
    _RULES = {
        "expectile_loss": _rule(_expectile_loss),
        "awr_weights": _rule(_awr_weights),
        "awr_loss": _rule(_awr_loss),
        "gaussian_awr_loss": _rule(_gaussian_awr_loss),
        "twin_q_loss": _rule(_twin_q_loss),
        "stacked_linear": _rule(_stacked_linear),
        "stacked_mlp": _rule(_stacked_mlp),
        "gather_rows": _rule(_gather_rows),
    }
    _RULES |= {name: _refused(name) for name in ("polyak_update_", "adam_", "batch_rows_")}
    for _name, _one in _RULES.items():
        torch.library.register_vmap(f"iql_fast::{_name}", _one)
