"""One seed's networks in plain torch, a layer at a time, with Adam by hand: what independent
statements of the methods are written in, and how an engine is compared with one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


class PlainNets:
    """Tensors ``{name: tensor}`` of a seed, with the names of ``Engine.state_dict``.

    Attributes:
        losses: what the last step recorded, by name.
        seen: branches that were taken in any step.
    """

    def __init__(self, state, seed_index):
        self.p = {key: x[seed_index].clone() for key, x in state.items() if key != "step"}
        self.counts, self.losses, self.seen = {}, {}, set()

    def mlp(self, net, x, e=None):
        layers = sum(key.startswith(f"{net}.layers.") for key in self.p) // 2
        for i in range(layers):
            weight, bias = (self.p[f"{net}.layers.{i}.{part}"] for part in ("weight", "bias"))
            weight, bias = (weight, bias) if e is None else (weight[e], bias[e])
            x = (weight @ x.T).T + bias
            x = x if i == layers - 1 else torch.where(x > 0, x, 0)
        return x

    def of(self, *nets):
        """Names of all that networks, or a scalar, train."""
        return [key for key in self.p for net in nets if key == net or key.startswith(f"{net}.")]

    def track(self, *nets):
        """Have autograd follow networks from here on."""
        for key in self.of(*nets):
            self.p[key] = self.p[key].detach().requires_grad_()

    def adam(self, name, loss, rate, *nets):
        """A step of networks, which all train on a loss."""
        self.losses[f"{name}_loss"] = loss.item()
        t = self.counts[name] = self.counts.get(name, 0) + 1
        keys = self.of(*nets)
        for key, g in zip(keys, torch.autograd.grad(loss, [self.p[k] for k in keys]), strict=True):
            m = self.p[f"adam.m.{key}"] = BETA1 * self.p[f"adam.m.{key}"] + (1 - BETA1) * g
            v = self.p[f"adam.v.{key}"] = BETA2 * self.p[f"adam.v.{key}"] + (1 - BETA2) * g * g
            m_hat, v_hat = m / (1 - BETA1**t), v / (1 - BETA2**t)
            self.p[key] = self.p[key].detach() - rate * m_hat / (v_hat.sqrt() + EPSILON)

    def blend(self, net, target, share):
        """A share of a network into its target."""
        for key in self.of(net):
            slow = target + key.removeprefix(net)
            self.p[slow] = share * self.p[key].detach() + (1 - share) * self.p[slow]

    def note(self, name, condition):
        """A branch was taken by some rows, and not by all."""
        if bool(condition.any()) and not bool(condition.all()):
            self.seen.add(name)


def batch_of(engine, step):
    """An engine's batch at a step; with random next actions, where its method needs them."""
    batch = engine.batch_at(step)
    if "next_actions" not in engine.method.needs:
        return batch
    shape = batch.actions.shape[1:]
    drawn = [np.random.default_rng((seed, step)).uniform(-1, 1, shape) for seed in engine.seeds]
    return replace(batch, next_actions=torch.from_numpy(np.stack(drawn)).to(batch.actions.dtype))


def trained(engine, steps):
    """The engine after so many more steps."""
    for _ in range(steps):
        engine.step_on(batch_of(engine, engine.step))
    return engine


def assert_steps_agree(engine, plain, steps):
    """Steps of an engine and of its method's independent statement, on equal batches and draws:
    every tensor of the state and everything recorded, within 1e-9.

    Args:
        plain: makes a ``PlainNets`` of a state and a seed's index, whose ``step(k, rows, draw)``
            takes a seed's columns and its draws by name.

    Returns:
        What the ``PlainNets`` have seen, all together.
    """
    seeds = [plain(engine.state_dict(), s) for s in range(len(engine.seeds))]
    masks = []
    for k in range(steps):
        batch = batch_of(engine, k)
        metrics = engine.step_on(batch)
        state = engine.state_dict()
        masks.append(batch.masks)
        for s, nets in enumerate(seeds):
            rows = {name: column[s] for name, column in batch.columns().items()}
            nets.losses = {}
            nets.step(k, rows, lambda name, s=s: engine.on.draw(name)[s])
            recorded = {name: x[s] for name, x in metrics.items() if np.isfinite(x[s])}
            assert recorded.keys() == nets.losses.keys(), k
            for name, value in recorded.items():
                np.testing.assert_allclose(value, nets.losses[name], 1e-9, 1e-9, err_msg=name)
            assert state.keys() - {"step"} == nets.p.keys()
            for name, tensor in nets.p.items():
                difference = (state[name][s] - tensor).abs() / tensor.abs().clamp_min(1)
                assert difference.max() < 1e-9, (k, s, name)
    assert 0 < torch.cat(masks).mean() < 1  # there were terminal rows, and others
    return set().union(*(nets.seen for nets in seeds))


def assert_equal(first, second, seed=None):
    """Two engines' states, bit for bit: all of them, or a seed that is the first of both."""
    others = second.state_dict()
    for name, tensor in first.state_dict().items():
        if seed is not None and name != "step":
            assert torch.equal(tensor[seed], others[name][seed]), name
        else:
            assert torch.equal(tensor, others[name]), name


def assert_close(first, second):
    """The states of two engines within 1e-9, entry by entry."""
    state, others = first.state_dict(), second.state_dict()
    assert state.keys() == others.keys()
    for name, tensor in state.items():
        np.testing.assert_allclose(tensor, others[name], 1e-9, 1e-9, err_msg=name)


def assert_close_in_size(first, second, tolerance):
    """Every tensor of two engines, relative to its largest value or to 1 where that is less: small
    entries of a tensor are sums of large ones, whose rounding they have."""
    state, others = first.state_dict(), second.state_dict()
    assert state.keys() == others.keys()
    for name, tensor in state.items():
        difference = (tensor - others[name]).abs().max() / others[name].abs().max().clamp_min(1)
        assert difference <= tolerance, name
