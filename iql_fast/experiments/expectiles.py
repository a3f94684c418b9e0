"""Expectiles, computed with the package's own kernel of the expectile loss.

The tau-expectile m of a random variable X minimises ``E |tau - 1(X < m)| (X - m)^2`` (paper,
section 4.1). The loss is convex and piecewise quadratic, so Newton's method, which fits a mean with
the weights ``|tau - 1(X < m)|`` at the last m, ends after finitely many steps at the minimum: the
derivative is concave for tau > 1/2 and convex for tau < 1/2, so that from the second step on m
moves in one direction, and there are finitely many ways to lie above and below it.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from iql_fast import ops

Array = NDArray[np.float64]

#: More than any Newton iteration here has needed by far.
NEWTON_STEPS = 1000


def loss(u: Array, tau: float) -> Array:
    """``|tau - 1(u < 0)| u^2`` (equation 5) of every element of ``u``."""
    return np.array([float(ops.expectile_loss(*_pair(x), tau)) for x in u.ravel()]).reshape(u.shape)


def loss_gradient(u: Array, tau: float) -> Array:
    """The derivative of the expectile loss with respect to ``u``, of the shape of ``u``."""
    q, v = _pair(u)
    q.requires_grad_()
    mean = ops.expectile_loss(q, v, tau)
    (gradient,) = torch.autograd.grad(mean, q)
    return np.asarray(gradient.numpy() * u.size, dtype=np.float64)


def weights(u: Array, tau: float) -> Array:
    """``|tau - 1(u < 0)|`` of the shape of ``u``: half the derivative of the loss at +-1."""
    sign = np.where(u < 0, -1.0, 1.0)
    return 0.5 * sign * loss_gradient(sign, tau)


def expectile(values: Array, probabilities: Array, tau: float) -> Array:
    """Expectiles of discrete distributions.

    Args:
        values: ``[..., N]``.
        probabilities: ``[..., N]``, non-negative, each row with a positive sum.
        tau: in (0, 1).

    Returns:
        ``[...]``, in float64.
    """
    rows, mass = values.reshape(-1, values.shape[-1]), probabilities.reshape(-1, values.shape[-1])
    return np.array(
        [_regression(np.ones((len(x), 1)), x, p, tau)[0] for x, p in zip(rows, mass, strict=True)]
    ).reshape(values.shape[:-1])


def expectile_regression(features: Array, targets: Array, tau: float) -> Array:
    """Coefficients ``[F]`` of the linear function that minimises the mean expectile loss.

    Args:
        features: ``[N, F]``, of full column rank.
        targets: ``[N]``.
    """
    return _regression(features, targets, np.ones(len(targets)), tau)


def same_side(u: Array, last: Array, rounding: float) -> bool:
    """Whether Newton's method has ended: every outcome lies on the side of the expectile where it
    lay in the last step, or nothing has moved but by ``rounding`` (an outcome on the expectile
    itself may fall to either side)."""
    return bool(np.array_equal(u < 0, last < 0) or np.abs(u - last).max() <= rounding)


def _regression(features: Array, targets: Array, mass: Array, tau: float) -> Array:
    weight, u = mass, None
    rounding = 16 * np.finfo(np.float64).eps * np.abs(targets).max()
    for _ in range(NEWTON_STEPS):
        weighted = features * weight[:, None]
        solution = np.linalg.solve(weighted.T @ features, weighted.T @ targets)
        last, u = u, targets - features @ solution
        if last is not None and same_side(u, last, rounding):
            return np.asarray(solution, dtype=np.float64)
        weight = mass * weights(u, tau)
    raise ArithmeticError(f"no expectile found after {NEWTON_STEPS} Newton steps")


def _pair(u: float | Array) -> tuple[torch.Tensor, torch.Tensor]:
    """(q, v) with q - v = u."""
    q = torch.as_tensor(np.array(u), dtype=torch.float64)
    return q, torch.zeros_like(q)
