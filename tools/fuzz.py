"""Fuzzing of what comes in: libFuzzer makes up files, led by which lines of the package they reach.

    python tools/fuzz.py --seconds 3600               # all targets in turn
    python tools/fuzz.py --targets rows yaml --seconds 600
    python tools/fuzz.py --again hdf5 FILE            # one input that was found, with its traceback

It needs atheris, which nothing else here does: ``pip install atheris==3.0.0`` (Linux, Python 3.11
to 3.13). What each target reads is in ``tools/fuzz_targets.py``. Whatever the input, it has to be
taken as it stands or be refused with a ``UserError``. Anything else is a finding: another error, a
warning of NumPy's, other numbers than those that were written, a crash, a call of 30 seconds.

A target runs in a process of its own, which is started again after a crash. --corpus keeps what
reached new lines from one time to the next and, in ``findings/``, an input of each kind of finding.
The exit status is 0 where nothing was found.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import hashlib
import io
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ["MUJOCO_GL"] = "disable"

TARGETS = (
    *("rows", "record", "checkpoint", "yaml", "hdf5", "hdf5-bytes", "npz", "npz-bytes"),
    *("parquet", "parquet-bytes", "lerobot", "minari"),
)
#: What is instrumented: the package, and the one reader in Python that it leans on.
INSTRUMENTED = ["iql_fast", "yaml"]
HANG = 30  # seconds that one input may take
MEMORY = 4 << 30  # bytes that a target may take
LONGEST, LONGEST_FILE = 4096, 1 << 15  # bytes of an input, and of a file whose bytes are mutated


def kind_of(error: BaseException) -> str:
    """What tells findings apart: the error, and where in the package it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "iql_fast" in frame.filename] or frames
    where = f"{Path(own[-1].filename).name}:{own[-1].name}"
    said = re.sub(r"[^a-z ]+", " ", str(error).split(":")[0].split("[")[0][:60].lower())
    return " ".join(f"{type(error).__name__} in {where} {said}".split())


def _prepared(place: Path) -> None:
    """This process as a target needs it."""
    os.environ["IQL_FAST_DATA"] = str(place / "cache")
    os.environ["MINARI_DATASETS_PATH"] = str(place / "minari")
    warnings.simplefilter("error", RuntimeWarning)
    setattr(os, "fsync", lambda _: None)  # noqa: B010  nothing here outlives the process


def _target(name: str, place: Path) -> Callable[[bytes], None]:
    import fuzz_targets

    return fuzz_targets.target(name, place)


def child(name: str, findings: Path, arguments: list[str]) -> None:
    """Fuzz a target in this process, until libFuzzer ends it."""
    import atheris

    with tempfile.TemporaryDirectory() as folder:
        _prepared(Path(folder))
        with atheris.instrument_imports(include=INSTRUMENTED, enable_loader_override=False):
            target = _target(name, Path(folder))
        known: set[str] = set()
        log = open(findings / "log.txt", "a", buffering=1)  # noqa: SIM115  as long as the process

        def one_input(data: bytes) -> None:
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    target(data)
            except BaseException as error:  # a panic of Rust's is no Exception
                if isinstance(error, KeyboardInterrupt):
                    raise
                kind = kind_of(error)
                log.write(kind + "\n")
                if kind not in known:
                    known.add(kind)
                    (findings / hashlib.sha1(kind.encode()).hexdigest()[:12]).write_bytes(data)

        taken = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, most))
        atheris.Setup([sys.argv[0], *arguments], one_input)
        atheris.Fuzz()


def again(name: str, path: Path) -> None:
    """One input, in this process, with whatever it raises."""
    with tempfile.TemporaryDirectory() as folder:
        _prepared(Path(folder))
        _target(name, Path(folder))(path.read_bytes())
    print("nothing was found")


class Tally:
    """What fuzzing a target came to."""

    def __init__(self) -> None:
        self.executions, self.edges, self.seconds = 0, 0, 0.0
        self.found: collections.Counter[str] = collections.Counter()
        self.example: dict[str, Path] = {}

    def add_log(self, text: str) -> None:
        """Of libFuzzer's output up to the end of a process."""
        counts = [int(count) for count in re.findall(r"^#(\d+)\s", text, re.M)]
        edges = [int(count) for count in re.findall(r"\bcov: (\d+)", text)]
        self.executions += max(counts, default=0)
        self.edges = max(self.edges, *edges, 0)


def fuzz(name: str, seconds: float, corpus: Path) -> Tally:
    """Fuzz a target for that long, in as many processes as it takes."""
    tally = Tally()
    own, findings = corpus / name, corpus / "findings" / name
    own.mkdir(parents=True, exist_ok=True)
    findings.mkdir(parents=True, exist_ok=True)
    (findings / "log.txt").write_text("")
    seeds = _seeds(name, corpus / "seeds" / name)
    longest = LONGEST_FILE if name.endswith("-bytes") else LONGEST
    start, end = time.monotonic(), time.monotonic() + seconds
    while (left := end - time.monotonic()) > 1:
        log = findings / "libfuzzer.txt"
        with open(log, "w") as output:
            process = subprocess.Popen(
                [
                    *(sys.executable, __file__, "--child", name, str(findings)),
                    *(f"-max_total_time={int(left)}", f"-timeout={HANG}", "-rss_limit_mb=0"),
                    *(f"-max_len={longest}", f"-artifact_prefix={findings}/"),
                    *("-print_final_stats=1", str(own), str(seeds)),
                ],
                stdout=output,
                stderr=output,
            )
            _wait(process, name, log, tally)
        text = log.read_text(errors="replace")
        tally.add_log(text)
        if process.returncode == 0:
            break
        artifacts = [Path(name) for name in re.findall(r"written to (\S+)", text)]
        if not artifacts:
            kind = f"the process: ended with {process.returncode} and no word of libFuzzer's"
            tally.found[kind] += 1
            tally.example[kind] = log
            if not re.search(r"^#\d", text, re.M):  # before its first input: it will again
                break
            continue
        said = re.findall(r"ERROR: libFuzzer: ([^(\n]*)", text)
        kind = f"the process: {re.sub('[0-9]+', 'N', said[-1]).strip() if said else 'ended'}"
        tally.found[kind] += 1
        tally.example[kind] = artifacts[-1]
        _leave_out(artifacts[-1], (own, seeds))
    tally.seconds = time.monotonic() - start
    for kind in (findings / "log.txt").read_text().splitlines():
        tally.found[kind] += 1
        tally.example[kind] = findings / hashlib.sha1(kind.encode()).hexdigest()[:12]
    return tally


def _leave_out(artifact: Path, folders: Sequence[Path]) -> None:
    """Begin without the input that ended the process, if it was one to begin with."""
    content = artifact.read_bytes()
    for path in [path for folder in folders for path in folder.iterdir()]:
        if path.read_bytes() == content:
            path.unlink()


def _seeds(name: str, folder: Path) -> Path:
    """Inputs to begin with: whole files where those are what is mutated."""
    folder.mkdir(parents=True, exist_ok=True)
    code = "import sys, fuzz_targets; fuzz_targets.write_seeds(*sys.argv[1:])"
    here = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tools")))}
    subprocess.run([sys.executable, "-c", code, name, str(folder)], env=here, check=True)
    return folder


def _wait(process: subprocess.Popen[bytes], name: str, log: Path, tally: Tally) -> None:
    """Until the process ends; what it has come to, every half minute."""
    try:
        while True:
            try:
                process.wait(30)
                return
            except subprocess.TimeoutExpired:
                now = Tally()
                now.add_log(log.read_text(errors="replace"))
                count = tally.executions + now.executions
                kinds = len(set((log.parent / "log.txt").read_text().splitlines()))
                print(
                    f"{name}: {count:,} executions, {max(now.edges, tally.edges)} edges, {kinds} "
                    "kind(s) of finding",
                    flush=True,
                )
    finally:
        process.kill()


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], Path(sys.argv[3]), sys.argv[4:])
        return
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=TARGETS)
    parser.add_argument("--seconds", type=int, default=3600, help="of all targets together")
    default = Path(tempfile.gettempdir()) / "iql_fast_fuzz"
    parser.add_argument("--corpus", type=Path, default=default, help="folder of what was found")
    parser.add_argument("--again", nargs=2, metavar=("TARGET", "FILE"), help="run one input")
    arguments = parser.parse_args()
    try:
        import atheris  # noqa: F401
    except ImportError:
        sys.exit("atheris is not installed: pip install atheris==3.0.0 (Python 3.11 to 3.13).")
    if arguments.again:
        again(arguments.again[0], Path(arguments.again[1]))
        return
    results = {}
    for name in arguments.targets:
        share = arguments.seconds / len(arguments.targets)
        results[name] = fuzz(name, share, arguments.corpus.absolute())
    print(f"{'target':14} {'seconds':>7} {'executions':>11} {'edges':>6}  findings")
    for name, tally in results.items():
        print(
            f"{name:14} {tally.seconds:7.0f} {tally.executions:11,} {tally.edges:6}  "
            f"{len(tally.found)} kind(s)"
        )
        for kind, count in tally.found.most_common():
            print(f"    {count} times: {kind}\n        {tally.example[kind]}")
    sys.exit(any(tally.found for tally in results.values()))


if __name__ == "__main__":
    main()
