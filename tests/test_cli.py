"""How a command line ends."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("arguments", [["iql_fast.train", "--help"], ["iql_fast.data", "list"]])
def test_a_reader_that_has_gone_ends_a_command_quietly(arguments):
    reader, writer = os.pipe()
    os.close(reader)
    try:
        result = subprocess.run(
            [sys.executable, "-m", *arguments],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(writer)
    assert result.returncode == 1
    assert result.stderr == ""
