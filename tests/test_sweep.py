"""Sweeps without Ray: what a file may say, how its runs are packed, and what they come to."""

import contextlib
import csv
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from iql_fast import methods, sweep
from iql_fast.data import regenerate
from iql_fast.reports import content
from iql_fast.reports import jobs as report_jobs
from iql_fast.runs import checkpoint, config, ensure
from iql_fast.runs.folder import RunFolder
from iql_fast.support.errors import UserError
from iql_fast.sweeps import datasets, executors, gather, jobs, packing
from iql_fast.sweeps import spec as specs
from iql_fast.sweeps.jobs import Job, Outcome, Reached
from iql_fast.sweeps.plan import Listed
from iql_fast.sweeps.sequence import InSequence
from iql_fast.sweeps.showing import Showing, duration
from iql_fast.sweeps.storage import Storage

from .conftest import d4rl_columns, write_hdf5
from .extras import needed
from .sweeps import assert_same_run, cache_tiny, jobs_in, spec, write
from .test_train import rows_without_time


@pytest.fixture
def tiny():
    cache_tiny()


def said(error) -> str:
    return " ".join(str(error.value).split())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"taks": []}, "there is no key 'taks'. The nearest: tasks"),
        ({"tasks": []}, "tasks: expected a list of one or more"),
        ({"tasks": ["hoper-medium-v2"]}, "nearest names: hopper-medium-v2"),
        ({"tasks": ["hopper-medium-v2"] * 2}, "hopper-medium-v2 stands there twice"),
        ({"tasks": [{"env": "Hopper-v5"}]}, "neither `task` nor `dataset`"),
        ({"tasks": [{"task": "hopper-medium-v2", "hiden": 3}]}, "there is no key 'hiden'"),
        ({"methods": ["iqll"]}, "there is no method 'iqll'. The nearest: iql"),
        ({"methods": {"iql": {"grids": {}}}}, "there is no key 'grids'. The nearest: grid"),
        ({"grid": {"expectil": [0.7]}}, "there is no option 'expectil'. The nearest: expectile"),
        ({"grid": {"expectile": 0.7}}, "expectile is 0.7; expected a list of its values"),
        ({"grid": {"expectile": [0.7, 0.7]}}, "expectile has 0.7 twice"),
        ({"grid": {"expectile": [[0.7, 0.9]]}}, "expectile has 2 values; a setting has one"),
        ({"grid": {"expectile": ["high"]}}, "expectile is 'high'; expected numbers"),
        ({"grid": {"expectile": [1.5]}}, "expectile 1.5: --expectile is [1.5]; expected"),
        ({"grid": {"td3_bc_alpha": [1.0]}}, "is of another method than --method iql"),
        ({"grid": {"steps": [5, 6]}}, "steps stands in options and in grid"),
        ({"options": {"seeds": 3}}, "seeds is not set here but by: seeds"),
        ({"options": {"threads": 3}}, "threads is not set here but by: cores"),
        ({"variants": [{}, {"expectile": 0.7}]}, "the settings {} and {'expectile': 0.7} are the"),
        ({"variants": {"expectile": 1}}, "expected a list of settings"),
        ({"seeds": 0}, "seeds is 0; expected a positive number"),
        ({"tasks": [{"dataset": "a.hdf5", "name": 3}]}, "name is 3; expected text"),
        ({"pack": "many"}, "pack is 'many'; expected a whole number"),
        ({"gpus": -1}, "gpus is -1"),
        ({"search": {"space": {}}}, "space: expected lines"),
        ({"search": {"space": {"expectile": {"low": 0.9, "high": 0.1}}}}, "low the lower"),
        ({"search": {"space": {"value_lr": {"low": 0, "high": 1, "log": True}}}}, "a logarithm"),
        ({"search": {"space": {"expectile": {"choices": [0.7]}}}}, "expected two or more"),
        (
            {"search": {"space": {"tau": {"low": 0.1, "high": 1}}}},
            "there is no option 'tau'",
        ),
        (
            {
                "search": {"space": {"expectile": {"low": 0.1, "high": 0.9}}},
                "grid": {"polyak": [1]},
            },
            "leave out grid and variants",
        ),
    ],
)
def test_a_bad_spec_is_named_before_any_work(changes, message):
    with pytest.raises(UserError) as error:
        packing.jobs_of(specs.parsed(spec(**changes), "s.yaml"), "s.yaml")
    assert message in said(error)
    assert said(error).startswith("s.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [("tasks: [", "is not YAML"), ("- a", "must hold lines"), ("seeds: 1\nseeds: 2", "twice")],
)
def test_a_file_that_is_no_spec(tmp_path, text, message):
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        sweep.main([str(tmp_path / "s.yaml")])


def test_settings_are_packed_and_keep_their_seeds():
    """A group's seeds count up, whatever the order of a grid and however much is packed."""
    grid = {"expectile": [0.6, 0.7, 0.9], "hidden": [[8], [16]]}
    given = spec(seeds=2, seed=5, methods={"iql": {"grid": grid}, "bc": None})
    del given["options"]["hidden"]
    by_pack = {}
    for pack in (1, 4, 16):
        made = packing.jobs_of(specs.parsed({**given, "pack": pack}, "s"), "s")
        records = [job.record() for job in made]
        by_pack[pack] = {
            (r["method"], json.dumps(s), seed)
            for r in records
            for s, seed in zip(r["settings"], r["seeds"], strict=True)
        }
        for job in made:
            assert job.options.seed_list == tuple(job.record()["seeds"])
            assert job.record()["folder"] == f"jobs/{job.name}"
        sizes = [(r["method"], len(r["seeds"])) for r in records]
        assert (
            sizes
            == {
                1: [("iql", 2)] * 6 + [("bc", 2)],
                4: [("iql", 4), ("iql", 2)] * 2 + [("bc", 2)],
                16: [("iql", 6)] * 2 + [("bc", 2)],
            }[pack]
        )
    assert by_pack[1] == by_pack[4] == by_pack[16]
    first = made[0]
    assert config.flat(first.options)["expectile"] == [0.6, 0.6, 0.7, 0.7, 0.9, 0.9]
    assert first.record()["seeds"] == [5, 6, 7, 8, 9, 10]
    assert first.record()["settings"][2] == {"expectile": 0.7, "hidden": [8]}
    assert made[1].record()["seeds"] == first.record()["seeds"]


def test_data_of_ones_own_are_found_beside_the_spec(tmp_path):
    given = spec(tasks=[{"dataset": "a.hdf5"}, {"dataset": "b/a.hdf5", "name": "other"}])
    found = specs.read(write(tmp_path / "s.yaml", given))
    assert [task.name for task in found.tasks] == ["a", "other"]
    made = packing.jobs_of(found, "s")
    assert [job.options.dataset for job in made] == [tmp_path / "a.hdf5", tmp_path / "b/a.hdf5"]
    assert [job.name for job in made] == ["a-iql", "other-iql"]


def test_packing_changes_no_result(tiny, tmp_path):
    """Weights and rows of each seed, bit for bit."""
    grid = {"expectile": [0.7, 0.9], "value_lr": [1e-3, 1e-4]}
    for pack in (8, 1):
        given = spec(seeds=2, pack=pack, grid=grid, out=str(tmp_path / f"{pack}"))
        sweep.main([str(write(tmp_path / f"{pack}.yaml", given)), "--on", "sequence"])
    (packed,), alone = jobs_in(tmp_path / "8"), jobs_in(tmp_path / "1")
    assert len(alone) == 4
    whole = checkpoint.load(packed / "checkpoint").state
    for k, run in enumerate(alone):
        for name, tensor in checkpoint.load(run / "checkpoint").state.items():
            own = whole[name] if name == "step" else whole[name][2 * k : 2 * k + 2]
            assert torch.equal(tensor, own), name
        rows = rows_without_time(packed / "metrics.csv")
        own_rows = rows_without_time(run / "metrics.csv")
        assert own_rows == [row for row in rows if int(row["seed"]) in (2 * k, 2 * k + 1)]
    results = [
        [line for line in csv.DictReader((tmp_path / name / "results.csv").open())]
        for name in ("8", "1")
    ]
    for line in (*results[0], *results[1]):
        del line["job"]
    assert results[0] == results[1]


def test_the_same_command_goes_on_and_another_spec_is_refused(tiny, tmp_path, capsys):
    path = write(tmp_path / "s.yaml", spec(methods=["iql", "bc"], seeds=2))
    asked = [str(path), "--on", "sequence", "--out", str(tmp_path / "out")]
    sweep.main(asked)
    record = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert [job["name"] for job in record["jobs"]] == [
        "hopper-medium-v2-iql",
        "hopper-medium-v2-bc",
    ]
    assert record["jobs"][0]["settings"] == [{}, {}]
    for kind in ("md", "csv", "json", "png"):
        assert (tmp_path / "out" / f"results.{kind}").stat().st_size > 100
    runs = [RunFolder(run) for run in jobs_in(tmp_path / "out")]
    before = [run.summary.stat().st_mtime_ns for run in runs]
    (runs[1].path / "summary.json").unlink()
    capsys.readouterr()
    sweep.main(asked)
    assert "1 of 1" in capsys.readouterr().out
    assert runs[0].summary.stat().st_mtime_ns == before[0]
    assert runs[1].summary.exists()
    # What only says where jobs run may change.
    write(path, spec(methods=["iql", "bc"], seeds=2, cores=2))
    sweep.main(asked)
    write(path, spec(methods=["iql"], seeds=2))
    with pytest.raises(UserError, match="holds another sweep: learners"):
        sweep.main(asked)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "x.tex").write_text("")
    with pytest.raises(UserError, match="not the folder of a sweep"):
        sweep.main([str(path), "--out", str(tmp_path / "thesis")])
    assert [p.name for p in (tmp_path / "thesis").iterdir()] == ["x.tex"]


def test_a_setting_that_diverges_does_not_take_others_with_it(tiny, tmp_path, capsys):
    variants = [{"critic_lr": 3e-4}, {"critic_lr": 1e30}, {"critic_lr": 1e-4}]
    out = {}
    for pack in (16, 1):
        out[pack] = tmp_path / f"{pack}"
        path = write(tmp_path / f"{pack}.yaml", spec(pack=pack, variants=variants))
        asked = [str(path), "--on", "sequence", "--out", str(out[pack])]
        with pytest.raises(UserError) as error:
            sweep.main(asked)
        assert "1 of 3 jobs failed, the others are done" in said(error)
        assert "loss of seed 1 is not finite" in said(error)
    packed, alone = (json.loads((out[p] / "results.json").read_text())["rows"] for p in out)
    for a, b in zip(packed, alone, strict=True):
        assert a["seeds"] == b["seeds"]
        assert (a["state"], a["setting"]) == (b["state"], b["setting"])
        assert a["losses"] == b["losses"] or a["state"] == "failed"
    assert [row["state"] for row in packed] == ["finished", "failed", "finished"]
    record = json.loads((out[16] / "sweep.json").read_text())
    assert [job["name"] for job in record["jobs"]] == [
        f"hopper-medium-v2-iql.{i}" for i in (1, 2, 3)
    ]
    # Again: the parts are known, and only the failed one is tried.
    capsys.readouterr()
    with pytest.raises(UserError, match="1 of 3 jobs failed"):
        sweep.main([str(tmp_path / "16.yaml"), "--on", "sequence", "--out", str(out[16])])
    assert "hopper-medium-v2-iql.2: 1 of 1" in capsys.readouterr().out


def test_no_data_is_an_error_before_any_work(tmp_path):
    given = spec(tasks=["pen-human-v0"])
    with pytest.raises(UserError, match="There are no data for pen-human-v0"):
        sweep.main([str(write(tmp_path / "s.yaml", given)), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out" / "jobs").exists()


def test_a_dry_run_looks_for_files(tmp_path):
    given = spec(tasks=[{"dataset": "nope.hdf5"}])
    with pytest.raises(UserError, match=r"There is no dataset file .*nope\.hdf5"):
        sweep.main([str(write(tmp_path / "s.yaml", given)), "--dry-run"])
    assert [path.name for path in tmp_path.iterdir()] == ["s.yaml"]


def test_data_of_one_file_name_are_told_apart(tmp_path):
    """In the results and in a report: by the names that the sweep gives them."""
    for folder, seed in (("x", 1), ("y", 2)):
        (tmp_path / folder).mkdir()
        write_hdf5(tmp_path / folder / "data.hdf5", d4rl_columns(seed=seed))
    tasks = [
        {"dataset": f"{x}/data.hdf5", "name": name} for x, name in (("x", "1"), ("y", "<b>2</b>"))
    ]
    path, out = write(tmp_path / "s.yaml", spec(tasks=tasks)), tmp_path / "out"
    sweep.main([str(path), "--on", "sequence", "--out", str(out)])
    table = list(csv.DictReader((out / "results.csv").open()))
    assert [row["task"] for row in table] == ["1 (data.hdf5)", "<b>2</b> (data.hdf5)"]
    groups = content.groups(report_jobs.of_paths([out]))
    assert [group.title for group in groups] == ["1 (data.hdf5)", "<b>2</b> (data.hdf5)"]
    assert [group.seeds for group in groups] == [1, 1]


def test_a_record_that_was_damaged(tiny, tmp_path):
    path, out = write(tmp_path / "s.yaml", spec(options={"steps": 20})), tmp_path / "out"
    sweep.main([str(path), "--on", "sequence", "--out", str(out)])
    record = json.loads((out / "sweep.json").read_text())
    (out / "sweep.json").write_text(json.dumps(record | {"parted": [["nope", 0]]}))
    with pytest.raises(UserError, match=r"sweep\.json is damaged: it parts 'nope'"):
        sweep.main([str(path), "--on", "sequence", "--out", str(out)])


def test_data_are_made_once_for_all_jobs(tmp_path, monkeypatch, capsys):
    made = []

    def make(name, path, **_):
        made.append(name)
        from .conftest import d4rl_columns, write_hdf5

        path.parent.mkdir(parents=True, exist_ok=True)
        write_hdf5(path, d4rl_columns())

    monkeypatch.setattr(regenerate, "regenerate", make)
    found = specs.parsed(spec(methods=["iql", "bc", "cql"]), "s")
    runs = [job.options for job in packing.jobs_of(found, "s")]
    datasets.prepare(runs)
    datasets.present(runs[0])
    assert made == ["hopper-medium-v2"]
    assert "hopper-medium-v2: made or downloaded once, for all jobs" in capsys.readouterr().out


def test_a_job_stops_where_it_is_asked_to_and_goes_on(tiny, tmp_path):
    (packed,) = packing.jobs_of(specs.parsed(spec(seeds=2), "s"), "s")
    run = jobs.placed(packed.options, 1, shared=False)
    job = Job("a", "a", run, tmp_path / "cut")
    assert Job.from_flat(json.loads(json.dumps(job.flat()))) == job
    heard = []

    def tell(where):
        heard.append(where)
        return where.step >= 50

    assert jobs.train(job, tell) == Outcome("stopped")
    assert [where.step for where in heard] == [0, 10, 20, 30, 40, 50]
    assert Reached.from_flat(json.loads(json.dumps(heard[-1].flat()))) == heard[-1]
    assert checkpoint.steps(job.folder / "checkpoint") == [20, 40]
    heard.clear()
    assert jobs.train(job, lambda where: heard.append(where) or False) == Outcome("finished")
    assert (heard[0].step, heard[-1].step, heard[0].began) == (40, 100, 40)
    whole = replace(job, folder=tmp_path / "whole")
    assert jobs.train(whole, lambda _: False).kind == "finished"
    assert_same_run(job.folder, whole.folder)


class Pretended:
    """An executor whose runs are made up: the score at each of four evaluations is a function of
    the options.

    Args:
        score: of options and the share of the run that is done.
        ends: jobs after which it is killed.
    """

    def __init__(self, score, ends=None):
        self.score, self.ends = score, ends

    def run(self, plan):
        while (job := plan.next()) is not None:
            if self.ends == 0:
                raise KeyboardInterrupt
            self.ends = None if self.ends is None else self.ends - 1
            told, stopped = [], False
            for quarter in range(1, 5):
                step = job.options.total_steps * quarter // 4
                told.append((step, self.score(config.flat(job.options), quarter / 4)))
                stopped = plan.reached(job, Reached(step, 0, tuple(told))) and quarter < 4
                if stopped:
                    break
            if not stopped:
                _pretend_end(job, told[-1][1])
            plan.ended(job, Outcome("stopped" if stopped else "finished"))


def _pretend_end(job, score):
    seeds = {str(seed): score for seed in job.options.seed_list}
    scores = {kind: {"per_seed": seeds, "mean": score, "std": 0.0} for kind in gather.SCORES}
    job.folder.mkdir(parents=True, exist_ok=True)
    summary = {"title": job.name, "scores": scores, "seconds": {"training": 1, "evaluation": 1}}
    RunFolder(job.folder).summary.write_text(json.dumps(summary | {"training_steps": 100}))


def peak(options, share):
    """Best at expectile 0.8 and two layers."""
    (expectile,) = options["expectile"]
    return share * (100 - 400 * (expectile - 0.8) ** 2 - 20 * (len(options["hidden"]) != 2))


@pytest.fixture
def searched(tiny, tmp_path, monkeypatch):
    """Runs a search whose scores are made up; its trials, and the rows of its results."""
    needed("optuna")
    monkeypatch.setattr(ensure, "check", lambda *_: "missing")

    def run(name, executor, *arguments, **changes):
        space = {
            "expectile": {"low": 0.5, "high": 0.95},
            "hidden": {"choices": [[8], [8, 8], [8, 8, 8]]},
        }
        search = {"space": space, "trials": 12, "startup": 4, **changes}
        given = spec(options={"eval_episodes": 1}, search=search)
        del given["options"]["hidden"]
        monkeypatch.setattr(executors, "InSequence", lambda *_: executor)
        path, out = write(tmp_path / f"{name}.yaml", given), tmp_path / name
        with contextlib.suppress(KeyboardInterrupt):
            sweep.main([str(path), "--on", "sequence", "--out", str(out), *arguments])
        trials = json.loads((out / "search.json").read_text())["hopper-medium-v2-iql"]
        results = out / "results.json"
        return trials, json.loads(results.read_text())["rows"] if results.exists() else []

    return run


def test_a_search_finds_the_peak_and_prunes(searched, capsys):
    trials, rows = searched("s", Pretended(peak), trials=25)
    assert len(trials) == len(rows) == 25
    states = {state: [t for t in trials if t["state"] == state] for state in ("finished", "pruned")}
    assert len(states["finished"]) + len(states["pruned"]) == 25
    assert len(states["pruned"]) >= 5
    best = max(states["finished"], key=lambda t: t["value"])
    assert best["value"] > 97
    assert best["params"]["hidden"] == 1
    assert "best    hopper-medium-v2-iql: " in capsys.readouterr().out
    assert [row["seeds"] for row in rows] == [[k] for k in range(25)]
    assert rows[0]["setting"]["expectile"] == trials[0]["params"]["expectile"]
    assert {row["state"] for row in rows} == {"finished", "pruned"}
    # A worse half of them was not trained further; asked for, it is.
    pruned = [row["job"] for row in rows if row["state"] == "pruned"]
    again, rows = searched("s", Pretended(peak), "--finish-pruned", trials=25)
    assert [t["params"] for t in again] == [t["params"] for t in trials]
    assert {row["state"] for row in rows} == {"finished"}
    assert pruned


def test_a_search_that_is_killed_goes_on_as_if_nothing_had_happened(searched):
    whole, _ = searched("whole", Pretended(peak))
    cut, _ = searched("cut", Pretended(peak, ends=7))
    assert len(cut) == 8
    assert cut[-1]["state"] == "begun"
    cut, _ = searched("cut", Pretended(peak))
    assert cut == whole


def test_a_search_without_scores_or_without_optuna(tiny, tmp_path, monkeypatch):
    needed("optuna")
    search = {"space": {"expectile": {"low": 0.5, "high": 0.9}}}
    path = write(tmp_path / "s.yaml", spec(search=search))
    with pytest.raises(UserError, match="a search needs scores"):
        sweep.main([str(path)])
    write(path, spec(search={"space": {"expectile": {"low": 0.5, "high": 1.5}}}))
    with pytest.raises(UserError, match=r"--expectile is \[1.5\]"):
        sweep.main([str(path)])
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"pip install 'iql-fast\[sweep\]'"):
        sweep.main([str(path)])


def test_without_ray_the_jobs_go_in_sequence_and_it_is_said(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(executors.importlib.util, "find_spec", lambda _: None)
    given = dict(cores=1, gpus=None, on_gpu=False, at_once=None, storage=None, logs=tmp_path)
    with executors.opened("auto", None, **given) as executor:
        assert isinstance(executor, InSequence)
    assert "in this process: Ray is not installed (pip install" in capsys.readouterr().out
    with (
        pytest.raises(UserError, match="--address is of a Ray"),
        executors.opened("auto", "here:1", **given),
    ):
        pass
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(UserError, match=r"Ray is not installed.*pip install 'iql-fast\[sweep\]'"),
        executors.opened("ray", None, **given),
    ):
        pass


def test_a_storage_takes_a_run_to_another_machine(tiny, tmp_path):
    """At whatever file a push is cut off, what is there can be gone on with."""
    needed("fsspec")
    (packed,) = packing.jobs_of(specs.parsed(spec(seeds=2), "s"), "s")
    run = jobs.placed(packed.options, 1, shared=False)
    whole = Job("a", "a", run, tmp_path / "whole")
    assert jobs.train(whole, lambda _: False).kind == "finished"
    storage = Storage(str(tmp_path / "shared"))
    assert storage.newest("a") == -1
    first = Job("a", "a", run, tmp_path / "here" / "a")
    assert jobs.train(first, lambda where: where.step >= 50, storage).kind == "stopped"
    assert storage.newest("a") == 40
    assert not storage.has_ended("a")
    there = Job("a", "a", run, tmp_path / "there" / "a")
    began = []
    for cut in (2, 5, 9):

        class Cut(Storage):
            left = cut

            def _put(self, name, path):
                self.left -= 1
                if self.left < 0:
                    raise OSError("the wire was cut")
                super()._put(name, path)

        told = jobs.train(
            there,
            lambda where: began.append(where.began) or False,
            Cut(str(tmp_path / "shared")),
        )
        assert told.kind == "failed"
        assert "the wire was cut" in told.why
        there = Job("a", "a", run, tmp_path / f"there{cut}" / "a")
    ended = jobs.train(there, lambda _: False, Storage(str(tmp_path / "shared")))
    assert ended.kind == "finished", ended.why
    assert began[0] == 40
    assert_same_run(there.folder, whole.folder)
    assert storage.has_ended("a")
    back = tmp_path / "back" / "a"
    assert storage.fetch("a", back)
    assert not storage.fetch("a", back)
    assert_same_run(back, whole.folder)
    assert _files(back) == _files(there.folder)


def _files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_storage_that_several_look_at_at_once(tmp_path):
    needed("fsspec")
    with ThreadPoolExecutor(8) as at_once:
        list(at_once.map(lambda _: Storage(str(tmp_path / "shared")), range(200)))
    assert list((tmp_path / "shared").iterdir()) == []


def test_a_storage_that_cannot_be_used(tmp_path):
    needed("fsspec")
    (tmp_path / "file").write_text("")
    for url in (str(tmp_path / "file" / "x"), "nowhere://x"):
        with pytest.raises(UserError, match=r"--storage .* cannot be written"):
            Storage(url)


def test_progress_counts_what_is_trained_and_estimates(capsys):
    options = config.completed(
        config.with_options(config.TrainConfig(), {"task": "hopper-medium-v2", "seeds": 2}, "x")
    )
    job = Job("a", "a", replace(options, steps=100), None)
    plan = Listed([job, replace(job, name="b", title="b")], lambda *_: ())
    assert (plan.known, plan.seed_steps) == (2, 400)
    with Showing(2, 400) as showing:
        showing.reached(job, Reached(60, 50))
        showing.reached(job, Reached(80, 50))
        # Killed, and begun again at its last checkpoint: those steps are trained once more.
        showing.reached(job, Reached(60, 60))
        assert showing.summary().startswith("0 of 2 jobs, 120 of 400 steps of all seeds")
        assert "about" in showing.summary()
        showing.ended(job, Outcome("finished"))
    assert "1 of 2 jobs, 200 of 400 steps" in capsys.readouterr().out
    assert [duration(s) for s in (45, 700, 12_000)] == ["45 s", "12 min", "3 h 20 min"]


def test_results_are_one_row_a_setting_and_one_line_a_seed(tiny, tmp_path):
    given = spec(grid={"expectile": [0.7, 0.9]}, seeds=2, methods=["iql"])
    made = packing.jobs_of(specs.parsed(given, "s"), "s")
    job = Job(made[0].name, "", made[0].options, tmp_path / made[0].name)
    _pretend_end(job, 50.0)
    path = RunFolder(job.folder).summary
    summary = json.loads(path.read_text())
    summary["scores"]["final"]["per_seed"] = {"0": 40.0, "1": 60.0, "2": 80.0, "3": 90.0}
    path.write_text(json.dumps(summary))
    found = gather.rows(made, tmp_path)
    assert [np.mean(row.scores["final"]) for row in found] == [50, 85]
    text = gather.markdown("title", found)
    lines = [line for line in text.splitlines() if line.startswith("| hopper")]
    assert "expectile 0.9" in lines[0]  # the best first
    assert "| 85 +- 5 |" in lines[0]
    gather.write(tmp_path, "title", found)
    table = list(csv.DictReader((tmp_path / "results.csv").open()))
    assert [(row["seed"], row["expectile"], row["final"]) for row in table] == [
        ("0", "0.7", "40.0"),
        ("1", "0.7", "60.0"),
        ("2", "0.9", "80.0"),
        ("3", "0.9", "90.0"),
    ]
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")


def test_every_method_can_be_swept(tiny):
    """A group of two settings of each, by an option of its own where it has one a seed."""
    for name in methods.NAMES:
        given = spec(methods=[name], seeds=2)
        for option in ("hidden", "batch_size"):
            if name == "dt":
                given["options"].pop(option, None)
        own = sorted(packing.per_seed_options(name))
        if own:
            given["grid"] = {own[0]: [0.5, 0.6]}
        (job,) = packing.jobs_of(specs.parsed(given, "s"), "s")
        assert len(job.options.seed_list) == (4 if own else 2)
