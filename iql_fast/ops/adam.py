"""Adam that updates a target network in the same pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam as _plain_adam_

from iql_fast.ops import native as _native
from iql_fast.ops import plain
from iql_fast.ops.polyak import check_share, listed, polyak_update_

_adam_ = _native.operator("adam_")
#: Options of torch.optim.Adam that are not implemented here.
_REFUSED = ("amsgrad", "maximize", "differentiable", "decoupled_weight_decay")
#: Parameters, their gradients, their targets.
_Call = tuple[list[Tensor], list[Any], list[Tensor]]


class FusedAdam(torch.optim.Adam):
    """``torch.optim.Adam`` (Kingma and Ba, 2015), in one call for all parameters.

    Its ``state_dict`` is that of ``torch.optim.Adam``: either loads the other's. As there,
    ``load_state_dict`` brings the groups' options with the moments: the learning rate is then the
    saved one, whatever was given here. Targets are no part of it; they stay as they are. Copied or
    pickled in one with its modules, an optimiser goes on with their copies, targets included.

    Args:
        params, lr, betas, eps, weight_decay: as for ``torch.optim.Adam``; float32, float64 or
            bfloat16. A group may have ``targets`` of its own, as in
            ``{"params": critic.parameters(), "targets": slow.parameters()}``, here and in
            ``add_param_group``; what is in a group without has no target.
        targets: a slow copy for each parameter of all groups, in their order: after each step,
            ``target += polyak (param - target)`` (the paper, section 4.3).
        polyak: the share, between 0 and 1.
        capturable: keep the counts of steps on the parameters' device, so that a CUDA graph can
            replay a step. The learning rate stays as it was captured.
        foreach, fused: without effect, as ``torch.optim.Adam`` takes them.
        amsgrad, maximize, differentiable, decoupled_weight_decay: must be False.
        native: False computes in plain torch.

    Raises:
        ValueError: as many targets as parameters are needed, of their shapes, dtypes and devices;
            polyak is no share; or an option that is not implemented was asked for, or loaded.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        targets: Iterable[Tensor] | None = None,
        polyak: float = 0.005,
        foreach: bool | None = None,  # noqa: ARG002
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,  # noqa: ARG002  torch's would take over the gradients' scaling
        decoupled_weight_decay: bool = False,
        native: bool = True,
    ) -> None:
        self.polyak = polyak
        self.native = native
        self._target_of: dict[Tensor, Tensor] = {}
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            decoupled_weight_decay=decoupled_weight_decay,
        )
        if targets is not None:
            if self._target_of:
                raise ValueError("targets are given both for all groups and in one of them")
            own = [param for group in self.param_groups for param in group["params"]]
            self._target_of = _paired(own, targets)

    @property
    def polyak(self) -> float:
        """The share of the way that a target goes at each step."""
        return self._polyak

    @polyak.setter
    def polyak(self, value: float) -> None:
        check_share("polyak", value)
        self._polyak = float(value)

    def __getstate__(self) -> dict[str, Any]:
        own = ("native", "_polyak", "_target_of")
        return super().__getstate__() | {name: self.__dict__[name] for name in own}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """One more group.

        Args:
            param_group: ``params``, their options, and ``targets`` if they have some.

        Raises:
            ValueError: as for the class; no group is added.
        """
        targets = None
        if isinstance(param_group, dict) and "targets" in param_group:
            param_group = dict(param_group)  # the caller's keeps its targets
            targets = param_group.pop("targets")
        super().add_param_group(param_group)
        try:
            _refuse_options(param_group)
            if targets is not None:
                self._target_of |= _paired(param_group["params"], targets)
        except ValueError:
            self.param_groups.pop()
            raise

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step on the parameters that have a gradient; all targets follow.

        Args:
            closure: computes the loss again, and its gradients.

        Returns:
            What the closure returned.

        Raises:
            RuntimeError: a gradient is sparse, or of a dtype that is not supported. Nothing has
                changed then.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        calls = [self._calls(index) for index in range(len(self.param_groups))]
        for group, of_group in zip(self.param_groups, calls, strict=True):
            for (stepped, *_), (params, grads, targets) in of_group.items():
                if stepped:
                    self._step_params(group, params, grads, targets)
                elif targets:
                    polyak_update_(targets, params, self.polyak, native=self.native)
        return loss

    def _calls(self, index: int) -> dict[Any, _Call]:
        """A group's parameters, checked, in lists that one call takes: all of one dtype and device,
        each with a gradient or none, with a target or none."""
        group = self.param_groups[index]
        _refuse_options(group)
        calls: dict[Any, _Call] = {}
        target_of, dtypes, strided = self._target_of, plain.DTYPES, torch.strided
        for i, param in enumerate(group["params"]):
            grad, dtype = param.grad, param.dtype
            if grad is not None and (
                dtype not in dtypes or grad.dtype is not dtype or grad.layout is not strided
            ):
                raise RuntimeError(_complaint(group, index, i))
            target = target_of.get(param) if target_of else None
            key = (grad is not None, target is not None, dtype, param.device)
            call = calls.get(key)
            if call is None:
                call = calls[key] = ([], [], [])
            call[0].append(param)
            call[1].append(grad)
            if target is not None:
                call[2].append(target)
        return calls

    def _step_params(
        self,
        group: dict[str, Any],
        params: list[Tensor],
        grads: list[Tensor],
        targets: list[Tensor],
    ) -> None:
        capturable = group["capturable"]
        if params[0].is_cuda and not capturable and torch.cuda.is_current_stream_capturing():
            raise RuntimeError("FusedAdam: a CUDA graph can hold a step with capturable=True alone")
        # Where torch's fused Adam was loaded, its counts are on the device too.
        on_device = capturable or bool(group["fused"])
        states = [self._state_of(param, on_device) for param in params]
        exp_avgs = [state["exp_avg"] for state in states]
        exp_avg_sqs = [state["exp_avg_sq"] for state in states]
        steps = [state["step"] for state in states]
        beta1, beta2 = group["betas"]
        if self.native and _native.AVAILABLE:
            _adam_(
                params,
                grads,
                exp_avgs,
                exp_avg_sqs,
                steps,
                targets,
                float(group["lr"]),
                beta1,
                beta2,
                group["eps"],
                group["weight_decay"],
                self.polyak,
            )
            return
        _plain_adam_(
            params,
            grads,
            exp_avgs,
            exp_avg_sqs,
            [],
            steps,
            foreach=group["foreach"],
            fused=group["fused"],
            capturable=capturable,
            amsgrad=False,
            maximize=False,
            lr=group["lr"],
            beta1=beta1,
            beta2=beta2,
            eps=group["eps"],
            weight_decay=group["weight_decay"],
        )
        if targets:
            polyak_update_(targets, params, self.polyak, native=False)

    def _state_of(self, param: Tensor, on_device: bool) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[param]
        if not state:
            device = param.device if on_device else "cpu"
            state["step"] = torch.zeros((), dtype=torch.float32, device=device)
            state["exp_avg"] = torch.zeros_like(param, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(param, memory_format=torch.preserve_format)
        return state


def _refuse_options(group: dict[str, Any]) -> None:
    if refused := [option for option in _REFUSED if group.get(option)]:
        raise ValueError(f"FusedAdam does not implement {', '.join(refused)}")


def _paired(params: list[Tensor], targets: Iterable[Any]) -> dict[Tensor, Tensor]:
    """The target of each parameter; targets may come with names, as parameters may."""
    followers = [one[1] if isinstance(one, tuple) else one for one in listed(targets)]
    if [p.shape for p in params] != [t.shape for t in followers]:
        raise ValueError(
            f"the targets have the shapes {[list(t.shape) for t in followers]}; the "
            f"parameters have {[list(p.shape) for p in params]}"
        )
    for i, (param, target) in enumerate(zip(params, followers, strict=True)):
        if param is target:
            raise ValueError(f"target {i} is the parameter itself; it must be a copy")
        if (param.dtype, param.device) != (target.dtype, target.device):
            raise ValueError(
                f"target {i} is {target.dtype} on {target.device}; its parameter is {param.dtype} "
                f"on {param.device}"
            )
    return dict(zip(params, followers, strict=True))


def _complaint(group: dict[str, Any], index: int, i: int) -> str:
    """Why a gradient cannot be used, and what to do."""
    param = group["params"][i]
    name = f" ({group['param_names'][i]})" if "param_names" in group else ""
    who = f"FusedAdam: parameter {i}{name} of group {index}"
    if param.grad.layout is not torch.strided:
        return (
            f"{who} has a sparse gradient ({param.grad.layout}); build its layer with "
            "sparse=False, or leave it to torch.optim.SparseAdam"
        )
    if torch.float16 in (param.dtype, param.grad.dtype):
        return (
            f"{who} has a gradient in float16; keep the parameters in float32 and compute under "
            "torch.autocast, or convert them to bfloat16"
        )
    if param.is_complex():
        return (
            f"{who} is complex ({param.dtype}); optimise a real parameter, of which "
            "torch.view_as_complex makes it, or leave it to torch.optim.Adam"
        )
    return (
        f"{who} is {param.dtype} and its gradient {param.grad.dtype}; both must be one of float32, "
        "float64 and bfloat16"
    )
