"""Hundreds of bad inputs and damaged runs, each tried and judged.

    python tools/campaign.py                # all, a few minutes
    python tools/campaign.py --only runs --show good

Each case runs in a process of its own with a time limit, in a folder of its own, and is

    good       refused in a paragraph, or done right: ended with the weights of an undamaged run
    traceback  an error that is not meant for users
    crash      the process was killed by a signal, or ended without a word
    hang       it did not end in time
    silent     it was done where it had to be refused, or ended with other weights
    lost       a refusal changed a file of the run, or a file that is not the package's own is gone

The counts are printed, and every case that is not good. The exit status is 0 where nothing is lost,
silent, a crash or a hang, and tracebacks are fewer than 1%. Linux only: cases are forked.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ["MUJOCO_GL"] = "disable"

import torch
from campaign_cases import Case, files, options, python, yaml
from campaign_runs import Lost, Prepared, commands, runs

from iql_fast.support.errors import NonFiniteLoss, UserError

SECONDS = 120
REFUSED, DONE, TRACEBACK, LOST = 10, 11, 12, 13


def attempt(case: Case, folder: Path) -> int:
    """In the child: do it; the exit status says how it ended."""
    signal.alarm(0)
    os.chdir(folder)
    try:
        case.act(folder)
    except (UserError, NonFiniteLoss, ValueError, RuntimeError, TypeError, IndexError) as error:
        # Python's own errors are the refusals of a Python interface only.
        meant = isinstance(error, UserError) or (case.kind == "python" and str(error))
        if not meant:
            traceback.print_exc()
        return REFUSED if meant else TRACEBACK
    except Lost as error:
        print(error)
        return LOST
    except SystemExit as end:
        return REFUSED if end.code == 2 else TRACEBACK
    except BaseException:
        traceback.print_exc()
        return TRACEBACK
    return DONE


def judged(case: Case, place: Path) -> tuple[str, str]:
    """The verdict, and what was printed."""
    folder = place / "case"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    log = place / "log.txt"
    child = os.fork()
    if child == 0:
        with open(log, "w") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            status = TRACEBACK
            with contextlib.suppress(BaseException):
                status = attempt(case, folder)
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)
    end = time.monotonic() + SECONDS
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "hang", log.read_text(errors="replace")
        time.sleep(0.005)
    said = log.read_text(errors="replace")
    if os.WIFSIGNALED(status):
        return "crash", said
    code = os.WEXITSTATUS(status)
    if code == REFUSED:
        return "good", said
    if code in (TRACEBACK, LOST):
        return "lost" if code == LOST else "traceback", said
    if code != DONE:
        return "crash", said
    if case.right is None:
        return "silent", said
    try:
        return ("good" if case.right(folder) else "silent"), said
    except Exception as error:
        return "silent", f"{said}\n{error!r}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    kinds = ("options", "yaml", "files", "runs", "python", "commands")
    parser.add_argument("--only", nargs="+", choices=kinds, default=kinds, help="kinds to try")
    parser.add_argument("--show", nargs="*", default=(), help="verdicts to print, besides the bad")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        os.environ["IQL_FAST_DATA"] = str(place / "cache")
        os.environ["MINARI_DATASETS_PATH"] = str(place / "minari")
        with contextlib.redirect_stdout(open(os.devnull, "w")):
            source = place / "prepared"
            source.mkdir()
            prepared = Prepared(source)
        cases = [
            *options(),
            *yaml(),
            *files(),
            *runs(prepared),
            *python(),
            *commands(prepared),
        ]
        for case in cases:
            if case.kind not in arguments.only:
                continue
            verdict, said = judged(case, place)
            counts[case.kind][verdict] += 1
            if verdict != "good" or verdict in arguments.show:
                tail = " / ".join(said.strip().splitlines()[-2:])[-200:]
                print(f"{verdict:10} {case.kind:9} {case.name}: {tail}", flush=True)
    total = sum(counts.values(), collections.Counter())
    for kind, found in (*counts.items(), ("all", total)):
        listed = ", ".join(f"{count} {verdict}" for verdict, count in sorted(found.items()))
        print(f"{kind:9} {sum(found.values()):4}: {listed}")
    bad = sum(total[verdict] for verdict in ("lost", "silent", "crash", "hang"))
    sys.exit(bool(bad or total["traceback"] >= 0.01 * sum(total.values())))


if __name__ == "__main__":
    main()
