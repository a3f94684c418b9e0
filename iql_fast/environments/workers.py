"""Worker processes, and the environments that a process steps."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import current_process, get_context
from typing import Any

import numpy as np

from iql_fast.environments import simulator
from iql_fast.support.cores import usable_cores
from iql_fast.support.errors import UserError


def environment(name: str, instance: int = 0) -> Any:
    """This process's environment of that name: a Gymnasium id, or a specification in JSON.

    Its observations and actions are flat vectors. Without the wrappers that Gymnasium adds by
    itself, which cost a third of the time: callers keep the time limit themselves. Those of the
    environment's own are kept, whether its specification names them or its constructor put them
    on; as they may hold statistics of former episodes, such an environment is made anew by each
    call.

    A specification comes from a dataset of Minari's, which stores a Dict space with its keys
    sorted (0.5.4), whatever their order in the environment: there its parts are put in that order.

    Args:
        instance: tells apart those that are stepped side by side.
    """
    if (name, instance) in _kept:
        return _kept[name, instance]
    made = simulator.bare(simulator.make(name))
    env = simulator.flattened(made, sort=name[:1] == "{")
    if made is made.unwrapped:
        _kept[name, instance] = env
    return env


#: This process's environments that are made once, by their names and instances.
_kept: dict[tuple[str, int], Any] = {}


def seed_of(key: tuple[int, ...]) -> int:
    """The seed of the episode that has this key."""
    return int(np.random.SeedSequence(key).generate_state(1)[0])


#: What a script must do that starts worker processes, each of which imports it.
MAIN_GUARD = (
    "Worker processes import the script that started them: put its calls under "
    '`if __name__ == "__main__":`, so that they do not start once more in each'
)


@contextmanager
def worker_pool(workers: int | None = None) -> Iterator[ProcessPoolExecutor]:
    """Worker processes that use one thread each, ended at once when the block is left.

    Args:
        workers: None takes all cores.

    Raises:
        UserError: this process is such a worker itself, which is importing the script that began.
    """
    if getattr(current_process(), "_inheriting", False):  # while the main module is imported
        raise UserError(f"{MAIN_GUARD}.")
    size = workers or usable_cores()
    with one_thread_each():
        pool = ProcessPoolExecutor(size, mp_context=get_context("spawn"), initializer=prepare)
        try:
            # A process is started for each task that finds none idle: start them all now.
            for future in [pool.submit(_wait_for_the_others) for _ in range(size)]:
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Processes that are started in the block compute with one thread each."""
    settings = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    settings["MUJOCO_GL"] = "disable"
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)  # they inherit it when they start
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def prepare() -> None:
    """In such a process before anything else: a parent that is killed must leave none behind, even
    while they are being started."""
    import signal
    import threading

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _wait_for_the_others() -> None:
    import time

    time.sleep(0.05)  # so that the next start goes to a process of its own


def _end_with_parent() -> None:
    """End this process when its parent does, which may have been killed and so said nothing.

    The queue of tasks does not tell: every worker holds its writing end too.
    """
    from multiprocessing import connection, parent_process

    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
