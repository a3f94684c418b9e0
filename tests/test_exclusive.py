"""An engine is one process's and one thread's at a time: anything else raises, nothing hangs."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
import threading

import pytest

from iql_fast import engines
from iql_fast.engines import Hyperparameters, NetworkSpec, available
from iql_fast.engines.exclusive import Exclusive, exclusive

from .conftest import random_transitions

USABLE = [name for name, why in available().items() if not why]


def create(name, threads=0):
    return engines.create(
        name,
        NetworkSpec(11, 3, (16, 16)),
        Hyperparameters(batch_size=8),
        random_transitions(50),
        [0],
        threads=threads,
    )


class Slow(Exclusive):
    def __init__(self):
        super().__init__()
        self.began, self.may_end = threading.Event(), threading.Event()

    @exclusive
    def run(self):
        self.began.set()
        assert self.may_end.wait(60)

    @exclusive
    def state(self):
        return self.again()

    @exclusive
    def again(self):
        return "whole"


def test_a_second_thread_is_refused_and_the_first_goes_on():
    slow = Slow()
    thread = threading.Thread(target=slow.run)
    thread.start()
    assert slow.began.wait(60)
    with pytest.raises(RuntimeError, match=r"Slow\.state: another thread is using the engine"):
        slow.state()
    slow.may_end.set()
    thread.join()
    assert slow.state() == "whole"


@pytest.mark.parametrize("name", USABLE)
def test_engines_are_exclusive(name):
    engine = create(name)
    batch = engine.batch_at(0)
    calls = {
        "run": lambda: engine.run(1),
        "step_on": lambda: engine.step_on(batch),
        "state_dict": engine.state_dict,
        "load_state_dict": lambda: engine.load_state_dict({}),
        "policy": lambda: engine.policy(0),
    }
    holder = threading.Thread(target=engine._in_use.acquire)  # and ends without giving it back
    holder.start()
    holder.join()
    for method, call in calls.items():
        with pytest.raises(RuntimeError, match=rf"{method}: another thread"):
            call()


def test_threads_in_turn_may_share_an_engine():
    engine = create("reference")
    engine.run(1)
    thread = threading.Thread(target=engine.run, args=(2,))
    thread.start()
    thread.join()
    assert engine.step == 3


def test_an_engine_is_not_copied():
    with pytest.raises(TypeError, match="take its state_dict"):
        copy.deepcopy(create("reference"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("name", [name for name in USABLE if name in ("cpu", "reference")])
def test_a_forked_process_is_refused_and_comes_to_its_end(name):
    """In a process of its own: the child leaves through the interpreter's end, which frees the
    engine whose threads it has not."""
    code = f"""
import os, sys, warnings
warnings.simplefilter("ignore")
from tests.test_exclusive import create
engine = create({name!r}, threads=2)
engine.run(3)
child = os.fork()
if child == 0:
    try:
        engine.run(1)
    except RuntimeError as error:
        print(error, flush=True)
    del engine
    sys.exit(7)
ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
engine.run(1)
print(ended, engine.step)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        shown, _ = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail("a forked process that holds an engine hangs")
    assert "from which this one was forked" in shown
    assert shown.endswith("7 4\n")
