"""Errors that name the cause: each once named another."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from iql_fast import compare, evaluate
from iql_fast.data import __main__ as data_command
from iql_fast.data import resolve
from iql_fast.data.resolve import Search
from iql_fast.runs import config
from iql_fast.support.errors import UserError

from .conftest import d4rl_columns, write_hdf5


def said(monkeypatch, main, *arguments):
    """What a command says that refuses its arguments."""
    monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
    with pytest.raises(UserError) as caught:
        main()
    return str(caught.value)


def test_numbers_are_checked_before_the_environment_is_blamed(monkeypatch):
    words = said(monkeypatch, evaluate.main, "--run", "nowhere", "--workers", "-3")
    assert words == "--workers is -3; expected a positive number."


@pytest.mark.parametrize(("task", "makes"), [("pen-human-v1", False), ("hopper-medium-v2", True)])
def test_only_what_can_be_made_is_advised(monkeypatch, tmp_path, task, makes):
    monkeypatch.setenv("IQL_FAST_DATA", str(tmp_path))
    words = said(monkeypatch, data_command.main, "info", task)
    assert f"fetch {task}" in words
    assert (f"make {task}" in words) == makes


def test_a_task_of_null_is_no_task_named_none(tmp_path):
    (tmp_path / "o.yaml").write_text("task: null\n")
    with pytest.raises(UserError, match="task is None; expected text"):
        config.parse(["--config", str(tmp_path / "o.yaml")])


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        (b"a", r"'timeouts' holds \|S1 where real numbers are expected"),
        (np.nan, "'timeouts' is nan in row 0; a flag is 0 or 1"),
        (0.5, "'timeouts' is 0.5 in row 0; a flag is 0 or 1"),
    ],
)
def test_flags_that_are_none_are_named_as_such(tmp_path, flag, message):
    path = write_hdf5(tmp_path / "d.hdf5", {**d4rl_columns(), "timeouts": np.full(400, flag)})
    with pytest.raises(UserError, match=message):
        resolve.find("hopper-medium-v2", Search(path))


def test_a_picture_goes_to_a_file(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    for out, words in ((".", "is a folder"), (tmp_path / "file" / "x.png", "file is a file")):
        assert words in said(monkeypatch, compare.main, "nowhere", "--out", out)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
@pytest.mark.parametrize("task", ["", "hopper-medium-v2"])
def test_a_pipe_is_no_dataset_and_is_not_waited_for(tmp_path, task):
    os.mkfifo(tmp_path / "d.hdf5")
    with pytest.raises(UserError, match="neither a file nor a folder"):
        resolve.find(task, Search(tmp_path / "d.hdf5"))


def test_a_script_without_its_main_guard_is_told(tmp_path):
    dataset = write_hdf5(tmp_path / "d.hdf5", d4rl_columns())
    script = tmp_path / "script.py"
    script.write_text(
        "from iql_fast import train\n"
        f"train.main(['--task', 'hopper-medium-v2', '--dataset', {str(dataset)!r}, '--steps', "
        f"'1000', '--eval-workers', '1', '--out', {str(tmp_path / 'run')!r}])\n"
    )
    shown = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert shown.returncode == 1
    assert '`if __name__ == "__main__":`' in shown.stderr.splitlines()[-1]
    assert not (tmp_path / "run").exists()
