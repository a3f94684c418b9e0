"""The losses against fp64, finite differences, hand-worked values and each other."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from iql_fast import ops
from tests.ops_cases import (
    DEVICES,
    DTYPES,
    EPSILON,
    EVERY_LOSS,
    LAYOUT_NAMES,
    LOSSES,
    NATIVE,
    REDUCTIONS,
    Case,
    needs_extension,
)


@needs_extension
@EVERY_LOSS
@REDUCTIONS
@DTYPES
@pytest.mark.parametrize(
    ("layout", "rows"),
    # Large ones in one layout: what a layout changes does not depend on the size.
    [*itertools.product(LAYOUT_NAMES, [1, 255, 257]), ("contiguous", 70_001)],
)
def test_error_is_at_most_twice_that_of_plain_torch(
    case: Case, reduction: str, dtype: torch.dtype, layout: str, rows: int
) -> None:
    inputs = case.make(dtype, rows, layout=layout)
    exact_inputs = {
        name: x.detach().double().requires_grad_(x.requires_grad) for name, x in inputs.items()
    }
    exact = case.gradients(exact_inputs, reduction, native=False)
    plain = case.gradients(inputs, reduction, native=False)
    native = case.gradients(inputs, reduction, native=True)
    # The size of what a sum is made of, which may cancel.
    terms = case.call(exact_inputs, "none", False).detach().abs()
    sizes = [{"mean": terms.mean(), "sum": terms.sum(), "none": terms.max()}[reduction]]
    sizes += [truth.abs().max() for truth in exact[1:]]
    for ours, theirs, truth, size in zip(native, plain, exact, sizes, strict=True):
        assert ours.dtype == dtype
        assert ours.shape == truth.shape
        # One rounding on top, since plain torch may hit a number by luck. In fp64 the oracle is
        # plain torch itself, and the two differ by a few roundings in terms of up to exp(12).
        rounding = (20 if dtype == torch.float64 else 1) * EPSILON[dtype] * size
        assert error(ours, truth) <= 2 * error(theirs, truth) + rounding


def error(x: Tensor, truth: Tensor) -> float:
    return (x.double() - truth.double()).abs().max().item()


@NATIVE
@EVERY_LOSS
@REDUCTIONS
def test_gradients_are_the_slopes_of_the_loss(case: Case, reduction: str, native: bool) -> None:
    inputs = case.make(rows=11)
    names = case.differentiable

    def loss(*tensors: Tensor) -> Tensor:
        return case.call(inputs | dict(zip(names, tensors, strict=True)), reduction, native)

    assert torch.autograd.gradcheck(loss, tuple(inputs[name] for name in names))


def test_the_gradient_checks_take_both_branches() -> None:
    # Away from the kinks too, which finite differences would straddle.
    for case in LOSSES[:2]:
        x = case.make(rows=11)
        q = x["q"] if "q" in x else torch.minimum(x["q1"], x["q2"])
        u = q - x["v"]
        assert (u > 0).any()
        assert (u < 0).any()
        assert u.abs().min() > 1e-3
    for case in LOSSES[2:5]:
        x = case.make(rows=11)
        q = x["q"] if "q" in x else torch.minimum(x["q1"], x["q2"])
        clipped = torch.exp(3 * (q - x["v"])) > 4
        assert clipped.any()
        assert not clipped.all()


@needs_extension
@EVERY_LOSS
def test_a_second_derivative_is_right_or_an_error(case: Case) -> None:
    inputs = case.make(rows=5)
    names = case.differentiable

    def loss(*tensors: Tensor) -> Tensor:
        return case.call(inputs | dict(zip(names, tensors, strict=True)), "mean", True)

    wanted = tuple(inputs[name] for name in names)
    if not case.once:
        scale = torch.ones((), dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradgradcheck(lambda s, *x: s * loss(*x), (scale, *wanted))
        return
    gradients = torch.autograd.grad(loss(*wanted), wanted, create_graph=True)
    with pytest.raises(
        RuntimeError, match=r"derivative for iql_fast::\w+_backward is not implemented"
    ):
        gradients[0].sum().backward()


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
def test_critics_that_tie_share_the_gradient(native: bool) -> None:
    qs = [torch.tensor(x, requires_grad=True) for x in ([1.0, 5.0], [1.0, 2.0])]
    ops.expectile_loss(qs, torch.zeros(2), 0.5, "sum", native=native).backward()
    assert qs[0].grad is not None
    assert qs[1].grad is not None
    torch.testing.assert_close(qs[0].grad, torch.tensor([0.5, 0.0]))
    torch.testing.assert_close(qs[1].grad, torch.tensor([0.5, 2.0]))


@NATIVE
@DTYPES
def test_awr_weights_equal_the_formula_and_saturate(native: bool, dtype: torch.dtype) -> None:
    advantage = torch.tensor([0, 0.5, -2, 1.5, 2, 1e4, float("inf"), -float("inf")], dtype=dtype)
    weights = ops.awr_weights(advantage, torch.zeros_like(advantage), 3.0, native=native)
    expected = torch.exp(3.0 * advantage.double()).clamp(max=100.0)
    # beta * A, up to 6, is rounded before the exponential in plain torch.
    tolerance = EPSILON[dtype] if dtype == torch.bfloat16 else 10 * EPSILON[dtype]
    torch.testing.assert_close(weights.double(), expected, rtol=tolerance, atol=0)
    assert (weights == 100).tolist() == [False] * 4 + [True] * 3 + [False]
    nan = torch.tensor([float("nan")], dtype=dtype)
    assert ops.awr_weights(nan, torch.zeros_like(nan), 3.0, native=native).isnan()


@needs_extension
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 103.0), (torch.float64, 745.0)])
def test_weights_over_the_whole_range_of_exp(dtype: torch.dtype, limit: float) -> None:
    x = torch.linspace(-limit, limit, 20_001, dtype=dtype)
    ours = ops.awr_weights(x, torch.zeros_like(x), 1.0, float("inf"))
    expected = torch.exp(x.double())
    finite = torch.isfinite(expected.to(dtype))
    assert torch.equal(torch.isfinite(ours), finite)
    # Two units in the last place, or of the smallest number there is.
    torch.testing.assert_close(
        ours[finite].double(),
        expected[finite],
        rtol=2 * EPSILON[dtype],
        atol=2 * torch.finfo(dtype).smallest_normal * EPSILON[dtype],
    )


@NATIVE
def test_nan_reaches_the_loss_from_any_critic(native: bool) -> None:
    good, bad = torch.zeros(4), torch.tensor([0.0, float("nan"), 0.0, 0.0])
    for qs in ([good, bad], [bad, good]):
        loss = ops.expectile_loss(qs, good, 0.7, "none", native=native)
        assert loss.isnan().tolist() == [False, True, False, False]
        assert (
            ops.awr_weights(qs, good, 3.0, native=native).isnan().tolist() == loss.isnan().tolist()
        )


@NATIVE
def test_weights_carry_no_gradient(native: bool) -> None:
    q, v, log_prob = (torch.randn(5, requires_grad=True) for _ in range(3))
    assert not ops.awr_weights(q, v, 3.0, native=native).requires_grad
    ops.awr_loss(q, v, log_prob, 3.0, native=native).backward()
    assert q.grad is None
    assert v.grad is None
    assert log_prob.grad is not None


@NATIVE
def test_gaussian_equals_awr_with_torchs_log_prob(native: bool) -> None:
    q, v = torch.randn(9, dtype=torch.float64), torch.randn(9, dtype=torch.float64)
    mean, action = (torch.randn(9, 4, dtype=torch.float64) for _ in range(2))
    log_std = torch.randn(4, dtype=torch.float64)
    log_prob = torch.distributions.Normal(mean, log_std.exp()).log_prob(action).sum(-1)
    torch.testing.assert_close(
        ops.gaussian_awr_loss(q, v, mean, log_std, action, 3.0, native=native),
        ops.awr_loss(q, v, log_prob, 3.0, native=native),
    )


@NATIVE
def test_an_action_of_more_components_than_a_block(native: bool) -> None:
    case = next(case for case in LOSSES if case.name == "gaussian awr")
    inputs = case.make(rows=5, components=700)
    for ours, plain in zip(
        case.gradients(inputs, "mean", native), case.gradients(inputs, "mean", False), strict=True
    ):
        torch.testing.assert_close(ours, plain)


@NATIVE
@REDUCTIONS
def test_stacked_critics_equal_a_list_of_them(native: bool, reduction: str) -> None:
    stacked = torch.randn(3, 700, dtype=torch.float64, requires_grad=True)
    listed = [q.detach().requires_grad_() for q in stacked]
    r, mask, next_v = torch.randn(3, 700, dtype=torch.float64)
    one = ops.twin_q_loss(stacked, r, mask, next_v, 0.9, reduction, native=native)
    other = ops.twin_q_loss(listed, r, mask, next_v, 0.9, reduction, native=native)
    torch.testing.assert_close(one, other)
    one.sum().backward()
    other.sum().backward()
    assert stacked.grad is not None
    torch.testing.assert_close(stacked.grad, torch.stack([q.grad for q in listed]))  # type: ignore[misc]


@NATIVE
def test_twin_q_is_summed_over_critics_and_masks_the_end(native: bool) -> None:
    q1, q2 = torch.tensor([1.0, 0.0]), torch.tensor([3.0, 1.0])
    loss = ops.twin_q_loss(
        [q1, q2],
        r=torch.tensor([1.0, 1.0]),
        mask=torch.tensor([1.0, 0.0]),
        next_v=torch.tensor([2.0, 1e6]),
        discount=0.5,
        native=native,
    )
    assert loss.item() == ((1 - 2) ** 2 + (3 - 2) ** 2 + (0 - 1) ** 2 + (1 - 1) ** 2) / 2


@NATIVE
@EVERY_LOSS
def test_empty_inputs(case: Case, native: bool) -> None:
    inputs = case.make(rows=0)
    assert case.call(inputs, "mean", native).isnan()  # the mean of nothing
    assert case.call(inputs, "sum", native) == 0
    assert case.call(inputs, "none", native).shape == (0,)
    gradients = case.gradients(inputs, "sum", native)[1:]
    for name, gradient in zip(case.differentiable, gradients, strict=True):
        assert gradient.shape == inputs[name].shape
        assert (gradient == 0).all()


@NATIVE
def test_broadcasting_one_way(native: bool) -> None:
    v = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    q = torch.randn(5, dtype=torch.float64, requires_grad=True)
    loss = ops.expectile_loss(q, v, 0.7, native=native)
    torch.testing.assert_close(loss, ops.expectile_loss(q.expand(2, 5), v, 0.7, native=False))
    loss.backward()
    assert q.grad is not None
    assert q.grad.shape == (5,)
    twin = ops.twin_q_loss(
        v, q.detach(), torch.tensor(1.0).double(), q.detach(), 0.9, native=native
    )
    assert twin.shape == ()


@NATIVE
def test_bad_arguments_are_refused(native: bool) -> None:
    three, four = torch.zeros(3), torch.zeros(4)
    with pytest.raises(ValueError, match=r"\[3\] and \[4\] do not go together"):
        ops.expectile_loss(three, four, 0.7, native=native)
    with pytest.raises(ValueError, match=r"would all be broadcast to \[3, 3\]"):
        ops.expectile_loss(three[:, None], three, 0.7, native=native)
    with pytest.raises(ValueError, match="must be one of none, mean, sum"):
        ops.expectile_loss(three, three, 0.7, "average", native=native)


@needs_extension
def test_what_the_operators_do_not_take_is_refused() -> None:
    three = torch.zeros(3)
    with pytest.raises(RuntimeError, match="must have the same dtype"):
        ops.expectile_loss(three, three.double(), 0.7)
    with pytest.raises(RuntimeError, match="dtype Half is not supported; use float32"):
        ops.awr_weights(three.half(), three.half(), 3.0)
    with pytest.raises(RuntimeError, match="there is no critic"):
        ops.expectile_loss([], three, 0.7)
    with pytest.raises(RuntimeError, match="must be that of v"):
        ops.gaussian_awr_loss(three, three, three, three, three, 3.0)
    with pytest.raises(RuntimeError, match="must end in that of r"):
        ops.twin_q_loss(torch.zeros(3, 2), three, three, three, 0.9)


@needs_extension
@settings(max_examples=50, deadline=None)
@given(
    u=st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=40),
    tau=st.floats(0.01, 0.99),
)
def test_native_expectile_equals_the_plain_one(u: list[float], tau: float) -> None:
    q, v = torch.tensor(u), torch.zeros(len(u))
    torch.testing.assert_close(
        ops.expectile_loss(q, v, tau), ops.expectile_loss(q, v, tau, native=False)
    )


@needs_extension
def test_results_do_not_depend_on_the_number_of_threads() -> None:
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(
                [
                    torch.cat(
                        [x.reshape(-1) for x in case.gradients(case.make(rows=200_003), r, True)]
                    )
                    for case in LOSSES
                    for r in ("mean", "none")
                ]
            )
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


@needs_extension
@EVERY_LOSS
@REDUCTIONS
@DTYPES
@DEVICES
def test_native_equals_plain_torch_on_the_device(
    case: Case, reduction: str, dtype: torch.dtype, device: str
) -> None:
    inputs = {
        name: x.detach().to(device).requires_grad_(x.requires_grad)
        for name, x in case.make(dtype, rows=1025).items()
    }
    both = [case.gradients(inputs, reduction, native) for native in (True, False)]
    for ours, plain in zip(*both, strict=True):
        torch.testing.assert_close(ours, plain)
