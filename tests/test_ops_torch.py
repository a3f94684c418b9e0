"""The operators under what torch does with operators: its own checks, compile, export, vmap,
autocast."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from iql_fast import ops
from iql_fast.ops import native
from tests.ops_cases import EVERY_LOSS, NATIVE, REDUCTIONS, Case, needs_extension

pytestmark = needs_extension


def opcheck(name: str, *arguments: Any) -> None:
    torch.library.opcheck(getattr(torch.ops.iql_fast, name).default, arguments)


def numbers(*shape: int, grad: bool = False) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).requires_grad_(
        grad
    )


@pytest.mark.parametrize("reduction", [0, 1, 2])
def test_opcheck_of_the_losses(reduction: int) -> None:
    d_loss = numbers(5) if reduction == 0 else numbers()
    q, p, v = (numbers(5) for _ in range(3))
    mean, action = numbers(5, 3), numbers(5, 3)
    opcheck("expectile_loss", [q], numbers(5, grad=True), 0.7, reduction)
    opcheck("expectile_loss", [numbers(5, grad=True), p], numbers(5, grad=True), 0.7, reduction)
    opcheck("expectile_loss_backward", d_loss, [q, p], v, 0.7, reduction)
    opcheck("awr_loss", [q, p], v, numbers(5, grad=True), 3.0, 100.0, reduction)
    opcheck("awr_loss_forward", [q, p], v, numbers(5), 3.0, 100.0, reduction)
    for log_std in (numbers(3, grad=True), numbers(5, 3, grad=True)):
        opcheck(
            "gaussian_awr_loss",
            [q],
            v,
            numbers(5, 3, grad=True),
            log_std,
            action,
            3.0,
            100.0,
            reduction,
        )
        opcheck(
            "gaussian_awr_loss_backward",
            d_loss,
            [q],
            v,
            mean,
            log_std.detach(),
            action,
            3.0,
            100.0,
            reduction,
        )
    critics = [numbers(5, grad=True), numbers(2, 5, grad=True)]
    opcheck("twin_q_loss", critics, q, p, v, 0.99, reduction)
    opcheck("twin_q_loss_backward", d_loss, [q, p], q, p, v, 0.99, reduction)


def test_opcheck_of_the_others() -> None:
    opcheck("awr_weights", [numbers(5), numbers(5)], numbers(5, grad=True), 3.0, 100.0)
    opcheck("polyak_update_", [numbers(5), numbers(2, 3)], [numbers(5), numbers(2, 3)], 0.1)
    lists = [[numbers(5), numbers(2, 3)] for _ in range(4)]
    steps = [torch.zeros(()), torch.ones(())]
    opcheck("adam_", *lists, steps, lists[3][:0], 1e-3, 0.9, 0.999, 1e-8, 0.0, 0.0)
    targets = [numbers(5), numbers(2, 3)]
    opcheck("adam_", *lists, steps, targets, 1e-3, 0.9, 0.999, 1e-8, 0.1, 0.005)
    opcheck("batch_rows_", torch.tensor([1, 2]), 5, 100)
    opcheck("gather_rows", [numbers(10), numbers(10, 2)], torch.tensor([1, 9, 1]))
    opcheck("dropout_factors", numbers(2, 5, 3, grad=True), torch.tensor([1, 2]), 7, 0, 0.1)
    weight, bias = numbers(2, 3, 4, grad=True), numbers(2, 4, grad=True)
    for x in (numbers(5, 3, grad=True), numbers(2, 5, 3), numbers(2, 5, 3, grad=True)):
        for relu in (False, True):
            opcheck("stacked_linear", x, weight, bias, relu)
    for x in (numbers(5, 3), numbers(2, 5, 3)):
        out, d_out = numbers(2, 5, 4), numbers(2, 5, 4)
        opcheck("stacked_linear_backward", d_out, x, weight.detach(), out, True, True)
        opcheck("stacked_linear_backward", d_out, x, weight.detach(), out, False, False)
    weights = [weight, numbers(2, 4, 6, grad=True), numbers(2, 6, 2, grad=True)]
    biases = [bias, numbers(2, 6, grad=True), numbers(2, 2, grad=True)]
    for x in (numbers(5, 3, grad=True), numbers(2, 20, 3), numbers(2, 20, 3, grad=True)):
        opcheck("stacked_mlp", x, weights, biases)
        opcheck("stacked_mlp", x, weights[:1], biases[:1])
    wide = [numbers(2, 3, 40, grad=True)], [numbers(2, 40, grad=True)]
    for x in (numbers(20, 3, grad=True), numbers(2, 20, 3)):
        opcheck("stacked_mlp", x, *wide)
    plain = [[w.detach() for w in layers] for layers in (weights, biases)]
    for x in (numbers(5, 3), numbers(2, 5, 3)):
        opcheck("stacked_mlp_forward", x, *plain)
        _, hidden = torch.ops.iql_fast.stacked_mlp_forward(x, *plain)
        for needed in ((True, True), (True, False), (False, True)):
            opcheck("stacked_mlp_backward", numbers(2, 5, 2), x, plain[0], hidden, *needed)


@EVERY_LOSS
def test_compile_takes_a_loss_in_whole(case: Case) -> None:
    inputs = case.make(torch.float32)

    def loss(x: dict[str, Tensor]) -> Tensor:
        return 2 * case.call(x, "mean", True)

    # The backend that runs the traced graphs as they are: no C++ is compiled for the test.
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    wanted = [inputs[name] for name in case.differentiable]
    expected = torch.autograd.grad(loss(inputs), wanted)
    for ours, plain in zip(torch.autograd.grad(compiled(inputs), wanted), expected, strict=True):
        torch.testing.assert_close(ours, plain)


def test_compile_takes_in_updates_sampling_and_the_ensemble() -> None:
    ensemble = ops.EnsembleMLP(2, [3, 8, 1])
    columns = [numbers(50, 3), numbers(50)]

    def step(targets: list[Tensor], params: list[Tensor], state: Tensor) -> Tensor:
        s, r = ops.sample_batch(columns, 8, state)
        ops.polyak_update_(targets, params, 0.25)
        q = ensemble(s).squeeze(-1)
        return ops.twin_q_loss(q, r, torch.ones_like(r), r, 0.99)

    def run(function: Any) -> list[Tensor]:
        state, targets = torch.tensor([3, 0]), [numbers(4), numbers(2, 2)]
        ensemble.zero_grad()
        losses = []
        for _ in range(2):
            loss = function(targets, [numbers(4) + 1, numbers(2, 2)], state)
            loss.backward()
            losses.append(loss.detach())
        gradients = [p.grad.clone() for p in ensemble.parameters() if p.grad is not None]
        return [*losses, *targets, *gradients, state]

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for ours, plain in zip(run(compiled), run(step), strict=True):
        torch.testing.assert_close(ours, plain)


def operators_of(program: torch.export.ExportedProgram) -> set[str]:
    nodes = [node for node in program.graph.nodes if node.op == "call_function"]
    return {str(node.target).partition(".")[0] for node in nodes}


@pytest.mark.parametrize("strict", [False, True])
def test_export_is_plain_torch(strict: bool) -> None:
    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.critics = ops.EnsembleMLP(2, [3, 8, 1])

        def forward(self, s: Tensor, v: Tensor) -> Tensor:
            q = self.critics(s).squeeze(-1)
            return ops.expectile_loss(q.unbind(0), v, 0.7)

    module, s, v = Loss(), numbers(6, 3), numbers(6)
    rows = torch.export.Dim("rows", min=2)
    program = torch.export.export(
        module, (s, v), dynamic_shapes={"s": {0: rows}, "v": {0: rows}}, strict=strict
    )
    assert "iql_fast" not in operators_of(program)
    torch.testing.assert_close(program.module()(s, v), module(s, v))
    torch.testing.assert_close(
        program.module()(numbers(9, 3), numbers(9)), module(numbers(9, 3), numbers(9))
    )


@EVERY_LOSS
@REDUCTIONS
def test_an_exported_loss_is_plain_torch(case: Case, reduction: str) -> None:
    inputs = {name: x.detach() for name, x in case.make().items()}

    class Loss(nn.Module):
        def forward(self, x: dict[str, Tensor]) -> Tensor:
            return case.call(x, reduction, True)

    program = torch.export.export(Loss(), (inputs,))
    assert "iql_fast" not in operators_of(program)
    torch.testing.assert_close(program.module()(inputs), case.call(inputs, reduction, True))


def test_an_export_keeps_the_operators_that_write_in_place() -> None:
    class Step(nn.Module):
        def forward(self, state: Tensor, target: Tensor, column: Tensor) -> Tensor:
            (rows,) = ops.sample_batch([column], 4, state)
            ops.polyak_update_(target, rows, 0.5)
            return rows

    inputs = [torch.tensor([3, 0]), torch.zeros(4), numbers(9)]
    program = torch.export.export(Step(), tuple(x.clone() for x in inputs))
    theirs = [x.clone() for x in inputs]
    torch.testing.assert_close(program.module()(*theirs), Step()(*inputs))
    for ours, other in zip(inputs, theirs, strict=True):
        torch.testing.assert_close(ours, other)


@NATIVE
@EVERY_LOSS
@REDUCTIONS
def test_vmap_equals_a_loop(case: Case, reduction: str, native: bool) -> None:
    each = [case.make(rows=7, seed=seed) for seed in range(3)]
    names = list(each[0])

    def loss(*tensors: Tensor) -> Tensor:
        return case.call(dict(zip(names, tensors, strict=True)), reduction, native)

    stacked = [torch.stack([x[name] for x in each]) for name in names]
    batched = torch.vmap(loss)(*stacked)
    expected = torch.stack([loss(*(x[i] for x in stacked)) for i in range(len(each))])
    torch.testing.assert_close(batched, expected)
    wanted = [x for x, name in zip(stacked, names, strict=True) if name in case.differentiable]
    for ours, plain in zip(
        torch.autograd.grad(batched.sum(), wanted),
        torch.autograd.grad(expected.sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(ours, plain)


def test_vmap_over_one_argument_and_over_weights() -> None:
    q, v, taus = numbers(5), numbers(3, 5), None
    assert taus is None
    batched = torch.vmap(lambda x: ops.expectile_loss(q, x, 0.7))(v)
    torch.testing.assert_close(batched, torch.stack([ops.expectile_loss(q, x, 0.7) for x in v]))
    weights = torch.vmap(lambda x: ops.awr_weights(q, x, 3.0))(v)
    torch.testing.assert_close(weights, torch.stack([ops.awr_weights(q, x, 3.0) for x in v]))
    net = ops.EnsembleMLP(2, [3, 8, 1])
    x = numbers(4, 6, 3)
    torch.testing.assert_close(torch.vmap(net)(x), torch.stack([net(one) for one in x]))


def test_what_functorch_cannot_do_is_an_error_that_says_so() -> None:
    with pytest.raises(RuntimeError, match="no batching rule"):
        torch.vmap(lambda t, p: ops.polyak_update_(t, p, 0.1))(numbers(3, 5), numbers(3, 5))
    q, v = numbers(5), numbers(5)
    with pytest.raises(RuntimeError, match="with functorch transforms"):
        torch.func.grad(lambda x: ops.expectile_loss(q, x, 0.7))(v)
    # Plain torch can.
    gradient = torch.func.grad(lambda x: ops.expectile_loss(q, x, 0.7, native=False))(v)
    v.requires_grad_()
    ops.expectile_loss(q, v, 0.7).backward()
    torch.testing.assert_close(gradient, v.grad)


@EVERY_LOSS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)  # it leaves fp64 alone
def test_autocast_computes_a_loss_in_float32(case: Case, dtype: torch.dtype) -> None:
    inputs = case.make(dtype)
    # As after a layer in bfloat16: dtypes are mixed.
    first = next(iter(inputs))
    inputs[first] = inputs[first].detach().bfloat16().requires_grad_(inputs[first].requires_grad)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = case.call(inputs, "mean", True)
    assert loss.dtype == torch.float32
    singles = {
        name: x.detach().float().requires_grad_(x.requires_grad) for name, x in inputs.items()
    }
    expected = case.gradients(singles, "mean", True)
    torch.testing.assert_close(loss.detach(), expected[0])
    gradients = torch.autograd.grad(loss, [inputs[name] for name in case.differentiable])
    for ours, plain in zip(gradients, expected[1:], strict=True):
        torch.testing.assert_close(ours, plain.to(ours.dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_the_ensemble_under_autocast(dtype: torch.dtype) -> None:
    net, x = ops.EnsembleMLP(2, [3, 8, 1]), numbers(6, 3)
    with torch.autocast("cpu", dtype=dtype):
        out = net(x)
        loss = ops.twin_q_loss(out.squeeze(-1), x[:, 0], x[:, 1], x[:, 2], 0.99)
    assert out.dtype == dtype
    assert loss.dtype == torch.float32
    torch.testing.assert_close(out.float(), net(x), rtol=0.02, atol=0.02)
    loss.backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in net.parameters())


def test_an_operator_called_directly_takes_what_torch_ops_takes() -> None:
    q, v = numbers(5), numbers(5)
    expected = ops.expectile_loss(q, v, 0.7)
    traced = torch.fx.symbolic_trace(lambda q, v: native.operator("expectile_loss")([q], v, 0.7, 1))
    assert [n.target for n in traced.graph.nodes if n.op == "call_function"] == [
        torch.ops.iql_fast.expectile_loss.default
    ]
    torch.testing.assert_close(traced(q, v), expected)
    with pytest.raises(RuntimeError, match=r"expectile_loss\(\) Expected a value of type"):
        native.operator("expectile_loss")([q], v, "0.7", 1)
    with pytest.raises(IndexError, match="row 7 of a column with 5"):
        native.operator("gather_rows")([q], torch.tensor([7]))
    target = torch.zeros(3, requires_grad=True)
    ops.polyak_update_(target, torch.ones(3), 0.5)
    assert target.tolist() == [0.5] * 3
    assert target._version == 1
