"""The C++ engine on the CPU: ``csrc/engine/cpu_engine.h`` behind the engine interface."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from iql_fast.data.dataset import Transitions
from iql_fast.engines.base import Hyperparameters, NetworkSpec, Precision, lacks
from iql_fast.engines.kernel_choice import KernelChoice
from iql_fast.engines.native import NativeEngine
from iql_fast.support import extension
from iql_fast.support.cores import usable_cores
from iql_fast.support.errors import UserError


def unavailable_reason(precision: Precision = "fp32") -> str:
    """Why the engine cannot be used here in that precision; empty where it can."""
    if reason := extension.unavailable_reason() or lacks("cpu", precision):
        return reason
    return str(extension.load().mixed_unavailable_reason()) if precision == "mixed" else ""


class CpuEngine(NativeEngine):
    """See ``iql_fast.engines.base.Engine``."""

    name = "cpu"

    def __init__(
        self,
        network: NetworkSpec,
        hyper: Hyperparameters,
        data: Transitions,
        seeds: Sequence[int],
        precision: Precision = "fp32",
        threads: int = 0,
        kernels: KernelChoice | None = None,
    ) -> None:
        self.threads = threads or usable_cores()
        self.kernels = kernels or KernelChoice("", because="the first that this machine can run")
        super().__init__(
            network,
            hyper,
            data,
            seeds,
            precision,
            threads=self.threads,
            kernels=self.kernels.kernels,
            list_density=self.kernels.list_density,
        )
        self.kernels = replace(self.kernels, kernels=self.kernel_set)

    def _create(self, native: Any, *arguments: Any) -> Any:
        kind = {
            "fp32": native.CpuEngineFloat,
            "fp64": native.CpuEngineDouble,
            "mixed": native.CpuEngineMixed,
        }[self.precision]
        try:
            return kind(*arguments)
        except RuntimeError as error:  # a kernel set asked for that this machine cannot run
            raise UserError(str(error)) from None

    @property
    def kernel_set(self) -> str:
        """The instruction set that the kernels were chosen for."""
        return str(self._native.kernel_set)
