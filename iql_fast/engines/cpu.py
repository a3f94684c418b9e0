"""The C++ engine on the CPU: ``csrc/engine/cpu_engine.h`` behind the engine interface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from iql_fast import extension, simulator
from iql_fast.data.dataset import Transitions
from iql_fast.engines.base import Hyperparameters, NetworkSpec
from iql_fast.engines.native import NativeEngine
from iql_fast.errors import UserError


def unavailable_reason() -> str:
    """Why the engine cannot be used here; empty where it can."""
    return extension.unavailable_reason()


class CpuEngine(NativeEngine):
    """See ``iql_fast.engines.base.Engine``."""

    name = "cpu"

    def __init__(
        self,
        network: NetworkSpec,
        hyper: Hyperparameters,
        data: Transitions,
        seeds: Sequence[int],
        dtype: torch.dtype = torch.float32,
        threads: int = 0,
    ) -> None:
        self.threads = threads or simulator.cores()
        super().__init__(network, hyper, data, seeds, dtype, self.threads)

    def _create(self, native: Any, *arguments: Any) -> Any:
        double = self.dtype == torch.float64
        try:
            return (native.CpuEngineDouble if double else native.CpuEngineFloat)(*arguments)
        except RuntimeError as error:  # a kernel set asked for that this machine cannot run
            raise UserError(str(error)) from None

    @property
    def kernel_set(self) -> str:
        """The instruction set that the kernels were chosen for."""
        return str(self._native.kernel_set)
