"""Each tracker in its offline mode: what it was given is read back and compared with the tables."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from iql_fast.runs.loggers.base import rows_of
from iql_fast.runs.rows import read_rows
from iql_fast.support.errors import UserError

from .conftest import d4rl_columns, write_hdf5
from .extras import needed

pytestmark = pytest.mark.slow  # MLflow takes its time to make a database

NAMES = ("wandb", "mlflow", "trackio")
STEPS = 425
KILLED_STEPS = 120_000
SMALL = (
    *("--task", "hopper-medium-v2", "--hidden", 16, 16, "--batch-size", 16, "--seeds", 2),
    *("--log-interval", 50, "--eval-interval", 200, "--checkpoint-interval", 100),
    *("--eval-episodes", 1, "--eval-workers", 1, "--steps", STEPS),
)


def environment(home: Path) -> dict[str, str]:
    """Trackers that talk to nobody and keep to a folder."""
    kept = {name: value for name, value in os.environ.items() if "API_KEY" not in name}
    own = {"HOME": str(home), "WANDB_MODE": "offline", "TRACKIO_DIR": str(home / "trackio")}
    return kept | own | {"MLFLOW_TRACKING_URI": f"sqlite:///{home}/mlflow.db", "DO_NOT_TRACK": "1"}


def train(
    home: Path, *arguments: object, command: tuple[str, ...] = ("-m", "iql_fast.train"), **settings
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=home,
        env=environment(home) | settings,
        stdin=subprocess.DEVNULL,
        timeout=300,
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a run of two seeds that was logged to all three, and with what they wrote."""
    needed(*NAMES)
    home = tmp_path_factory.mktemp("home")
    write_hdf5(home / "data.hdf5", d4rl_columns())
    asked = (*SMALL, "--dataset", "data.hdf5", "--out", "run", "--log", ",".join(NAMES))
    result = train(home, *asked)
    assert result.returncode == 0, result.stderr
    assert "warning --log" not in result.stdout, result.stdout
    return home


def tables(run: Path) -> dict[tuple[str, int], float]:
    """(name, step) -> value, as loggers show what the tables of a run hold."""
    return {
        (name, row.step): value
        for table in ("metrics", "scores")
        for row in rows_of(table, read_rows(run / f"{table}.csv"))
        for name, value in row.values.items()
    }


def identity(run: Path, name: str) -> str:
    return str(json.loads((run / "logged.json").read_text())[name]["run"])


def wandb_records(file: Path):
    """The records of a ``.wandb`` file: LevelDB's log format, of protobuf messages."""
    from wandb.proto.wandb_internal_pb2 import Record

    content = file.read_bytes()
    assert content[:4] == b":W&B"
    at, block, message = 7, 32768, b""
    while at + 7 <= len(content):
        if block - at % block < 7:  # too little for a header: the rest of a block is empty
            at += block - at % block
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        message += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = Record()
            record.ParseFromString(message)
            yield record
            message = b""


def wandb_history(files: list[Path]) -> list[tuple[str, int, float]]:
    found = []
    for file in files:
        for record in wandb_records(file):
            if record.WhichOneof("record_type") == "history":
                items = {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json)
                    for item in record.history.item
                }
                step = items.pop("step")
                shown = {name: x for name, x in items.items() if not name.startswith("_")}
                found += [(name, step, value) for name, value in shown.items()]
    return found


def mlflow_history(home: Path, run: Path) -> list[tuple[str, int, float]]:
    from mlflow import MlflowClient

    client, name = MlflowClient(f"sqlite:///{home}/mlflow.db"), identity(run, "mlflow")
    return [
        (metric.key, metric.step, metric.value)
        for key in client.get_run(name).data.metrics
        for metric in client.get_metric_history(name, key)
    ]


def trackio_history(home: Path, run: Path) -> list[tuple[str, int, float]]:
    import sqlite3

    (database,) = (home / "trackio").glob("*.db")
    with sqlite3.connect(database) as connection:
        rows = connection.execute(
            "select step, metrics from metrics where run_name = ?", (identity(run, "trackio"),)
        ).fetchall()
    return [(name, step, value) for step, text in rows for name, value in json.loads(text).items()]


def assert_is_the_tables(
    found: list[tuple[str, int, float]], run: Path, twice: range = range(0)
) -> None:
    """All of the tables is there, and nothing else but the summary; once, but for the steps that
    may be there twice."""
    rows = [(name, step, value) for name, step, value in found if is_of_a_row(name)]
    assert {(name, step): value for name, step, value in rows} == tables(run)
    counts = Counter((name, step) for name, step, _ in rows)
    assert all(count == 1 or (step in twice and count == 2) for (_, step), count in counts.items())


def is_of_a_row(name: str) -> bool:
    return "_score/" not in name and name != "seed_steps_per_second"


def test_wandb_has_what_the_tables_have(home):
    run = home / "run"
    (file,) = (home / "wandb").glob("offline-run-*/*.wandb")
    assert identity(run, "wandb") in file.name
    assert_is_the_tables(wandb_history([file]), run)
    records = list(wandb_records(file))
    (begun,) = (r.run for r in records if r.WhichOneof("record_type") == "run")
    config = {item.key: json.loads(item.value_json) for item in begun.config.update}
    assert (begun.project, begun.display_name) == ("iql_fast", "run")
    assert config["expectile"] == [0.7]
    assert config["data"]["title"] == "hopper-medium-v2 (data.hdf5)"
    assert config["versions"].keys() >= {"torch", "numpy"}
    final = json.loads((run / "summary.json").read_text())["scores"]["final"]
    told = {}
    for record in records:
        if record.WhichOneof("record_type") == "summary":
            told |= {i.key: json.loads(i.value_json) for i in record.summary.update}
    assert told["final_score/mean"] == final["mean"]
    assert told["final_score/seed1"] == final["per_seed"]["1"]


def test_mlflow_has_what_the_tables_have(home):
    from mlflow import MlflowClient

    run = home / "run"
    assert_is_the_tables(mlflow_history(home, run), run)
    stored = MlflowClient(f"sqlite:///{home}/mlflow.db").get_run(identity(run, "mlflow"))
    assert (stored.info.run_name, stored.info.status) == ("run", "FINISHED")
    assert stored.data.params["expectile"] == "[0.7]"
    assert stored.data.params["data.title"] == "hopper-medium-v2 (data.hdf5)"
    assert "versions.torch" in stored.data.params
    final = json.loads((run / "summary.json").read_text())["scores"]["final"]
    assert stored.data.metrics["final_score/std"] == final["std"]


def test_trackio_has_what_the_tables_have(home):
    import sqlite3

    run = home / "run"
    found = trackio_history(home, run)
    assert_is_the_tables(found, run)
    final = json.loads((run / "summary.json").read_text())["scores"]["final"]
    assert ("final_score/mean", STEPS, final["mean"]) in found
    (database,) = (home / "trackio").glob("*.db")
    with sqlite3.connect(database) as connection:
        ((config,),) = connection.execute("select config from configs").fetchall()
    assert json.loads(config)["expectile"] == [0.7]


def test_a_run_that_was_killed_goes_on_in_the_same_place(home):
    """Killed beyond a checkpoint: what it trains again is logged once."""
    asked = (*SMALL[: -len(("--steps", STEPS))], "--steps", KILLED_STEPS, "--log", *NAMES)
    asked += ("--log-interval", 1000, "--eval-interval", 60_000, "--checkpoint-interval", 5000)
    asked += ("--dataset", "data.hdf5", "--out", "killed")
    process = subprocess.Popen(
        [sys.executable, "-m", "iql_fast.train", *map(str, asked)],
        cwd=home,
        env=environment(home),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    run, deadline = home / "killed", time.monotonic() + 300
    while not all(last_logged(run, name) > 5500 for name in NAMES):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    reached = int(read_rows(run / "metrics.csv")[-1]["step"])
    before = {name: (identity(run, name), last_logged(run, name)) for name in NAMES}
    result = train(home, "--resume", "killed")
    assert result.returncode == 0, result.stderr
    assert "warning --log" not in result.stdout, result.stdout
    assert all(identity(run, name) == before[name][0] for name in NAMES)
    assert all(last_logged(run, name) == KILLED_STEPS for name in NAMES)
    # Twice at most what was given to it just before the kill.
    given = {name: range(before[name][1] + 1, reached + 1) for name in NAMES}
    assert_is_the_tables(mlflow_history(home, run), run, given["mlflow"])
    assert_is_the_tables(trackio_history(home, run), run, given["trackio"])
    files = sorted(home.glob(f"wandb/offline-run-*{identity(run, 'wandb')}/*.wandb"))
    assert len(files) == 2
    assert_is_the_tables(wandb_history(files), run, given["wandb"])


def last_logged(run: Path, name: str) -> int:
    try:
        return int(json.loads((run / "logged.json").read_text())[name].get("metrics", 0))
    except (OSError, KeyError):
        return 0


def test_a_tracker_that_is_asked_for_later_has_the_whole_run(home, tmp_path):
    """A finished run is given to one that has not had it."""
    run = Path(shutil.copytree(home / "run", home / "later"))
    (run / "logged.json").unlink()
    result = train(home, "--resume", "later", "--log", "mlflow")
    assert result.returncode == 0, result.stderr
    assert json.loads((run / "logged.json").read_text()).keys() == {"mlflow"}
    assert identity(run, "mlflow") != identity(home / "run", "mlflow")
    assert_is_the_tables(mlflow_history(home, run), run)


def test_wandb_without_a_key_is_an_error_before_any_work(home):
    asked = (*SMALL, "--dataset", "data.hdf5", "--out", "keyless", "--log", "wandb")
    result = train(home, *asked, WANDB_MODE="online")
    assert result.returncode == 2
    assert "there is no API key for http" in " ".join(result.stderr.split())
    assert "WANDB_MODE=offline" in result.stderr
    assert not (home / "keyless").exists()


def test_where_wandb_finds_its_key(monkeypatch, tmp_path):
    needed("wandb")
    from iql_fast.runs.loggers.wandb import _has_key

    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / "netrc"
    monkeypatch.setenv("NETRC", str(file))
    settings = SimpleNamespace(api_key=None, base_url="https://one.example")
    assert not _has_key(settings)
    file.write_text(f"machine other.example login user password {40 * 'a'}")
    assert not _has_key(settings)
    file.write_text(f"machine one.example login user password {40 * 'a'}")
    assert _has_key(settings)
    file.unlink()
    monkeypatch.setenv("WANDB_API_KEY", 40 * "a")
    assert _has_key(settings)
    monkeypatch.setenv("WANDB_API_KEY", "short")
    with pytest.raises(UserError, match=r"--log wandb: WANDB_API_KEY invalid.*wandb login"):
        _has_key(settings)


PATIENCE = 12
#: The command with less patience, which says when it returned.
IMPATIENT = f"""
import sys, time
from iql_fast import train
from iql_fast.runs.loggers import background
background.PATIENCE = {PATIENCE}
train.main(sys.argv[1:])
print(time.time())
"""


class Silent:
    """A server that takes connections and never answers."""

    def __enter__(self) -> str:
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        return f"http://127.0.0.1:{self.socket.getsockname()[1]}"

    def __exit__(self, *_: object) -> None:
        self.socket.close()


@pytest.mark.parametrize("name", NAMES)
def test_a_server_that_never_answers_delays_nothing(home, name):
    """A word before training, one warning, and an end in bounded time."""
    asked = (*SMALL, "--dataset", "data.hdf5", "--out", f"silent-{name}", "--log", name)
    with Silent() as url:
        settings = {
            "wandb": {"WANDB_MODE": "online", "WANDB_BASE_URL": url, "WANDB_API_KEY": 40 * "a"},
            "mlflow": {"MLFLOW_TRACKING_URI": url},
            "trackio": {"TRACKIO_SERVER_URL": url, "TRACKIO_WRITE_TOKEN": "x"},
        }[name]
        result = train(home, *asked, command=("-c", IMPATIENT), **settings)
        ended = time.time()
    assert result.returncode == 0, result.stderr
    told = " ".join(result.stdout.split())
    assert "does not answer (ReadTimeout)" in told
    if name != "trackio":  # which keeps what it cannot send, and sends it another time
        assert told.count(f"warning --log {name}") == 2, told  # before training, and after it
        assert f"warning --log {name}: it did not finish in time; 12 rows did not arrive" in told
    assert (home / f"silent-{name}" / "summary.json").exists()
    # The end waited no longer than it may, and the process went.
    returned = float(result.stdout.split()[-1])
    trained = (home / f"silent-{name}" / "summary.json").stat().st_mtime
    assert returned - trained < PATIENCE + 20
    assert ended - returned < 40  # wandb alone waits for a minute
    for table in ("metrics", "scores"):
        rows = [read_rows(home / out / f"{table}.csv") for out in ("run", f"silent-{name}")]
        assert [without_time(row) for row in rows[0]] == [without_time(row) for row in rows[1]]


def without_time(row: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in row.items() if name != "seconds"}
