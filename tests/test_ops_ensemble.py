"""EnsembleMLP against the plain networks that it stands for."""

from __future__ import annotations

import copy
import io
import itertools
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from iql_fast import ops
from iql_fast.ops import plain as plain_ops
from tests.ops_cases import DEVICES, EPSILON, NATIVE, needs_extension

SIZES = [11, 65, 33, 2]


def plain_networks(count: int = 3, dtype: torch.dtype = torch.float32) -> list[nn.Sequential]:
    torch.manual_seed(0)
    return [
        nn.Sequential(
            nn.Linear(11, 65), nn.ReLU(), nn.Linear(65, 33), nn.ReLU(), nn.Linear(33, 2)
        ).to(dtype)
        for _ in range(count)
    ]


@NATIVE
@DEVICES
@pytest.mark.parametrize("shared", [True, False])
def test_equals_plain_networks(native: bool, device: str, shared: bool) -> None:
    plain = [net.to(device) for net in plain_networks(dtype=torch.float64)]
    ensemble = ops.EnsembleMLP.from_sequentials(plain, native=native)
    x = torch.randn(*([] if shared else [3]), 17, 11, dtype=torch.float64, device=device)
    x.requires_grad_()
    theirs = torch.stack([net(x if shared else x[e]) for e, net in enumerate(plain)])
    ours = ensemble(x)
    torch.testing.assert_close(ours, theirs)
    direction = torch.randn_like(ours)
    d_x, *_ = torch.autograd.grad((ours * direction).sum(), [x], retain_graph=True)
    torch.testing.assert_close(
        d_x, torch.autograd.grad((theirs * direction).sum(), x, retain_graph=True)[0]
    )
    (ours * direction).sum().backward()
    (theirs * direction).sum().backward()
    for i in range(3):
        layers = [net[2 * i] for net in plain]
        weights = torch.stack([layer.weight.grad.T for layer in layers])  # type: ignore[union-attr]
        biases = torch.stack([layer.bias.grad for layer in layers])  # type: ignore[misc]
        torch.testing.assert_close(ensemble.weights[i].grad, weights)
        torch.testing.assert_close(ensemble.biases[i].grad, biases)


def test_goes_to_plain_networks_and_back() -> None:
    plain = plain_networks()
    ensemble = ops.EnsembleMLP.from_sequentials(plain)
    for net, again in zip(plain, ensemble.to_sequentials(), strict=True):
        for a, b in zip(net.parameters(), again.parameters(), strict=True):
            assert torch.equal(a, b)
            assert a.data_ptr() != b.data_ptr()
    other = ops.EnsembleMLP(3, SIZES)
    assert not torch.equal(other.weights[0], ensemble.weights[0])
    other.load_state_dict(ensemble.state_dict())
    assert torch.equal(other.weights[0], ensemble.weights[0])


def test_starts_as_plain_networks_would() -> None:
    plain = plain_networks()
    torch.manual_seed(0)
    ensemble = ops.EnsembleMLP(3, SIZES)
    for net, own in zip(plain, ensemble.to_sequentials(), strict=True):
        for a, b in zip(net.parameters(), own.parameters(), strict=True):
            assert torch.equal(a, b)


def test_other_networks_are_refused() -> None:
    ensemble = ops.EnsembleMLP(2, SIZES)
    with pytest.raises(ValueError, match="3 MLPs for an ensemble of 2"):
        ensemble.load_sequentials(plain_networks(3))
    with pytest.raises(ValueError, match="MLP 0 has the sizes"):
        ops.EnsembleMLP(3, [11, 65, 2]).load_sequentials(plain_networks(3))
    with pytest.raises(ValueError, match="not Linear, ReLU"):
        ops.EnsembleMLP.from_sequentials(
            [nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))]
        )
    with pytest.raises(ValueError, match="not Linear, ReLU"):
        ops.EnsembleMLP.from_sequentials([nn.Sequential(nn.Linear(3, 4, bias=False))])
    with pytest.raises(ValueError, match="no ensemble of 0"):
        ops.EnsembleMLP(0, SIZES)


@needs_extension
@pytest.mark.parametrize("dtype", list(EPSILON), ids=str)
@pytest.mark.parametrize(
    ("ensemble", "rows", "sizes"),
    [(2, 33, (14, 40)), (3, 257, (65, 1)), (1, 1, (9, 17)), (2, 0, (3, 8))],
)
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("dense", [True, False])
def test_a_layer_errs_at_most_twice_as_much_as_torch(
    dtype: torch.dtype,
    ensemble: int,
    rows: int,
    sizes: tuple[int, int],
    relu: bool,
    shared: bool,
    dense: bool,
) -> None:
    torch.manual_seed(0)
    shapes = [(rows, sizes[0]) if shared else (ensemble, rows, sizes[0])]
    shapes += [(ensemble, *sizes), (ensemble, sizes[1]), (ensemble, rows, sizes[1])]
    tensors = [torch.randn(shape, dtype=torch.float64).to(dtype) for shape in shapes]
    if relu:
        # Whole numbers, and halves for the biases: no sum comes so near to 0 that its rounding
        # could turn a ReLU over, which would be an error of a whole gradient.
        tensors = [x.clamp(-2, 2).round() for x in tensors]
        tensors[2] = tensors[2] + 0.5
    if not dense:
        tensors = [torch.stack([x, x], -1)[..., 0] for x in tensors]

    def run(dtype: torch.dtype, native: bool) -> tuple[Tensor, ...]:
        *inputs, d_out = (x.to(dtype).detach() for x in tensors)
        x, weight, bias = (one.requires_grad_() for one in inputs)
        if native:
            out = torch.ops.iql_fast.stacked_linear(x, weight, bias, relu)
        else:
            out = torch.baddbmm(bias.unsqueeze(1), x.expand(ensemble, *x.shape[-2:]), weight)
            out = torch.relu(out) if relu else out
        return out.detach(), *torch.autograd.grad(out, [x, weight, bias], d_out)

    for ours, plain, truth in zip(
        run(dtype, True), run(dtype, False), run(torch.float64, False), strict=True
    ):
        assert ours.shape == truth.shape
        if truth.numel():
            # In fp64 the truth is a sum of up to 257 roundings itself.
            rounding = (20 if dtype == torch.float64 else 2) * EPSILON[dtype] * truth.abs().max()
            limit = 2 * (plain.double() - truth).abs().max() + rounding
            assert (ours.double() - truth).abs().max() <= limit


@needs_extension
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("shared", [True, False])
def test_gradients_of_a_layer(relu: bool, shared: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(*([] if shared else [2]), 5, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda *inputs: torch.ops.iql_fast.stacked_linear(*inputs, relu), (x, weight, bias)
    )


@needs_extension
def test_a_layer_keeps_nan_and_has_no_second_derivative() -> None:
    layer = torch.ops.iql_fast.stacked_linear
    weight, bias = torch.eye(3)[None].requires_grad_(), torch.zeros(1, 3, requires_grad=True)
    bad = torch.zeros(1, 3)
    bad[0, 0] = float("nan")
    assert layer(torch.zeros(2, 3), weight, bad, True).isnan().tolist() == [
        [[True, False, False]] * 2
    ]
    out = layer(torch.ones(2, 3), weight, bias, True)
    gradient = torch.autograd.grad((out**2).sum(), weight, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="derivative for iql_fast::stacked_linear_backward"):
        gradient.sum().backward()
    with pytest.raises(RuntimeError, match=r"\[rows, in\] or \[E, rows, in\]"):
        layer(torch.zeros(2, 4), weight, bias, True)
    with pytest.raises(RuntimeError, match="the bias has shape"):
        layer(torch.zeros(2, 3), weight, bias[0], True)


def layers_of(
    sizes: list[int], ensemble: int, dtype: torch.dtype = torch.float64
) -> tuple[list[Tensor], list[Tensor]]:
    """Weights and biases with gradients."""
    torch.manual_seed(1)
    pairs = list(itertools.pairwise(sizes))
    weights = [torch.randn(ensemble, i, o, dtype=dtype) / i**0.5 for i, o in pairs]
    biases = [torch.randn(ensemble, o, dtype=dtype) / 4 for _, o in pairs]
    return [w.requires_grad_() for w in weights], [b.requires_grad_() for b in biases]


def results_of(mlp: Any, x: Tensor, weights: list[Tensor], biases: list[Tensor]) -> list[Tensor]:
    """The outputs, and all gradients of their product with fixed numbers."""
    x = x.detach().requires_grad_()
    out = mlp(x, weights, biases)
    direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(2)).to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, [x, *weights, *biases], direction)]


@needs_extension
@pytest.mark.parametrize(
    ("ensemble", "rows", "sizes"),
    [
        (2, 256, [14, 64, 40, 1]),
        (1, 1100, [11, 33, 3]),  # more rows than the backward pass has in memory at a time
        (3, 17, [40, 7, 150, 9, 32]),
        (2, 5, [3, 8, 2]),
        (1, 20, [3, 8, 33]),  # a last layer that goes by panels, as hidden ones
        (2, 1100, [16, 70, 130]),
        (2, 300, [24, 40]),  # one layer
        (1, 1100, [40, 65]),
        (2, 0, [3, 8, 1]),
        (1, 2, [3, 4]),
    ],
)
@pytest.mark.parametrize("shared", [True, False])
def test_whole_networks_equal_their_layers(
    ensemble: int, rows: int, sizes: list[int], shared: bool
) -> None:
    weights, biases = layers_of(sizes, ensemble)
    x = torch.randn(*([] if shared else [ensemble]), rows, sizes[0], dtype=torch.float64)
    ours = results_of(torch.ops.iql_fast.stacked_mlp, x, weights, biases)
    theirs = results_of(plain_ops.stacked_mlp, x, weights, biases)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)
    with torch.no_grad():
        torch.testing.assert_close(torch.ops.iql_fast.stacked_mlp(x, weights, biases), theirs[0])


@needs_extension
@pytest.mark.parametrize("sizes", [[14, 256, 256, 1], [14, 256, 256]])
def test_networks_err_at_most_twice_as_much_as_torch(sizes: list[int]) -> None:
    weights, biases = layers_of(sizes, 2)
    x = torch.randn(256, 14, dtype=torch.float64)

    def run(mlp: Any, dtype: torch.dtype) -> list[Tensor]:
        cast = [[p.detach().to(dtype).requires_grad_() for p in ps] for ps in (weights, biases)]
        return results_of(mlp, x.to(dtype), *cast)

    truth = run(plain_ops.stacked_mlp, torch.float64)
    for ours, theirs, exact in zip(
        run(torch.ops.iql_fast.stacked_mlp, torch.float32),
        run(plain_ops.stacked_mlp, torch.float32),
        truth,
        strict=True,
    ):
        rounding = 2 * EPSILON[torch.float32] * exact.abs().max()
        assert (ours - exact).abs().max() <= 2 * (theirs - exact).abs().max() + rounding


@needs_extension
@pytest.mark.parametrize("sizes", [[14, 64, 65, 2], [14, 64, 65], [14, 65]])
def test_networks_do_not_depend_on_the_threads(sizes: list[int]) -> None:
    weights, biases = layers_of(sizes, 2, torch.float32)
    x = torch.randn(300, 14)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(results_of(torch.ops.iql_fast.stacked_mlp, x, weights, biases))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert torch.equal(a, b)


@needs_extension
def test_gradients_of_networks() -> None:
    mlp = torch.ops.iql_fast.stacked_mlp
    for sizes in ([3, 5, 4, 2], [3, 5, 35], [3, 35]):
        weights, biases = layers_of(sizes, 2)
        layers = len(weights)

        def of_all(x: Tensor, *p: Tensor, layers: int = layers) -> Tensor:
            return mlp(x, list(p[:layers]), list(p[layers:]))

        for shape in ((7, 3), (2, 7, 3)):
            x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
            assert torch.autograd.gradcheck(of_all, (x, *weights, *biases))
    # Of the input alone, as an actor's gradient goes through a critic.
    frozen = [[p.detach() for p in ps] for ps in (weights, biases)]
    assert torch.autograd.gradcheck(lambda x: mlp(x, *frozen), x)


@needs_extension
def test_networks_keep_nan_and_have_no_second_derivative() -> None:
    mlp = torch.ops.iql_fast.stacked_mlp
    for sizes in ([3, 40], [3, 8, 40], [3, 8, 1]):
        check_nan_and_second_derivative(mlp, *layers_of(sizes, 1))


def check_nan_and_second_derivative(mlp: Any, weights: list[Tensor], biases: list[Tensor]) -> None:
    x = torch.ones(20, 3, dtype=torch.float64)
    x[4, 1] = float("nan")
    assert mlp(x, weights, biases)[0, :, 0].isnan().tolist() == [i == 4 for i in range(20)]
    out = mlp(torch.ones_like(x), weights, biases)
    gradient = torch.autograd.grad((out**2).sum(), weights[0], create_graph=True)[0]
    with pytest.raises(RuntimeError, match="derivative for iql_fast::stacked_mlp_backward"):
        gradient.sum().backward()


@needs_extension
def test_networks_that_do_not_fit_are_refused() -> None:
    weights, biases = layers_of([3, 8, 1], 2)
    mlp = torch.ops.iql_fast.stacked_mlp
    x = torch.zeros(4, 3, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="2 weights and 1 biases"):
        mlp(x, weights, biases[:1])
    with pytest.raises(RuntimeError, match="layer 0 takes 3 numbers and is given 2"):
        mlp(x[:, :2], weights, biases)
    with pytest.raises(RuntimeError, match="layer 1 has a weight of shape"):
        mlp(x, weights, [biases[0], biases[1][:1]])
    with pytest.raises(RuntimeError, match="for 2 networks"):
        mlp(torch.zeros(3, 4, 3, dtype=torch.float64), weights, biases)
    with pytest.raises(RuntimeError, match="the same dtype and device"):
        mlp(x.float(), weights, biases)


def saved(module: nn.Module) -> Any:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def averaged(module: nn.Module) -> nn.Module:
    average = torch.optim.swa_utils.AveragedModel(module)
    for _ in range(3):
        average.update_parameters(module)
    return average


@NATIVE
@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net)), saved, averaged],
    ids=["deepcopy", "pickle", "torch.save", "AveragedModel"],
)
def test_a_copy_computes_the_same_with_weights_of_its_own(
    native: bool, copied: Callable[[nn.Module], Any]
) -> None:
    net, x = ops.EnsembleMLP(3, SIZES, native=native), torch.randn(17, 11)
    other = copied(net)
    before = net(x)
    torch.testing.assert_close(other(x), before)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert torch.equal(net(x), before)


def exported(net: nn.Module, x: Tensor, path: Path, dynamo: bool, rows: int) -> None:
    """An ONNX file, whose axis of the rows is free."""
    options: dict[str, Any] = (
        {"dynamic_shapes": {"x": {rows: "batch"}}}
        if dynamo
        else {"dynamic_axes": {"x": {rows: "batch"}}}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own
        torch.onnx.export(
            net, (x,), path, input_names=["x"], dynamo=dynamo, verbose=False, **options
        )


@NATIVE
@pytest.mark.parametrize("dynamo", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shared", [True, False])
def test_an_onnx_file_computes_the_same(
    native: bool, dynamo: bool, dtype: torch.dtype, shared: bool, tmp_path: Path
) -> None:
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    if dynamo:
        pytest.importorskip("onnxscript")
    net = ops.EnsembleMLP(3, SIZES, native=native).to(dtype)
    x = torch.randn(*([] if shared else [3]), 17, 11, dtype=dtype)
    exported(net, x, tmp_path / "net.onnx", dynamo, rows=0 if shared else 1)
    model = onnx.load(tmp_path / "net.onnx")
    onnx.checker.check_model(model)
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    session = runtime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    for rows in (17, 5):
        some = x[..., :rows, :]
        (out,) = session.run(None, {"x": some.numpy()})
        torch.testing.assert_close(torch.from_numpy(out), net(some).detach())


@NATIVE
def test_a_traced_network_needs_no_operator_of_this_package(native: bool) -> None:
    net, x = ops.EnsembleMLP(3, SIZES, native=native), torch.randn(17, 11)
    traced = torch.jit.trace(net, x)
    assert "iql_fast::" not in str(traced.inlined_graph)
    torch.testing.assert_close(traced(x[:5]), net(x[:5]))


@NATIVE
@DEVICES
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_under_autocast_it_computes_in_its_dtype(
    native: bool, device: str, dtype: torch.dtype
) -> None:
    plain = [net.to(device) for net in plain_networks()]
    net = ops.EnsembleMLP.from_sequentials(plain, native=native)
    x = torch.randn(17, 11, device=device)
    with torch.autocast(device, dtype=dtype):
        out = net(x)
        theirs = torch.stack([one(x) for one in plain])
    assert out.dtype == theirs.dtype == dtype
    torch.testing.assert_close(out.float(), net(x), rtol=0.02, atol=0.02)
    out.float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in net.parameters())


@NATIVE
def test_in_half_precision(native: bool) -> None:
    net, x = ops.EnsembleMLP(3, SIZES, native=native), torch.randn(17, 11)
    expected = net(x)
    out = copy.deepcopy(net).half()(x.half())
    assert out.dtype == torch.float16
    torch.testing.assert_close(out.float(), expected, rtol=0.01, atol=0.01)
