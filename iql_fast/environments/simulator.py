"""Gymnasium's environments and the worker processes that step them."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from importlib import metadata
from multiprocessing import get_context
from typing import Any

import numpy as np

from iql_fast.support.cores import usable_cores
from iql_fast.support.errors import UserError


def require(what_for: str) -> str | None:
    """Check that there is a simulator.

    Returns:
        None, or a sentence for the user where it is one that has not been tried.

    Raises:
        UserError: it is not installed, or is one that computes wrong motion.
    """
    try:
        import gymnasium  # noqa: F401
        import mujoco  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"{what_for} needs the simulator, but it cannot be imported ({error}): "
            "pip install gymnasium 'mujoco>=3.2.3,!=4.0.0' imageio packaging."
        ) from None
    from iql_fast.environments.physics import require_mujoco

    return require_mujoco()


def version() -> str:
    """MuJoCo's version, ``"none"`` where there is none; rollouts of the same policy differ between
    versions."""
    try:
        return metadata.version("mujoco")  # not by importing it: D4RL's own files need none
    except metadata.PackageNotFoundError:
        return "none"


@functools.cache
def environment(name: str, instance: int = 0) -> Any:  # noqa: ARG001  a key of the cache
    """This process's environment of that name: a Gymnasium id, or a specification in JSON.

    Without its wrappers, which cost a third of the time: callers keep the time limit themselves.

    Args:
        instance: tells apart those that are stepped side by side.
    """
    import gymnasium

    gymnasium.logger.min_level = gymnasium.logger.ERROR  # -v4 is asked for on purpose
    spec = gymnasium.envs.registration.EnvSpec.from_json(name) if name[:1] == "{" else name
    return gymnasium.make(spec).unwrapped


def seed_of(key: tuple[int, ...]) -> int:
    """The seed of the episode that has this key."""
    return int(np.random.SeedSequence(key).generate_state(1)[0])


def label(name: str) -> str:
    """What to call an environment: its id."""
    return str(json.loads(name)["id"]) if name[:1] == "{" else name


@contextmanager
def worker_pool(workers: int | None = None) -> Iterator[ProcessPoolExecutor]:
    """Worker processes that use one thread each, ended at once when the block is left.

    Args:
        workers: None takes all cores.
    """
    size = workers or usable_cores()
    settings = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    settings["MUJOCO_GL"] = "disable"
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)  # the workers inherit it when they start
    pool = ProcessPoolExecutor(size, mp_context=get_context("spawn"), initializer=_prepare)
    try:
        # A process is started for each task that finds none idle: start them all now.
        for future in [pool.submit(_wait_for_the_others) for _ in range(size)]:
            future.result()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _prepare() -> None:
    """In a worker before anything else: a parent that is killed must leave none behind, even while
    they are being started."""
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
