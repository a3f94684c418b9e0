"""The policy as a safetensors file, for code that brings its own arithmetic.

Its tensors, all float32, for O observations, A actions and layers i = 0, 1, ..., L:

    observation.mean, observation.scale    [O]
    layers.{i}.weight                      [outputs, inputs]
    layers.{i}.bias                        [outputs]
    action.middle, action.half             [A]
    log_std                                [A]

and what they are for, from an environment's observation to its action:

    h = (observation - observation.mean) / observation.scale
    h = relu(h @ layers.{i}.weight.T + layers.{i}.bias)          i = 0 ... L - 1
    h = tanh(h @ layers.{L}.weight.T + layers.{L}.bias)
    action = action.middle + action.half * h

Computed in float64 and then rounded, that is ``iql_fast.load_policy`` to the last digit.
``log_std`` is the state-independent logarithm of the standard deviation of the Gaussian around the
mean that was trained; the action of evaluation does not need it. The file's metadata are those of
the other formats, strings all.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from iql_fast.policies.portable import Portable

SUFFIX = ".safetensors"


def encode(policy: Portable, about: Mapping[str, str]) -> bytes:
    """The file.

    Args:
        about: goes into its metadata.
    """
    from safetensors.numpy import save

    tensors = {
        "observation.mean": policy.obs_mean,
        "observation.scale": policy.obs_scale,
        "action.middle": policy.act_middle,
        "action.half": policy.act_half,
        "log_std": policy.log_std,
    }
    for i, (weight, bias) in enumerate(policy.layers):
        tensors |= {f"layers.{i}.weight": weight, f"layers.{i}.bias": bias}
    single = {name: array.astype(np.float32) for name, array in tensors.items()}
    return save(single, dict(about))


def decode(content: bytes) -> Portable:
    """The policy in a file."""
    from safetensors.numpy import load

    tensors = {name: array.astype(np.float64) for name, array in load(content).items()}
    layers = sum(name.startswith("layers.") for name in tensors) // 2
    return Portable(
        tuple((tensors[f"layers.{i}.weight"], tensors[f"layers.{i}.bias"]) for i in range(layers)),
        tensors["observation.mean"],
        tensors["observation.scale"],
        tensors["action.middle"],
        tensors["action.half"],
        tensors["log_std"],
    )


def misfit(policy: Portable) -> str | None:
    """The first tensor that does not fit the others."""
    obs_dim, act_dim = policy.obs_mean.shape, policy.act_half.shape
    columns = {
        "observation.mean": policy.obs_mean.ndim == 1,
        "observation.scale": policy.obs_scale.shape == obs_dim and bool(np.all(policy.obs_scale)),
        "action.half": policy.act_half.ndim == 1,
        "action.middle": policy.act_middle.shape == act_dim,
        "log_std": policy.log_std.shape == act_dim,
        "layers.0.weight": len(policy.layers) > 0,
    }
    width = obs_dim
    for i, (weight, bias) in enumerate(policy.layers):
        columns[f"layers.{i}.weight"] = weight.ndim == 2 and weight.shape[1:] == width
        columns[f"layers.{i}.bias"] = bias.shape == weight.shape[:1]
        width = bias.shape
    columns["action.half"] &= width == act_dim
    return next((name for name, fits in columns.items() if not fits), None)
