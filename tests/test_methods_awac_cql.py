"""AWAC and CQL against independent statements of their steps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal

from iql_fast.engines.generic import GenericEngine
from iql_fast.formulas.distributions import tanh_gaussian_log_prob, tanh_gaussian_sample
from iql_fast.methods.awac import AWAC
from iql_fast.methods.cql import CQL

from .conftest import random_transitions
from .plain_nets import PlainNets, assert_steps_agree

SEEDS = (3, 8)
SIZES = {"batch_size": 16, "hidden": (32, 32)}
# Constants that all have an effect within ten steps, and differ between the seeds.
PER_SEED = {
    "discount": (0.9, 0.99),
    "polyak": (0.1, 0.3),
    "critic_lr": (1e-3, 3e-3),
    "actor_lr": (2e-3, 1e-3),
}
AWAC_PER_SEED = {**PER_SEED, "beta": (0.3, 2.0)}
CQL_PER_SEED = {
    **PER_SEED,
    "min_q_weight": (5.0, 2.0),
    "lagrange_threshold": (1.0, 4.0),
    "entropy_per_dimension": (-1.0, 0.5),
}


def awac(implementation, **settings):
    return AWAC(
        implementation=implementation,
        **{**SIZES, "actor_hidden": (32, 24), "weight_decay": 0.3, **settings},
    )


def cql(lagrange, **settings):
    return CQL(lagrange=lagrange, **{**SIZES, "bc_steps": 5, "sampled_actions": 4, **settings})


def transitions():
    data = random_transitions(100, 5, 3)
    data.actions[::7, 0] = 1.0  # where a squashed density is bounded
    data.actions[::9, 1] = -1.0
    return data


def engine_of(method, seeds=SEEDS, precision="fp64", native=False, **values):
    """An engine whose networks are far enough from their start for every bound to matter.

    Args:
        values: of scalars, to begin with.
    """
    engine = GenericEngine(method, transitions(), seeds, precision, native=native)
    state = engine.state_dict()
    for name, tensor in state.items():
        if name.startswith("actor.layers.") and name.endswith("weight"):
            tensor *= 12000 if float(tensor.abs().max()) <= 1e-3 else 1
    if "actor.log_std" in state:
        state["actor.log_std"][:] = torch.tensor([2.5, -11.0, 0.3], dtype=engine.dtype)
    state |= {name: torch.tensor(x, dtype=engine.dtype) for name, x in values.items()}
    engine.load_state_dict(state)
    return engine


class PlainAWAC(PlainNets):
    def __init__(self, state, seed_index, method):
        super().__init__(state, seed_index)
        self.h, self.seed = method, seed_index

    def setting(self, name):
        value = getattr(self.h, name)
        return value[self.seed] if isinstance(value, tuple) else value

    def policy(self, x):
        mean = torch.tanh(self.mlp("actor", x))
        if self.h.implementation == "rlkit":
            return mean, torch.exp(-6 + 6 * torch.sigmoid(self.p["actor.log_std_logit"]))
        log_std = self.p["actor.log_std"]
        self.note("log_std", (log_std < -10) | (log_std > 2))
        return mean, torch.exp(torch.clip(log_std, -10, 2))

    def q(self, net, s, a):
        x = torch.cat([s, a], 1)
        return [self.mlp(net, x, e)[:, 0] for e in range(2)]

    def critic_loss(self, rows, draw):
        s, a, s_next = rows["observations"], rows["actions"], rows["next_observations"]
        with torch.no_grad():
            mean, std = self.policy(s_next)
            bootstrap = torch.min(*self.q("target", s_next, mean + std * draw("next_noise")))
            target = rows["rewards"] + self.setting("discount") * rows["masks"] * bootstrap
        qs = self.q("critic", s, a)
        self.recorded["q"] = (qs[0].mean() + qs[1].mean()) / 2
        self.recorded["target_q"] = target.mean()
        return sum(torch.mean((q - target) ** 2) for q in qs)

    def actor_loss(self, rows, draw):
        """With the critics as they are now."""
        s, a = rows["observations"], rows["actions"]
        mean, std = self.policy(s)
        with torch.no_grad():
            q, v = (torch.min(*self.q("critic", s, x)) for x in (a, mean + std * draw("noise")))
            scores = torch.exp((q - v) / self.setting("beta"))
            weights = len(scores) * scores / scores.sum()
        self.recorded["advantage"] = (q - v).mean()
        self.recorded["weight_max"] = weights.max()
        self.recorded["log_std"] = torch.log(std).mean()
        return -(weights * Normal(mean, std).log_prob(a).sum(1)).mean()

    def step(self, k, rows, draw):
        self.recorded = {}
        rate, decay = self.setting("actor_lr"), self.h.weight_decay
        self.track("critic", "actor")
        critic_loss = self.critic_loss(rows, draw)
        if self.h.implementation == "rlkit":
            loss = self.actor_loss(rows, draw)
            penalty = 0.5 * decay * sum((self.p[key] ** 2).sum() for key in self.of("actor"))
            self.adam("critic", critic_loss, self.setting("critic_lr"), "critic")
            self.adam("actor", loss + penalty, rate, "actor")
            self.losses["actor_loss"] = loss.item()
            self.blend("critic", "target", self.setting("polyak"))
        else:
            self.adam("critic", critic_loss, self.setting("critic_lr"), "critic")
            self.blend("critic", "target", self.setting("polyak"))
            before = {key: self.p[key].detach() for key in self.of("actor")}
            self.adam("actor", self.actor_loss(rows, draw), rate, "actor")
            for key, x in before.items():
                self.p[key] = self.p[key] - rate * decay * x
        self.losses |= {name: x.item() for name, x in self.recorded.items()}


class PlainCQL(PlainNets):
    """In the order of the authors' code, with ``torch.distributions`` where that has a part."""

    def __init__(self, state, seed_index, method):
        super().__init__(state, seed_index)
        self.h, self.seed = method, seed_index

    setting = PlainAWAC.setting
    q = PlainAWAC.q

    def policy(self, x):
        out = self.mlp("actor", x)
        mean, log_std = out[:, :3], out[:, 3:]
        self.note("log_std below", log_std < -5)
        self.note("log_std above", log_std > 2)
        return mean, torch.exp(torch.clip(log_std, -5, 2))

    @staticmethod
    def sampled(mean, std, noise):
        raw = mean + std * noise
        action = torch.tanh(raw)
        log_prob = Normal(mean, std).log_prob(raw) - torch.log(1 - action * action + 1e-6)
        return action, log_prob.sum(1)

    def step(self, k, rows, draw):
        s, a, s_next = rows["observations"], rows["actions"], rows["next_observations"]
        self.track("actor", "critic", "log_temperature", "log_multiplier")
        mean, std = self.policy(s)
        pi, log_pi = self.sampled(mean, std, draw("noise"))

        target_entropy = 3 * self.setting("entropy_per_dimension")
        loss = -(self.p["log_temperature"] * (log_pi + target_entropy).detach()).mean()
        self.adam("log_temperature", loss, self.setting("actor_lr"), "log_temperature")
        temperature = self.p["log_temperature"].detach().exp()

        if k < self.h.bc_steps - 1:
            self.note("mean", mean.abs() > 9)
            self.note("saturated", a.abs() == 1)
            raw = 0.5 * torch.log((1 + a).clamp(min=1e-6) / (1 - a).clamp(min=1e-6))
            of_data = Normal(mean.clamp(-9, 9), std).log_prob(raw) - torch.log(1 - a * a + 1e-6)
            actor_loss = (temperature * log_pi - of_data.sum(1)).mean()
        else:
            actor_loss = (temperature * log_pi - torch.min(*self.q("critic", s, pi))).mean()

        with torch.no_grad():
            mean_next, std_next = self.policy(s_next)
            a_next, _ = self.sampled(mean_next, std_next, draw("next_noise"))
            bootstrap = torch.min(*self.q("target", s_next, a_next))
            target = rows["rewards"] + self.setting("discount") * rows["masks"] * bootstrap
            drawn = [(2 * u - 1, math.log(0.5**3)) for u in draw("uniform")]
            drawn += [self.sampled(mean_next, std_next, x) for x in draw("next_several_noise")]
            drawn += [self.sampled(mean, std, x) for x in draw("several_noise")]
        qs = self.q("critic", s, a)
        tuples = [self.q("critic", s, x) for x, _ in drawn]
        pushes, errors = [], []
        for e in range(2):
            terms = torch.stack(
                [q[e] - density for q, (_, density) in zip(tuples, drawn, strict=True)]
            )
            soft = torch.log(torch.exp(terms).sum(0))
            pushes.append(self.setting("min_q_weight") * (soft.mean() - qs[e].mean()))
            errors.append(torch.mean((qs[e] - target) ** 2))
        multiplier = torch.tensor(1.0)
        if self.h.lagrange:
            pushes = [x - self.setting("lagrange_threshold") for x in pushes]
            free = torch.exp(self.p["log_multiplier"])
            multiplier = torch.clip(free, 0, 1e6)
            self.seen |= {"bounded"} if free.item() > 1e6 else {"free"}
            loss = -0.5 * sum(multiplier * x.detach() for x in pushes)
            self.adam("log_multiplier", loss, self.setting("critic_lr"), "log_multiplier")
            multiplier = multiplier.detach()
        critic_loss = sum(errors) + multiplier * sum(pushes)
        # The policy's gradient is of the critics that its loss was computed with.
        self.adam("critic", critic_loss, self.setting("critic_lr"), "critic")
        self.adam("actor", actor_loss, self.setting("actor_lr"), "actor")
        self.blend("critic", "target", self.setting("polyak"))
        self.losses |= {
            "q": (qs[0].mean() + qs[1].mean()).item() / 2,
            "target_q": target.mean().item(),
            "push": sum(x.item() for x in pushes) / 2,
            "log_prob": log_pi.mean().item(),
            "temperature": temperature.item(),
            "multiplier": multiplier.item(),
        }


@pytest.mark.parametrize("implementation", ["jaxrl", "rlkit"])
def test_awac_steps_as_its_independent_statement(implementation):
    method = awac(implementation, **AWAC_PER_SEED)
    seen = assert_steps_agree(engine_of(method), lambda *of: PlainAWAC(*of, method), 10)
    assert seen == ({"log_std"} if implementation == "jaxrl" else set())


@pytest.mark.parametrize(
    ("lagrange", "values", "branches"),
    [
        (False, {}, set()),
        (True, {}, {"free"}),
        (True, {"log_multiplier": [14.0, 0.1]}, {"free", "bounded"}),
    ],
)
def test_cql_steps_as_its_independent_statement(lagrange, values, branches):
    method = cql(lagrange, **CQL_PER_SEED)
    seen = assert_steps_agree(engine_of(method, **values), lambda *of: PlainCQL(*of, method), 10)
    assert seen == branches | {"log_std below", "log_std above", "mean", "saturated"}


def test_awac_begins_as_the_two_codes():
    first, rlkit = (
        GenericEngine(
            AWAC(implementation=x, actor_hidden=(32,) * 4, hidden=(32, 32)),
            *(transitions(), [0], "fp64"),
        ).state_dict()
        for x in ("jaxrl", "rlkit")
    )
    for i, gain in ((0, 2.0), (1, 2.0), (4, 1.0)):
        weight = first[f"actor.layers.{i}.weight"][0]
        short = weight if weight.shape[0] < weight.shape[1] else weight.T
        np.testing.assert_allclose(short @ short.T, gain * np.eye(len(short)), atol=1e-12)
        assert not first[f"actor.layers.{i}.bias"].any()
    assert not first["actor.log_std"].any()
    assert 0.9 / 32**0.5 < rlkit["actor.layers.1.weight"].abs().max() <= 1 / 32**0.5
    assert not rlkit["critic.layers.0.bias"].any()
    assert 0.8e-3 < rlkit["actor.layers.4.weight"].abs().max() <= 1e-3
    assert 0.8 * 3e-3 < rlkit["critic.layers.2.weight"].abs().max() <= 3e-3
    assert not rlkit["actor.log_std_logit"].any()  # a log standard deviation of -3


def test_cql_begins_as_the_authors_code():
    state = GenericEngine(CQL(lagrange=True), transitions(), [0], "fp64").state_dict()
    for net, head in (("actor", 1e-3), ("critic", 3e-3)):
        assert 0.9 / 16 < state[f"{net}.layers.0.weight"].abs().max() <= 1 / 16
        assert (state[f"{net}.layers.2.bias"] == 0.1).all()
        assert 0.9 * head < state[f"{net}.layers.3.weight"].abs().max() <= head
        assert 0 < state[f"{net}.layers.3.bias"].abs().max() <= head
        assert state[f"{net}.layers.3.bias"].unique().numel() > 1
    assert state["log_temperature"] == state["log_multiplier"] == 0


def test_a_squashed_density_is_that_of_its_samples():
    mean, log_std = torch.tensor([[0.4, -1.0]]).double(), torch.tensor([[-0.5, 0.2]]).double()
    noise = torch.randn(200_000, 2, generator=torch.Generator().manual_seed(0)).double()
    action, log_prob = tanh_gaussian_sample(mean, log_std, noise)
    np.testing.assert_allclose(tanh_gaussian_log_prob(action, mean, log_std), log_prob, atol=1e-3)
    # The mean of 1 / p over samples is the volume of the box that they lie in, here a part of it.
    inside = (action.abs() < 0.9).all(1)
    assert abs(float((inside / log_prob.exp()).mean()) - 1.8**2) < 0.1
    edge = torch.tensor([[1.0, -1.0]]).double().requires_grad_()
    bounded = tanh_gaussian_log_prob(edge, mean, log_std)
    bounded.sum().backward()
    assert torch.isfinite(bounded).all()
    assert torch.isfinite(edge.grad).all()


@pytest.mark.parametrize(
    ("method", "name", "value"),
    [
        (AWAC, "beta", (2.0, 0.0)),
        (AWAC, "weight_decay", -1e-4),
        (AWAC, "actor_hidden", (256, 0)),
        (AWAC, "implementation", "corl"),
        (CQL, "min_q_weight", -5.0),
        (CQL, "lagrange_threshold", math.inf),
        (CQL, "sampled_actions", 0),
        (CQL, "bc_steps", 0.5),
        (CQL, "entropy_per_dimension", math.nan),
    ],
)
def test_a_setting_out_of_its_range_is_refused_by_name(method, name, value):
    with pytest.raises(ValueError, match=f"^{name} is "):
        method(**{name: value})
