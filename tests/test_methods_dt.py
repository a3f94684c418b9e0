"""The Decision Transformer against an independent statement of its step and its windows."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench import method_flops
from iql_fast.engines.sequence import SequenceEngine
from iql_fast.formulas import philox
from iql_fast.methods.dt import DT
from iql_fast.support.errors import NonFiniteLoss

from .conftest import random_transitions
from .plain_nets import BETA1, BETA2, EPSILON, assert_close_in_size, assert_equal, trained

#: Shorter and longer than the context.
LENGTHS = (1, 9, 3, 5, 2, 12)
SMALL = dict(batch_size=6, context=4, layers=2, heads=2, width=8, warmup_steps=6, longest=10)


def trajectories(lengths=LENGTHS, obs_dim=5, act_dim=2):
    rows = random_transitions(sum(lengths), obs_dim, act_dim)
    togo = [rows.rewards[end - n : end][::-1].cumsum()[::-1]
            for n, end in zip(lengths, np.cumsum(lengths), strict=True)]  # fmt: skip
    times = np.concatenate([np.arange(n, dtype=np.float32) for n in lengths])
    return replace(rows, returns_to_go=np.concatenate(togo), times=times)


def engine(seeds, precision="fp32", native=False, data=None, **settings):
    method = DT(**(SMALL | settings))
    return SequenceEngine(method, data or trajectories(), seeds, precision, native=native)


class Plain:
    """The authors' step of one seed, written anew: each row alone, over the steps that it has, all
    tokens, a query at a time; AdamW by hand.

    Attributes:
        clipped: whether the gradient was cut, at each step.
    """

    def __init__(self, state, index, method):
        self.p = {key: x[index].clone() for key, x in state.items() if key != "step"}
        self.m, self.t, self.clipped = method, 0, []

    def of(self, name):
        return self.p[f"actor.{name}.weight"], self.p[f"actor.{name}.bias"]

    def linear(self, name, x):
        weight, bias = self.of(name)
        return (weight @ x.T).T + bias

    def norm(self, name, x):
        weight, bias = self.of(name)
        mean = x.mean(1, keepdim=True)
        variance = (x * x).mean(1, keepdim=True) - mean * mean
        return (x - mean) / (variance + 1e-5).sqrt() * weight + bias

    def row(self, states, actions, togo, times, factors):
        """Actions of one row, of as many steps as it has."""
        m, steps = self.m, len(times)
        size = m.width // m.heads

        def dropped(x, which, tokens):
            """Dropped as the engine does, where it computes; what it leaves out is left whole."""
            if factors is None:
                return x
            whole = torch.ones_like(x)
            own = factors[which]
            whole[tokens] = own[len(own) - len(tokens) :]
            return x * whole

        tokens = []
        for k in range(steps):
            time = self.p["actor.time.weight"][times[k]]
            for kind, value in (("return", togo[k, None]), ("state", states[k]),
                                ("action", actions[k])):  # fmt: skip
                tokens.append(self.linear(kind, value[None])[0] + time)
        x = self.norm("embedded", torch.stack(tokens))
        count = 3 * steps
        computed = list(range(count - 1))
        x = dropped(x, 0, computed)
        for i in range(m.layers):
            if i == m.layers - 1:
                computed = list(range(1, count, 3))
            read = self.norm(f"blocks.{i}.attended", x)
            q = self.linear(f"blocks.{i}.query", read)
            both = self.linear(f"blocks.{i}.key_value", read)
            mixed = torch.zeros_like(x)
            for h, j in itertools.product(range(m.heads), range(count)):
                own = slice(h * size, (h + 1) * size)
                keys, values = both[: j + 1, own], both[: j + 1, m.width :][:, own]
                scores = (keys @ q[j, own]) / math.sqrt(size)
                weights = (scores - scores.max()).exp()
                weights = weights / weights.sum()
                if factors is not None and j in computed:
                    factor = factors[1 + 3 * i][h]  # [queries, keys], those of padding first
                    at = len(factor) - len(computed) + computed.index(j)
                    first = factor.shape[1] - (count - 1)
                    weights = weights * factor[at, first : first + j + 1]
                mixed[j, own] = weights @ values
            x = x + dropped(self.linear(f"blocks.{i}.mixed", mixed), 2 + 3 * i, computed)
            hidden = self.linear(f"blocks.{i}.expand", self.norm(f"blocks.{i}.thought", x))
            hidden = torch.where(hidden > 0, hidden, 0)
            x = x + dropped(self.linear(f"blocks.{i}.contract", hidden), 3 + 3 * i, computed)
        return torch.tanh(self.linear("head", self.norm("final", x[1::3])))

    def step(self, windows, factors):
        names = [key for key in self.p if not key.startswith("adam")]
        for key in names:
            self.p[key] = self.p[key].detach().requires_grad_()
        errors = []
        for b in range(len(windows.masks)):
            own = windows.masks[b] > 0
            columns = (windows.observations, windows.actions, windows.returns_to_go, windows.times)
            states, actions, togo, times = (column[b][own] for column in columns)
            factor = None if factors is None else [f[b] for f in factors]
            errors.append((self.row(states, actions, togo, times, factor) - actions) ** 2)
        loss = torch.cat(errors).mean()
        gradients = torch.autograd.grad(loss, [self.p[key] for key in names])
        norm = math.sqrt(sum(float((g**2).sum()) for g in gradients))
        self.clipped.append(norm > self.m.clip_norm)
        share = min(1.0, self.m.clip_norm / (norm + 1e-6))
        rate = self.m.actor_lr * min(1.0, (self.t + 1) / self.m.warmup_steps)
        self.t += 1
        for key, g in zip(names, gradients, strict=True):
            g = g * share
            x = self.p[key].detach() * (1 - rate * self.m.weight_decay)
            m = self.p[f"adam.m.{key}"] = BETA1 * self.p[f"adam.m.{key}"] + (1 - BETA1) * g
            v = self.p[f"adam.v.{key}"] = BETA2 * self.p[f"adam.v.{key}"] + (1 - BETA2) * g * g
            m_hat, v_hat = m / (1 - BETA1**self.t), v / (1 - BETA2**self.t)
            self.p[key] = x - rate * m_hat / (v_hat.sqrt() + EPSILON)
        return loss.item(), norm


@pytest.mark.parametrize(
    ("settings", "clipped"),
    [
        (dict(actor_dropout=0.3, clip_norm=0.05), {True}),
        (dict(actor_dropout=0.0, clip_norm=100.0), {False}),
        (dict(actor_dropout=0.1, clip_norm=0.7, heads=1, layers=1), {True, False}),
    ],
)
def test_steps_equal_an_independent_statement(settings, clipped):
    # A rate and a decay that move every parameter visibly within ten steps.
    one = engine([3, 4], "fp64", actor_lr=0.01, weight_decay=0.1, **settings)
    plain = [Plain(one.state_dict(), s, one.method) for s in (0, 1)]
    padded = []
    for k in range(10):
        windows = one.batch_at(k)
        padded.append(1 - windows.masks)
        factors = [one.kept(s, k) for s in (0, 1)]
        metrics = one.step_on(windows)
        state = one.state_dict()
        for s, nets in enumerate(plain):
            loss, norm = nets.step(windows.of_seed(s), factors[s])
            np.testing.assert_allclose(metrics["actor_loss"][s], loss, 1e-9, 1e-9)
            np.testing.assert_allclose(metrics["gradient_norm"][s], norm, 1e-9, 1e-9)
            assert state.keys() - {"step"} == nets.p.keys()
            for name, tensor in nets.p.items():
                difference = (state[name][s] - tensor).abs() / tensor.abs().clamp_min(1)
                assert difference.max() < 1e-9, (k, s, name)
    assert set(plain[0].clipped) | set(plain[1].clipped) == clipped
    assert 0.1 < torch.cat(padded).mean() < 0.9
    assert one.state_dict()["step"] == 10


def authors_window(data, row, method):
    """The window that begins at a row, as the authors' ``get_batch`` makes it."""
    start, last, k = row - int(data.times[row]), row, method.context
    while last + 1 < len(data.times) and data.times[last + 1] > 0:
        last += 1
    trajectory, begin = slice(start, last + 1), row - start
    s = data.observations[trajectory][begin : begin + k]
    a = data.actions[trajectory][begin : begin + k]
    rewards = data.rewards[trajectory]
    togo = np.array([rewards[begin + i :].sum() for i in range(len(s))])
    times = np.arange(begin, begin + len(s))
    times[times >= method.longest] = method.longest - 1
    pad = k - len(s)
    return (
        np.concatenate([np.zeros((pad, s.shape[1])), s]),
        np.concatenate([np.full((pad, a.shape[1]), -10.0), a]),
        np.concatenate([np.zeros(pad), togo / method.return_scale]),
        np.concatenate([np.zeros(pad, int), times]),
        np.concatenate([np.zeros(pad), np.ones(len(s))]),
    )


def test_windows_are_the_authors():
    data = trajectories()
    one = engine([3, 9], data=data, return_scale=7.0)
    rows = torch.arange(len(data))[None]
    for windows, begins in [
        (one.batches.beginning_at(rows), rows),
        (one.batch_at(21), np.stack([philox.batch_rows(s, 21, 6, len(data)) for s in (3, 9)])),
    ]:
        for s, b in itertools.product(range(len(begins)), range(len(begins[0]))):
            expected = authors_window(data, int(begins[s][b]), one.method)
            for name, column in zip(vars(windows), expected, strict=True):
                found = getattr(windows, name)[s, b].numpy()
                np.testing.assert_allclose(found, column, 1e-5, 1e-6, err_msg=name)
    assert int(one.batches.beginning_at(torch.arange(len(data))[None]).times.max()) == 9


def test_padding_is_read_by_nothing():
    one = engine([3], "fp64")
    windows = one.batch_at(0).of_seed(0)
    missing = windows.masks == 0
    assert missing.any()
    columns = {}
    for name in ("observations", "actions", "returns_to_go", "times"):
        column = getattr(windows, name).clone()
        column[missing] = 7
        columns[name] = column
    leaves = one.learners[0].leaves
    found = []
    for given in (windows, replace(windows, **columns)):
        loss = one.method.loss(leaves, given, iter(one.kept(0, 0)))
        found.append([loss, *torch.autograd.grad(loss, leaves.values())])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a.detach(), b.detach(), rtol=0, atol=1e-15)
    assert all(bool(torch.isfinite(x).all()) for x in found[0])


@pytest.mark.parametrize("native", [False, True])
def test_a_seed_does_not_depend_on_the_others(native):
    alone, three = (trained(engine(seeds, native=native), 5) for seeds in ([3], [3, 4, 5]))
    assert_equal(alone, three, seed=0)
    assert not torch.equal(*three.state_dict()["actor.head.weight"][:2])


@pytest.mark.parametrize("native", [False, True])
def test_a_run_goes_on_where_its_state_left_it(native):
    whole = engine([3, 4], native=native)
    whole.run(9)
    first, second = (engine([3, 4], native=native) for _ in range(2))
    first.run(4)
    second.load_state_dict(first.state_dict())
    second.run(5)
    assert_equal(second, whole)
    state = whole.state_dict()
    del state["adam.v.actor.head.bias"]
    with pytest.raises(ValueError, match="the state has no 'adam"):
        second.load_state_dict(state)


def test_engines_agree():
    plain, fused = (engine([3, 4], native=native) for native in (False, True))
    assert (plain.name, fused.name) == ("reference", "graph")
    for one in (plain, fused):
        one.run(5)
    assert_close_in_size(fused, plain, 1e-5)


def test_a_step_is_on_one_device():
    """Another than the CPU; one without values, which any build of torch has."""
    method = DT(**SMALL)
    on = SequenceEngine(method, trajectories(), [3, 4], native=True, device="meta")
    on._step(on.batch_at(0), given=False)
    for _, tensors in on._state():
        assert all(tensor.device.type == "meta" for tensor in tensors)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_device_computes_the_same():
    plain = engine([3, 4])
    on = SequenceEngine(DT(**SMALL), trajectories(), [3, 4], native=True, device="cuda")
    for each in (plain, on):
        each.run(12)
    assert_close_in_size(on, plain, 1e-4)


def test_it_begins_as_the_authors_networks():
    one = engine([3], context=20, heads=1, layers=3, width=128, longest=1000)
    state = {name: x[0].double() for name, x in one.state_dict().items() if name != "step"}
    names = itertools.product(range(3), ("query", "key_value", "mixed", "expand", "contract"))
    within = torch.cat([state[f"actor.blocks.{i}.{name}.weight"].flatten() for i, name in names])
    assert float(within.std()) == pytest.approx(0.02, rel=0.02)
    assert float(state["actor.time.weight"].std()) == pytest.approx(1, rel=0.02)
    for name, inputs in (("return", 1), ("state", 5), ("action", 2), ("head", 128)):
        for part in ("weight", "bias"):
            largest = float(state[f"actor.{name}.{part}"].abs().max())
            assert largest <= 1 / math.sqrt(inputs)
        assert state[f"actor.{name}.weight"].abs().max() > 0.8 / math.sqrt(inputs)
    assert not state["actor.blocks.1.expand.bias"].any()
    assert bool((state["actor.final.weight"] == 1).all())
    assert not any(x.any() for name, x in state.items() if name.startswith("adam"))


def test_dropout_is_a_function_of_seed_step_and_place():
    """The same in both engines, and independent otherwise."""
    settings = dict(actor_dropout=0.25, batch_size=200)
    plain, fused = (engine([3, 4], native=native, **settings) for native in (False, True))
    drawn = plain.kept(0, 7)
    shapes = [(200, *shape) for shape in plain.method.dropped()]
    assert [tuple(part.shape) for part in drawn] == shapes
    for part, other in zip(drawn, fused.kept(0, 7), strict=True):
        assert torch.equal(part, other)
        assert set(part.unique().tolist()) == {0.0, float(np.float32(1 / 0.75))}
        assert float((part == 0).float().mean()) == pytest.approx(0.25, abs=0.02)
    first = drawn[0].flatten()
    for other in (plain.kept(1, 7)[0], plain.kept(0, 8)[0], drawn[3]):
        both = min(first.numel(), other.numel())
        share = ((other.flatten()[:both] == 0) & (first[:both] == 0)).float().mean()
        assert float(share) == pytest.approx(0.0625, abs=0.015)


def test_it_learns():
    """Actions that depend on what is asked for: of two behaviours, that of the higher return."""
    rng = np.random.default_rng(0)
    lengths = [5] * 80
    good = np.repeat(rng.random(80) < 0.5, 5)
    observations = rng.standard_normal((400, 3)).astype(np.float32)
    actions = np.tanh(observations[:, :1] * np.where(good, 1, -1)[:, None]).astype(np.float32)
    data = trajectories(lengths, 3, 1)
    togo = np.where(good, 1.0, -1.0).astype(np.float32) * (5 - data.times)
    data = replace(data, observations=observations, actions=actions, returns_to_go=togo)
    one = engine([0], "fp32", True, data, width=32, batch_size=32, warmup_steps=10,
                 actor_lr=3e-3, actor_dropout=0.0, context=3)  # fmt: skip
    first = one.run(5)["actor_loss"][0]
    one.run(150)
    assert one.run(10)["actor_loss"][0] < 0.1 * first
    policy = one.policy(0)
    rows = observations[:50]
    for target in (5.0, -5.0):
        chosen = policy.asked_for(target).played(50).act(rows)[:, 0]
        assert np.corrcoef(chosen, np.sign(target) * rows[:, 0])[0, 1] > 0.9


def test_a_loss_that_is_not_finite_is_told():
    data = trajectories()
    data.returns_to_go[:] = np.inf
    one = SequenceEngine(DT(**SMALL, return_scale=1.0, target_return=1.0), data, [5], native=True)
    with pytest.raises(NonFiniteLoss, match=r"actor loss of seed 5 .* to go max inf"):
        one.run(20)


def test_a_step_does_no_product_in_vain():
    """Each layer's product, its gradient for the weights and, but for those of the data, for the
    inputs; scores and their sums likewise."""
    m = DT(batch_size=3, context=4, layers=3, heads=2, width=8, longest=10)
    one = SequenceEngine(m, trajectories(), [0])
    steps, tokens, width = m.context, 3 * m.context - 1, m.width

    def layer(at, inputs, outputs, passes=3):
        return 2 * passes * m.batch_size * at * inputs * outputs

    needed = sum(layer(steps, inputs, width, 2) for inputs in (1, 5, 2))
    for i in range(m.layers):
        at = steps if i == m.layers - 1 else tokens
        needed += 2 * layer(at, width, width) + layer(tokens, width, 2 * width)
        needed += 2 * layer(at, width, 4 * width) + 2 * layer(at, width, tokens)
    needed += layer(steps, width, 2)
    with FlopCounterMode(display=False) as counter:
        one.run(1)
    assert counter.get_total_flops() == needed == method_flops.needed(m, 5, 2)
