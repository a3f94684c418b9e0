"""BCQ against an independent statement of its step, and what every method holds."""

from __future__ import annotations

import pytest
import torch

from iql_fast.engines.generic import GenericEngine
from iql_fast.methods.bcq import BCQ

from .conftest import random_transitions
from .plain_nets import PlainNets, assert_close, assert_equal, assert_steps_agree, trained

SMALL = dict(batch_size=12, samples=4, hidden=(16, 12), vae_hidden=(18, 14))  # fmt: skip
#: Settings of two seeds, far enough from each other that one's are not the other's.
TWO = dict(
    discount=(0.99, 0.9),
    polyak=(0.005, 0.1),
    phi=(0.05, 0.3),
    latent_clip=(0.5, 0.8),
    minimum_weight=(0.75, 0.4),
    kl_weight=(0.5, 0.2),
    vae_lr=(1e-3, 3e-3),
    critic_lr=(1e-3, 2e-3),
    actor_lr=(1e-3, 5e-3),
)


def engine(seeds, precision="fp32", native=False, **settings):
    method = BCQ(**(SMALL | settings))
    return GenericEngine(method, random_transitions(200, 5, 2), seeds, precision, native=native)


class PlainBCQ(PlainNets):
    """The authors' step, written anew."""

    def __init__(self, state, seed_index):
        super().__init__(state, seed_index)
        self.h = {name: values[seed_index] for name, values in TWO.items()}

    def decode(self, s, z):
        return torch.tanh(self.mlp("decoder", torch.cat([s, z], 1)))

    def perturb(self, net, s, a):
        moved = a + self.h["phi"] * torch.tanh(self.mlp(net, torch.cat([s, a], 1)))
        self.note("action at its bound", moved.abs() > 1)
        return torch.minimum(torch.maximum(moved, -torch.ones(())), torch.ones(()))

    def cut(self, z):
        clip = self.h["latent_clip"]
        self.note("latent clipped", z.abs() > clip)
        return torch.where(z.abs() > clip, clip * torch.sign(z), z)

    def step(self, k, rows, draw):
        h = self.h
        s, a, s_next = rows["observations"], rows["actions"], rows["next_observations"]
        sa = torch.cat([s, a], 1)

        self.track("encoder", "decoder")
        out = self.mlp("encoder", sa)
        latents = out.shape[1] // 2
        mean, log_std = out[:, :latents], out[:, latents:]
        self.note("deviation at its lower bound", log_std < -4)
        std = torch.where(log_std < -4, -4.0, torch.where(log_std > 15, 15.0, log_std)).exp()
        error = ((self.decode(s, mean + std * draw("encoded")) - a) ** 2).mean()
        kl = -0.5 * (1 + torch.log(std * std) - mean * mean - std * std).mean()
        self.adam("vae", error + h["kl_weight"] * kl, h["vae_lr"], "encoder", "decoder")

        best = []
        for row in range(len(s)):  # its samples alone
            z = self.cut(draw("next")[:, row])
            at = s_next[row].expand(len(z), -1)
            x = torch.cat([at, self.perturb("actor_target", at, self.decode(at, z))], 1)
            q1, q2 = (self.mlp("target", x, e)[:, 0] for e in (0, 1))
            self.note("either critic the smaller", q1 < q2)
            least, most = torch.where(q1 < q2, q1, q2), torch.where(q1 < q2, q2, q1)
            best.append((h["minimum_weight"] * least + (1 - h["minimum_weight"]) * most).max())
        y = rows["rewards"] + h["discount"] * rows["masks"] * torch.stack(best)

        self.track("critic")
        qs = [self.mlp("critic", sa, e)[:, 0] for e in (0, 1)]
        self.adam("critic", sum(((q - y) ** 2).mean() for q in qs), h["critic_lr"], "critic")

        self.track("actor")
        pi = self.perturb("actor", s, self.decode(s, self.cut(draw("decoded"))))
        loss = -self.mlp("critic", torch.cat([s, pi], 1), 0).mean()
        self.adam("actor", loss, h["actor_lr"], "actor")

        self.blend("critic", "target", h["polyak"])
        self.blend("actor", "actor_target", h["polyak"])
        self.losses |= {
            "reconstruction_error": error.item(),
            "kl": kl.item(),
            "q": sum(q.mean() for q in qs).item() / 2,
            "target_q": y.mean().item(),
        }


@pytest.mark.parametrize("native", [False, True])
def test_steps_equal_an_independent_statement(native):
    both = engine([3, 4], "fp64", native, **TWO)
    # First weights that reach the bounds: of actions, and of the encoder's deviation.
    state = both.state_dict()
    state["decoder.layers.2.weight"] *= 40
    state["encoder.layers.2.weight"] *= 10
    state["encoder.layers.2.bias"][:, 4:] -= 4
    both.load_state_dict(state)
    seen = assert_steps_agree(both, PlainBCQ, 10)
    assert seen == {
        "action at its bound",
        "latent clipped",
        "deviation at its lower bound",
        "either critic the smaller",
    }


def test_operators_equal_plain_torch():
    plain, native = (trained(engine([3, 4], "fp64", x, **TWO), 10) for x in (False, True))
    assert_close(plain, native)


def test_a_seed_does_not_depend_on_the_others():
    """With the operators: torch's own products round otherwise for one seed."""
    alone, three = (trained(engine(seeds, native=True), 5) for seeds in ([3], [3, 4, 5]))
    assert_equal(alone, three, seed=0)


@pytest.mark.parametrize("native", [False, True])
def test_a_run_goes_on_where_its_state_left_it(native):
    whole = trained(engine([3, 4], native=native, **TWO), 9)
    first = trained(engine([3, 4], native=native, **TWO), 4)
    second = engine([3, 4], native=native, **TWO)
    second.load_state_dict(first.state_dict())
    assert_equal(trained(second, 5), whole)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("phi", (0.1, -1.0), "at least 0"),
        ("minimum_weight", 1.5, "between 0 and 1"),
        ("samples", 2.5, "whole numbers"),
    ],
)
def test_a_setting_out_of_its_range_is_named(name, value, expected):
    with pytest.raises(ValueError, match=f"^{name} is .*; expected {expected}"):
        BCQ(**{name: value})


def test_the_policy_asks_the_critic_for_no_gradient_of_its_weights():
    one = engine([3], "fp64")
    one.on.begin(0, one.batch_at(0))
    rows = torch.zeros(1, 12, 7, dtype=torch.float64)
    assert one.on.net("critic", rows, member=0).requires_grad
    assert not one.on.net("critic", rows, member=0, fixed=True).requires_grad
