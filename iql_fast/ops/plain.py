"""The operators in plain torch: same arguments, same results, as their specification.

Lists ``qs`` hold critics, whose minimum is Q; ``reduction`` is torch's number of none (0), mean (1)
or sum (2). bfloat16 and float16 are computed in float32 and rounded at the end.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from iql_fast.formulas import losses, philox

NONE, MEAN, SUM = 0, 1, 2
#: What the operators take.
DTYPES = (torch.float32, torch.float64, torch.bfloat16)


def _computed(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _minimum(qs: Sequence[Tensor]) -> Tensor:
    return _computed(qs[0] if len(qs) == 1 else torch.stack(list(qs)).amin(0))


def _reduced(terms: Tensor, reduction: int, dtype: torch.dtype) -> Tensor:
    if reduction == MEAN:
        terms = terms.mean()
    elif reduction == SUM:
        terms = terms.sum()
    return terms.to(dtype)


def expectile_loss(qs: Sequence[Tensor], v: Tensor, tau: float, reduction: int) -> Tensor:
    """Equation 5."""
    u = _minimum(qs) - _computed(v)
    return _reduced(losses.expectile_loss(u, u.new_full((), tau)), reduction, v.dtype)


def _weights(qs: Sequence[Tensor], v: Tensor, beta: float, clip: float) -> Tensor:
    advantage = (_minimum(qs) - _computed(v)).detach()
    return losses.awr_weights(advantage, advantage.new_full((), beta), advantage.new_full((), clip))


def awr_weights(qs: Sequence[Tensor], v: Tensor, beta: float, clip: float) -> Tensor:
    """Equation 7's weights, clipped."""
    return _weights(qs, v, beta, clip).to(v.dtype)


def awr_loss(
    qs: Sequence[Tensor], v: Tensor, log_prob: Tensor, beta: float, clip: float, reduction: int
) -> Tensor:
    """Equation 7."""
    weights = _weights(qs, v, beta, clip)
    return _reduced(-weights * _computed(log_prob), reduction, v.dtype)


def gaussian_awr_loss(
    qs: Sequence[Tensor],
    v: Tensor,
    mean: Tensor,
    log_std: Tensor,
    action: Tensor,
    beta: float,
    clip: float,
    reduction: int,
) -> Tensor:
    """Equation 7 for a diagonal Gaussian."""
    weights = _weights(qs, v, beta, clip)
    log_prob = losses.gaussian_log_prob(_computed(action), _computed(mean), _computed(log_std))
    return _reduced(-weights * log_prob, reduction, v.dtype)


def twin_q_loss(
    qs: Sequence[Tensor],
    r: Tensor,
    mask: Tensor,
    next_v: Tensor,
    discount: float,
    reduction: int,
) -> Tensor:
    """Equation 6, summed over critics."""
    target = (_computed(r) + discount * _computed(mask) * _computed(next_v)).detach()
    terms = torch.zeros_like(target)
    for q in qs:
        squares = (_computed(q) - target) ** 2
        leading = tuple(range(squares.dim() - target.dim()))
        terms = terms + (squares.sum(leading) if leading else squares)
    return _reduced(terms, reduction, r.dtype)


def polyak_update_(targets: Sequence[Tensor], params: Sequence[Tensor], alpha: float) -> None:
    """Section 4.3's slow copy."""
    for target, param in zip(targets, params, strict=True):
        old = _computed(target)
        target.copy_(old + alpha * (_computed(param) - old))


def batch_rows_(state: Tensor, n: int, rows: int) -> Tensor:
    """The rows of the batch of ``state`` = [seed, step], which moves on by a step."""
    seed, step = (int(x) % 2**64 for x in state.tolist())
    state[1] += 1
    return torch.from_numpy(philox.batch_rows(seed, step, n, rows)).to(state.device)


def gather_rows(columns: Sequence[Tensor], rows: Tensor) -> list[Tensor]:
    """Some rows of every column."""
    return [column[rows] for column in columns]


def dropout_factors(
    like: Tensor, seeds: Tensor, step: int, layer: int, probability: float
) -> Tensor:
    """What dropout multiplies the hidden units ``[S, B, U]`` of a layer by: 0, or what makes the
    mean 1."""
    steps = torch.tensor([step], device=seeds.device)
    keep = philox.dropout_keep_of(
        seeds, steps, layer, (like.shape[-2], like.shape[-1]), probability
    )
    return keep[0].to(like.dtype) / (1 - probability)


def stacked_linear(x: Tensor, weight: Tensor, bias: Tensor, relu: bool) -> Tensor:
    """``x weight + bias`` of E layers, and a ReLU where one follows."""
    product = torch.matmul(x, weight)  # autocast chooses its dtype
    out = _computed(product) + _computed(bias).unsqueeze(1)
    return (torch.relu(out) if relu else out).to(product.dtype)


def stacked_mlp(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """E MLPs, with a ReLU after every layer but the last."""
    for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        x = stacked_linear(x, weight, bias, i + 1 < len(weights))
    return x
