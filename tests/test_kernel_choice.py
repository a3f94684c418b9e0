"""Kernels chosen by measurement: what is chosen, kept, recorded, and that it changes no result."""

from __future__ import annotations

import itertools
import json
import math

import pytest
import torch

from iql_fast import train
from iql_fast.engines import Hyperparameters, NetworkSpec, create, kernel_choice
from iql_fast.engines.cpu import CpuEngine
from iql_fast.engines.kernel_choice import KernelChoice
from iql_fast.support import extension
from iql_fast.support.errors import UserError

from .conftest import random_transitions

pytestmark = pytest.mark.skipif(
    bool(extension.unavailable_reason()), reason=extension.unavailable_reason()
)
PAPERS = NetworkSpec(11, 3), 256


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("IQL_FAST_DATA", str(tmp_path / "cache"))
    monkeypatch.delenv("IQL_FAST_CPU_KERNELS", raising=False)


@pytest.fixture
def timed(monkeypatch):
    """Sets and what their products take, in place of a measurement; and the calls of it."""
    calls = []
    seconds = {"first": (2.0, 1.0, 1.5), "second": (2.0, 0.5, 1.0), "portable": (9.0, 9.0, 9.5)}

    def time_products(name, **asked):
        calls.append((name, asked))
        return dict.fromkeys(kernel_choice.KINDS, seconds[name])

    native = extension.load()
    monkeypatch.setattr(native, "time_products", time_products)
    monkeypatch.setattr(native, "cpu_kernel_sets", lambda mixed=False: list(seconds))
    return seconds, calls


def test_the_fastest_set_and_the_density_where_lists_stop_paying(timed):
    _, calls = timed
    choice = kernel_choice.choose("fp32", *PAPERS)
    assert choice.kernels == "second"
    assert [name for name, _ in calls] == ["first", "second"]  # portable: only where there is none
    asked = {"mixed": False, "seconds": 0.15, "rows": 256, "inputs": 256, "outputs": 256}
    assert calls[0][1] == asked
    # By lists 0.5 s at a quarter and 1 s at a half: 2 s, what it takes without, is beyond one.
    assert choice.list_density == (1.0, 1.0, 1.0)
    assert choice.because == "measured; times as long: first 1.50"


def test_the_earlier_set_where_the_later_one_is_hardly_faster(timed):
    seconds, _ = timed
    seconds["second"] = (2.0, 1.0, 1.45)
    choice = kernel_choice.choose("fp32", *PAPERS)
    assert choice.kernels == "first"
    assert choice.list_density == pytest.approx((0.75, 0.75, 0.75))


def test_the_fastest_of_sets_that_give_the_same_bits(timed):
    seconds, _ = timed
    seconds["first-wide"] = (2.0, 1.0, 1.49)
    assert kernel_choice.choose("fp32", *PAPERS).kernels == "second"
    seconds["second"] = (2.0, 1.0, 1.5)
    assert kernel_choice.choose("mixed", *PAPERS).kernels == "first-wide"


def test_a_set_without_lists(timed):
    seconds, _ = timed
    seconds["second"] = (0.1, math.inf, math.inf)
    choice = kernel_choice.choose("mixed", *PAPERS)
    assert (choice.kernels, choice.list_density) == ("second", (0.0, 0.0, 0.0))


def test_what_was_measured_is_kept_for_its_processor_and_sizes(timed, monkeypatch):
    _, calls = timed
    first = kernel_choice.choose("fp32", *PAPERS)
    measured = len(calls)
    assert kernel_choice.choose("fp32", *PAPERS) == first
    assert len(calls) == measured
    kernel_choice.choose("mixed", *PAPERS)
    kernel_choice.choose("fp32", NetworkSpec(11, 3, (512, 512)), 256)
    assert len(calls) == 3 * measured
    monkeypatch.setattr(kernel_choice, "processor", lambda: "another")
    kernel_choice.choose("fp32", *PAPERS)
    assert len(calls) == 4 * measured


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", "{}", '{"kernels": "first"}', '{"list_density": [0, 0, 2]}', "sse9"],
)
def test_what_cannot_be_used_is_measured_anew(content, timed):
    _, calls = timed
    first = kernel_choice.choose("fp32", *PAPERS)
    (path,) = (kernel_choice.cache_folder() / "kernels").iterdir()
    record = json.loads(path.read_text())
    if content == "sse9":
        path.write_text(json.dumps({**record, "kernels": "sse9"}))
    elif "density" in content:
        path.write_text(json.dumps(record | json.loads(content)))
    else:
        path.write_text(content)
    calls.clear()
    assert kernel_choice.choose("fp32", *PAPERS) == first
    assert calls
    assert json.loads(path.read_text()) == record


def test_a_cache_that_cannot_be_written_bars_nothing(timed, tmp_path):
    (tmp_path / "cache").write_text("a file")
    assert kernel_choice.choose("fp32", *PAPERS).kernels == "second"


def test_nothing_is_measured_where_there_is_nothing_to_gain(timed, monkeypatch):
    _, calls = timed
    assert kernel_choice.choose("fp32", NetworkSpec(11, 3, (256,)), 256) is None
    assert kernel_choice.choose("fp32", NetworkSpec(11, 3, (64, 64)), 256) is None
    assert kernel_choice.choose("fp64", *PAPERS) is None
    monkeypatch.setenv("IQL_FAST_CPU_KERNELS", "portable")
    choice = kernel_choice.choose("fp32", *PAPERS)
    assert (choice.kernels, choice.list_density) == ("portable", None)
    assert not calls


def test_products_are_timed_in_every_set():
    native = extension.load()
    for mixed in (False, True):
        for name in native.cpu_kernel_sets(mixed=mixed):
            times = native.time_products(
                name, mixed=mixed, rows=70, inputs=40, outputs=50, seconds=0
            )
            assert tuple(times) == kernel_choice.KINDS
            for dense, *listed in times.values():
                assert 0 < dense < 1
                assert all(seconds > 0 for seconds in listed)
    with pytest.raises(ValueError, match="sizes must be positive"):
        native.time_products("portable", mixed=False, rows=0, inputs=1, outputs=1, seconds=0)
    with pytest.raises(RuntimeError, match="the kernels are 'sse9', which this machine cannot run"):
        native.time_products("sse9", mixed=False, rows=1, inputs=1, outputs=1, seconds=0)


@pytest.mark.parametrize("precision", ["fp32", "mixed"])
def test_lists_change_no_bit(precision):
    """Whichever products go by lists, in each set of kernels."""
    data, network = random_transitions(), NetworkSpec(11, 3, (70, 130, 33))
    for name in extension.load().cpu_kernel_sets(mixed=precision == "mixed"):
        states = []
        for density in (None, (0.0, 0.0, 0.0), *itertools.permutations((1.0, 0.0, 0.5))):
            engine = create(
                "cpu",
                network,
                Hyperparameters(batch_size=150),
                data,
                [0],
                precision=precision,
                threads=1,
                kernels=KernelChoice(name, density),
            )
            assert isinstance(engine, CpuEngine)
            assert engine.kernel_set == name
            engine.run(4)
            states.append(engine.state_dict())
        for state in states[1:]:
            for key, tensor in states[0].items():
                assert torch.equal(tensor, state[key]), (name, key)


TINY = ["--steps", "200", "--log-interval", "100", "--checkpoint-interval", "100"]
TINY += ["--eval-episodes", "0", "--batch-size", "16", "--hidden", "16", "16"]


@pytest.fixture
def begun(tmp_path, dataset_file, monkeypatch):
    """A run that began with the portable kernels."""
    monkeypatch.setenv("IQL_FAST_CPU_KERNELS", "portable")
    run = tmp_path / "run"
    train.main(["--dataset", str(dataset_file), "--engine", "cpu", "--out", str(run), *TINY])
    monkeypatch.delenv("IQL_FAST_CPU_KERNELS")
    return run


def test_a_run_goes_on_with_the_kernels_that_it_began_with(begun, capsys, monkeypatch):
    assert json.loads((begun / "config.json").read_text())["kernels"]["kernels"] == "portable"
    capsys.readouterr()
    train.main(["--resume", str(begun)])
    assert "kernels portable (the run began with them)" in capsys.readouterr().out
    best = extension.load().cpu_kernel_sets()[0]
    monkeypatch.setenv("IQL_FAST_CPU_KERNELS", best)
    train.main(["--resume", str(begun)])
    assert f"kernels {best} (asked for)" in capsys.readouterr().out


def test_a_run_that_moves_to_a_machine_without_its_kernels_says_so(begun, capsys):
    path = begun / "config.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"kernels": record["kernels"] | {"kernels": "sse9"}}))
    capsys.readouterr()
    train.main(["--resume", str(begun)])
    assert "began with the kernels sse9, which this" in capsys.readouterr().out
    path.write_text(json.dumps(record | {"kernels": ["sse9"]}))
    with pytest.raises(UserError, match=r"config\.json: kernels is no choice of kernels"):
        train.main(["--resume", str(begun)])
    del record["kernels"]  # of a run before there was a choice
    path.write_text(json.dumps(record))
    train.main(["--resume", str(begun)])


def test_mixed_precision_that_gains_nothing_is_told(tmp_path, dataset_file, capsys, monkeypatch):
    native = extension.load()
    monkeypatch.setattr(
        native,
        "time_products",
        lambda name, mixed, **_: dict.fromkeys(kernel_choice.KINDS, (2.0, 1.0, 1.25 - mixed / 8)),
    )
    run = ["--dataset", str(dataset_file), "--engine", "cpu", "--steps", "2", "--log-interval", "1"]
    run += ["--checkpoint-interval", "2", "--eval-episodes", "0", "--precision", "mixed"]
    train.main([*run, "--out", str(tmp_path / "gains")])
    assert "fp32 is as fast" not in capsys.readouterr().out
    monkeypatch.setattr(
        native,
        "time_products",
        lambda name, mixed, **_: dict.fromkeys(kernel_choice.KINDS, (2.0, 1.0, 1.25 + mixed / 8)),
    )
    monkeypatch.setenv("IQL_FAST_DATA", str(tmp_path / "other"))
    train.main([*run, "--out", str(tmp_path / "loses")])
    told = " ".join(capsys.readouterr().out.split())
    assert "fp32 is as fast: here the products of mixed precision are 0.91 times as fast" in told
