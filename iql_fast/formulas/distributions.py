"""Diagonal Gaussians whose standard deviation depends on the state, in plain torch.

Their log density is ``losses.gaussian_log_prob``.
"""

from __future__ import annotations

import torch
from torch import Tensor


def soft_clamp(x: Tensor, low: float, high: float) -> Tensor:
    """Into (low, high) by a tanh, elementwise."""
    return low + 0.5 * (high - low) * (torch.tanh(x) + 1)


def gaussian_kl(mean: Tensor, log_std: Tensor, of_mean: Tensor, of_log_std: Tensor) -> Tensor:
    """KL divergence of a Gaussian from another, ``KL(first || second)``, summed over A: all
    ``[..., A]``."""
    ratio = torch.exp(2 * (log_std - of_log_std))
    z = (mean - of_mean) * torch.exp(-of_log_std)
    return (0.5 * (ratio + z**2 - 1) + of_log_std - log_std).sum(-1)
