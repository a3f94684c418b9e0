"""The benchmarks: workloads that are counted right, and timings that can be trusted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench import (
    activity,
    cores,
    kernel_cases,
    kernels,
    neighbours,
    noise,
    processes,
    results,
    rounds,
    scaling,
    step_profile,
    throughput,
)
from bench.contenders import KINDS, Contender
from bench.processes import Failed, Processes, Window
from bench.workload import Workload, flops_a_step
from iql_fast.engines import create
from iql_fast.engines.sampling import batch_at
from iql_fast.support import extension
from iql_fast.support.cores import usable_cores
from iql_fast.support.errors import UserError

from .conftest import random_transitions

ROOT = Path(__file__).resolve().parent.parent
needs_engine = pytest.mark.skipif(
    bool(extension.unavailable_reason()), reason=extension.unavailable_reason()
)

# Arithmetic.


def test_flops_of_hoppers_step_by_hand():
    layer1_v, layer1_q, layer2, output, output_pi = 11 * 256, 14 * 256, 256 * 256, 256, 256 * 3
    value = layer1_v + layer2 + output
    critic = layer1_q + layer2 + output
    actor = layer1_v + layer2 + output_pi
    a_row = 3 * value + (value + layer2 + output)  # three forwards; weights', then inputs' gradient
    a_row += actor + (actor + layer2 + output_pi)
    a_row += 2 * (2 * critic + (critic + layer2 + output))  # target and online, twice
    assert flops_a_step(Workload()) == 2 * 256 * a_row


@pytest.mark.parametrize(
    "workload",
    [Workload(), Workload(7, 4, (33, 20, 17), 5, 12), Workload(3, 2, (8,), 1, 1)],
    ids=str,
)
def test_flops_are_those_that_the_reference_does(workload):
    data = random_transitions(50, workload.obs_dim, workload.act_dim)
    engine = create("reference", workload.network, workload.hyper, data, [0])
    with FlopCounterMode(display=False) as counter:
        engine.run(1)
    assert counter.get_total_flops() == flops_a_step(workload)


@pytest.mark.slow
@needs_engine
def test_half_of_the_units_stay_active_on_the_benchmarks_data():
    # As on the tasks' own. On numbers without structure it is 0.40 by then, and falls.
    workload = Workload(rows=20_000)
    data = workload.transitions()
    engine = create("cpu", workload.network, workload.hyper, data, [0])
    engine.run(3000)
    batch = batch_at(data, engine.seeds, engine.step, workload.batch, torch.float32)
    assert 0.5 < activity.active_share(engine.state_dict(), batch) < 0.65


def test_the_share_of_active_units():
    workload = Workload(obs_dim=4, act_dim=2, hidden=(64, 64), batch=200)
    data = random_transitions(500, 4, 2)
    engine = create("reference", workload.network, workload.hyper, data, [0, 1])
    state = engine.state_dict()
    batch = engine.batch_at(0)
    # Symmetric initial weights and no biases: half of the units, give or take a few.
    assert activity.active_share(state, batch) == pytest.approx(0.5, abs=0.06)
    for net in ("value", "actor", "critic"):
        for i in (0, 1):
            state[f"{net}.layers.{i}.bias"] -= 1e6
    assert activity.active_share(state, batch) == 0
    for net in ("value", "actor", "critic"):
        state[f"{net}.layers.1.bias"] += 2e6
    assert activity.active_share(state, batch) == 0.5


# Measuring.

FLOOR, EAGER, JAX = (Contender(kind, 2) for kind in ("floor", "eager", "jax"))
OURS, MANY = Contender("iql_fast", 2), Contender("iql_fast", 2, seeds=2)


def windows(*rates: float, used: float = 2.0, busy: float | None = 2.0) -> list[Window]:
    """One window of a second for each rate."""
    return [Window(rate, 1.0, used, busy) for rate in rates]


def quiet() -> dict[Contender, list[Window]]:
    return {
        FLOOR: windows(100, 101, 99),
        EAGER: windows(50, 40, 60),
        JAX: windows(70, 80, 90),
        OURS: windows(110, 120, 100),
        MANY: windows(160, 150, 170),
    }


def test_rows_and_their_ratios():
    table = results.rows(quiet())
    ours = next(row for row in table if row.contender == OURS)
    assert (ours.median, ours.low, ours.high) == (110, 100, 120)
    assert ours.spread == pytest.approx(20 / 110)
    assert ours.cores_used == 2
    record = results.to_json(ours, table)
    expected = {
        "name": "iql_fast cpu",
        "device": "cpu",
        "threads": 2,
        "seeds": 1,
        "precision": "fp32",
        "steps_per_s": 110,
        "steps_per_s_min": 100,
        "steps_per_s_max": 120,
        "ratio_to_floor": pytest.approx(1.1),
        "ratio_to_eager": pytest.approx(2.2),
        "ratio_to_best_rival": pytest.approx(110 / 80),
        "best_rival": "JAX lax.scan",
        "disturbed": [],
    }
    assert {key: record[key] for key in expected} == expected
    assert record["gflop_per_s"] == pytest.approx(110 * flops_a_step(Workload()) / 1e9)


def test_the_floor_is_compared_by_operations():
    small = Contender("iql_fast", 2, workload=Workload(batch=64))
    table = results.rows({FLOOR: windows(100), small: windows(400)})
    ratio = results.ratio_to_floor(table[1], table)
    expected = 4 * flops_a_step(Workload(batch=64)) / flops_a_step(Workload())
    assert ratio == pytest.approx(expected)


def test_ratios_only_within_a_number_of_threads():
    table = results.rows({FLOOR: windows(100), Contender("iql_fast", 1): windows(60)})
    record = results.to_json(table[1], table)
    assert record["ratio_to_floor"] is record["ratio_to_eager"] is None
    assert record["ratio_to_best_rival"] is record["best_rival"] is None


def test_a_quiet_machine_is_not_noisy():
    table = results.rows(quiet())
    machine = results.machine(table, {JAX: "jax is not installed"}, Workload())
    assert (machine["noisy"], machine["noise"]) == (False, "")
    assert machine["left_out"] == {"JAX lax.scan, 2 threads": "jax is not installed"}
    assert machine["sgemm_gflop_per_s"].keys() == {"2"}


def test_other_processes_disturb_the_row_whose_cores_they_take():
    measured = quiet() | {EAGER: windows(50, 50, 50, used=1.5)}
    assert noise.others_share(2, measured[EAGER]) == pytest.approx(0.25)
    assert noise.disturbances(measured) == {EAGER: ["others had 25% of its cores"]}
    machine = results.machine(results.rows(measured), {}, Workload())
    assert machine["noisy"] is True
    assert machine["noise"] == "eager torch, 2 threads: others had 25% of its cores"


def test_an_unsteady_floor_disturbs_all_rows_with_its_threads():
    single = Contender("iql_fast", 1)
    measured = quiet() | {FLOOR: windows(100, 115, 90), single: windows(9, 9, used=1, busy=1)}
    found = noise.disturbances(measured)
    assert found.keys() == {FLOOR, EAGER, JAX, OURS, MANY}
    assert found[FLOOR] == ["spread 25% over the rounds"]
    assert found[OURS] == ["its floor was disturbed"]


def test_one_round_is_not_to_be_trusted():
    found = noise.disturbances({FLOOR: windows(100), OURS: windows(110)})
    assert found == {
        FLOOR: ["one round cannot show its spread"],
        OURS: ["its floor was disturbed"],
    }


def test_a_contender_that_uses_more_cores_than_it_may_is_told():
    measured = {Contender("jax", 1): windows(5, 5, used=1.6, busy=1.6)}
    assert list(noise.disturbances(measured).values()) == [["used 1.60 cores for 1 threads"]]


@pytest.mark.parametrize("busy", [None, 0.0])
def test_what_others_do_may_be_unknown(busy):
    """No /proc/stat, or one that stands still."""
    assert noise.others_share(2, windows(1, 1, busy=busy)) is None


def test_busy_seconds_of_some_cores(tmp_path):
    stat = tmp_path / "stat"
    stat.write_text(
        "cpu  100 0 0 0 0 0 0 0 0 0\n"
        "cpu0 10 20 30 999 999 1 2 7 5 5\n"
        "cpu1 1000 0 0 0 0 0 0 0 0 0\n"
        "cpu10 500 0 0 0 0 0 0 0 0 0\n"
        "intr 5\n"
    )
    ticks = os.sysconf("SC_CLK_TCK")
    assert cores.busy_seconds({0}, stat) == pytest.approx(70 / ticks)
    assert cores.busy_seconds({0, 10}, stat) == pytest.approx(570 / ticks)
    assert cores.busy_seconds({0, 2}, stat) is None
    assert cores.busy_seconds(set(), stat) is None
    assert cores.busy_seconds({0}, tmp_path / "none") is None


def test_threads_go_to_different_physical_cores_first(monkeypatch):
    assert cores.parse_list("0-2,8\n") == {0, 1, 2, 8}
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(cores, "siblings", lambda core: {core & ~1, core | 1})  # (0, 1), (2, 3)
    assert [cores.for_threads(n) for n in (1, 2, 3, 4, 5)] == [
        (0,),
        (0, 2),
        (0, 2, 1),
        (0, 2, 1, 3),
        (),
    ]


class FakeProcess:
    """Answers as ``ContenderProcess`` does; fails at its ``fails_at``-th window."""

    def __init__(self, log: list[str], name: str, fails_at: int = 0) -> None:
        self.log, self.name, self.fails_at = log, name, fails_at

    def window(self, seconds: float) -> Window:
        self.log.append(self.name)
        if self.log.count(self.name) == self.fails_at:
            raise Failed("its process ended")
        return Window(1.0, seconds, seconds, None)

    def close(self) -> None:
        self.log.append(f"{self.name} closed")


def fakes(log: list[str], **fails_at: int) -> tuple[Processes, list[Contender]]:
    running = Processes()
    for threads, name in enumerate("abcd", 1):
        process = FakeProcess(log, name, fails_at.get(name, 0))
        running.ready[Contender("floor", threads)] = process  # type: ignore[assignment]
        running._all.append(process)  # type: ignore[arg-type]
    return running, list(running.ready)


def test_every_round_has_a_window_of_each_in_random_order():
    log: list[str] = []
    running, contenders = fakes(log)
    measured = rounds.measure(running, contenders, 6, 0.1)
    in_rounds = [tuple(log[i : i + 4]) for i in range(0, 24, 4)]
    assert len(log) == 24
    assert all(set(order) == set("abcd") for order in in_rounds)
    assert len(set(in_rounds)) > 2
    assert all(len(found) == 6 for found in measured.values())


def test_a_contender_that_fails_is_left_out_with_the_reason():
    log: list[str] = []
    running, contenders = fakes(log, b=2)
    measured = rounds.measure(running, contenders, 3, 0.1)
    assert contenders[1] not in measured
    assert [len(found) for found in measured.values()] == [3, 3, 3]
    assert running.left_out == {contenders[1]: "its process ended"}
    assert log.count("b closed") == 1


def test_no_round_but_the_first_starts_after_the_deadline():
    running, contenders = fakes([])
    measured = rounds.measure(running, contenders, 5, 0.1, deadline=0.0)
    assert {len(found) for found in measured.values()} == {1}


def test_a_contender_survives_json():
    contender = Contender("iql_fast", 3, 2, workload=Workload(hidden=(5, 6, 7), rows=9))
    assert Contender.from_json(json.loads(json.dumps(contender.to_json()))) == contender


def test_threads_are_limited_for_every_library():
    settings = processes.settings(Contender("jax", 1))
    assert settings["OMP_NUM_THREADS"] == settings["MKL_NUM_THREADS"] == settings["NPROC"] == "1"
    assert "--xla_cpu_multi_thread_eigen=false" in settings["XLA_FLAGS"]
    assert (
        "--xla_cpu_multi_thread_eigen=true" in processes.settings(Contender("jax", 2))["XLA_FLAGS"]
    )
    assert settings["JAX_PLATFORMS"] == "cpu"
    assert processes.settings(Contender("cuda-jax"))["JAX_PLATFORMS"] == "cuda"


def test_every_axis_starts_from_the_usual_sizes():
    usual = Contender("iql_fast", usable_cores())
    for name, axis in scaling.axes().items():
        for values in (axis.values, axis.quick):
            assert any(axis.at(usual, value) == usual for value in values) or name == "threads"
            assert len({axis.at(usual, value) for value in values}) == len(values)


def test_the_samplers_share():
    usual = Contender("iql_fast", 2)
    large = Contender("iql_fast", 2, workload=Workload(rows=10**7))
    points = {10**6: usual, 10**7: large}
    contenders = scaling.line_up("rows", points, usual)
    assert contenders[:3] == [Contender("floor", 2), usual, large]
    table = results.rows(dict(zip(contenders, map(windows, (100, 80, 90, 800, 900)), strict=True)))
    found = scaling.points_of(table, points)
    assert [point.sampler for point in found] == pytest.approx([0.1, 0.1])
    assert [point.to_floor for point in found] == pytest.approx([0.8, 0.9])


def test_datasets_that_do_not_fit_are_left_out(monkeypatch):
    small, large = (Contender("iql_fast", workload=Workload(rows=n)) for n in (10**5, 10**7))
    monkeypatch.setattr(scaling, "available_memory", lambda: 2 * 2**30)
    assert scaling.too_large([large, small]) == {large: "it needs 2.0 GiB, which are not free"}
    monkeypatch.setattr(scaling, "available_memory", lambda: float("inf"))
    assert scaling.too_large([large, small]) == {}


@pytest.mark.parametrize("module", [throughput, scaling])
def test_help_and_refusals(module, capsys):
    assert "--json FILE" in module.parser().format_help()
    for wrong in (["--rounds", "0"], ["--window", "-1"], ["--plot", "a.txt"]):
        with pytest.raises(SystemExit):
            module.parser().parse_args(wrong)
        assert wrong[0] in capsys.readouterr().err


def test_the_line_up():
    arguments = throughput.parser().parse_args(["--quick", "--threads", "1", "2"])
    found = [(c.kind, c.threads, c.seeds, c.precision) for c in throughput.line_up(arguments)]
    assert found == [
        ("floor", 1, 1, "fp32"),
        ("peak", 1, 1, "fp32"),
        ("eager", 1, 1, "fp32"),
        ("jax", 1, 1, "fp32"),
        ("iql_fast", 1, 1, "fp32"),
        ("iql_fast", 1, 1, "mixed"),
        ("floor", 2, 1, "fp32"),
        ("peak", 2, 1, "fp32"),
        ("eager", 2, 1, "fp32"),
        ("jax", 2, 1, "fp32"),
        ("jax", 2, 2, "fp32"),
        ("iql_fast", 2, 1, "fp32"),
        ("iql_fast", 2, 2, "fp32"),
        ("iql_fast", 2, 1, "mixed"),
        ("iql_fast", 2, 2, "mixed"),
    ]
    arguments = throughput.parser().parse_args(["--threads", "1", "--precision", "fp32"])
    contenders = throughput.line_up(arguments)
    assert [c.kind for c in contenders] == [
        *("floor", "peak", "eager", "compile", "jax", "iql_fast")
    ]
    assert {c.workload.rows for c in contenders} == {1_000_000}
    arguments = throughput.parser().parse_args(["--device", "cuda", "--seeds", "1", "8"])
    found = [(c.kind, c.seeds, c.precision) for c in throughput.line_up(arguments)]
    assert found == [
        ("cuda-eager", 1, "fp32"),
        ("cuda-eager", 1, "tf32"),
        ("cuda-compile", 1, "fp32"),
        ("cuda-compile", 1, "tf32"),
        ("cuda-jax", 1, "fp32"),
        ("cuda-jax", 8, "fp32"),
        ("cuda-jax", 1, "tf32"),
        ("cuda-jax", 8, "tf32"),
        ("graph", 1, "fp32"),
        ("graph", 8, "fp32"),
        ("cuda", 1, "fp32"),
        ("cuda", 8, "fp32"),
        ("cuda", 1, "bf16x3"),
        ("cuda", 8, "bf16x3"),
        ("cuda", 1, "tf32"),
        ("cuda", 8, "tf32"),
    ]
    asked = ["--device", "cuda", "--seeds", "1", "--contenders", "cuda-jax", "cuda"]
    arguments = throughput.parser().parse_args([*asked, "--precision", "bf16x3"])
    assert [(c.kind, c.precision) for c in throughput.line_up(arguments)] == [
        ("cuda-jax", "fp32"),
        ("cuda", "bf16x3"),
    ]


def test_a_rival_with_more_seeds_is_no_rival_of_fewer():
    vmapped = Contender("jax", 2, seeds=2)
    table = results.rows({**quiet(), vmapped: windows(500)})
    assert results.best_rival_of(next(r for r in table if r.contender == OURS), table).median == 80
    assert results.best_rival_of(next(r for r in table if r.contender == MANY), table).median == 500


def test_a_rival_in_tf32_is_one_of_tf32_alone():
    rates = {("cuda-jax", "fp32"): 100, ("cuda-jax", "tf32"): 200}
    ours = {("cuda", precision): 1000 for precision in ("fp32", "bf16x3", "tf32")}
    measured = {
        Contender(kind, precision=precision): windows(rate)
        for (kind, precision), rate in {**rates, **ours}.items()
    }
    table = results.rows(measured)
    best = {
        row.contender.precision: results.best_rival_of(row, table).median
        for row in table
        if row.contender.kind == "cuda"
    }
    assert best == {"fp32": 100, "bf16x3": 100, "tf32": 200}


# In processes of their own.


@pytest.mark.slow
def test_processes_that_can_start_and_that_cannot(monkeypatch):
    small = Workload(obs_dim=3, act_dim=2, hidden=(8, 8), batch=8, rows=50)
    good = Contender("eager", workload=small)
    empty = Contender("eager", workload=Workload(obs_dim=3, act_dim=2, hidden=(8,), rows=0))
    absent = Contender("jax", workload=small)
    without_jax = KINDS["jax"].__class__("JAX", "rival", KINDS["jax"].build, lambda: "no jax")
    monkeypatch.setitem(KINDS, "jax", without_jax)
    with Processes() as running:
        running.start([good, empty, absent])
        assert running.ready.keys() == {good}
        assert running.left_out[absent] == "no jax"
        assert "its process ended with status 1: RuntimeError" in running.left_out[empty]
        window = running.ready[good].window(0.1)
        assert window.steps >= 1
        assert 0.1 <= window.seconds < 10
        assert 0 < window.cpu_seconds <= 1.2 * window.seconds  # of one thread
        process = running.ready[good]._process
        assert process.poll() is None
    assert process.poll() is not None  # none outlives the block


def script(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "bench" / f"{name}.py", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
    )


SHORT = ("--quick", "--rounds", "1", "--window", "0.05")


@pytest.mark.slow
@needs_engine
def test_throughput(tmp_path):
    out = tmp_path / "out.json"
    which = ("--contenders", "iql_fast", "--threads", "1", "--seeds", "1", "2", "--rows", "1000")
    which += ("--precision", "fp32")
    outputs = ("--json", out, "--plot", tmp_path / "out.png")
    done = script("throughput", *SHORT, *which, *outputs)
    assert done.returncode == 0, done.stderr
    assert "iql_fast cpu" in done.stdout
    assert "sgemm floor" in done.stdout
    record = json.loads(out.read_text())
    assert record.keys() == {"machine", "results"}
    assert isinstance(record["machine"]["noisy"], bool)
    assert [(row["name"], row["seeds"]) for row in record["results"]] == [
        ("iql_fast cpu", 1),
        ("iql_fast cpu", 2),
    ]
    flops = flops_a_step(Workload())
    for row in record["results"]:
        assert row["steps_per_s_min"] <= row["steps_per_s"] <= row["steps_per_s_max"]
        bounds = (record["machine"][f"{name}_gflop_per_s"]["1"] for name in ("sgemm", "peak"))
        floor = max(bounds) * 1e9 / flops
        assert row["ratio_to_floor"] == pytest.approx(row["steps_per_s"] / floor)
        assert 0.3 < row["active_units"] < 0.7
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


@needs_engine
def test_kernels(tmp_path):
    out = tmp_path / "out.json"
    short = ("--sizes", "64", "--rounds", "2", "--window", "0.001", "--json", out)
    done = script("kernels", *short)
    assert done.returncode == 0, done.stderr
    assert "polyak_update_" in done.stdout
    rows = json.loads(out.read_text())["results"]
    assert len({(row["operation"], row["size"]) for row in rows}) == len(rows) > 15
    for row in rows:
        assert row["microseconds"].keys() >= {"iql_fast", "eager", "floor"}
        rounds = row["rounds"]
        rival = min(row["ratio"], key=row["ratio"].get)
        ratios = [b / a for a, b in zip(rounds["iql_fast"], rounds[rival], strict=True)]
        assert row["ratio"][rival] == pytest.approx(sum(ratios) / 2)  # the median of two
        assert row["faster_rival"] == (rival if row["ratio"][rival] < 0.95 else None)
        assert row["calls"]["iql_fast"] <= row["calls"]["eager"]


def test_kernels_that_give_something_else_are_not_timed():
    def case(other):
        results = {"iql_fast": lambda: [torch.ones(3)], "eager": lambda: [torch.ones(3) + other]}
        return kernel_cases.Case("op", 3, "3", {}, results)

    kernels.check(case(1e-7))
    with pytest.raises(AssertionError, match="op, eager"):
        kernels.check(case(1e-3))


@pytest.mark.slow
@needs_engine
def test_scaling(tmp_path):
    out = tmp_path / "out.json"
    outputs = ("--json", out, "--plot", tmp_path / "out.svg")
    done = script("scaling", *SHORT, "--axes", "critics", "--threads", "1", *outputs)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())["results"]
    assert [(row["axis"], row["value"], row["critics"]) for row in found] == [
        ("critics", 2, 2),
        ("critics", 10, 10),
    ]
    for row in found:
        flops = flops_a_step(Workload(critics=row["critics"]))
        assert row["gflop_per_s"] == pytest.approx(row["steps_per_s"] * flops / 1e9)
        assert row["ratio_to_floor"] > 0
    assert "<svg" in (tmp_path / "out.svg").read_text()


# Profiles.


def test_samples_are_counted_for_the_parts_of_a_step():
    space = "iql::cpu::avx512::(anonymous namespace)"
    forward = f"{space}::forward_lists<float, float>(iql::cpu::Lists<float>, int)"
    lines = f"""
# Overhead|Shared Object|Symbol
 30.00% |_C.cpython-311.so |[.] {space}::multiply_lists<float, float, {forward}::{{lambda(int)#1}}>
 20.00% |_C.cpython-311.so |[.] {space}::weight_gradient_lists<float, float>
 10.00% |_C.cpython-311.so |[.] {space}::forward<float>(int)::{{lambda(auto:1, int)#1}}::operator()
 20.00% |_C.cpython-311.so |[.] iql::engine::CpuEngine<float, float>::update_panels
 20.00% |libpython3.11.so |[.] _PyEval_EvalFrameDefault
"""
    assert step_profile.shares(lines) == pytest.approx(
        {
            "hidden products, forward": 0.375,
            "hidden products, towards the weights": 0.25,
            "first layer (and hidden products without lists)": 0.125,
            "other": 0.25,
        }
    )
    assert step_profile.shares("") == {}


def test_neighbours_take_the_last_cores_and_are_gone_afterwards():
    with neighbours.busy(1) as (pid,):
        assert Path(f"/proc/{pid}").exists()
        assert os.sched_getaffinity(pid) == {max(os.sched_getaffinity(0))}
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(UserError, match="there are"), neighbours.busy(usable_cores() + 1):
        pass
