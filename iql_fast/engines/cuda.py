"""The CUDA engine: ``csrc/cuda/engine.h`` behind the engine interface."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch

from iql_fast import extension
from iql_fast.data.dataset import Transitions
from iql_fast.engines.base import Hyperparameters, NetworkSpec
from iql_fast.engines.native import NativeEngine
from iql_fast.errors import UserError


def current_device() -> int:
    """The index of the device that torch would use; the first where torch has no CUDA."""
    return torch.cuda.current_device() if torch.cuda.is_available() else 0


def unavailable_reason() -> str:
    """Why the engine cannot be used here; empty where it can."""
    if reason := extension.unavailable_reason():
        return reason
    return str(extension.load().cuda_unavailable_reason(current_device()))


class CudaEngine(NativeEngine):
    """See ``iql_fast.engines.base.Engine``. All numbers are fp32.

    Args:
        precision: of the matrix products: ``"fp32"``, or ``"bf16x3"``: each factor split into two
            bf16 and three products of them on tensor cores, summed in fp32.
    """

    name = "cuda"

    def __init__(
        self,
        network: NetworkSpec,
        hyper: Hyperparameters,
        data: Transitions,
        seeds: Sequence[int],
        precision: str = "fp32",
    ) -> None:
        self.precision = precision
        super().__init__(network, hyper, data, seeds, torch.float32)
        if self._native.dataset_on_host:
            warnings.warn(
                "The dataset does not fit into the CUDA device's memory: batches are read from the "
                "host's memory, which is slower.",
                stacklevel=2,
            )

    def _create(self, native: Any, *arguments: Any) -> Any:
        precision = getattr(native.CudaPrecision, self.precision)
        try:
            return native.CudaEngine(*arguments, precision, current_device())
        except ValueError as error:  # sizes
            raise UserError(f"{error}. Use --engine cpu.") from None
        except RuntimeError as error:
            raise UserError(f"The CUDA engine cannot be set up: {error}.") from None
