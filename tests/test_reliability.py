"""Runs that prove themselves: nothing of anybody else's is removed, nothing changed goes unnoticed,
and what comes in is taken as it stands or refused."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from iql_fast import train
from iql_fast.runs import checkpoint, config, ensure
from iql_fast.runs.rows import read_rows
from iql_fast.support import digest
from iql_fast.support.errors import UserError

from .conftest import d4rl_columns, write_hdf5

SMALL = (
    *("--task", "hopper-medium-v2", "--hidden", "16", "16", "--batch-size", "16"),
    *("--log-interval", "50", "--checkpoint-interval", "100", "--eval-episodes", "0"),
)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A finished run of 250 steps that kept all its checkpoints, to be copied and spoiled."""
    place = tmp_path_factory.mktemp("original")
    dataset = write_hdf5(place / "data.hdf5", d4rl_columns())
    arguments = ("--dataset", str(dataset), "--out", str(place / "run"), "--steps", "250")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "KEPT", 9)
        train.main([*SMALL, *arguments])
    return place / "run"


@pytest.fixture
def run(original, tmp_path):
    """A copy that was interrupted at step 200."""
    copy = tmp_path / "run"
    shutil.copytree(original, copy)
    (copy / "summary.json").unlink()
    shutil.rmtree(copy / "checkpoint" / "000000250")
    return copy


def refused(run, message):
    """Resuming is refused with that, and changes nothing."""
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=message):
        train.main(["--resume", str(run)])
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def resumed(run):
    train.main(["--resume", str(run)])
    return checkpoint.load(run / "checkpoint")


def test_an_untouched_run_goes_on_to_the_same_end(run, original):
    end, first = resumed(run), checkpoint.load(original / "checkpoint")
    assert end.step == first.step == 250
    assert all(tensor.equal(first.state[name]) for name, tensor in end.state.items())


def test_a_run_without_its_checkpoints_is_not_begun_anew(run):
    shutil.rmtree(run / "checkpoint")
    refused(run, r"tables .* go up to step 250, but there is none in checkpoint/")
    (run / "checkpoint").write_text("")
    refused(run, r"tables .* go up to step 250, but there is none")


def test_a_finished_run_without_its_last_checkpoint_is_not_cut(original, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(original, copy)
    shutil.rmtree(copy / "checkpoint" / "000000250")
    refused(copy, r"go up to step 250, but the newest checkpoint is of step 200")


def test_a_run_killed_before_its_first_checkpoint_begins_anew(run):
    shutil.rmtree(run / "checkpoint")
    rows = (run / "metrics.csv").read_text().splitlines(keepends=True)
    (run / "metrics.csv").write_text("".join(rows[:2]))
    assert resumed(run).step == 250


def test_rows_that_are_missing_or_not_of_the_run_are_said(run, capsys):
    path = run / "metrics.csv"
    header, first, second, *rest = path.read_text().splitlines(keepends=True)
    assert first.startswith("50,0,")
    path.write_text("".join([header, first.replace("50,0,", "49,7,"), second, second, *rest]))
    resumed(run)
    said = "".join(capsys.readouterr().out.split())  # a path that fills a line is broken anywhere
    for part in (
        "metrics.csv lacks 1 of 4: the first is of step 50 and seed 0",
        "rows that this run did not write, 1 of 4: the first is of step 49 and seed 7",
        "rows more than once, 1 of 4: the first is of step 100",
    ):
        assert part.replace(" ", "") in said
    noted = json.loads((run / "summary.json").read_text())["warnings"]
    assert [note.partition("metrics.csv ")[2][:9] for note in noted] == [
        "lacks 1 o",
        "has rows ",
        "has rows ",
    ]


def test_a_summary_that_knows_more_than_its_tables_is_kept(original, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(original, copy)
    rows = (copy / "metrics.csv").read_text().splitlines(keepends=True)
    (copy / "metrics.csv").write_text("".join(rows[:1] + rows[2:]))
    refused(copy, r"has ended, and its tables are not .*lacks 1 of 5.* summary.json was left as it")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("policy", {"kind": "mlp", "net": "actor", "parts": 3}),
        ("policy", {"kind": "mlp", "net": "target", "parts": 1}),
        ("action_bounds", [[-2.0] * 3, [2.0] * 3]),
    ],
)
def test_what_acts_and_scores_is_what_the_run_said(run, name, value):
    record = json.loads((run / "config.json").read_text())
    assert record[name] != value
    (run / "config.json").write_text(json.dumps(record | {name: value}))
    refused(run, r"config.json was changed since the run began: its scoring, policy and units")


def test_a_checkpoint_of_another_run_is_refused(run, tmp_path):
    other = tmp_path / "other"
    dataset = json.loads((run / "config.json").read_text())["options"]["dataset"]
    arguments = ("--dataset", dataset, "--out", str(other), "--steps", "250", "--seed", "7")
    train.main([*SMALL, *arguments])
    shutil.rmtree(run / "checkpoint")
    shutil.copytree(other / "checkpoint", run / "checkpoint")
    refused(run, r"checkpoint of step 250 .* is of a run with other options")


def test_a_name_that_is_too_long_is_a_paragraph(run):
    with pytest.raises(UserError, match="cannot be used"):
        train.main([*SMALL, "--out", 300 * "a"])


def test_a_resumed_run_keeps_its_method(run):
    with pytest.raises(UserError, match="cannot change --method bc"):
        train.main(["--resume", str(run), "--method", "bc"])


def test_whole_tables_are_not_remarked_on(original):
    assert json.loads((original / "summary.json").read_text())["warnings"] == []


@pytest.mark.parametrize("step", [-5, 100, "200", None])
def test_the_step_of_a_checkpoint_is_its_folders(run, step):
    path = run / "checkpoint" / "000000200" / "state.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"step": step}))
    refused(run, rf"says that it is of step {step!r}. Remove it to go on from step 100")


def test_a_flipped_bit_is_noticed_and_the_older_checkpoint_offered(run, original):
    path = run / "checkpoint" / "000000200" / "state.safetensors"
    content = bytearray(path.read_bytes())
    content[-7] ^= 1
    path.write_bytes(content)
    refused(run, r"000000200 is damaged.*SHA-256. Remove it to go on from step 100")
    shutil.rmtree(path.parent)
    end, first = resumed(run), checkpoint.load(original / "checkpoint")
    assert all(tensor.equal(first.state[name]) for name, tensor in end.state.items())


def test_a_state_of_another_step_is_noticed_where_there_is_no_digest(run):
    """Checkpoints of the format before had none."""
    folder = run / "checkpoint" / "000000200"
    record = json.loads((folder / "state.json").read_text())
    del record["sha256"]
    (folder / "state.json").write_text(json.dumps(record | {"format": 1}))
    assert checkpoint.load(run / "checkpoint", 200).step == 200
    shutil.copy(run / "checkpoint" / "000000100" / "state.safetensors", folder)
    refused(run, "holds the state of another step. Remove it to go on from step 100")


def test_a_state_that_does_not_fit_the_options(run):
    folder = run / "checkpoint" / "000000200"
    state = load_file(folder / "state.safetensors")
    del state["actor.layers.0.bias"]
    save_file(state, folder / "state.safetensors")
    record = json.loads((folder / "state.json").read_text())
    record["sha256"] = digest.of_file(folder / "state.safetensors")
    (folder / "state.json").write_text(json.dumps(record))
    refused(run, "step 200 .* does not fit the run's options")


def test_data_that_changed_are_noticed(run):
    dataset = json.loads((run / "config.json").read_text())["options"]["dataset"]
    kept = run.parent / "kept.hdf5"
    shutil.copy(dataset, kept)
    try:
        with h5py.File(dataset, "a") as file:
            file["actions"][:] = -file["actions"][:]
        refused(run, "began on data whose sha256 is")
    finally:
        shutil.copy(kept, dataset)


def test_options_that_were_edited_are_noticed(run):
    record = json.loads((run / "config.json").read_text())
    del record["options"]["batch_size"]
    (run / "config.json").write_text(json.dumps(record))
    refused(run, "options do not fit their SHA-256")


@pytest.mark.parametrize(
    "content",
    ["[]", "null", "{}", "{", '{"options": []}', '{"options": {}, "engine": "cpu", "data": {}}'],
)
def test_a_damaged_record(run, content):
    (run / "config.json").write_text(content)
    refused(run, "is not the folder of a run")


@pytest.mark.parametrize("content", ["[]", "null", "{}", "{", '{"format": "1", "seconds": {}}'])
def test_a_damaged_checkpoints_record(run, content):
    (run / "checkpoint" / "000000200" / "state.json").write_text(content)
    refused(run, "Remove it to go on from step 100")


def spoil_bom(text):
    return "\ufeff" + text


def spoil_column(text):
    return "\n".join(line + (",x" if i == 0 else ",1") for i, line in enumerate(text.splitlines()))


def spoil_number(text):
    return text.replace("\n100,", "\n1e2,", 1)


def spoil_row(text):
    return text.replace("\n100,", "\n100\n100,", 1)


@pytest.mark.parametrize("spoil", [spoil_bom, spoil_column, spoil_number, spoil_row])
def test_tables_saved_by_another_program(run, spoil):
    path = run / "metrics.csv"
    path.write_text(spoil(path.read_text()) + "\n")
    refused(run, r"metrics\.csv (has the columns|is damaged in line)")


def test_a_folder_of_superscript_digits_is_no_checkpoint(run):
    (run / "checkpoint" / "\u00b2").mkdir()
    assert checkpoint.steps(run / "checkpoint") == [100, 200]


def test_overwriting_removes_what_is_ours_alone(run):
    own = [run / "notes.txt", run / "checkpoint" / "mine.txt", run / "tensorboard" / "mine.txt"]
    own.append(run / "checkpoint" / "000000100" / "mine.txt")
    for path in own:
        path.write_text("kept")
    dataset = json.loads((run / "config.json").read_text())["options"]["dataset"]
    again = ("--dataset", dataset, "--out", str(run), "--overwrite", "--steps", "50")
    train.main([*SMALL, *again])
    assert [path.read_text() for path in own] == ["kept"] * 4
    assert checkpoint.steps(run / "checkpoint") == [50]
    assert [int(row["step"]) for row in read_rows(run / "metrics.csv")] == [50]
    # A checkpoint may have to go where a file that is not ours has stayed.
    train.main([*SMALL, *again[:-1], "100"])
    assert own[-1].read_text() == "kept"
    assert checkpoint.load(run / "checkpoint", 100).step == 100


def test_a_folder_of_hidden_files_is_not_taken_for_a_run_to_be(tmp_path):
    options = config.completed(config.parse([*SMALL, "--steps", "50"]))
    (tmp_path / ".notes").write_text("kept")
    with pytest.raises(UserError, match="nothing in it will be touched"):
        ensure.finished(options, tmp_path)
    (tmp_path / ".notes").unlink()
    (tmp_path / ".ipynb_checkpoints").mkdir()
    with pytest.raises(UserError, match="nothing in it will be touched"):
        ensure.check(options, tmp_path)
    (tmp_path / ".ipynb_checkpoints").rmdir()
    for name in (".config.json.4711.partial", ".probe"):
        (tmp_path / name).write_text("")
    assert ensure.check(options, tmp_path) == "missing"


def test_a_run_that_is_moved_while_it_trains_ends(tmp_path):
    dataset = write_hdf5(tmp_path / "data.hdf5", d4rl_columns())
    arguments = [*SMALL, "--dataset", dataset, "--out", tmp_path / "run", "--steps", 2_000_000]
    process = subprocess.Popen(
        [sys.executable, "-m", "iql_fast.train", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not checkpoint.steps(tmp_path / "run" / "checkpoint"):
        assert process.poll() is None, process.stderr.read()
    os.rename(tmp_path / "run", tmp_path / "moved")
    _, error = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "was moved or removed" in " ".join(error.split())
    assert not (tmp_path / "run").exists()
    assert checkpoint.load(tmp_path / "moved" / "checkpoint").step > 0


def test_a_run_that_is_moved_while_it_writes_a_checkpoint_says_so(tmp_path, monkeypatch):
    dataset, out = write_hdf5(tmp_path / "data.hdf5", d4rl_columns()), tmp_path / "run"

    def moved_meanwhile(*_):
        out.rename(tmp_path / "moved")
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))

    monkeypatch.setattr("safetensors.torch.save_file", moved_meanwhile)
    arguments = [*SMALL, "--dataset", dataset, "--out", out, "--steps", 150]
    with pytest.raises(UserError, match="was moved or removed"):
        train.main([*map(str, arguments)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hidden: [256.7, 32]", r"hidden is \[256\.7, 32\]; expected whole numbers"),
        ("hidden: [true, true]", r"hidden is \[True, True\]"),
        ("discount: true", r"discount is True; expected numbers"),
        ("seeds: 2\nseeds: 3", r"seeds stands there twice"),
        ("batch-size: 2\nbatch_size: 3", r"batch_size stands there twice"),
        ("config: other.yaml", r"config belongs on the command line"),
        ("task: null", r"task is None; expected text"),
        ("preset: walking", r"preset is 'walking'; expected one of locomotion"),
        ("offline: 1", r"offline is 1; expected true or false"),
        ("steps: 1.5", r"steps is 1\.5; expected a whole number"),
        ("- 1", r"must hold lines of the form"),
    ],
)
def test_yaml_is_taken_as_it_stands_or_refused(tmp_path, text, message):
    path = tmp_path / "options.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        config.parse(["--config", str(path)])


def test_whole_numbers_stay_exact(tmp_path):
    path = tmp_path / "options.yaml"
    path.write_text("seed: 9007199254740993\nsteps: 1e6\nvalue-lr: [1e-3, 2e-3]")
    options = config.parse(["--config", str(path)])
    assert (options.seed, options.steps) == (9007199254740993, 1_000_000)
    assert options.algorithm.value_lr == (1e-3, 2e-3)
    stored = json.loads(json.dumps(config.flat(options)))
    assert config.with_options(config.TrainConfig(), stored, "here").seed == 9007199254740993


def launched(tmp_path, *more, **settings):
    dataset = write_hdf5(tmp_path / "data.hdf5", d4rl_columns())
    arguments = [*SMALL, "--dataset", dataset, "--steps", 50, *more]
    return subprocess.Popen(
        [sys.executable, "-m", "iql_fast.train", *map(str, arguments)],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        **settings,
    )


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_output_that_cannot_be_written_undoes_nothing(tmp_path):
    with open("/dev/full", "w") as full:
        process = launched(tmp_path, "--out", "run", stdout=full)
        _, error = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "Traceback" not in error
    assert "not all of the output could be written" in error
    assert (tmp_path / "run" / "summary.json").exists()


@pytest.mark.skipif(os.name != "posix", reason="closes a descriptor as a shell does")
def test_closed_output_ascii_output_and_odd_paths(tmp_path):
    close = {"preexec_fn": lambda: os.close(1)}
    process = launched(tmp_path, "--out", "closed", **close)
    _, error = process.communicate(timeout=120)
    assert (process.returncode, error) == (0, "")
    environment = os.environ | {
        "PYTHONIOENCODING": "ascii",
        "MPLBACKEND": "module://a_backend_of_a_notebook",
    }
    odd = tmp_path / "h\u00fcpfer [a] [/red]"
    process = launched(tmp_path, "--out", odd, stdout=subprocess.PIPE, env=environment)
    output, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    assert (odd / "curves.png").exists()
    assert "[a] [/red]" in "".join(output.splitlines())


def test_columns_have_a_digest_of_their_own():
    columns = {"a": np.arange(6.0).reshape(2, 3), "b": np.zeros(2, bool)}
    known = digest.of_columns(columns)
    assert known == digest.of_columns({name: column.copy() for name, column in columns.items()})
    changed = [
        {"a": columns["a"].reshape(3, 2), "b": columns["b"]},
        {"a": columns["a"].astype(np.float32), "b": columns["b"]},
        {"a": columns["a"], "c": columns["b"]},
        {"a": columns["a"] + np.eye(2, 3), "b": columns["b"]},
    ]
    assert len({known, *map(digest.of_columns, changed)}) == 5
