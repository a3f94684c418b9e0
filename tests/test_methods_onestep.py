"""Onestep RL against an independent statement of its step, and what every method holds; through
its phases and across their borders."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.distributions import Normal

from iql_fast.engines.generic import GenericEngine
from iql_fast.methods.onestep import Onestep

from .conftest import random_transitions
from .plain_nets import PlainNets, assert_close, assert_equal, assert_steps_agree, batch_of, trained

IMPROVEMENTS = ("reverse_kl", "exp_weight", "easy_bcq")
#: Three phases within ten steps; the second is odd, so that its targets' steps are its own.
PHASES = dict(beta_steps=3, q_steps=4)  # fmt: skip
SMALL = dict(batch_size=12, samples=4, hidden=(16, 14), **PHASES)  # fmt: skip
TWO = dict(
    discount=(0.99, 0.9),
    polyak=(0.005, 0.1),
    alpha=(1.0, 0.3),
    temperature=(3.0, 30.0),
    weight_clip=(100.0, 1.5),
    beta_lr=(1e-3, 3e-3),
    critic_lr=(1e-3, 2e-3),
    actor_lr=(1e-3, 5e-3),
)


def engine(seeds, improvement, precision="fp32", native=False, **settings):
    method = Onestep(**(SMALL | settings), improvement=improvement)
    data = random_transitions(200, 5, 2)
    # Some actions at the bounds of a float, as where a dataset is clipped to +-(1 - 1e-5).
    data.actions[::3] = 1 - 1e-5
    return GenericEngine(method, data, seeds, precision, native=native)


class PlainOnestep(PlainNets):
    """The authors' three steps, written anew with torch's distributions."""

    def __init__(self, state, seed_index, improvement):
        super().__init__(state, seed_index)
        self.h = {name: values[seed_index] for name, values in TWO.items()}
        self.improvement = improvement

    def policy(self, net, s):
        out = self.mlp(net, s)
        half = out.shape[1] // 2
        return Normal(torch.tanh(out[:, :half]), (-2.5 + 2.5 * torch.tanh(out[:, half:])).exp())

    def q(self, net, s, a):
        return self.mlp(net, torch.cat([s, a], 1))[:, 0]

    def step(self, k, rows, draw):
        if k < 3:
            self.clone(rows)
        elif k < 7 or self.improvement == "easy_bcq":
            self.evaluate(k - 3, rows)
        else:
            if k == 7:
                for key in self.of("beta"):
                    self.p["actor" + key.removeprefix("beta")] = self.p[key].clone()
            self.track("actor")
            loss = getattr(self, self.improvement)(rows["observations"], rows["actions"], draw)
            self.adam("actor", loss, self.h["actor_lr"], "actor")

    def clone(self, rows):
        self.track("beta")
        likelihood = self.policy("beta", rows["observations"]).log_prob(rows["actions"])
        self.adam("beta", -likelihood.sum(1).mean(), self.h["beta_lr"], "beta")

    def evaluate(self, done, rows):
        s, s_next = rows["observations"], rows["next_observations"]
        q_next = self.q("target", s_next, rows["next_actions"])
        y = rows["rewards"] + self.h["discount"] * rows["masks"] * q_next
        self.track("critic")
        q = self.q("critic", s, rows["actions"])
        self.adam("critic", ((q - y) ** 2).mean(), self.h["critic_lr"], "critic")
        if done % 2 == 1:
            self.blend("critic", "target", self.h["polyak"])
            self.seen.add("target moved")
        self.losses |= {"q": q.mean().item(), "target_q": y.mean().item()}

    def reverse_kl(self, s, a, draw):
        pi, beta = self.policy("actor", s), self.policy("beta", s)
        q = self.q("critic", s, pi.mean + pi.stddev * draw("pi"))
        differences = []
        for noise in draw("kl"):
            x = pi.mean + pi.stddev * noise
            differences.append((pi.log_prob(x) - beta.log_prob(x)).sum(1))
        kl = sum(differences) / len(differences)
        self.losses |= {"policy_q": q.mean().item(), "kl": kl.mean().item()}
        return (-q + self.h["alpha"] * kl).mean()

    def exp_weight(self, s, a, draw):
        beta = self.policy("beta", s)
        samples = [beta.mean + beta.stddev * noise for noise in draw("value")]
        v = sum(self.q("critic", s, x) for x in samples) / len(samples)
        advantage = (self.q("critic", s, a) - v).detach()
        weight = (self.h["temperature"] * advantage).exp()
        self.note("weight clipped", weight > self.h["weight_clip"])
        weight = torch.where(weight > self.h["weight_clip"], self.h["weight_clip"], weight)
        self.note("action clipped", a > 0.9999)
        stable = torch.where(a > 0.9999, 0.9999, a)
        self.losses |= {
            "advantage": advantage.mean().item(),
            "weight": weight.mean().item(),
            "weight_max": weight.max().item(),
        }
        return -(weight * self.policy("actor", s).log_prob(stable).sum(1)).mean()


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("improvement", IMPROVEMENTS)
def test_steps_equal_an_independent_statement(improvement, native):
    both = engine([3, 4], improvement, "fp64", native, **TWO)
    seen = assert_steps_agree(both, lambda *of: PlainOnestep(*of, improvement), 10)
    clipped = {"weight clipped", "action clipped"} if improvement == "exp_weight" else set()
    assert seen == {"target moved"} | clipped


@pytest.mark.parametrize("improvement", IMPROVEMENTS)
def test_operators_equal_plain_torch(improvement):
    plain, native = (
        trained(engine([3, 4], improvement, "fp64", x, **TWO), 10) for x in (False, True)
    )
    assert_close(plain, native)


@pytest.mark.parametrize("improvement", IMPROVEMENTS)
def test_a_seed_does_not_depend_on_the_others(improvement):
    """With the operators: torch's own products round otherwise for one seed."""
    alone, three = (
        trained(engine(seeds, improvement, native=True), 9) for seeds in ([3], [3, 4, 5])
    )
    assert_equal(alone, three, seed=0)


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("left", [1, 3, 6, 7, 8])
@pytest.mark.parametrize("improvement", IMPROVEMENTS)
def test_a_run_goes_on_where_its_state_left_it(improvement, left, native):
    """In every phase, and at both borders."""
    whole = trained(engine([3, 4], improvement, native=native, **TWO), 10)
    first = trained(engine([3, 4], improvement, native=native, **TWO), left)
    second = engine([3, 4], improvement, native=native, **TWO)
    second.load_state_dict(first.state_dict())
    assert_equal(trained(second, 10 - left), whole)


def test_a_phase_trains_its_own_network_alone():
    one = engine([3], "reverse_kl")
    changed = []
    for _ in range(9):
        before = one.state_dict()
        trained(one, 1)
        after = one.state_dict()
        moved = [key for key, x in after.items() if not torch.equal(x, before[key])]
        changed.append({key.partition(".")[0] for key in moved} - {"step", "adam"})
    beta, q = {"beta"}, {"critic"}
    assert changed == [beta] * 3 + [q, q | {"target"}] * 2 + [{"actor"}] * 2


def test_steps_are_counted_for_each_phase():
    policy, best = Onestep(**PHASES, policy_steps=5), Onestep(**PHASES, improvement="easy_bcq")
    assert (policy.steps, best.steps) == (12, 7)
    for method, counts in ((policy, {"beta": 3, "critic": 4, "actor": 3}), (best, {"critic": 7})):
        assert {name: method.updates(name, 10) for name in counts} == counts
    assert [policy.updates("critic", steps) for steps in (2, 3, 5)] == [0, 0, 2]
    assert [steps for steps in range(10) if policy.acts(steps)] == [8, 9]
    assert [steps for steps in range(10) if best.acts(steps)] == [4, 5, 6, 7, 8, 9]


def test_a_batch_without_next_actions_is_refused():
    one = trained(engine([3], "reverse_kl"), 3)
    with pytest.raises(ValueError, match="onestep needs the batch's next_actions"):
        one.step_on(replace(batch_of(one, 3), next_actions=None))
