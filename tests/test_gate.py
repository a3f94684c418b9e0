"""One gate for what comes in: from Python or the command line, in ranges, within resources."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from iql_fast import engines, methods, ops
from iql_fast.data import columns
from iql_fast.engines import Hyperparameters, NetworkSpec, available, resources
from iql_fast.runs import config
from iql_fast.support import memory
from iql_fast.support.cores import usable_cores
from iql_fast.support.errors import UserError

from .conftest import d4rl_columns, random_transitions, write_hdf5

SIZES = NetworkSpec(11, 3, (16, 16))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("value_order", "newest"),
        ("expectile", 5.0),
        ("expectile", (0.7, 1.0)),
        ("expectile", math.nan),
        ("discount", 9.0),
        ("discount", True),
        ("polyak", -0.1),
        ("value_lr", -1.0),
        ("weight_clip", math.nan),
        ("weight_clip", ()),
        ("temperature", "3"),
        ("actor_schedule_steps", -5),
        ("batch_size", 0),
        ("batch_size", 2.5),
        ("actor_dropout", 1.0),
    ],
)
def test_hyperparameters_out_of_range_are_named(name, value):
    with pytest.raises(ValueError, match=f"{name} is "):
        Hyperparameters(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"), [("hidden", (16, 0)), ("hidden", ()), ("critics", 0), ("obs_dim", -1)]
)
def test_sizes_out_of_range_are_named(name, value):
    with pytest.raises(ValueError, match=f"{name} is "):
        dataclasses.replace(SIZES, **{name: value})


def create(engine="reference", **changes):
    asked = {"data": random_transitions(50), "seeds": [0], "precision": "fp32", "threads": 0}
    asked |= changes
    data, seeds = asked.pop("data"), asked.pop("seeds")
    return engines.create(engine, SIZES, Hyperparameters(batch_size=8), data, seeds, **asked)


def test_engines_refuse_what_makes_no_sense():
    data = random_transitions(50)
    for changes, message in (
        ({"seeds": []}, r"seeds are \[\]"),
        ({"seeds": [-1]}, r"seeds are \[-1\]"),
        ({"seeds": [2**63]}, "seeds are"),
        ({"threads": -4}, "threads is -4"),
        ({"precision": "fp8"}, "precision is 'fp8'"),
        ({"data": dataclasses.replace(data, rewards=data.rewards.astype(float))}, "rewards is flo"),
        ({"data": dataclasses.replace(data, masks=data.masks[:9])}, r"masks is float32 \(9,\)"),
        ({"data": dataclasses.replace(data, actions=data.actions[:, :2])}, r"actions is .*\(50, 3"),
        ({"data": random_transitions(0)}, "no transitions"),
    ):
        with pytest.raises(ValueError, match=message):
            create(**changes)


@pytest.mark.parametrize("engine", [name for name, why in available().items() if not why])
def test_a_negative_number_of_steps_is_refused(engine):
    with pytest.raises(ValueError, match="steps is -5"):
        create(engine).run(-5)


def test_operators_refuse_numbers_out_of_range():
    one = torch.ones(3)
    with pytest.raises(ValueError, match=r"tau is -0\.5"):
        ops.expectile_loss(one, one, tau=-0.5)
    for arguments, message in (({"clip": math.nan}, "clip is nan"), ({"clip": 0}, "clip is 0")):
        with pytest.raises(ValueError, match=message):
            ops.awr_weights(one, one, 3.0, **arguments)
    with pytest.raises(ValueError, match="beta is -1"):
        ops.awr_loss(one, one, one, -1)
    with pytest.raises(ValueError, match="discount is 2"):
        ops.twin_q_loss([one], one, one, one, discount=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--expectile", "1"), "--expectile is .*between 0 and 1"),
        (("--value-lr", "nan"), "--value-lr is .*finite"),
        (("--hidden", "16", "0"), "--hidden is .*positive"),
        (("--batch-size", "0"), "--batch-size is 0"),
        (("--actor-dropout", "1"), "--actor-dropout is 1"),
    ],
)
def test_the_command_line_has_the_same_ranges(arguments, message):
    with pytest.raises(UserError, match=message):
        config.completed(config.parse(["--task", "hopper-medium-v2", *arguments]))


def test_sizes_beyond_the_memory_are_refused(monkeypatch):
    monkeypatch.setattr(resources, "available_bytes", lambda: 1 << 30)
    fits = resources.needed_bytes(NetworkSpec(11, 3), Hyperparameters(), 10)
    assert 1 << 24 < fits < 1 << 30
    resources.check_memory(NetworkSpec(11, 3), Hyperparameters(), 10)
    for network, hyper, seeds in (
        (NetworkSpec(11, 3, (1_000_000, 1_000_000)), Hyperparameters(), 1),
        (NetworkSpec(11, 3), Hyperparameters(batch_size=2_000_000), 1),
        (NetworkSpec(11, 3), Hyperparameters(), 1_000_000),
        (NetworkSpec(11, 3, critics=10_000_000), Hyperparameters(), 1),
    ):
        with pytest.raises(UserError, match=r"of memory at least; 1\.0 GiB are left here"):
            resources.check_memory(network, hyper, seeds)


@pytest.mark.parametrize("suffix", ["hdf5", "npz"])
def test_data_beyond_the_memory_are_refused_before_they_are_read(monkeypatch, tmp_path, suffix):
    path = tmp_path / f"data.{suffix}"
    if suffix == "npz":
        np.savez_compressed(path, **d4rl_columns())
    else:
        write_hdf5(path, d4rl_columns())
    columns.read(path)
    monkeypatch.setattr(memory, "available_bytes", lambda: 1000)
    with pytest.raises(
        UserError, match=r"data\.(hdf5|npz).* takes 0\.0 GiB of memory, and 0\.0 GiB"
    ):
        columns.read(path)


@pytest.mark.parametrize(
    ("method", "settings"),
    [("cql", {"sampled_actions": 10**8}), ("abm", {"samples": 10**9}), ("bcq", {"samples": 10**8})],
)
def test_sampled_actions_beyond_the_memory_are_refused(method, settings):
    """Of this machine's own memory: each would take thousands of GiB."""
    made = methods.get(method)(batch_size=16, hidden=(16, 16), **settings)
    with pytest.raises(UserError, match="of memory at least"):
        engines.for_method(made, random_transitions(20), [0], threads=1)


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("bc", {"hidden": 16}, "hidden is 16; expected one or more whole numbers"),
        ("onestep", {"improvement": "foo"}, "improvement is 'foo'; expected one of reverse_kl"),
        ("cql", {"lagrange": "no"}, "lagrange is 'no'; expected True or False"),
    ],
)
def test_settings_of_methods_from_python_are_typed(method, settings, message):
    with pytest.raises(ValueError, match=message):
        methods.get(method)(**settings)


def test_an_estimate_is_no_more_than_what_is_taken():
    """What fits must not be refused: the estimate is of the least that an engine takes."""
    network, hyper = NetworkSpec(11, 3, (256, 256)), Hyperparameters()
    engine = engines.create("reference", network, hyper, random_transitions(500), [0])
    state = sum(t.numel() * t.element_size() for t in engine.state_dict().values())
    estimate = resources.needed_bytes(network, hyper, 1)
    assert state < estimate < 4 * state


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells in /proc")
def test_the_memory_that_is_left_is_known_here():
    left = memory.available_bytes()
    assert left is not None
    assert 1 << 20 < left < 1 << 50


@pytest.mark.skipif(sys.platform != "linux", reason="address space is limited on Linux")
def test_a_limit_of_the_address_space_is_seen():
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 31, 1 << 31))\n"
        "from iql_fast.support.memory import available_bytes; print(available_bytes())"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0 < int(shown.stdout) < 1 << 31


def test_threads_are_bounded_and_too_many_are_said():
    assert resources.check_threads(usable_cores()) is None
    assert "share" in str(resources.check_threads(usable_cores() + 1))
    with pytest.raises(UserError, match="--threads is 100000"):
        resources.check_threads(100_000)


@pytest.mark.skipif(bool(available()["cpu"]), reason=available()["cpu"])
@pytest.mark.skipif(sys.platform != "linux", reason="address space is limited on Linux")
def test_threads_that_cannot_be_started_are_an_error():
    """Each takes address space for its stack, of which there is none for so many."""
    code = (
        "import resource, tests.test_gate as gate\n"
        "gate.create('cpu', threads=1)\n"
        "taken = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (taken + (96 << 20),) * 2)\n"
        "gate.create('cpu', threads=60)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert shown.returncode == 1, shown.stderr
    assert "of 60 threads could be started" in shown.stderr


def test_a_vector_of_settings_is_one_value_a_seed():
    hyper = Hyperparameters(expectile=(0.7, 0.8))
    np.testing.assert_array_equal(hyper.per_seed("expectile", 2), [0.7, 0.8])
