"""The CUDA engine: ``csrc/cuda/engine.h`` behind the engine interface."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch

from iql_fast.data.dataset import FloatArray, Transitions
from iql_fast.data.replay import Replay
from iql_fast.engines.base import TRAINS_ALL, Hyperparameters, NetworkSpec, Precision, lacks
from iql_fast.engines.exclusive import exclusive
from iql_fast.engines.native import NativeEngine
from iql_fast.support import extension
from iql_fast.support.errors import UserError

#: How a step runs: as launches, or as part of one launch of many, whose weights stay on the chip.
#: Both give the same bits.
StepForm = Literal["launches", "resident"]


def step_form_asked_for() -> StepForm:
    """The form that IQL_FAST_CUDA_STEP names; launches where it is not set.

    Raises:
        UserError: it names none.
    """
    named = os.environ.get("IQL_FAST_CUDA_STEP", "") or "launches"
    forms: tuple[StepForm, ...] = get_args(StepForm)
    for form in forms:
        if form == named:
            return form
    raise UserError(f"IQL_FAST_CUDA_STEP is {named!r}; expected {' or '.join(forms)}.")


def current_device() -> int:
    """The index of the device that torch would use; the first where torch has no CUDA."""
    return torch.cuda.current_device() if torch.cuda.is_available() else 0


def unavailable_reason(
    precision: Precision = "fp32",
    network: NetworkSpec | None = None,
    hyper: Hyperparameters | None = None,
) -> str:
    """Why the engine cannot be used here in that precision, and for that network and those
    hyperparameters where they are given; empty where it can."""
    if reason := extension.unavailable_reason():
        return reason
    native: Any = extension.load()
    if reason := str(native.cuda_unavailable_reason(current_device())):
        return reason
    if reason := lacks("cuda", precision):
        return reason
    if hyper is not None and not hyper.trains_all:
        return TRAINS_ALL
    if network is None:
        return ""
    reason = native.cuda_size_reason(
        obs_dim=network.obs_dim,
        act_dim=network.act_dim,
        hidden=list(network.hidden),
        critics=network.critics,
        batch_size=(hyper or Hyperparameters()).batch_size,
        precision=getattr(native.CudaPrecision, precision),
        device=current_device(),
    )
    return str(reason)


class CudaEngine(NativeEngine):
    """See ``iql_fast.engines.base.Engine``.

    Attributes:
        step_form: how its steps run.
        seeds_at_once: how many seeds are trained at the same time; others' steps come before or
            after theirs, where resident steps have not the room for all.
    """

    name = "cuda"
    step_form: StepForm
    seeds_at_once: int

    def __init__(
        self,
        network: NetworkSpec,
        hyper: Hyperparameters,
        data: Transitions,
        seeds: Sequence[int],
        precision: Precision = "fp32",
    ) -> None:
        super().__init__(network, hyper, data, seeds, precision)
        self.seeds_at_once = int(self._native.seeds_at_once)
        self.data_on_host = bool(self._native.dataset_on_host)
        if self.data_on_host:
            warnings.warn(
                "The dataset does not fit into the CUDA device's memory: batches are read from the "
                "host's memory, which is slower.",
                stacklevel=2,
            )

    @exclusive
    def advance(self, steps: int) -> None:
        """See ``iql_fast.engines.base.OnlineEngine``. The device is not waited for: a loss that was
        not finite is told by a later call, the next ``explore`` or ``run`` at the latest."""
        self._train(self._native.advance, steps)

    @exclusive
    def meet(self, replay: Replay) -> None:
        """See ``iql_fast.engines.base.OnlineEngine``.

        Raises:
            UserError: the device has not the memory.
        """
        try:
            super().meet(replay)
        except RuntimeError as error:
            raise UserError(
                f"{error}. Fine-tune fewer seeds at a time, take fewer steps, or use --engine cpu."
            ) from None

    @exclusive
    def explore(self, observations: FloatArray, noise: FloatArray) -> FloatArray:
        """See ``iql_fast.engines.base.OnlineEngine``."""
        actions = super().explore(observations, noise)
        self._stop_if_not_finite()
        return actions

    def time_launches(self, repeats: int) -> dict[str, float]:
        """Microseconds that each launch of a step takes, repeated by itself so many times; of a
        resident step, itself and what its launch takes besides. The engine is then not to be
        trained on."""
        return dict(self._native.time_launches(repeats))

    def _create(self, native: Any, *arguments: Any) -> Any:
        precision = getattr(native.CudaPrecision, self.precision)
        self.step_form = step_form_asked_for()
        try:
            if self.step_form == "resident":
                reason = native.cuda_resident_reason(arguments[0], precision, current_device())
                if reason:
                    self.step_form = "launches"
                    warnings.warn(f"Steps are launches, not resident: {reason}.", stacklevel=4)
            form = getattr(native.CudaStepForm, self.step_form)
            return native.CudaEngine(*arguments, precision, current_device(), form)
        except ValueError as error:  # sizes
            raise UserError(f"{error}. Use --engine graph, or cpu.") from None
        except RuntimeError as error:
            raise UserError(f"The CUDA engine cannot be set up: {error}.") from None
