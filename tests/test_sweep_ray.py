"""Sweeps on Ray: the results of a sequence, whatever is killed on the way."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from iql_fast import sweep, table
from iql_fast.runs import checkpoint
from iql_fast.support.errors import UserError

from .extras import needed
from .sweeps import (
    SIZES,
    assert_same_run,
    assert_same_sweep,
    cache_tiny,
    jobs_in,
    spec,
    start,
    write,
)
from .test_train import last_step

#: Steps from one row or checkpoint to the next of the jobs below, by method.
LOG, SAVED = {"iql": 100, "td3_bc": 10}, {"iql": 500, "td3_bc": 40}
#: Seconds after which something is wrong.
PATIENCE = 900


@pytest.fixture(autouse=True)
def _ray(monkeypatch):
    needed("ray")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    # Else Ray writes a token into the home folder, and asks for it ever after.
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "ab" * 32)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    cache_tiny()


def long_spec(tasks, **changes):
    """Jobs that take some seconds each."""
    methods = {
        name: {
            "options": {
                "steps": 20 * SAVED[name],
                "log_interval": LOG[name],
                "checkpoint_interval": SAVED[name],
            }
        }
        for name in LOG
    }
    given = spec(tasks=tasks, methods=methods, seeds=4, **changes)
    for name in ("steps", "log_interval", "checkpoint_interval"):
        del given["options"][name]
    given["options"] |= {"hidden": [16, 16], "batch_size": 16}
    return given


class Log:
    """What a job printed: the processes that trained it, and the step at which each took it up."""

    def __init__(self, out: Path, job: str) -> None:
        path = out / "logs" / f"{job}.log"
        text = path.read_text() if path.exists() else ""
        self.processes, self.begun = [], []
        for part in text.split("=== ")[1:]:
            self.processes.append(int(re.search(r"process (\d+)", part)[1]))
            resumed = re.search(r"resumed from step ([\d,]+)", part)
            self.begun.append(int(resumed[1].replace(",", "")) if resumed else 0)


def wait_for(what, process=None):
    """The first true value of a function."""
    end = time.monotonic() + PATIENCE
    while not (found := what()):
        assert time.monotonic() < end, "waited in vain"
        assert process is None or process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    return found


def is_alive(process: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


def under_way(out: Path, root: Path | None = None) -> dict[Path, int]:
    """Jobs that have a checkpoint beyond the first step, and the processes that train them now."""
    found = {}
    for run in sorted((root or out / "jobs").glob("*-*")):
        processes = Log(out, run.name).processes
        # Those of a storage come a file at a time, this one last.
        saved = (run / "checkpoint").glob(f"[0-9]*/{checkpoint.RECORD}")
        begun = any(int(path.parent.name) > 0 for path in saved)
        if begun and not (run / "summary.json").exists() and is_alive(processes[-1]):
            found[run] = processes[-1]
    return found


def held(found: dict[Path, int]) -> dict[Path, int]:
    """Stop these jobs' processes, lest they be done before they are killed; return those of them
    that are not done, and let the others go on."""
    for process in found.values():
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGSTOP)
    found = {run: at for run, at in found.items() if is_alive(at)}
    stopped = {run: at for run, at in found.items() if not (run / "summary.json").exists()}
    for run in found.keys() - stopped.keys():
        os.kill(found[run], signal.SIGCONT)
    return stopped


def kill(processes) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    wait_for(lambda: not any(map(is_alive, processes)))


def method_of(run: Path) -> str:
    return "td3_bc" if run.name.endswith("td3_bc") else "iql"


def trained_twice(run: Path, out: Path, process: int, reached: int) -> int:
    """Steps that the job's process after this one trained again, of those that were recorded."""
    log = Log(out, run.name)
    return max(0, reached - log.begun[log.processes.index(process) + 1])


@pytest.mark.slow
def test_a_killed_worker_and_a_killed_driver(tmp_path, driver, capsys):
    """Three tasks by two methods with four seeds, as in sequence, bit for bit; what was trained
    twice lies after the last checkpoint."""
    path = write(tmp_path / "s.yaml", long_spec(list(SIZES)))
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    asked = [path, "--on", "ray", "--out", cut]
    first = driver(path, *asked)
    victim, process = next(iter(wait_for(lambda: held(under_way(cut)), first).items()))
    cut_off = [(victim, process, last_step(victim / "metrics.csv"))]
    kill([process])
    for other in under_way(cut).values():
        os.kill(other, signal.SIGCONT)
    wait_for(lambda: any(Log(cut, victim.name).begun[1:]), first)  # it was taken up

    last = wait_for(lambda: held(under_way(cut)), first)
    (raylet,) = raylets(first.pid)
    first.kill()
    first.communicate()
    wait_for(lambda: not is_alive(raylet))  # Ray ends with its driver
    kill(last.values())
    finished = [run for run in jobs_in(cut) if (run / "summary.json").exists()]
    before = {run: len(Log(cut, run.name).processes) for run in finished}
    cut_off += [(run, at, last_step(run / "metrics.csv")) for run, at in last.items()]
    again = driver(path, *asked)
    said, _ = again.communicate(timeout=2 * PATIENCE)
    assert again.returncode == 0, said
    assert before == {run: len(Log(cut, run.name).processes) for run in finished}
    twice = [trained_twice(run, cut, *killed) for run, *killed in cut_off]
    for (run, *_), steps in zip(cut_off, twice, strict=True):
        assert 0 <= steps <= SAVED[method_of(run)] + LOG[method_of(run)], run.name
    assert len(jobs_in(cut)) == 6
    sweep.main([str(path), "--on", "sequence", "--out", str(whole)])
    assert_same_sweep(whole, cut)
    with capsys.disabled():
        print(f"\nsteps trained twice of each job that was cut off: {twice}")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Cluster:
    """Ray's nodes on this machine, each of one core, each hanging on a process of the test's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = f"127.0.0.1:{free_port()}"
        self.nodes: list[subprocess.Popen[bytes]] = []

    def add(self, **environment: str) -> subprocess.Popen[bytes]:
        """Start a node; with --block all of it ends with the process that is returned."""
        first = [f"--port={self.address.rpartition(':')[2]}", f"--temp-dir={self.folder}"]
        first += ["--head", "--include-dashboard=false"]
        where = first if not self.nodes else [f"--address={self.address}"]
        ray = Path(sys.executable).with_name("ray")
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            node = subprocess.Popen(
                [ray, "start", *where, "--num-cpus=1", "--block"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            )
            self.nodes.append(node)
            wait_for(lambda node=node: node.poll() is not None or raylets(node.pid))
            if node.poll() is None:
                return node
            time.sleep(1)  # a node ends where the first is not ready for it
        raise AssertionError("the node does not start")

    def end(self) -> None:
        for node in reversed(self.nodes):
            node.kill()
            node.wait()


def raylets(process: int) -> list[int]:
    """Children of the process that run a node."""
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
        lines = {int(child): Path(f"/proc/{child}/cmdline").read_text() for child in children}
    except OSError:
        return []
    return [child for child, line in lines.items() if "/raylet/raylet" in line]


def is_of(process: int, node: subprocess.Popen[bytes]) -> bool:
    """Whether a process was started, over others, by a node."""
    while process > 1:
        if process == node.pid:
            return True
        try:
            status = Path(f"/proc/{process}/status").read_text()
        except OSError:
            return False
        process = int(re.search(r"PPid:\t(\d+)", status)[1])
    return False


@pytest.fixture
def cluster():
    # Paths of sockets are to be short, which those of tmp_path are not.
    with tempfile.TemporaryDirectory(prefix="r", ignore_cleanup_errors=True) as short:
        made = Cluster(Path(short))
        try:
            yield made
        finally:
            made.end()


@pytest.fixture
def driver():
    """Starts the command; ended with the test, and a local Ray with it."""
    started = []

    def begin(*arguments):
        started.append(start(*arguments))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("storage", [False, True], ids=["shared folder", "storage"])
def test_a_node_that_is_lost(tmp_path, cluster, driver, storage):
    """Jobs on two nodes, of which one ends in the middle. With a storage each node has a folder of
    its own, and the lost one's is not looked at again."""
    head = cluster.add(IQL_FAST_SCRATCH=str(tmp_path / "first"))
    second = cluster.add(IQL_FAST_SCRATCH=str(tmp_path / "second"))
    path = write(tmp_path / "s.yaml", long_spec(list(SIZES)[:2]))
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    asked = [path, "--on", "ray", "--address", cluster.address, "--out", cut]
    if storage:
        asked += ["--storage", tmp_path / "bucket"]
    begun = driver(path, *asked)
    root = tmp_path / "bucket" if storage else cut / "jobs"

    def on_second() -> dict[Path, int]:
        """Jobs that the second node trains and that are held, once both train some."""
        found = under_way(cut, root)
        on = {
            node: {run: at for run, at in found.items() if is_of(at, node)}
            for node in (head, second)
        }
        return held(on[second]) if on[head] else {}

    lost = wait_for(on_second, begun)
    second.kill()
    kill(lost.values())
    said, _ = begun.communicate(timeout=2 * PATIENCE)
    assert begun.returncode == 0, said
    for run, process in lost.items():  # it was taken up by the other, at a checkpoint
        log = Log(cut, run.name)
        assert process in log.processes[:-1]
        assert log.begun[-1] > 0
    sweep.main([str(path), "--on", "sequence", "--out", str(whole)])
    assert_same_sweep(whole, cut)


@pytest.mark.slow
def test_table_1_on_ray(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    asked = ["--tasks", *list(SIZES)[:2], "--seeds", "2", "--steps", "60", "--offline"]
    asked += ["--eval-episodes", "1", "--eval-workers", "1", "--threads", "1"]
    for on in ("sequence", "ray"):
        table.main([*asked, "--on", on, "--out", on])
    assert "at once on Ray (this machine), each with 1 core(s)" in capsys.readouterr().out
    for name in list(SIZES)[:2]:
        assert_same_run(tmp_path / "sequence" / name, tmp_path / "ray" / name)
    assert (tmp_path / "ray" / "table.md").exists()


@pytest.mark.slow
def test_what_cannot_be_had(tmp_path):
    """A job that fails beside one that does not, and more cores than there are."""
    given = spec(methods={"iql": {"variants": [{"critic_lr": 3e-4}, {"critic_lr": 1e30}]}})
    path = write(tmp_path / "s.yaml", given | {"pack": 1})
    with pytest.raises(UserError, match=r"1 of 2 jobs failed.*not finite"):
        sweep.main([str(path), "--on", "ray", "--out", str(tmp_path / "out")])
    assert [(run / "summary.json").exists() for run in jobs_in(tmp_path / "out")] == [True, False]
    write(path, given | {"gpus": 7})
    with pytest.raises(UserError, match=r"A job is to have 1 core\(s\) and 7 GPU\(s\)"):
        sweep.main([str(path), "--on", "ray", "--out", str(tmp_path / "other")])


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "--address 127.0.0.1:1 does not answer"),
        ("ray://here:10001", "expected HOST:PORT"),
        ("auto", "--address auto does not answer as a Ray"),
    ],
)
def test_an_address_that_does_not_answer(tmp_path, monkeypatch, address, message):
    monkeypatch.setattr("ray._private.utils.get_ray_address_file", lambda _: str(tmp_path / "no"))
    path = write(tmp_path / "s.yaml", spec())
    with pytest.raises(UserError, match=re.escape(message)):
        sweep.main([str(path), "--address", address, "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out" / "jobs").exists()
