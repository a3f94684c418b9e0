"""Fine-tuning: the authors' loop, whatever is computed beside what; and a replay that is a ring."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from iql_fast import engines, methods
from iql_fast.data.replay import Met, Replay
from iql_fast.engines import Hyperparameters, NetworkSpec
from iql_fast.engines.drawing import explorations
from iql_fast.environments.stepping import Outcome
from iql_fast.formulas import philox
from iql_fast.methods.base import Batch
from iql_fast.policies.units import Units
from iql_fast.runs import met
from iql_fast.runs.finetuning import FineTuning
from iql_fast.support import extension
from iql_fast.support.errors import NonFiniteLoss, UserError

from .conftest import random_transitions
from .test_cuda_engine import REASON, WEIGHT_TOLERANCE, on_device
from .test_cuda_engine import largest_difference as relative_difference

needs_engine = pytest.mark.skipif(
    bool(extension.unavailable_reason()), reason=extension.unavailable_reason()
)
needs_device = (pytest.mark.gpu, pytest.mark.skipif(bool(REASON), reason=REASON))
ENGINES = pytest.mark.parametrize(
    "name",
    [
        "reference",
        pytest.param("cpu", marks=needs_engine),
        pytest.param("cuda", marks=needs_device),
    ],
)
SEEDS = (3, 5)
OBS, ACT, BATCH, HORIZON = 11, 3, 16, 7
REWARD = (2.0, -1.0)
UPDATES_ON_A_DEVICE = 120  # the emulator does 16 a second


class FixedRows:
    """An environment that shows the same rows whatever is done in it."""

    horizon = HORIZON

    def __init__(self, seed: int) -> None:
        self.seed, self.episode, self.at = seed, 0, 0
        self.under_way = False

    def reset(self, episode, actions=()):
        assert not self.under_way  # its answer would be taken for this one's
        self.episode, self.at = episode, len(actions)
        return self._row()

    def begin(self, action):
        assert not self.under_way
        self.action, self.under_way = action, True
        self.at += 1

    def outcome(self):
        assert self.under_way
        self.under_way = False
        terminal = self.at == 5 and self.episode % 3 == 0
        reward = float(np.sin(self.seed + 10 * self.episode + self.at))
        return Outcome(self._row(), reward, terminal, terminal or self.at == HORIZON)

    def _row(self):
        rng = np.random.default_rng([self.seed, self.episode, self.at])
        return rng.standard_normal(OBS).astype(np.float32)


def engine_of(name, data, precision=None):
    precision = precision or ("fp32" if name == "cuda" else "fp64")
    hyper = Hyperparameters(batch_size=BATCH, actor_dropout=0.1)
    network = NetworkSpec(OBS, ACT, (24, 16))
    return engines.create(name, network, hyper, data, SEEDS, precision=precision, threads=1)


def fine_tuning(engine, data, capacity, most, begins=0, env_steps=1, envs=1):
    return FineTuning(
        engine,
        Replay(data, len(SEEDS), capacity, most),
        [[FixedRows(seed) for seed in SEEDS] for _ in range(envs)],
        begins=begins,
        env_steps=env_steps,
        reward=REWARD,
        units=Units(),
    )


def authors_loop(engine, data, capacity, steps, env_steps=1, envs=1):
    """One row after the other into a ring, then a batch from it: nothing goes on at once.

    With several environments each acts in turn, and its row waits for the others' turns."""
    rings = [
        [tuple(getattr(data, name)[i] for name in Met._fields) for i in range(len(data))]
        for _ in SEEDS
    ]
    places = [len(data)] * len(SEEDS)
    rows = [[FixedRows(seed) for seed in SEEDS] for _ in range(envs)]
    seen = [[row.reset(n) for row in each] for n, each in enumerate(rows)]
    episode = [[n] * len(SEEDS) for n in range(envs)]
    acted, waiting = 0, []
    for _ in range(steps):
        for _ in range(env_steps):
            turn = acted % envs
            noise = explorations(SEEDS, [acted], ACT)[0]
            actions = np.clip(engine.explore(np.stack(seen[turn]), noise), -1, 1)
            acted += 1
            for s, row in enumerate(rows[turn]):
                row.begin(actions[s])
                outcome = row.outcome()
                mask = 0.0 if outcome.terminal else 1.0
                reward = np.float32(REWARD[0] * outcome.reward + REWARD[1])
                new = (seen[turn][s], actions[s], reward, np.float32(mask), outcome.observation)
                waiting.append((acted, s, new))
                seen[turn][s] = outcome.observation
                if outcome.over:
                    episode[turn][s] += envs
                    seen[turn][s] = row.reset(episode[turn][s])
            while waiting and waiting[0][0] <= acted - (envs - 1):
                _, s, new = waiting.pop(0)
                if len(rings[s]) < capacity:
                    rings[s].append(new)
                else:
                    rings[s][places[s] % capacity] = new
                places[s] += 1
        drawn = [
            [rings[s][i] for i in philox.batch_rows(seed, engine.step, BATCH, len(rings[s]))]
            for s, seed in enumerate(SEEDS)
        ]
        columns = [
            torch.tensor(np.array([[row[c] for row in of] for of in drawn]), dtype=torch.float64)
            for c in range(5)
        ]
        engine.step_on(Batch(*columns))


def largest_difference(one, other):
    found = 0.0
    for name, tensor in one.items():
        if not name.startswith("online."):
            scale = max(1.0, float(other[name].abs().max()))
            found = max(found, float((tensor - other[name]).abs().max()) / scale)
    return found


def waits_of(tuned):
    """Whether each update, of those that it does from now on, waited for the newest row."""
    waited = []
    draws_newest = tuned._draws_newest
    tuned._draws_newest = lambda: waited.append(draws_newest()) or waited[-1]
    return waited


@pytest.mark.parametrize(("env_steps", "envs"), [(1, 1), (3, 1), (1, 4), (3, 2)])
@pytest.mark.parametrize("name", ["reference", pytest.param("cpu", marks=needs_engine)])
def test_the_authors_loop_to_the_last_row(name, env_steps, envs):
    """1,000 updates, in which the ring is gone through several times, and a batch now and then has
    the row that is being made."""
    data, capacity, updates = random_transitions(120, OBS, ACT), 200, 1000 // env_steps
    most = updates * env_steps
    tuned = fine_tuning(engine_of(name, data), data, capacity, most, 0, env_steps, envs)
    waited = waits_of(tuned)
    tuned.run(updates)
    reference = engine_of("reference", data)
    authors_loop(reference, data, capacity, updates, env_steps, envs)
    assert largest_difference(tuned.state_dict(), reference.state_dict()) < 1e-9
    assert 0 < sum(waited) < len(waited) / 2


@on_device
@pytest.mark.parametrize("precision", engines.PRECISIONS["cuda"])
@pytest.mark.parametrize(("env_steps", "envs"), [(1, 1), (3, 1), (3, 2)])
def test_on_a_device_the_authors_loop_bit_for_bit(precision, env_steps, envs):
    """What is met comes to the device bit for bit, so that batches which are given to the same
    engine lead to the same: over enough updates for the ring to be gone through."""
    data, capacity, updates = random_transitions(60, OBS, ACT), 70, UPDATES_ON_A_DEVICE // env_steps
    most = updates * env_steps
    tuned = fine_tuning(
        engine_of("cuda", data, precision), data, capacity, most, 0, env_steps, envs
    )
    waited = waits_of(tuned)
    tuned.run(updates)
    plain = engine_of("cuda", data, precision)
    authors_loop(plain, data, capacity, updates, env_steps, envs)
    assert largest_difference(tuned.state_dict(), plain.state_dict()) == 0
    assert 0 < sum(waited) < len(waited)


@on_device
@pytest.mark.parametrize("precision", engines.PRECISIONS["cuda"])
def test_on_a_device_the_specifications_weights(precision):
    """Ten updates, as many as the tolerance is for, in which the ring is gone through."""
    data = random_transitions(20, OBS, ACT)
    tuned = fine_tuning(engine_of("cuda", data, precision), data, 24, 30, env_steps=3)
    tuned.run(10)
    reference = engine_of("reference", data)
    authors_loop(reference, data, 24, 10, env_steps=3)
    found, expected = tuned.state_dict(), reference.state_dict()
    for net in ("value", "actor", "critic", "target"):
        difference = relative_difference(found, expected, net, "weight")
        assert difference < WEIGHT_TOLERANCE[precision], net


@pytest.mark.parametrize("method", ["awac", "cql"])
def test_other_methods_take_the_same_way(method):
    data, updates = random_transitions(60, OBS, ACT), 60
    settings = {"hidden": (16, 16), "batch_size": BATCH}
    settings |= {"bc_steps": 20} if method == "cql" else {}

    def engine():
        made = methods.get(method)(**settings)
        return engines.for_method(made, data, SEEDS, name="reference", precision="fp64")

    tuned = fine_tuning(engine(), data, 80, updates)
    tuned.run(updates)
    reference = engine()
    authors_loop(reference, data, 80, updates)
    assert largest_difference(tuned.state_dict(), reference.state_dict()) < 1e-9


def test_before_it_begins_the_logged_rows_alone():
    data = random_transitions(50, OBS, ACT)
    tuned, alone = fine_tuning(engine_of("reference", data), data, 60, 5, begins=8), None
    tuned.run(8)
    alone = engine_of("reference", data)
    alone.run(8)
    assert largest_difference(tuned.state_dict(), alone.state_dict()) == 0
    assert "online.met_rows" not in tuned.state_dict()
    with pytest.raises(ValueError, match="lead past step"):
        fine_tuning(engine_of("reference", data), data, 60, 5, begins=8).run(9)


@ENGINES
@pytest.mark.parametrize(("cut", "envs"), [(4, 1), (30, 1), (61, 1), (4, 3), (30, 3), (61, 8)])
def test_taken_up_again_it_goes_on_bit_for_bit(name, cut, envs, tmp_path):
    data = random_transitions(40, OBS, ACT)

    def made():
        return fine_tuning(engine_of(name, data, "fp32"), data, 50, 90, envs=envs)

    whole = made()
    whole.run(90)
    first = made()
    first.run(cut - 2)
    met.save(tmp_path, first.replay, first.replay.met_rows)
    first.run(2)
    met.save(tmp_path, first.replay, first.replay.met_rows)
    state = {name: x.clone() for name, x in first.state_dict().items()}
    first.run(3)  # what was met after the checkpoint is met again
    met.save(tmp_path, first.replay, first.replay.met_rows)
    second = made()
    second.run(5)  # elsewhere, with steps under way
    second.load_state_dict(state)
    met.load(tmp_path, second.replay, second.replay.met_rows)
    second.run(90 - cut)
    for key, tensor in whole.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[key]), key


def test_an_environment_that_comes_to_another_place_is_told():
    data = random_transitions(40, OBS, ACT)
    tuned = fine_tuning(engine_of("reference", data), data, 50, 9)
    tuned.run(3)
    state = tuned.state_dict()
    other = fine_tuning(engine_of("reference", data), data, 50, 9)
    other.environments[0][1].seed += 1
    with pytest.raises(UserError, match="does not come to where it was"):
        other.load_state_dict(state)


# The ring.


def test_places_of_a_ring():
    data = random_transitions(10, OBS, ACT)
    ring = Replay(data, 2, 13, 40)
    naive = [[float(x) for x in data.rewards] for _ in range(2)]
    for number in range(40):
        values = np.array([100.0 + number, 200.0 + number])
        ring.met_rows = number + 1
        ring.write(
            number, Met(np.zeros((2, OBS)), np.zeros((2, ACT)), values, values, np.zeros((2, OBS)))
        )
        for s in range(2):
            if len(naive[s]) < 13:
                naive[s].append(float(values[s]))
            else:
                naive[s][ring.place(number)] = float(values[s])
            found = ring.gather(s, np.arange(len(ring)))["rewards"]
            np.testing.assert_array_equal(found, np.array(naive[s], np.float32))


def test_a_replay_that_cannot_be():
    data = random_transitions(10, OBS, ACT)
    with pytest.raises(ValueError, match="at least the 10 logged"):
        Replay(data, 1, 9, 5)
    with pytest.raises(ValueError, match="1 or more"):
        Replay(data, 1, 20, 0)
    with pytest.raises(UserError, match="GiB of memory"):
        Replay(data, 1, 10**15, 10**15)


def test_the_data_are_not_copied():
    data = random_transitions(10, OBS, ACT)
    ring = Replay(data, 1, 20, 5)
    assert ring.logged is data
    assert all(x.shape[1] == 5 for x in ring.met.values())


def test_files_of_what_was_met(tmp_path):
    data = random_transitions(10, OBS, ACT)
    ring = Replay(data, 2, 20, 9)
    for x in ring.met.values():
        x[:] = np.random.default_rng(0).standard_normal(x.shape)
    met.save(tmp_path / "met", ring, 4)
    met.save(tmp_path / "met", ring, 4)
    met.save(tmp_path / "met", ring, 9)
    assert len(list((tmp_path / "met").iterdir())) == 2
    other = Replay(data, 2, 20, 9)
    met.load(tmp_path / "met", other, 9)
    for name, x in ring.met.items():
        np.testing.assert_array_equal(x, other.met[name])
    met.load(tmp_path / "met", other, 4)
    (left,) = (tmp_path / "met").iterdir()
    with pytest.raises(UserError, match="from number 4 to 9"):
        met.load(tmp_path / "met", other, 9)
    left.write_bytes(left.read_bytes()[:-1] + b"?")
    with pytest.raises(UserError, match="damaged"):
        met.load(tmp_path / "met", other, 4)


@pytest.mark.parametrize(("env_steps", "envs"), [(1, 1), (3, 1), (1, 4)])
def test_episodes_are_told_with_their_returns(env_steps, envs):
    data = random_transitions(40, OBS, ACT)
    made = fine_tuning(engine_of("reference", data), data, 50, 90, 10, env_steps, envs)
    made.run(10)
    assert not made.take_episodes()
    made.run(12 // env_steps)
    told = made.take_episodes()
    made.run(18 // env_steps)
    told += made.take_episodes()
    steps = [[] for _ in range(envs)]  # the numbers of the steps that each environment takes
    for number in range(30 - (envs - 1)):
        steps[number % envs].append(number)
    expected = []
    for seed in SEEDS:
        for turn, numbers in enumerate(steps):
            episode, numbers = turn, list(numbers)
            row = FixedRows(seed)
            while True:
                row.reset(episode)
                total, length, over = 0.0, 0, False
                while numbers and not over:
                    last = numbers.pop(0)
                    row.begin(None)
                    outcome = row.outcome()
                    total, length, over = total + outcome.reward, length + 1, outcome.over
                if not over:
                    break
                step = 10 + (last + envs - 1) // env_steps + 1
                expected.append((step, seed, total, length))
                episode += envs
    assert sorted(told) == sorted(expected)
    assert len(told) >= 6


# What is measured.


@ENGINES
def test_what_is_kept_is_measured_with_the_next_run(name):
    data = random_transitions(300, OBS, ACT)
    one, many = engine_of(name, data), engine_of(name, data)
    whole = one.run(6)
    for _ in range(5):
        many.advance(1)
    steps = many.run(1)
    assert whole.keys() == steps.keys()
    for metric, values in whole.items():
        np.testing.assert_allclose(steps[metric], values, rtol=1e-12, err_msg=metric)
    many.advance(3)
    many.load_state_dict(one.state_dict())  # which they do not lead to
    expected, found = one.run(2), many.run(2)
    for metric, values in expected.items():
        np.testing.assert_array_equal(found[metric], values, err_msg=metric)


# How actions are chosen.


@pytest.mark.parametrize(
    ("name", "precision"),
    [pytest.param("cpu", precision, marks=needs_engine) for precision in ("fp64", "fp32", "mixed")]
    + [pytest.param("cuda", name, marks=needs_device) for name in engines.PRECISIONS["cuda"]],
)
@pytest.mark.parametrize("hidden", [(7,), (24, 16), (300, 5, 129)])
def test_actions_are_the_specifications(hidden, name, precision):
    if reason := engines.available(precision)[name]:
        pytest.skip(reason)
    data = random_transitions(40, OBS, ACT)
    hyper, network = Hyperparameters(batch_size=BATCH), NetworkSpec(OBS, ACT, hidden)
    native = engines.create(name, network, hyper, data, SEEDS, precision=precision, threads=2)
    native.run(5)
    plain = engines.create("reference", network, hyper, data, SEEDS, precision="fp64")
    plain.load_state_dict(
        {k: x.double() if x.is_floating_point() else x for k, x in native.state_dict().items()}
    )
    rng = np.random.default_rng(0)
    seen, noise = (rng.standard_normal((2, n)).astype(np.float32) for n in (OBS, ACT))
    tolerance = {"fp64": 1e-7, "mixed": 2e-2}.get(precision, 1e-5)  # actions are fp32
    np.testing.assert_allclose(
        native.explore(seen, noise), plain.explore(seen, noise), atol=tolerance, rtol=tolerance
    )


def test_noise_is_each_seeds_own_and_each_numbers():
    noise = explorations(SEEDS, range(4), ACT)
    assert noise.shape == (4, 2, ACT)
    assert len(np.unique(noise)) == noise.size
    np.testing.assert_array_equal(explorations(SEEDS[1:], [2], ACT)[0, 0], noise[2, 1])
    many = explorations((0,), range(4000), 5)
    assert abs(many.mean()) < 0.03
    assert abs(many.std() - 1) < 0.03


@pytest.mark.parametrize(
    "name", [pytest.param("cpu", marks=needs_engine), pytest.param("cuda", marks=needs_device)]
)
def test_arrays_that_do_not_fit_are_refused(name):
    data = random_transitions(20, OBS, ACT)
    engine = engine_of(name, data)
    ring = Replay(data, len(SEEDS), 30, 5)
    with pytest.raises(ValueError, match="capacity"):
        engine._native.meet(**ring.met, capacity=19)
    with pytest.raises(ValueError, match="actions must have shape"):
        engine._native.meet(**ring.met | {"actions": ring.met["observations"]}, capacity=30)
    engine.meet(ring)
    ring.met_rows = 6
    with pytest.raises(ValueError, match="no slots for so many"):
        engine.run(1)


@on_device
def test_a_device_without_the_memory_is_told():
    data = random_transitions(20, OBS, ACT)
    engine = engine_of("cuda", data)

    def meet(**_):
        raise RuntimeError("the CUDA device has not the memory")

    engine._native = SimpleNamespace(meet=meet)
    with pytest.raises(UserError, match=r"has not the memory\. Fine-tune fewer seeds at a time"):
        engine.meet(Replay(data, len(SEEDS), 30, 5))


@on_device
def test_a_loss_that_is_not_finite_is_told_by_who_waits():
    data = random_transitions(20, OBS, ACT)
    data.rewards[:] = np.nan
    engine = engine_of("cuda", data)
    engine.advance(1)
    seen, noise = (np.zeros((2, n), np.float32) for n in (OBS, ACT))
    with pytest.raises(NonFiniteLoss, match="step 1"):
        engine.explore(seen, noise)


def test_hyperparameters_are_the_engines_own():
    assert replace(Hyperparameters(), batch_size=BATCH).explores
    assert not methods.get("td3_bc").explores
