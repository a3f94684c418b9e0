"""How every command line ends: an error for the user is a paragraph, not a traceback."""

from __future__ import annotations

import os
import sys
import textwrap
import threading
from collections.abc import Callable
from typing import Any

from iql_fast.support.errors import UserError


class _Output:
    """Standard output that may fail, as on a full disk, without ending what a command does.

    Attributes:
        failure: the first error of writing, or None.
    """

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.failure: OSError | None = None

    def write(self, text: str) -> int:
        if self.failure is None:
            try:
                return int(self.stream.write(text))
            except BrokenPipeError:
                raise
            except OSError as error:
                self.failure = error
        return len(text)

    def flush(self) -> None:
        if self.failure is None:
            try:
                self.stream.flush()
            except BrokenPipeError:
                raise
            except OSError as error:
                self.failure = error

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def main(command: Callable[[], None]) -> None:
    """Run a command; exit with 2 on a ``UserError``, with 130 on Ctrl-C and with 1 where the reader
    of its output has gone (as in ``| head``) or the output could not be written.
    """
    os.environ["MPLBACKEND"] = "agg"  # pictures are files, whatever a notebook asked for
    threading.excepthook = _end_of_thread
    output = _prepared_output()
    try:
        command()
        sys.stdout.flush()
    except UserError as error:
        print(textwrap.fill(f"Error: {error}", 100, break_on_hyphens=False), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # Python flushes once more at its end, which must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), output.fileno())
        sys.exit(1)
    if output.failure is not None:
        reason = output.failure.strerror or output.failure
        print(f"Done, but not all of the output could be written ({reason}).", file=sys.stderr)
        # Python's own last flush would fail as well.
        os.dup2(os.open(os.devnull, os.O_WRONLY), output.fileno())
        sys.exit(1)


def _end_of_thread(arguments: threading.ExceptHookArgs) -> None:
    """Of a thread that writes, TensorBoard's: what it could not write, the main thread says."""
    if not issubclass(arguments.exc_type, OSError):
        threading.__excepthook__(arguments)


def _prepared_output() -> _Output:
    """Standard output and error that take any character, open or closed."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started this
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  as long as the process
        elif hasattr(getattr(sys, name), "reconfigure"):
            getattr(sys, name).reconfigure(errors="backslashreplace")
    output = _Output(sys.stdout)
    sys.stdout = output
    return output
