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
@pytest.mark.parametrize("shape", [(7, 300), (3, 5, 17), (2, 3, 4, 5), (3, 0, 5), (0, 4)], ids=str)
@pytest.mark.parametrize("dense", [True, False])
def test_bias_relu_errs_at_most_twice_as_much_as_torch(
    dtype: torch.dtype, shape: tuple[int, ...], dense: bool
) -> None:
    torch.manual_seed(0)
    stacked = [shape[0]] if len(shape) > 2 else []
    x = torch.randn(shape, dtype=torch.float64).to(dtype)
    x = x if dense else torch.stack([x, x], -1)[..., 0]
    bias = torch.randn(*stacked, shape[-1], dtype=torch.float64).to(dtype)
    d_out = torch.randn(shape, dtype=torch.float64).to(dtype)

    def run(dtype: torch.dtype, native: bool) -> tuple[Tensor, ...]:
        inputs = [x.to(dtype).requires_grad_(), bias.to(dtype).requires_grad_()]
        if native:
            out = torch.ops.iql_fast.bias_relu(*inputs)
        else:
            out = torch.relu(
                inputs[0]
                + inputs[1].view(*stacked, *[1] * (len(shape) - 2 if stacked else 0), shape[-1])
            )
        return out.detach(), *torch.autograd.grad(out, inputs, d_out.to(dtype))

    for ours, plain, truth in zip(
        run(dtype, True), run(dtype, False), run(torch.float64, False), strict=True
    ):
        assert ours.shape == truth.shape
        if truth.numel():
            rounding = EPSILON[dtype] * truth.abs().max()
            limit = 2 * (plain.double() - truth).abs().max() + rounding
            assert (ours.double() - truth).abs().max() <= limit


@needs_extension
def test_bias_relu_keeps_nan_and_has_no_second_derivative() -> None:
    x = torch.tensor([[float("nan"), -1.0, 1.0]], requires_grad=True)
    bias = torch.zeros(3, requires_grad=True)
    out = torch.ops.iql_fast.bias_relu(x, bias)
    assert out.isnan().tolist() == [[True, False, False]]
    gradient = torch.autograd.grad(out[0, 2] ** 2, x, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="derivative for iql_fast::bias_relu_backward"):
        gradient.sum().backward()
    with pytest.raises(RuntimeError, match="the bias must be"):
        torch.ops.iql_fast.bias_relu(torch.zeros(2, 3), torch.zeros(2))
