"""EnsembleMLP against the plain networks that it stands for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from iql_fast import ops
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
    for net, copy in zip(plain, ensemble.to_sequentials(), strict=True):
        for a, b in zip(net.parameters(), copy.parameters(), strict=True):
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
