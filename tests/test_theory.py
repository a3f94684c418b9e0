"""The paper's lemmas and theorem on random MDPs, and that the checks can fail."""

import json
from dataclasses import replace

import numpy as np
import pytest

from iql_fast.experiments import mdp as mdps
from iql_fast.experiments import theory
from iql_fast.experiments.mdp import Values


@pytest.fixture(scope="module")
def solved():
    rng = np.random.default_rng(7)
    return [theory.solve(mdps.random_mdp(rng)) for _ in range(200)]


@pytest.fixture(scope="module")
def bandits():
    rng = np.random.default_rng(8)
    return [theory.solve(theory.random_bandit(rng)) for _ in range(200)]


def test_lemma_1_on_200_random_bandits(bandits):
    for margins in (theory.above_the_optimum, theory.below_the_optimum):
        found = theory.claim("", bandits, margins)
        assert found.checked == 200 * len(theory.TAUS)
        assert found.violations == 0
        assert found.error < 1e-8


@pytest.mark.parametrize("margins", [theory.decreases, theory.above_the_optimum,
                                     theory.below_the_optimum])  # fmt: skip
def test_lemma_2_and_theorem_3_on_200_random_mdps(solved, margins):
    found = theory.claim("", solved, margins)
    assert found.violations == 0
    assert found.checked > 10_000
    assert found.error < 1e-5  # at the largest tau; it falls with 1 / (1 - tau)


def test_the_limit_is_the_optimum_of_the_support_and_not_of_all_actions(solved):
    last = max(one.gap(len(theory.TAUS) - 1) for one in solved)
    first = min(one.gap(0) for one in solved if (one.mdp.support.sum(1) > 1).any())
    assert last < 1e-3
    assert first > 1e-2
    best_of_all = [mdps.value_iteration(one.mdp, in_support=False).v for one in solved]
    away = [np.abs(v - one.optimum.v).max() for v, one in zip(best_of_all, solved, strict=True)]
    assert np.median(away) > 0.1


def test_the_checks_find_what_is_wrong(solved):
    one = solved[0]
    backwards = replace(one, expectile=one.expectile[::-1])
    assert theory.claim("", [backwards], theory.decreases).violations > 0
    moved = [Values(values.v + 1e-4, values.error) for values in one.expectile]
    assert theory.claim("", [replace(one, expectile=moved)], theory.above_the_optimum).violations
    flat = [one.expectile[0]] * len(theory.TAUS)  # does not tend to V*
    assert theory.claim("", [replace(one, expectile=flat)], theory.below_the_optimum).violations


def test_expectile_values_are_the_fixed_point(solved):
    """Against plain iteration of V <- E^tau[Q] by the expectile of a single distribution."""
    from iql_fast.experiments.expectiles import expectile

    for one in solved[:3]:
        for tau in (0.2, 0.5, 0.9):
            found = mdps.expectile_values(one.mdp, tau)
            v = np.zeros(one.mdp.states)
            steps = int(np.ceil(np.log(1e-9) / np.log(one.mdp.discount)))
            for _ in range(steps):
                v = expectile(one.mdp.q(v), one.mdp.behaviour, tau)
            assert found.error < 1e-10
            assert found.v == pytest.approx(v, abs=1e-9 * 20)  # values are below 20


def test_tau_one_half_is_the_behaviour_policys_value(solved):
    for one in solved[:20]:
        behaviour = mdps.policy_evaluation(one.mdp, one.mdp.behaviour)
        assert mdps.expectile_values(one.mdp, 0.5).v == pytest.approx(behaviour, abs=1e-10)


def test_the_greedy_policy_of_the_optimum_attains_it(solved):
    for one in solved[:20]:
        actions = mdps.greedy(one.mdp, one.optimum.v)
        assert one.mdp.support[np.arange(one.mdp.states), actions].all()
        policy = mdps.deterministic(actions, one.mdp.actions)
        attained = mdps.policy_evaluation(one.mdp, policy)
        assert attained == pytest.approx(one.optimum.v, abs=2 * one.optimum.error + 1e-12)


def test_lucky_samples_overestimate(solved):
    """The lottery by hand: at its start the outcomes are 1 (probability 1/2), 0.99 * 5 (1/20) and 0
    (9/20). With only the win above m, 0.9 (4.95 - m) / 20 = 0.1 ((m - 1) / 2 + 9 m / 20)."""
    row = theory.luck_of(0.9)
    m = (0.9 * 4.95 / 20 + 0.1 / 2) / (0.9 / 20 + 0.1 / 2 + 0.9 / 20)
    assert row["lucky"] == pytest.approx(m)
    assert m == pytest.approx(1.95, abs=0.01)
    assert row["excess"] == pytest.approx(m - 1)
    # Apart: 0.9 (1 - m) = 0.1 (m - 0.99 / 2).
    assert row["separate"] == pytest.approx(0.9 + 0.1 * 0.495)
    excess = [(one.lucky.v - one.optimum.v).max() for one in solved]
    assert np.mean(np.array(excess) > 0) > 0.8
    # Without chance there is no luck: the two are the same.
    first = solved[0].mdp
    certain = replace(first, transition=np.eye(first.states)[first.transition.argmax(-1)])
    lucky, apart = mdps.lucky_values(certain, 0.9), mdps.expectile_values(certain, 0.9)
    assert lucky.v == pytest.approx(apart.v, abs=lucky.error + apart.error)


def test_the_command_writes_its_picture_and_numbers(command, tmp_path):
    result = command("experiments", "theory", "--out", "here", "--mdps", 5)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "here/theory.png"
    assert (tmp_path / "here" / "theory.png").read_bytes().startswith(b"\x89PNG")
    numbers = json.loads((tmp_path / "here" / "theory.json").read_text())
    assert [claim["violations"] for claim in numbers["claims"]] == [0] * 5
    assert numbers["lottery"][2]["excess"] == pytest.approx(theory.luck_of(0.9)["excess"])


def test_bad_input_is_a_paragraph_and_status_2(command):
    result = command("experiments", "theory", "--mdps", 0)
    assert result.returncode == 2
    assert "--mdps is 0; expected at least 1" in result.stderr
