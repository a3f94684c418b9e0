"""Polyak averaging and FusedAdam against their formulas and torch.optim.Adam."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from iql_fast import ops
from tests.ops_cases import (
    DEVICES,
    DTYPES,
    EPSILON,
    LAYOUTS,
    NATIVE,
    assert_equal_networks,
    needs_extension,
    network,
    train,
)

SHAPES = [(257, 33), (33,), (5, 7), (1,), (0, 3), (70_001,)]


def tensors(
    seed: int, dtype: torch.dtype = torch.float32, layout: str = "contiguous"
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    made = []
    for shape in SHAPES:
        x = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        # Dense all the same: in-place updates need that.
        made.append(x.T.contiguous().T if layout == "transposed" and x.dim() == 2 else x)
    return made


@NATIVE
@DTYPES
@pytest.mark.parametrize("layout", ["contiguous", "transposed"])
@pytest.mark.parametrize("source_layout", ["contiguous", "transposed"])
def test_polyak_of_lists(native: bool, dtype: torch.dtype, layout: str, source_layout: str) -> None:
    targets, params = tensors(1, dtype, layout), tensors(2, dtype, source_layout)
    places = [target.data_ptr() for target in targets]
    exact = [
        t.double() + 0.3 * (p.double() - t.double()) for t, p in zip(targets, params, strict=True)
    ]
    ops.polyak_update_(targets, params, 0.3, native=native)
    assert [target.data_ptr() for target in targets] == places
    for target, truth in zip(targets, exact, strict=True):
        # Three operations on numbers of size up to 9.
        torch.testing.assert_close(
            target.double(), truth, rtol=3 * EPSILON[dtype], atol=10 * EPSILON[dtype]
        )


@needs_extension
@DTYPES
def test_polyak_errs_at_most_twice_as_much_as_torch(dtype: torch.dtype) -> None:
    targets, params = tensors(1, dtype), tensors(2, dtype)
    theirs = copy.deepcopy(targets)
    exact = [
        t.double() + 0.005 * (p.double() - t.double()) for t, p in zip(targets, params, strict=True)
    ]
    ops.polyak_update_(targets, params, 0.005)
    torch._foreach_lerp_(theirs, params, 0.005)
    for ours, plain, truth in zip(targets, theirs, exact, strict=True):
        if truth.numel():
            limit = 2 * (plain.double() - truth).abs().max() + EPSILON[dtype]
            assert (ours.double() - truth).abs().max() <= limit


@NATIVE
def test_polyak_of_a_flat_arena_and_of_its_views(native: bool) -> None:
    arena, source = torch.randn(100), torch.randn(100)
    expected = torch.lerp(arena, source, 0.1)
    views = [arena[:40].view(8, 5), arena[40:]]
    ops.polyak_update_(views, [source[:40].view(8, 5), source[40:]], 0.1, native=native)
    torch.testing.assert_close(arena, expected)
    ops.polyak_update_(arena, source, 1.0, native=native)
    torch.testing.assert_close(arena, source)
    module, slow = nn.Linear(3, 4), nn.Linear(3, 4)
    ops.polyak_update_(slow.parameters(), module.parameters(), 1.0, native=native)
    torch.testing.assert_close(slow.weight, module.weight)
    ops.polyak_update_([], [], 0.5, native=native)


@NATIVE
def test_what_polyak_does_not_take_is_refused(native: bool) -> None:
    a, b = torch.zeros(4, 4), torch.ones(4, 4)
    with pytest.raises(RuntimeError, match="the lists have 1 and 2 tensors"):
        ops.polyak_update_([a], [b, b], 0.1, native=native)
    with pytest.raises(RuntimeError, match=r"the tensors have shapes \[4, 4\] and \[2, 4\]"):
        ops.polyak_update_([a], [b[:2]], 0.1, native=native)
    with pytest.raises(RuntimeError, match=r"the tensors (have dtypes|are)"):
        ops.polyak_update_([a], [b.double()], 0.1, native=native)
    for dtype in (torch.float16, torch.int64, torch.complex64):
        with pytest.raises(RuntimeError, match=r"dtype .* is not supported; use float32"):
            ops.polyak_update_([a.to(dtype)], [b.to(dtype)], 0.1, native=native)
    assert not a.any()


@NATIVE
@pytest.mark.parametrize("as_tensor", [False, True])
def test_a_share_lies_between_0_and_1(native: bool, as_tensor: bool) -> None:
    target, param = torch.zeros(3), torch.ones(3)
    for bad in (-0.1, 1.5, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"alpha is {bad}.*; it must lie between 0 and 1"):
            ops.polyak_update_(
                target, param, torch.tensor(bad) if as_tensor else bad, native=native
            )
    for share, expected in ((0.0, 0.0), (0.25, 0.25), (1, 1.0)):
        ops.polyak_update_(
            target, param, torch.tensor(share) if as_tensor else share, native=native
        )
        assert target.tolist() == [expected] * 3


@needs_extension
def test_what_the_polyak_operator_does_not_take_is_refused() -> None:
    a, b = torch.zeros(4, 4), torch.ones(4, 4)
    with pytest.raises(RuntimeError, match="must be dense"):
        ops.polyak_update_([a[:, :2]], [b[:, :2]], 0.1)
    leaf = torch.zeros(3, requires_grad=True)
    with pytest.raises(RuntimeError, match=r"under torch\.no_grad"):
        torch.ops.iql_fast.polyak_update_([leaf], [torch.ones(3)], 0.1)


@needs_extension
def test_an_update_after_the_forward_pass_is_noticed() -> None:
    weight = torch.ones(3, requires_grad=True)
    loss = (weight * weight).sum()
    ops.polyak_update_(weight, torch.zeros(3), 0.5)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


SETTINGS = pytest.mark.parametrize(
    "settings",
    [
        {},
        {"lr": 3e-4, "betas": (0.8, 0.95), "eps": 1e-6},
        {"weight_decay": 0.1},
        {"lr": torch.tensor(1e-2, dtype=torch.float64)},
    ],
    ids=str,
)


@NATIVE
@SETTINGS
def test_steps_as_torchs_adam_and_the_target_follows(
    native: bool, settings: dict[str, object]
) -> None:
    net, theirs = network(torch.float64), network(torch.float64)
    slow, their_slow = network(torch.float64, 5), network(torch.float64, 5)
    ours = ops.FusedAdam(
        net.parameters(), targets=slow.parameters(), polyak=0.1, native=native, **settings
    )
    plain = torch.optim.Adam(theirs.parameters(), foreach=False, **settings)
    for step in range(20):
        train(net, ours, 1, step)
        train(theirs, plain, 1, step)
        with torch.no_grad():
            for t, p in zip(their_slow.parameters(), theirs.parameters(), strict=True):
                t.lerp_(p, 0.1)
    # Differently ordered operations, 20 steps long.
    assert_equal_networks(net, theirs, rtol=1e-11, atol=1e-12)
    assert_equal_networks(slow, their_slow, rtol=1e-11, atol=1e-12)


@needs_extension
@DTYPES
def test_a_step_errs_at_most_twice_as_much_as_torchs(dtype: torch.dtype) -> None:
    def stepped(
        make: type[torch.optim.Adam], dtype: torch.dtype, **options: object
    ) -> list[Tensor]:
        params = [x.to(dtype).requires_grad_() for x in tensors(1, rounded)]
        optimizer = make(params, lr=1e-2, **options)
        for seed in (2, 3):
            for param, gradient in zip(params, tensors(seed, rounded), strict=True):
                param.grad = gradient.to(dtype)
            optimizer.step()
        return [p.detach().double() for p in params]

    rounded = dtype
    exact = stepped(torch.optim.Adam, torch.float64, foreach=False)
    plain = stepped(torch.optim.Adam, dtype, foreach=False)
    ours = stepped(ops.FusedAdam, dtype)
    for a, b, truth in zip(ours, plain, exact, strict=True):
        if truth.numel():
            rounding = EPSILON[dtype] * truth.abs().max()
            assert (a - truth).abs().max() <= 2 * (b - truth).abs().max() + rounding


@NATIVE
@pytest.mark.parametrize("fused", [False, True])
def test_state_dicts_go_both_ways(native: bool, fused: bool) -> None:
    # Ten steps by one, ten by the other, against twenty by torch's.
    for first_is_ours in (True, False):
        net, whole = network(torch.float64), network(torch.float64)
        ours = ops.FusedAdam(net.parameters(), lr=1e-2, weight_decay=0.01, native=native)
        theirs = torch.optim.Adam(net.parameters(), lr=1e-2, weight_decay=0.01, fused=fused)
        first, second = (ours, theirs) if first_is_ours else (theirs, ours)
        train(net, first, 10, seed=1)
        state = copy.deepcopy(first.state_dict())
        assert state.keys() == second.state_dict().keys()
        second.load_state_dict(state)
        train(net, second, 10, seed=2)
        reference = torch.optim.Adam(whole.parameters(), lr=1e-2, weight_decay=0.01, foreach=False)
        train(whole, reference, 10, seed=1)
        train(whole, reference, 10, seed=2)
        assert_equal_networks(net, whole, rtol=1e-11, atol=1e-12)
        steps = {int(s["step"]) for s in second.state_dict()["state"].values()}
        assert steps == {20}
        keys = [set(s) for s in second.state_dict()["state"].values()]
        assert all(key == {"step", "exp_avg", "exp_avg_sq"} for key in keys)


def test_param_groups_have_torchs_keys() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    ours, theirs = ops.FusedAdam([parameter]), torch.optim.Adam([parameter])
    assert ours.state_dict()["param_groups"] == theirs.state_dict()["param_groups"]


@NATIVE
def test_groups_closures_and_missing_gradients(native: bool) -> None:
    a, b, c = (nn.Parameter(torch.full((3,), float(i))) for i in range(3))
    slow = [torch.zeros(3) for _ in range(3)]
    optimizer = ops.FusedAdam(
        [{"params": [a]}, {"params": [b, c], "lr": 0.5}],
        lr=0.25,
        targets=slow,
        polyak=0.5,
        native=native,
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = a.sum() + b.sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 3.0
    # The first step of Adam is the learning rate, against the gradient's sign.
    torch.testing.assert_close(a.detach(), torch.full((3,), -0.25))
    torch.testing.assert_close(b.detach(), torch.full((3,), 0.5))
    torch.testing.assert_close(c.detach(), torch.full((3,), 2.0))  # no gradient
    torch.testing.assert_close(slow[0], torch.full((3,), -0.125))
    torch.testing.assert_close(slow[1], torch.full((3,), 0.25))
    torch.testing.assert_close(slow[2], torch.full((3,), 1.0))  # follows all the same
    assert c not in optimizer.state


@NATIVE
def test_works_with_a_schedule(native: bool) -> None:
    nets = [network(torch.float64), network(torch.float64)]
    optimizers = [
        ops.FusedAdam(nets[0].parameters(), lr=0.1, native=native),
        torch.optim.Adam(nets[1].parameters(), lr=0.1, foreach=False),
    ]
    for net, optimizer in zip(nets, optimizers, strict=True):
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
        for step in range(5):
            train(net, optimizer, 1, step)
            schedule.step()
    assert_equal_networks(*nets, rtol=1e-11, atol=1e-12)


def test_what_adam_does_not_take_is_refused() -> None:
    net = network()
    with pytest.raises(ValueError, match="the targets have the shapes"):
        ops.FusedAdam(net.parameters(), targets=[torch.zeros(3)])
    optimizer = ops.FusedAdam(net.parameters())
    optimizer.load_state_dict(torch.optim.Adam(net.parameters(), amsgrad=True).state_dict())
    with pytest.raises(ValueError, match="FusedAdam does not implement amsgrad"):
        train(net, optimizer, 1)


@needs_extension
@LAYOUTS
def test_gradients_and_moments_of_any_layout(layout: str) -> None:
    params = [nn.Parameter(x) for x in tensors(1, torch.float64, "transposed")]
    theirs = [nn.Parameter(x.clone()) for x in tensors(1, torch.float64)]
    for param, own in zip(params, theirs, strict=True):
        gradient = torch.randn_like(own)
        own.grad = gradient
        if layout == "strided":
            room = gradient.new_zeros(*gradient.shape, 2)
            room[..., 0] = gradient
            param.grad = room[..., 0]
        else:
            param.grad = (
                gradient.clone()
                if layout == "contiguous"
                else gradient.mT.clone().mT
                if gradient.dim() == 2
                else gradient
            )
    optimizer = ops.FusedAdam(params)
    # Moments as a checkpoint may bring them, of another layout than the parameters'.
    for param in params:
        state = optimizer._state_of(param, on_device=False)
        state["exp_avg"] = state["exp_avg"].contiguous()
    optimizer.step()
    torch.optim.Adam(theirs, foreach=False).step()
    for a, b in zip(params, theirs, strict=True):
        torch.testing.assert_close(a.detach(), b.detach(), rtol=1e-12, atol=1e-12)


@DEVICES
@NATIVE
def test_on_the_device(device: str, native: bool) -> None:
    nets = [network().to(device) for _ in range(2)]
    slow = [network(seed=3).to(device) for _ in range(2)]
    x = torch.randn(16, 7, device=device)
    optimizers: Sequence[torch.optim.Optimizer] = [
        ops.FusedAdam(nets[0].parameters(), targets=slow[0].parameters(), native=native),
        torch.optim.Adam(nets[1].parameters()),
    ]
    for net, optimizer in zip(nets, optimizers, strict=True):
        for _ in range(5):
            optimizer.zero_grad()
            (net(x) ** 2).mean().backward()
            optimizer.step()
            if net is nets[1]:
                ops.polyak_update_(slow[1].parameters(), net.parameters(), 0.005, native=False)
    assert_equal_networks(*nets)
    assert_equal_networks(*slow)
