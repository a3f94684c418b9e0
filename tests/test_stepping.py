"""Environments in processes of their own."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

from iql_fast.environments import workers
from iql_fast.environments.episodes import EvaluationFailed
from iql_fast.environments.stepping import ONLINE, Stepping

HOPPER = "iql_fast/hopper-v2"


@pytest.fixture(scope="module")
def hopper():
    with Stepping(HOPPER, 12, seed=4) as environment:
        yield environment


def taken(environment, actions):
    outcomes = []
    for action in actions:
        environment.begin(action)
        outcomes.append(environment.outcome())
    return outcomes


def actions_of(count, size=3):
    return np.random.default_rng(0).uniform(-0.1, 0.1, (count, size)).astype(np.float32)


def test_steps_are_those_of_the_environment_itself(hopper):
    own = workers.environment(HOPPER)
    first, actions = hopper.reset(7), actions_of(12)
    expected, _ = own.reset(seed=workers.seed_of((4, ONLINE, 7)))
    np.testing.assert_array_equal(first, np.float32(expected))
    for action, outcome in zip(actions, taken(hopper, actions), strict=True):
        observation, reward, terminal, *_ = own.step(action)
        np.testing.assert_array_equal(outcome.observation, np.float32(observation))
        assert (outcome.reward, outcome.terminal) == (reward, terminal)


def test_a_time_limit_is_no_terminal_state(hopper):
    hopper.reset(0)
    outcomes = taken(hopper, actions_of(12))
    assert [outcome.over for outcome in outcomes] == [False] * 11 + [True]
    assert not any(outcome.terminal for outcome in outcomes)


def test_actions_taken_once_more_lead_to_where_it_was(hopper):
    """Bit for bit, and so do those that follow."""
    actions = actions_of(12)
    hopper.reset(3)
    whole = taken(hopper, actions)
    hopper.reset(5)
    there = hopper.reset(3, actions[:8])
    np.testing.assert_array_equal(there, whole[7].observation)
    for one, other in zip(taken(hopper, actions[8:]), whole[8:], strict=True):
        np.testing.assert_array_equal(one.observation, other.observation)
        assert one[1:] == other[1:]


def test_episodes_begin_differently(hopper):
    first = [hopper.reset(episode) for episode in range(3)]
    assert len(np.unique(first, axis=0)) == 3
    with Stepping(HOPPER, 12, seed=5) as other:
        assert not np.array_equal(other.reset(0), first[0])


def test_an_environment_that_fails_is_named(hopper):
    hopper.reset(0)
    hopper.begin(np.zeros(2, np.float32))  # of three
    with pytest.raises(EvaluationFailed, match=r"An episode of iql_fast/hopper-v2 failed"):
        hopper.outcome()
    hopper.reset(0)  # and it goes on


def test_a_process_that_dies_is_told():
    with Stepping(HOPPER, 12, seed=0) as environment:
        environment.reset(0)
        os.kill(environment.process.pid, signal.SIGKILL)
        environment.process.join()
        with pytest.raises(EvaluationFailed, match="died"):
            taken(environment, actions_of(1))
