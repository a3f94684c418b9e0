"""The ops against pure torch, fp64, autograd and torch's own checks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from iql_fast import extension, ops

needs_extension = pytest.mark.skipif(
    bool(extension.unavailable_reason()), reason=f"no extension: {extension.unavailable_reason()}"
)
NATIVE = pytest.mark.parametrize("native", [pytest.param(True, marks=needs_extension), False])
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
# A few roundings of the type: the formulas have at most five operations.
ROUNDING = {torch.float32: 1e-6, torch.float64: 1e-14}

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
        ],
    ),
]


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def expectile_by_hand(q: Tensor, v: Tensor, tau: float) -> tuple[Tensor, Tensor, Tensor]:
    """(mean loss, its gradients by q and by v) in fp64, from the formula and its derivative."""
    u = q.detach().double() - v.detach().double()
    slope = (tau - (u < 0).double()).abs()
    d_q = 2 * slope * u / u.numel()
    return (slope * u * u).mean(), d_q, -d_q


@NATIVE
@DTYPES
@pytest.mark.parametrize("tau", [0.5, 0.7, 0.9])
@pytest.mark.parametrize("shape", [(1,), (255,), (257,), (3, 17, 5)])
def test_expectile_equals_the_formula_in_fp64(
    native: bool, dtype: torch.dtype, tau: float, shape: tuple[int, ...]
) -> None:
    q = numbers(*shape, seed=1, dtype=dtype).requires_grad_()
    v = numbers(*shape, seed=2, dtype=dtype).requires_grad_()
    loss = ops.expectile_loss(q, v, tau, native=native)
    loss.backward()
    expected, d_q, d_v = expectile_by_hand(q, v, tau)
    assert q.grad is not None
    assert v.grad is not None
    tolerance = {"rtol": 4 * ROUNDING[dtype], "atol": 4 * ROUNDING[dtype]}
    torch.testing.assert_close(loss.double(), expected, **tolerance)
    torch.testing.assert_close(q.grad.double(), d_q, **tolerance)
    torch.testing.assert_close(v.grad.double(), d_v, **tolerance)


@NATIVE
def test_expectile_takes_both_branches_and_a_tie(native: bool) -> None:
    q = torch.tensor([2.0, 0.0, 1.0], requires_grad=True)
    v = torch.tensor([0.0, 2.0, 1.0])
    loss = ops.expectile_loss(q, v, 0.75, native=native)
    loss.backward()
    assert loss.item() == pytest.approx((0.75 * 4 + 0.25 * 4) / 3, rel=1e-6)
    assert q.grad is not None
    torch.testing.assert_close(q.grad, torch.tensor([3.0, -1.0, 0.0]) / 3)


@NATIVE
def test_non_contiguous_inputs_give_what_their_copies_give(native: bool) -> None:
    q, v = numbers(6, 8, seed=1)[::2].T, numbers(16, 3, seed=2)[::2]
    assert not q.is_contiguous()
    assert not v.is_contiguous()
    # Not bit for bit: torch's mean may add in another order.
    torch.testing.assert_close(
        ops.expectile_loss(q, v, 0.7, native=native),
        ops.expectile_loss(q.contiguous(), v.contiguous(), 0.7, native=native),
    )
    assert torch.equal(
        ops.awr_weights(q, 3.0, native=native), ops.awr_weights(q.contiguous(), 3.0, native=native)
    )
    target = numbers(8, 3, seed=3)
    expected = target + 0.25 * (v - target)
    torch.testing.assert_close(ops.polyak_(target, v, 0.25, native=native), expected)


@NATIVE
def test_empty_inputs(native: bool) -> None:
    empty = torch.empty(0)
    assert ops.expectile_loss(empty, empty, 0.7, native=native).isnan()  # the mean of nothing
    assert ops.awr_weights(empty, 3.0, native=native).shape == (0,)
    assert ops.polyak_(torch.empty(0), empty, 0.1, native=native).shape == (0,)


@NATIVE
@DTYPES
def test_awr_weights_equal_the_formula_and_saturate(native: bool, dtype: torch.dtype) -> None:
    advantage = torch.tensor([0, 0.5, -2, 1.5, 2, 1e4, float("inf"), -float("inf")], dtype=dtype)
    weights = ops.awr_weights(advantage, 3.0, native=native)
    expected = torch.exp(3.0 * advantage.double()).clamp(max=100.0)
    torch.testing.assert_close(weights.double(), expected, rtol=10 * ROUNDING[dtype], atol=0)
    assert (weights == 100).tolist() == [False] * 4 + [True] * 3 + [False]
    assert ops.awr_weights(torch.tensor([float("nan")], dtype=dtype), 3.0, native=native).isnan()


@NATIVE
def test_awr_weights_carry_no_gradient(native: bool) -> None:
    advantage = numbers(5).requires_grad_()
    assert not ops.awr_weights(advantage, 3.0, native=native).requires_grad


@NATIVE
@DTYPES
def test_polyak_works_in_place(native: bool, dtype: torch.dtype) -> None:
    target, source = numbers(1001, seed=1, dtype=dtype), numbers(1001, seed=2, dtype=dtype)
    expected = target.double() + 0.005 * (source.double() - target.double())
    place = target.data_ptr()
    result = ops.polyak_(target, source, 0.005, native=native)
    assert result is target
    assert target.data_ptr() == place
    torch.testing.assert_close(target.double(), expected, rtol=ROUNDING[dtype], atol=1e-7)


@needs_extension
@settings(max_examples=50, deadline=None)
@given(
    u=st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=40),
    tau=st.floats(0.01, 0.99),
)
def test_native_expectile_equals_the_reference(u: list[float], tau: float) -> None:
    q, v = torch.tensor(u), torch.zeros(len(u))
    torch.testing.assert_close(
        ops.expectile_loss(q, v, tau), ops.expectile_loss(q, v, tau, native=False)
    )


@needs_extension
def test_expectile_gradcheck() -> None:
    # Away from the kink of the slope at u = 0, which finite differences would straddle.
    q, v = numbers(7, seed=1, dtype=torch.float64), numbers(7, seed=2, dtype=torch.float64)
    assert (q - v).abs().min() > 1e-3
    q.requires_grad_()
    v.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: ops.expectile_loss(a, b, 0.8), (q, v))


@needs_extension
def test_opcheck() -> None:
    native = torch.ops.iql_fast
    q, v = numbers(5, seed=1).requires_grad_(), numbers(5, seed=2).requires_grad_()
    torch.library.opcheck(native.expectile.default, (q, v, 0.7))
    torch.library.opcheck(native.awr_weights.default, (numbers(5), 3.0, 100.0))
    torch.library.opcheck(native.polyak_.default, (numbers(5), numbers(5, seed=1), 0.1))


@needs_extension
def test_bad_arguments_are_refused() -> None:
    native = torch.ops.iql_fast
    with pytest.raises(RuntimeError, match=r"shapes \[3\] and \[4\]"):
        native.expectile(torch.zeros(3), torch.zeros(4), 0.7)
    with pytest.raises(RuntimeError, match="same dtype"):
        native.expectile(torch.zeros(3), torch.zeros(3, dtype=torch.float64), 0.7)
    with pytest.raises(RuntimeError, match="not supported"):
        native.awr_weights(torch.zeros(3, dtype=torch.float16), 3.0, 100.0)
    with pytest.raises(RuntimeError, match="must be contiguous"):
        native.polyak_(torch.zeros(4, 4).T[:2], torch.zeros(2, 4), 0.1)


@needs_extension
@pytest.mark.parametrize("device", DEVICES)
def test_native_equals_pure_torch_on_the_device(device: str) -> None:
    q, v = numbers(1025, seed=1).to(device), numbers(1025, seed=2).to(device)
    both = [ops.expectile_loss(q, v, 0.7, native=native) for native in (True, False)]
    torch.testing.assert_close(*both)
    both = [ops.awr_weights(q - v, 3.0, native=native) for native in (True, False)]
    torch.testing.assert_close(*both)
    both = [ops.polyak_(q.clone(), v, 0.3, native=native) for native in (True, False)]
    torch.testing.assert_close(*both)
