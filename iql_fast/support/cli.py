"""How every command line ends: an error for the user is a paragraph, not a traceback."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Callable

from iql_fast.support.errors import UserError


def main(command: Callable[[], None]) -> None:
    """Run a command; exit with 2 on a ``UserError``, with 130 on Ctrl-C and with 1 where the reader
    of its output has gone (as in ``| head``).
    """
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
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
