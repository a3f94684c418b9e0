"""Diagonal Gaussians whose standard deviation depends on the state, in plain torch; squashed by
tanh or not.

The log density of those that are not is ``losses.gaussian_log_prob``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from iql_fast.formulas.losses import gaussian_log_prob

#: Added to ``1 - a^2`` in the density of a squashed action, and the least ``1 - |a|`` that is
#: inverted: CQL's authors' (and SAC's), which bounds both where an action saturates.
SQUASH_EPSILON = 1e-6


def soft_clamp(x: Tensor, low: float, high: float) -> Tensor:
    """Into (low, high) by a tanh, elementwise."""
    return low + 0.5 * (high - low) * (torch.tanh(x) + 1)


def gaussian_kl(mean: Tensor, log_std: Tensor, of_mean: Tensor, of_log_std: Tensor) -> Tensor:
    """KL divergence of a Gaussian from another, ``KL(first || second)``, summed over A: all
    ``[..., A]``."""
    ratio = torch.exp(2 * (log_std - of_log_std))
    z = (mean - of_mean) * torch.exp(-of_log_std)
    return (0.5 * (ratio + z**2 - 1) + of_log_std - log_std).sum(-1)


def gaussian_sample(mean: Tensor, log_std: Tensor, noise: Tensor) -> Tensor:
    """Actions ``[..., A]`` of a Gaussian, with gradients.

    Args:
        noise: of the standard normal distribution.
    """
    return mean + torch.exp(log_std) * noise


def tanh_gaussian_sample(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Actions ``[..., A]`` of a Gaussian squashed by tanh, and their log densities ``[...]``, with
    gradients through both (Haarnoja et al., 2018, appendix C).

    Args:
        noise: of the standard normal distribution.
    """
    action = torch.tanh(gaussian_sample(mean, log_std, noise))
    log_prob = -0.5 * noise**2 - log_std - 0.5 * math.log(2 * math.pi)
    return action, (log_prob - _log_slope(action)).sum(-1)


def tanh_gaussian_log_prob(action: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log density of a Gaussian squashed by tanh at ``action`` ``[..., A]``, summed over A."""
    above, below = ((1 + x).clamp_min(SQUASH_EPSILON) for x in (action, -action))
    raw = 0.5 * torch.log(above / below)
    return gaussian_log_prob(raw, mean, log_std) - _log_slope(action).sum(-1)


def _log_slope(action: Tensor) -> Tensor:
    """Logarithm of tanh's slope where it is ``action``, elementwise."""
    return torch.log(1 - action**2 + SQUASH_EPSILON)
