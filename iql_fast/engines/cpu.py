"""The C++ engine on the CPU: ``csrc/engine/cpu_engine.h`` behind the engine interface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from iql_fast.data.dataset import FloatArray, Transitions
from iql_fast.data.replay import Replay
from iql_fast.engines.base import Hyperparameters, Metrics, NetworkSpec, Precision
from iql_fast.engines.exclusive import exclusive
from iql_fast.engines.native import NativeEngine
from iql_fast.formulas.distributions import gaussian_sample
from iql_fast.policies.policy import LOG_STD_RANGE
from iql_fast.support import extension
from iql_fast.support.cores import usable_cores
from iql_fast.support.errors import UserError


def unavailable_reason(precision: Precision = "fp32") -> str:
    """Why the engine cannot be used here in that precision; empty where it can."""
    reason = extension.unavailable_reason()
    if precision == "mixed" and not reason:
        return str(extension.load().mixed_unavailable_reason())
    if precision == "bf16x3" and not reason:
        return "it has no bf16x3 precision"
    return reason


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
    ) -> None:
        self.threads = threads or usable_cores()
        super().__init__(network, hyper, data, seeds, precision, self.threads)

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

    @exclusive
    def run(self, steps: int) -> Metrics:
        if isinstance(self.data, Replay):
            self._native.set_met_rows(self.data.met_rows)
        return super().run(steps)

    @exclusive
    def meet(self, replay: Replay) -> None:
        """See ``iql_fast.engines.base.OnlineEngine``."""
        self._native.meet(**replay.met, capacity=replay.capacity)
        self.data = replay

    @exclusive
    def explore(self, observations: FloatArray, noise: FloatArray) -> FloatArray:
        """See ``iql_fast.engines.base.OnlineEngine``."""
        from iql_fast.ops import plain  # not above: where the extension is missing its import warns

        of = [self._actor(index) for index in range(len(self.seeds))]
        layers = (len(of[0]) - 1) // 2
        weights, biases = (
            [torch.stack([seed[2 * i + part] for seed in of]) for i in range(layers)]
            for part in range(2)
        )
        weights = [weight.transpose(1, 2) for weight in weights]
        seen, drawn = (torch.from_numpy(x[:, None]).to(self.dtype) for x in (observations, noise))
        mean = torch.tanh(plain.stacked_mlp(seen, weights, biases))
        log_std = torch.stack([seed[-1] for seed in of]).clamp(*LOG_STD_RANGE)[:, None]
        actions: FloatArray = gaussian_sample(mean, log_std, drawn)[:, 0].float().numpy()
        return actions

    @property
    def kernel_set(self) -> str:
        """The instruction set that the kernels were chosen for."""
        return str(self._native.kernel_set)
