"""ABM against an independent statement of its step, and what every method holds."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from iql_fast.engines.generic import GenericEngine
from iql_fast.methods.abm import ABM

from .conftest import random_transitions
from .plain_nets import PlainNets, assert_close, assert_equal, assert_steps_agree, trained

SMALL = dict(batch_size=12, samples=5, hidden=(16, 14))  # fmt: skip
TARGETS = pytest.mark.parametrize("copy_every", [0, 4])
TWO = dict(
    discount=(0.99, 0.9),
    polyak=(0.005, 0.1),
    weight_bound=(0.1, 0.5),
    kl_bound=(0.01, 0.1),
    critic_lr=(1e-3, 3e-3),
    prior_lr=(1e-3, 2e-3),
    actor_lr=(1e-3, 5e-3),
    dual_lr=(1e-2, 3e-2),
)


def engine(seeds, copy_every, precision="fp32", native=False, **settings):
    method = ABM(**(SMALL | settings), copy_every=copy_every, initial_multiplier=2.0)
    return GenericEngine(method, random_transitions(200, 5, 2), seeds, precision, native=native)


class PlainABM(PlainNets):
    """The step written anew, with torch's distributions and a loop over samples."""

    def __init__(self, state, seed_index, copy_every):
        super().__init__(state, seed_index)
        self.h = {name: values[seed_index] for name, values in TWO.items()}
        self.copy_every = copy_every

    def policy(self, net, s):
        out = self.mlp(net, s)
        half = out.shape[1] // 2
        return Normal(torch.tanh(out[:, :half]), (-2.5 + 2.5 * torch.tanh(out[:, half:])).exp())

    def sample(self, net, s, noises):
        of = self.policy(net, s)
        samples = [of.mean.detach() + of.stddev.detach() * noise for noise in noises]
        for x in samples:
            self.note("action clipped", x.abs() > 1)
        return [torch.where(x.abs() > 1, torch.sign(x), x) for x in samples]

    def slow_q(self, s, a):
        return self.mlp("target", torch.cat([s, a], 1))[:, 0]

    def value(self, s, noises):
        samples = self.sample("actor_target", s, noises)
        return sum(self.slow_q(s, x) for x in samples) / len(samples)

    def step(self, k, rows, draw):
        h = self.h
        s, a, s_next = rows["observations"], rows["actions"], rows["next_observations"]

        bootstrap = h["discount"] * rows["masks"] * self.value(s_next, draw("next"))
        y = rows["rewards"] + bootstrap
        good = y >= self.value(s, draw("now"))
        self.note("accepted", good)
        self.track("critic", "prior")
        q = self.mlp("critic", torch.cat([s, a], 1))[:, 0]
        likelihood = self.policy("prior", s).log_prob(a).sum(1)
        prior_loss = -likelihood[good].sum() / len(s)
        self.adam("critic", ((q - y) ** 2).mean(), h["critic_lr"], "critic")
        self.adam("prior", prior_loss, h["prior_lr"], "prior")

        samples = self.sample("prior", s, draw("prior"))
        qs = torch.stack([self.slow_q(s, x) for x in samples])
        self.track("temperature", "multiplier", "actor")
        eta = torch.log1p(torch.exp(self.p["temperature"])) + 1e-8
        dual = eta * h["weight_bound"] + eta * torch.log(torch.exp(qs / eta).mean(0)).mean()
        weights = torch.exp(qs / eta.detach())
        weights = weights / weights.sum(0)

        pi, old = self.policy("actor", s), self.policy("actor_target", s)
        terms = [w * pi.log_prob(x).sum(1) for w, x in zip(weights, samples, strict=True)]
        kl = kl_divergence(old, pi).sum(1).mean()
        if kl > 0:
            self.seen.add("policy away from its target")
        multiplier = torch.log1p(torch.exp(self.p["multiplier"]))
        actor_loss = multiplier.detach() * kl - sum(terms).mean()
        multiplier_loss = multiplier * (h["kl_bound"] - kl.detach())
        self.adam("temperature", dual, h["dual_lr"], "temperature")
        self.adam("actor", actor_loss, h["actor_lr"], "actor")
        self.adam("multiplier", multiplier_loss, h["dual_lr"], "multiplier")

        if not self.copy_every or k in (3, 7):
            share = 1 if self.copy_every else h["polyak"]
            self.blend("critic", "target", share)
            self.blend("actor", "actor_target", share)
        self.losses |= {
            "q": q.mean().item(),
            "target_q": y.mean().item(),
            "accepted": good.double().mean().item(),
            "temperature": eta.item(),
            "multiplier": multiplier.item(),
            "kl": kl.item(),
        }


@pytest.mark.parametrize("native", [False, True])
@TARGETS
def test_steps_equal_an_independent_statement(copy_every, native):
    both = engine([3, 4], copy_every, "fp64", native, **TWO)
    state = both.state_dict()
    for net in ("prior", "actor", "actor_target"):  # means near the bounds of actions
        state[f"{net}.layers.2.weight"] *= 10
    both.load_state_dict(state)
    seen = assert_steps_agree(both, lambda *of: PlainABM(*of, copy_every), 10)
    assert seen == {"action clipped", "accepted", "policy away from its target"}


@TARGETS
def test_operators_equal_plain_torch(copy_every):
    plain, native = (
        trained(engine([3, 4], copy_every, "fp64", x, **TWO), 10) for x in (False, True)
    )
    assert_close(plain, native)


@TARGETS
def test_a_seed_does_not_depend_on_the_others(copy_every):
    """With the operators: torch's own products round otherwise for one seed."""
    alone, three = (
        trained(engine(seeds, copy_every, native=True), 5) for seeds in ([3], [3, 4, 5])
    )
    assert_equal(alone, three, seed=0)


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("left", [3, 4])
@TARGETS
def test_a_run_goes_on_where_its_state_left_it(copy_every, left, native):
    whole = trained(engine([3, 4], copy_every, native=native, **TWO), 9)
    first = trained(engine([3, 4], copy_every, native=native, **TWO), left)
    second = engine([3, 4], copy_every, native=native, **TWO)
    second.load_state_dict(first.state_dict())
    assert_equal(trained(second, 9 - left), whole)


def test_the_temperature_keeps_the_weights_divergence_at_its_bound():
    """At the least of its dual the divergence of the weights from equal ones is the bound; here
    for values that stay as they are."""
    rates = dict(prior_lr=1e-12, dual_lr=0.1)  # fmt: skip
    one = engine([3], 1000, "fp64", native=True, weight_bound=0.3, **rates)
    state = one.state_dict()
    state["target.layers.2.weight"] *= 20
    one.load_state_dict(state)
    batch = one.batch_at(0)
    one.on.begin(0, batch)
    draws = {name: one.on.draw(name) for name in ("next", "now", "prior")}
    one.on.draw = draws.__getitem__
    for _ in range(120):
        metrics = one.step_on(batch)
    with torch.no_grad():
        nets = PlainABM(one.state_dict(), 0, 0)
        s = batch.observations[0]
        samples = nets.sample("prior", s, draws["prior"][0])
        qs = torch.stack([nets.slow_q(s, x) for x in samples])
        weight = torch.softmax(qs / metrics["temperature"][0], 0)
    divergence = (weight * torch.log(weight * len(weight))).sum(0).mean()
    assert float(divergence) == pytest.approx(0.3, abs=0.003)
