"""A run's files after somebody has edited them, or another program has saved them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load, save

from iql_fast.runs import checkpoint, trained
from iql_fast.runs.folder import RunFolder
from iql_fast.runs.rows import last_step, read_rows
from iql_fast.support.errors import UserError

from . import odd_runs


@pytest.fixture(scope="module")
def small():
    return odd_runs.small_run()


@pytest.fixture
def run(small, tmp_path):
    return RunFolder(small.write(tmp_path / "run"))


def change(run, path, value):
    """Set what lies at a dotted path of config.json, or remove it where the value is ``...``."""
    record = json.loads(run.config.read_text())
    record.pop("options_sha256", None)  # as records of before there was one
    *parents, name = path.split(".")
    node = record
    for parent in parents:
        node = node[parent]
    if value is ...:
        del node[name]
    else:
        node[name] = value
    run.config.write_text(json.dumps(record))


def test_an_untouched_run_is_read(run):
    run.read_config()
    assert trained.load(run.path).act_dim == 1


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("options.seed", ...),
        ("options.seeds", 0),
        ("options.seeds", True),
        ("options.steps", "200"),
        ("options.task", None),
        ("data.title", ["d"]),
        ("data.return_mean", ...),
        ("scoring.reference", ...),
        ("scoring.reference", [0.0]),
        ("scoring.reference", [1.0, 1.0]),
        ("scoring.horizon", "long"),
        ("scoring.measure", "luck"),
        ("scoring.published", [1]),
        ("observation_scaling", [[0.0, 0.0], [1.0, 0.0]]),
        ("observation_scaling", [[0.0, 1e300], [1.0, 1.0]]),
        ("action_bounds", [["a"], ["b"]]),
        ("action_bounds", [[2.0], [-1.0]]),
        ("observation_layout", [["a", 1], ["b"]]),
        ("observation_layout", [["a", 1], ["b", "1"]]),
        ("policy", {"net": "actor"}),
    ],
)
def test_a_record_says_which_of_its_values_is_none(run, path, value):
    change(run, path, value)
    with pytest.raises(UserError, match=f"in config.json, '{path}' is") as caught:
        run.read_config()
    assert "Bring back the file" in str(caught.value)


def test_a_record_of_a_younger_version(run):
    change(run, "scoring.weather", "fine")
    with pytest.raises(UserError, match="'scoring' holds 'weather', which this version does not"):
        run.read_config()


def test_json_that_is_nested_without_end(run):
    for path, read in ((run.config, run.read_config), (run.summary, run.read_summary)):
        path.write_text("[" * 100_000)
        with pytest.raises(UserError, match=f"{path.name} is damaged"):
            read()
    (run.checkpoints / "000000200" / "state.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match="It is the only one"):
        checkpoint.load(run.checkpoints)


def test_a_seed_of_a_run_of_very_many(run):
    change(run, "options.seeds", 10**15)
    with pytest.raises(UserError, match=r"has no seed -1 .it has: 0 to 999999999999999"):
        trained.load(run.path, seed=-1)


# --- checkpoints --------------------------------------------------------------------------------


def told(run, **others):
    path = run.checkpoints / "000000200" / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | others))


def test_checkpoints_are_sorted_by_their_number(tmp_path):
    for name in ("1000000000", "999999999", "000000100"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "state.json").write_text("{}")
    assert checkpoint.steps(tmp_path) == [100, 999999999, 1000000000]


@pytest.mark.parametrize(
    "seconds", [{"training": "long"}, {"training": None}, {"a": -1}, {"a": []}]
)
def test_seconds_that_are_none(run, seconds):
    told(run, seconds=seconds)
    with pytest.raises(UserError, match="'seconds' holds what is no number"):
        checkpoint.load(run.checkpoints)


@pytest.mark.parametrize("step", [200.0, True, "200"])
def test_a_step_is_a_whole_number(run, step):
    told(run, step=step)
    with pytest.raises(UserError, match="says that it is of step"):
        checkpoint.load(run.checkpoints)


def rewrite(run, **arrays):
    """Other arrays in the checkpoint's state; none where they are None."""
    path = run.checkpoints / "000000200" / "state.safetensors"
    state = load(path.read_bytes()) | arrays
    path.write_bytes(save({name: array for name, array in state.items() if array is not None}))
    told(run, format=1)  # of before there was a digest


@pytest.mark.parametrize("step", [np.float32(np.nan), np.complex64(200j), np.zeros(2), None])
def test_a_step_inside_that_is_none(run, step):
    rewrite(run, step=None if step is None else np.asarray(step))
    with pytest.raises(UserError, match="holds the state of another step"):
        checkpoint.load(run.checkpoints)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("actor.layers.0.weight", None),
        ("actor.layers.1.bias", None),
        ("actor.layers.0.weight", np.zeros((2, 4, 7), np.float32)),
        ("actor.layers.1.weight", np.zeros((2, 1, 7), np.float32)),
        ("actor.layers.1.bias", np.zeros((2, 3), np.float32)),
        ("actor.layers.1.bias", np.zeros((2,), np.float32)),
    ],
)
def test_a_policy_that_lacks_a_layer(run, name, array):
    rewrite(run, **{name: array})
    layered = "holds no whole policy: layer [01] is missing|is for 2 numbers, but the weights"
    with pytest.raises(UserError, match=layered):
        trained.load(run.path)


# --- tables -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        *("50,0,1_0", "\u0665,0,1", "50,\u0665,1", "50,0,0x1", "50,0, 1", '50,0,"1"', "50,0,1\0"),
        *("9" * 30 + ",0,1", "50,-1,1", "50,1.5,1", "50,,1", "50,0,", "50,0,1,1", "50,0", '"'),
    ],
)
def test_a_row_holds_what_this_package_writes(tmp_path, line):
    """What Python would read as numbers besides is not the run's own."""
    path = tmp_path / "scores.csv"
    path.write_text(f"step,seed,score\n10,0,1.5\n\n{line}\n")
    with pytest.raises(UserError, match=r"scores.csv is damaged in line 4"):
        read_rows(path)


def test_tables_of_odd_columns_and_orders(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text("step,seed,seed\n")
    with pytest.raises(UserError, match="has the columns step, seed, seed"):
        read_rows(path)
    path.write_text("step,seed,score\r\n20,0,-1e-05\r\n10,0,nan\r\n")  # sorted by another program
    assert [row["score"] for row in read_rows(path)] == ["-1e-05", "nan"]
    assert last_step(path) == 20
