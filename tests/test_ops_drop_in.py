"""FusedAdam in the place of torch.optim.Adam: copies, groups, refusals, hooks, compiling."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from iql_fast import ops
from tests.ops_cases import (
    EPSILON,
    NATIVE,
    assert_equal_networks,
    needs_extension,
    network,
    train,
)


def pair(
    native: bool, dtype: torch.dtype = torch.float64, seed: int = 0, **options: Any
) -> tuple[nn.Module, nn.Module, ops.FusedAdam]:
    """A network, its target and their optimiser."""
    net, slow = network(dtype, seed), network(dtype, seed + 5).requires_grad_(False)
    options = {"lr": 1e-2, "targets": slow.parameters(), "polyak": 0.1} | options
    return net, slow, ops.FusedAdam(net.parameters(), native=native, **options)


def saved(objects: Any) -> Any:
    file = io.BytesIO()
    torch.save(objects, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@NATIVE
@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x)), saved],
    ids=["deepcopy", "pickle", "torch.save"],
)
def test_a_copy_goes_on_with_the_copied_networks(
    native: bool, copied: Callable[[Any], Any]
) -> None:
    net, slow, optimizer = pair(native)
    train(net, optimizer, 3)
    others = copied((net, slow, optimizer))
    assert others[2].native == native
    assert others[2].polyak == 0.1
    before = copy.deepcopy(slow)
    train(others[0], others[2], 3, seed=2)
    assert_equal_networks(slow, before, rtol=0, atol=0)
    train(net, optimizer, 3, seed=2)
    assert_equal_networks(net, others[0], rtol=0, atol=0)
    assert_equal_networks(slow, others[1], rtol=0, atol=0)


@needs_extension
def test_a_copy_computes_without_the_extension_where_there_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state = pickle.dumps(pair(native=True))
    monkeypatch.setattr("iql_fast.ops.native.AVAILABLE", False)
    monkeypatch.setattr("iql_fast.ops.adam._adam_", None)
    net, _, optimizer = pickle.loads(state)
    train(net, optimizer, 1)


@NATIVE
def test_groups_with_and_without_targets(native: bool) -> None:
    a, b, c, d = (nn.Parameter(torch.full((3,), float(i))) for i in range(4))
    slow_a, slow_c = torch.zeros(3), torch.zeros(3)
    group = {"params": [a], "targets": [slow_a]}
    optimizer = ops.FusedAdam([group, {"params": [b]}], lr=0.25, polyak=0.5, native=native)
    assert group["targets"] == [slow_a]
    optimizer.add_param_group({"params": c, "targets": slow_c, "lr": 0.5})
    optimizer.add_param_group({"params": iter([d])})
    assert all("targets" not in group for group in optimizer.state_dict()["param_groups"])
    for param in (a, b, c, d):
        param.grad = torch.ones(3)
    optimizer.step()
    moved = [param.detach()[0].item() for param in (a, b, c, d)]
    assert moved == pytest.approx([-0.25, 0.75, 1.5, 2.75])
    assert slow_a.tolist() == pytest.approx([-0.125] * 3)
    assert slow_c.tolist() == pytest.approx([0.75] * 3)


@NATIVE
def test_a_parameter_put_into_a_group_by_hand_has_no_target(native: bool) -> None:
    net, slow, optimizer = pair(native)
    other = nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer.param_groups[0]["params"].insert(1, other)
    other.grad = torch.ones_like(other)
    before = copy.deepcopy(slow)
    (net(torch.ones(5, 7, dtype=torch.float64)) ** 2).mean().backward()
    optimizer.step()
    assert other.tolist() == pytest.approx([0.99] * 3)
    ops.polyak_update_(before.parameters(), net.parameters(), 0.1, native=False)
    assert_equal_networks(slow, before)


@NATIVE
def test_a_group_of_several_dtypes(native: bool) -> None:
    params = [nn.Parameter(torch.ones(3, dtype=dtype)) for dtype in EPSILON]
    idle = nn.Parameter(torch.ones(3, dtype=torch.float64))
    slow = [torch.zeros_like(param) for param in (*params, idle)]
    optimizer = ops.FusedAdam([*params, idle], lr=0.5, targets=slow, polyak=0.5, native=native)
    for param in params:
        param.grad = torch.ones_like(param)
    optimizer.step()
    for param, target in zip((*params, idle), slow, strict=True):
        assert param.tolist() == pytest.approx([1.0 if param is idle else 0.5] * 3, rel=0.01)
        assert target.tolist() == pytest.approx([0.5 if param is idle else 0.25] * 3, rel=0.01)


def test_targets_that_do_not_fit_are_refused_and_add_no_group() -> None:
    a, b = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(2, 2))
    optimizer = ops.FusedAdam([a])
    for targets, message in [
        ([torch.zeros(2)], "the targets have the shapes"),
        ([], "the targets have the shapes"),
        ([b], "target 0 is the parameter itself"),
        ([torch.zeros(2, 2, dtype=torch.float64)], "target 0 is torch.float64 on cpu; its param"),
        ([torch.zeros(2, 2, device="meta")], "target 0 is torch.float32 on meta; its param"),
    ]:
        with pytest.raises(ValueError, match=message):
            optimizer.add_param_group({"params": [b], "targets": targets})
        assert len(optimizer.param_groups) == 1
    with pytest.raises(ValueError, match="does not implement amsgrad"):
        optimizer.add_param_group({"params": [b], "amsgrad": True})
    assert len(optimizer.param_groups) == 1
    with pytest.raises(ValueError, match="both for all groups and in one"):
        ops.FusedAdam([{"params": [a], "targets": [torch.zeros(3)]}], targets=[torch.zeros(3)])
    with pytest.raises(TypeError, match="must be a dict"):
        optimizer.add_param_group([b])  # type: ignore[arg-type]


@NATIVE
def test_loading_an_older_state_leaves_the_targets(native: bool) -> None:
    net, slow, optimizer = pair(native)
    train(net, optimizer, 2)
    older = copy.deepcopy(optimizer.state_dict())
    optimizer.param_groups[0]["lr"] = 0.5
    train(net, optimizer, 2)
    followed = copy.deepcopy(slow)
    optimizer.load_state_dict(older)
    assert_equal_networks(slow, followed, rtol=0, atol=0)
    assert optimizer.param_groups[0]["lr"] == 1e-2  # as the docstring says
    train(net, optimizer, 1)
    ops.polyak_update_(followed.parameters(), net.parameters(), 0.1, native=False)
    assert_equal_networks(slow, followed)
    assert {int(state["step"]) for state in optimizer.state.values()} == {3}


@NATIVE
@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (torch.float16, r"parameter 1 of group 1 has a gradient in float16; keep .* in float32"),
        (torch.complex64, r"parameter 1 of group 1 is complex .*view_as_complex"),
        ("sparse", r"parameter 1 of group 1 has a sparse gradient .*SparseAdam"),
    ],
    ids=str,
)
def test_gradients_it_cannot_use_are_refused_before_anything_changes(
    native: bool, broken: torch.dtype | str, message: str
) -> None:
    dtype = torch.float32 if broken == "sparse" else broken
    a, b, c = (nn.Parameter(torch.ones(4, 3)) for _ in range(3))
    assert isinstance(dtype, torch.dtype)
    bad = nn.Parameter(torch.ones(4, 3, dtype=dtype))
    slow = [torch.zeros_like(x) for x in (a, b, bad, c)]
    optimizer = ops.FusedAdam(
        [{"params": [a]}, {"params": [b, bad]}, {"params": [c]}], targets=slow, native=native
    )
    for param in (a, b, c, bad):
        param.grad = torch.ones_like(param)
    if broken == "sparse":
        bad.grad = torch.ones(4, 3).to_sparse()
    with pytest.raises(RuntimeError, match=message):
        optimizer.step()
    for param, target in zip((a, b, bad, c), slow, strict=True):
        assert torch.equal(param, torch.ones_like(param))
        assert not target.any()
    assert not optimizer.state
    bad.grad = None  # without a gradient it is in nobody's way
    if broken == "sparse":
        optimizer.step()
        assert slow[0].any()


def test_a_refusal_names_the_parameter_where_it_has_a_name() -> None:
    layer = nn.Embedding(4, 3, sparse=True)
    optimizer = ops.FusedAdam(layer.named_parameters())
    layer(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match=r"parameter 0 \(weight\) of group 0 has a sparse"):
        optimizer.step()


@NATIVE
def test_takes_what_torchs_adam_takes(native: bool) -> None:
    net, slow = network(), network(seed=5)
    optimizer = ops.FusedAdam(
        net.named_parameters(),
        1e-2,
        (0.9, 0.99),
        1e-8,
        0.0,
        False,
        foreach=True,
        maximize=False,
        differentiable=False,
        fused=True,
        decoupled_weight_decay=False,
        targets=slow.named_parameters(),
        polyak=0.1,
        native=native,
    )
    theirs, their_slow, other = pair(native, torch.float32, betas=(0.9, 0.99))
    train(net, optimizer, 3)
    train(theirs, other, 3)
    assert_equal_networks(net, theirs, rtol=0, atol=0)
    assert_equal_networks(slow, their_slow, rtol=0, atol=0)
    assert optimizer.param_groups[0]["param_names"][0] == "0.weight"
    for option in ("amsgrad", "maximize", "differentiable", "decoupled_weight_decay"):
        with pytest.raises(ValueError, match=f"FusedAdam does not implement {option}"):
            ops.FusedAdam(net.parameters(), **{option: True})


def test_its_share_lies_between_0_and_1() -> None:
    net = network()
    optimizer = ops.FusedAdam(net.parameters())
    for bad in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match=f"polyak is {bad}; it must lie between 0 and 1"):
            ops.FusedAdam(net.parameters(), polyak=bad)
        with pytest.raises(ValueError, match=f"polyak is {bad}; it must lie between 0 and 1"):
            optimizer.polyak = bad
    optimizer.polyak = 1
    assert optimizer.polyak == 1.0


@NATIVE
def test_hooks_run_once(native: bool) -> None:
    net, _, optimizer = pair(native)
    torch.optim.Adam(net.parameters())  # from now on its step runs hooks too
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    train(net, optimizer, 1)
    assert calls == ["before", "after"]


@NATIVE
def test_with_scaled_and_clipped_gradients(native: bool) -> None:
    nets = [network(), network()]
    slow = network(seed=5)
    optimizers = [
        ops.FusedAdam(
            nets[0].parameters(), lr=1e-2, targets=slow.parameters(), fused=True, native=native
        ),
        torch.optim.Adam(nets[1].parameters(), lr=1e-2, foreach=False),
    ]
    for net, optimizer in zip(nets, optimizers, strict=True):
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        for factor in (1.0, float("inf"), 1.0):
            followed = copy.deepcopy(slow)
            optimizer.zero_grad(set_to_none=False)
            scaler.scale((net(torch.ones(5, 7)) ** 2).mean() * factor).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(net.parameters(), 0.1)
            scaler.step(optimizer)
            scaler.update()
            if net is nets[0]:
                same = all(
                    torch.equal(x, y)
                    for x, y in zip(slow.parameters(), followed.parameters(), strict=True)
                )
                assert same == (factor != 1.0)  # a step that is left out is left out whole
    assert_equal_networks(*nets)


@NATIVE
def test_compile_takes_a_step_in_whole(native: bool) -> None:
    nets = [pair(native), pair(native)]
    for net, _, _ in nets:
        (net(torch.ones(5, 7, dtype=torch.float64)) ** 2).mean().backward()
    steps: list[Callable[[], Any]] = [
        torch.compile(nets[0][2].step, fullgraph=True, backend="aot_eager"),
        nets[1][2].step,
    ]
    for step in steps:
        for _ in range(3):
            step()
    # Compiled, torch's Adam corrects its moments in float32, the type of its counts.
    tolerance = 1e-12 if native else 1e-6
    for one, other in zip(nets[0][:2], nets[1][:2], strict=True):
        assert_equal_networks(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@NATIVE
def test_a_graph_needs_counts_on_the_device(native: bool) -> None:
    param = nn.Parameter(torch.ones(3, device="cuda"))
    param.grad = torch.ones_like(param)
    optimizer = ops.FusedAdam([param], native=native)
    optimizer.step()
    with (
        pytest.raises(RuntimeError, match="with capturable=True alone"),
        torch.cuda.graph(torch.cuda.CUDAGraph()),
    ):
        optimizer.step()
