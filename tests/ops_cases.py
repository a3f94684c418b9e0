"""What the tests of the operators share: each loss with its inputs, in any dtype and layout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from iql_fast import ops
from iql_fast.support import extension

needs_extension = pytest.mark.skipif(
    bool(extension.unavailable_reason()), reason=f"no extension: {extension.unavailable_reason()}"
)
NATIVE = pytest.mark.parametrize("native", [pytest.param(True, marks=needs_extension), False])
DEVICES = pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
            ],
        ),
    ],
)

#: One rounding of a type.
EPSILON = {
    dtype: torch.finfo(dtype).eps for dtype in (torch.float32, torch.float64, torch.bfloat16)
}

Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """A loss.

    Attributes:
        call: ``(inputs, reduction, native)`` -> the loss.
        actions: inputs [B, A]; all others are [B].
        parameters: inputs [A].
        differentiable: inputs that gradients flow into.
        once: whether a second derivative is an error.
    """

    name: str
    call: Callable[[Inputs, str, bool], Tensor]
    inputs: tuple[str, ...]
    differentiable: tuple[str, ...]
    actions: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    once: bool = True

    def make(
        self,
        dtype: torch.dtype = torch.float64,
        rows: int = 37,
        components: int = 3,
        layout: str = "contiguous",
        seed: int = 0,
    ) -> Inputs:
        """Random inputs that need gradients where the loss has some."""
        made = {}
        for i, name in enumerate((*self.inputs, *self.actions, *self.parameters)):
            shape = {True: [rows], name in self.actions: [rows, components]}[True]
            shape = [components] if name in self.parameters else shape
            generator = torch.Generator().manual_seed(100 * seed + i)
            numbers = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
            tensor = _laid_out(numbers, layout)
            made[name] = tensor.requires_grad_(name in self.differentiable)
        return made

    def gradients(self, inputs: Inputs, reduction: str, native: bool) -> tuple[Tensor, ...]:
        """(The loss, its gradients); without reduction, of its sum."""
        loss = self.call(inputs, reduction, native)
        wanted = [inputs[name] for name in self.differentiable]
        return loss.detach(), *torch.autograd.grad(loss.sum(), wanted)


def _laid_out(numbers: Tensor, layout: str) -> Tensor:
    """The same numbers, lying otherwise in memory."""
    if layout == "contiguous":
        return numbers
    if layout == "strided":
        room = numbers.new_zeros(*numbers.shape[:-1], 2 * numbers.shape[-1])
        laid_out = room[..., ::2]
    elif layout == "transposed":
        laid_out = (
            numbers.new_zeros(*reversed(numbers.shape)).T
            if numbers.dim() == 2
            else (numbers.new_zeros(2, *numbers.shape)[1])
        )
    else:
        raise ValueError(layout)
    return laid_out.copy_(numbers)


def _expectile(x: Inputs, reduction: str, native: bool) -> Tensor:
    return ops.expectile_loss(x["q"], x["v"], 0.7, reduction, native=native)


def _expectile_of_two(x: Inputs, reduction: str, native: bool) -> Tensor:
    return ops.expectile_loss([x["q1"], x["q2"]], x["v"], 0.9, reduction, native=native)


# beta = 3 and a clip of 4: about a third of the weights are clipped.
def _awr(x: Inputs, reduction: str, native: bool) -> Tensor:
    return ops.awr_loss(x["q"], x["v"], x["log_prob"], 3.0, 4.0, reduction, native=native)


def _gaussian(x: Inputs, reduction: str, native: bool) -> Tensor:
    return ops.gaussian_awr_loss(
        [x["q1"], x["q2"]],
        x["v"],
        x["mean"],
        x["log_std"],
        x["action"],
        3.0,
        4.0,
        reduction,
        native=native,
    )


def _twin_q(x: Inputs, reduction: str, native: bool) -> Tensor:
    return ops.twin_q_loss(
        [x["q1"], x["q2"]], x["r"], x["mask"], x["next_v"], 0.99, reduction, native=native
    )


LOSSES = [
    Case("expectile", _expectile, ("q", "v"), ("q", "v")),
    Case("expectile of two", _expectile_of_two, ("q1", "q2", "v"), ("q1", "q2", "v")),
    Case("awr", _awr, ("q", "v", "log_prob"), ("log_prob",), once=False),
    Case(
        "gaussian awr",
        _gaussian,
        ("q1", "q2", "v"),
        ("mean", "log_std", "action"),
        actions=("mean", "action"),
        parameters=("log_std",),
    ),
    Case(
        "gaussian awr with a log-std for each row",
        _gaussian,
        ("q1", "q2", "v"),
        ("mean", "log_std"),
        actions=("mean", "log_std", "action"),
    ),
    Case("twin q", _twin_q, ("q1", "q2", "r", "mask", "next_v"), ("q1", "q2")),
]
EVERY_LOSS = pytest.mark.parametrize("case", LOSSES, ids=lambda case: case.name)
REDUCTIONS = pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
DTYPES = pytest.mark.parametrize("dtype", list(EPSILON), ids=str)
LAYOUT_NAMES = ("contiguous", "strided", "transposed")
LAYOUTS = pytest.mark.parametrize("layout", LAYOUT_NAMES)


def network(dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(7, 65), nn.ReLU(), nn.Linear(65, 3)).to(dtype)


def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: int, seed: int = 1) -> None:
    dtype = next(net.parameters()).dtype
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        x = torch.randn(16, 7, generator=generator, dtype=torch.float64).to(dtype)
        optimizer.zero_grad()
        (net(x) ** 2).mean().backward()
        optimizer.step()


def assert_equal_networks(one: nn.Module, other: nn.Module, **tolerance: float) -> None:
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, **tolerance)
