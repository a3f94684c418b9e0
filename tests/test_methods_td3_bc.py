"""TD3+BC and BC against independent statements of their steps, IQL over the operators against the
reference engine, which test_reference.py holds to a step by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from iql_fast.engines import Hyperparameters, NetworkSpec, create
from iql_fast.engines.generic import GenericEngine
from iql_fast.formulas import philox
from iql_fast.methods.bc import BC
from iql_fast.methods.iql import IQL
from iql_fast.methods.td3_bc import TD3BC

from .conftest import random_transitions
from .plain_nets import PlainNets, assert_close_in_size, assert_steps_agree

SEEDS = (3, 8)
SMALL = {"batch_size": 16, "hidden": (32, 24)}
# Constants that all have an effect within ten steps, and differ between the seeds.
TD3_BC_PER_SEED = {
    "discount": (0.9, 0.99),
    "polyak": (0.1, 0.3),
    "alpha": (2.5, 0.5),
    "policy_noise": (0.2, 0.6),
    "noise_clip": (0.3, 0.5),
    "critic_lr": (1e-3, 3e-3),
    "actor_lr": (2e-3, 1e-3),
}
BC_PER_SEED = {"actor_lr": (1e-3, 4e-3)}
IQL_PER_SEED = {
    "expectile": (0.7, 0.9),
    "temperature": (3.0, 8.0),
    "weight_clip": (2.0, 3.0),
    "discount": (0.9, 0.99),
    "polyak": (0.1, 0.3),
    "value_lr": (1e-3, 2e-3),
    "critic_lr": (2e-3, 1e-3),
    "actor_lr": (3e-3, 1e-3),
}
IQL_HYPER = {"batch_size": 16, "actor_schedule_steps": 6, "actor_dropout": 0.2}
IQL_NETWORK = {"hidden": (32, 24), "critics": 3}


def engine_of(method, seeds=SEEDS, precision="fp64", native=False):
    return GenericEngine(method, random_transitions(100, 5, 3), seeds, precision, native=native)


class PlainTD3BC(PlainNets):
    """The paper's algorithm with the authors' delay."""

    def __init__(self, state, seed_index, every):
        super().__init__(state, seed_index)
        self.h = {name: values[seed_index] for name, values in TD3_BC_PER_SEED.items()}
        self.every = every

    def q(self, net, s, a, e):
        return self.mlp(net, torch.cat([s, a], 1), e)[:, 0]

    def step(self, k, rows, draw):
        h = self.h
        s, a, s_next = rows["observations"], rows["actions"], rows["next_observations"]
        with torch.no_grad():
            noise = h["policy_noise"] * draw("noise")
            self.note("noise clipped", noise.abs() > h["noise_clip"])
            noise = torch.clip(noise, -h["noise_clip"], h["noise_clip"])
            a_next = torch.tanh(self.mlp("actor_target", s_next)) + noise
            self.note("action clipped", a_next.abs() > 1)
            a_next = torch.clip(a_next, -1, 1)
            bootstrap = torch.min(*(self.q("target", s_next, a_next, e) for e in range(2)))
            target = rows["rewards"] + h["discount"] * rows["masks"] * bootstrap
        self.track("critic")
        qs = [self.q("critic", s, a, e) for e in range(2)]
        loss = torch.mean((qs[0] - target) ** 2) + torch.mean((qs[1] - target) ** 2)
        self.adam("critic", loss, h["critic_lr"], "critic")
        self.losses["q"] = (qs[0].mean() + qs[1].mean()).item() / 2
        self.losses["target_q"] = target.mean().item()
        if (k + 1) % self.every != 0:
            return
        self.track("actor")
        pi = torch.tanh(self.mlp("actor", s))
        q = self.q("critic", s, pi, 0)
        weight = h["alpha"] / q.detach().abs().mean()
        error = torch.mean((pi - a) ** 2)
        self.adam("actor", -weight * q.mean() + error, h["actor_lr"], "actor")
        self.blend("critic", "target", h["polyak"])
        self.blend("actor", "actor_target", h["polyak"])
        self.losses |= {"bc_error": error.item(), "q_weight": weight.item()}


@pytest.mark.parametrize("every", [2, 3])
def test_td3_bc_steps_as_its_independent_statement(every):
    engine = engine_of(TD3BC(**SMALL, **TD3_BC_PER_SEED, policy_every=every))
    state = engine.state_dict()
    for name, tensor in state.items():
        if "layers.2" in name and name.startswith("actor"):
            tensor *= 5  # some target actions are clipped
    engine.load_state_dict(state)
    seen = assert_steps_agree(engine, lambda *of: PlainTD3BC(*of, every), 10)
    assert seen == {"noise clipped", "action clipped"}


class PlainBC(PlainNets):
    """With dropout and the cosine of ``BC`` as it is made below."""

    def __init__(self, state, seed_index):
        super().__init__(state, seed_index)
        self.seed = seed_index

    def step(self, k, rows, draw):
        self.track("actor")
        x = rows["observations"]
        for i in range(3):
            x = x @ self.p[f"actor.layers.{i}.weight"].T + self.p[f"actor.layers.{i}.bias"]
            if i < 2:
                kept = philox.dropout_keep(SEEDS[self.seed], k, i, tuple(x.shape), 0.3)
                self.note("dropped", torch.from_numpy(kept))
                x = torch.relu(x) * torch.from_numpy(kept) / 0.7
        rate = BC_PER_SEED["actor_lr"][self.seed]
        rate *= 0.5 * (1 + math.cos(math.pi * min(k, 6) / 6))
        self.adam("actor", torch.mean((torch.tanh(x) - rows["actions"]) ** 2), rate, "actor")


def test_bc_steps_as_its_independent_statement():
    engine = engine_of(BC(**SMALL, **BC_PER_SEED, actor_dropout=0.3, actor_schedule_steps=6))
    before = engine.state_dict()
    assert assert_steps_agree(engine, PlainBC, 10) == {"dropped"}
    assert not torch.equal(
        engine.state_dict()["actor.layers.0.bias"], before["actor.layers.0.bias"]
    )


def test_iql_steps_over_the_operators_as_its_reference_engine():
    engine = engine_of(IQL(**IQL_HYPER, **IQL_NETWORK, **IQL_PER_SEED), native=True)
    spec, hyper = NetworkSpec(5, 3, **IQL_NETWORK), Hyperparameters(**IQL_HYPER, **IQL_PER_SEED)
    reference = create("reference", spec, hyper, engine.data, SEEDS, precision="fp64")
    assert_close_in_size(engine, reference, 1e-15)  # both begin alike
    for _ in range(10):
        found, expected = engine.run(1), reference.run(1)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, 1e-9, 1e-9, err_msg=name)
        assert_close_in_size(engine, reference, 1e-9)
    assert 0 < found["weight_clipped"].mean() < 1
