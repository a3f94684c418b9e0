"""The policy as a program of ``torch.export``: a file that torch runs without this package."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from iql_fast.policies.portable import Portable

FloatArray = NDArray[np.float32]

SUFFIX = ".pt2"


def encode(policy: Portable, about: Mapping[str, str]) -> bytes:
    """A program from ``observation`` ``[N, O]`` to actions ``[N, A]``, float32 both and float64
    between them, as the policy itself computes. N is 1 or more.

    Args:
        about: goes into the archive's extra file ``metadata.json``.
    """
    import torch
    from torch import Tensor, nn

    class Network(nn.Module):
        obs_mean: Tensor
        obs_scale: Tensor
        act_middle: Tensor
        act_half: Tensor

        def __init__(self) -> None:
            super().__init__()
            for name in ("obs_mean", "obs_scale", "act_middle", "act_half"):
                self.register_buffer(name, torch.from_numpy(getattr(policy, name)))
            self.layers = nn.ModuleList()
            for weight, bias in policy.layers:
                layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=torch.float64)
                layer.weight.data, layer.bias.data = map(torch.from_numpy, (weight, bias))
                self.layers.append(layer)

        def forward(self, observation: Tensor) -> Tensor:
            hidden = (observation.double() - self.obs_mean) / self.obs_scale
            for layer in self.layers[:-1]:
                hidden = torch.relu(layer(hidden))
            hidden = torch.tanh(self.layers[-1](hidden))
            return (self.act_middle + self.act_half * hidden).float()

    example = torch.zeros(2, len(policy.obs_mean))  # a batch of one would be taken for a constant
    program = torch.export.export(
        Network().eval(),
        (example,),
        dynamic_shapes={"observation": {0: torch.export.Dim("N", min=1)}},
    )
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={"metadata.json": json.dumps(dict(about))})
    return file.getvalue()


def decode(content: bytes) -> Callable[[FloatArray], FloatArray]:
    """What the program computes."""
    import torch

    module = torch.export.load(io.BytesIO(content)).module()

    def run(observations: FloatArray) -> FloatArray:
        with torch.inference_mode():
            return np.asarray(module(torch.from_numpy(observations)))

    return run
