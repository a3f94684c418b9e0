"""The losses of IQL in plain torch, elementwise (Kostrikov, Nair, Levine, ICLR 2022)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def expectile_loss(u: Tensor, tau: Tensor) -> Tensor:
    """``|tau - 1(u < 0)| u^2`` (equation 5), elementwise; u = Q - V."""
    return torch.where(u < 0, 1 - tau, tau) * u**2


def awr_weights(advantage: Tensor, beta: Tensor, clip: Tensor) -> Tensor:
    """``min(exp(beta A), clip)`` (equation 7 and the authors' clip), elementwise."""
    return torch.minimum(torch.exp(beta * advantage), clip)


def gaussian_log_prob(action: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log density of a diagonal Gaussian at ``action`` ``[..., A]``, summed over A."""
    z = (action - mean) * torch.exp(-log_std)
    return (-0.5 * z**2 - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)
