"""An engine belongs to the process that made it, and works for one thread at a time."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class Exclusive:
    """What ``exclusive`` methods of an object need to know of it."""

    def __init__(self) -> None:
        self._process = os.getpid()
        self._in_use = threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError(
            f"{type(self).__name__} cannot be pickled or copied; take its state_dict() to another"
        )


Owner = TypeVar("Owner", bound=Exclusive)


def exclusive(
    method: Callable[Concatenate[Owner, Arguments], Result],
) -> Callable[Concatenate[Owner, Arguments], Result]:
    """A method that raises a ``RuntimeError`` in a forked process, where the threads and device
    that it computes with do not exist, and while another thread is in one of its object's."""

    @functools.wraps(method)
    def alone(self: Owner, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        if os.getpid() != self._process:
            raise RuntimeError(
                f"{type(self).__name__}.{method.__name__}: the engine belongs to process "
                f"{self._process}, from which this one was forked. Create it after the fork, or "
                "start processes with the method 'spawn'."
            )
        if not self._in_use.acquire(blocking=False):
            raise RuntimeError(
                f"{type(self).__name__}.{method.__name__}: another thread is using the engine. "
                "Wait for it, or give each thread an engine of its own."
            )
        try:
            return method(self, *args, **kwargs)
        finally:
            self._in_use.release()

    return cast(Callable[Concatenate[Owner, Arguments], Result], alone)
