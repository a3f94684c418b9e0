"""Adam that updates a target network in the same pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from iql_fast.ops import native as _native
from iql_fast.ops.polyak import polyak_update_

_adam_ = _native.operator("adam_")
#: Options of torch.optim.Adam that are not implemented here.
_REFUSED = ("amsgrad", "maximize", "differentiable", "decoupled_weight_decay")


class FusedAdam(torch.optim.Adam):
    """``torch.optim.Adam`` (Kingma and Ba, 2015), in one call for all parameters.

    Its ``state_dict`` is that of ``torch.optim.Adam``: either loads the other's.

    Args:
        params, lr, betas, eps, weight_decay: as for ``torch.optim.Adam``; float32, float64 or
            bfloat16.
        targets: a slow copy for each parameter, in their order: after each step,
            ``target += polyak (param - target)`` (the paper, section 4.3). They are no part of the
            ``state_dict``.
        capturable: keep the counts of steps on the parameters' device, so that a CUDA graph can
            replay a step. The learning rate stays as it was captured.
        native: False computes in plain torch.

    Raises:
        ValueError: as many targets as parameters are needed, of their shapes; or an option of
            ``torch.optim.Adam`` was loaded that is not implemented here.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        targets: Iterable[Tensor] | None = None,
        polyak: float = 0.005,
        capturable: bool = False,
        native: bool = True,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, capturable=capturable)
        self.polyak = polyak
        self.native = native and _native.AVAILABLE
        self._target_of: dict[Tensor, Tensor] = {}
        if targets is not None:
            own = [param for group in self.param_groups for param in group["params"]]
            followers = list(targets)
            if [p.shape for p in own] != [t.shape for t in followers]:
                raise ValueError(
                    f"the targets have the shapes {[list(t.shape) for t in followers]}; the "
                    f"parameters have {[list(p.shape) for p in own]}"
                )
            self._target_of = dict(zip(own, followers, strict=True))

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step on the parameters that have a gradient; all targets follow.

        Args:
            closure: computes the loss again, and its gradients.

        Returns:
            What the closure returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if refused := [option for option in _REFUSED if group.get(option)]:
                raise ValueError(f"FusedAdam does not implement {', '.join(refused)}")
            followed = self._native_step(group) if self.native else set()
            behind = [p for p in group["params"] if p in self._target_of and p not in followed]
            if behind and self.native:
                self._follow(behind)
        if not self.native:
            super().step()
            self._follow(list(self._target_of))
        return loss

    def _native_step(self, group: dict[str, Any]) -> set[Tensor]:
        """Steps one group; the parameters whose targets have followed."""
        params = [param for param in group["params"] if param.grad is not None]
        if not params:
            return set()
        states = [self._state_of(param, group["capturable"]) for param in params]
        target_of = self._target_of
        beta1, beta2 = group["betas"]
        _adam_(
            params,
            [param.grad for param in params],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [state["step"] for state in states],
            [target_of[param] for param in params] if target_of else [],
            float(group["lr"]),
            beta1,
            beta2,
            group["eps"],
            group["weight_decay"],
            self.polyak,
        )
        return set(params)

    def _state_of(self, param: Tensor, capturable: bool) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[param]
        if not state:
            device = param.device if capturable else "cpu"
            state["step"] = torch.zeros((), dtype=torch.float32, device=device)
            state["exp_avg"] = torch.zeros_like(param, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(param, memory_format=torch.preserve_format)
        return state

    def _follow(self, params: list[Tensor]) -> None:
        targets = [self._target_of[param] for param in params]
        polyak_update_(targets, params, self.polyak, native=self.native)
