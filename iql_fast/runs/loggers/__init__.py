"""Where a run is logged beside its own tables: TensorBoard, and the trackers of ``--log``.

Each is one file with a ``Logger`` (``base.py``). The tables stay the record of a run; what a
tracker shows is a copy of them (``mirror.py``), handed over in the background (``background.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from iql_fast.runs.loggers.base import Tracker
from iql_fast.support.errors import UserError

#: Name, which is that of its module here and of the package that it needs -> class.
_CLASSES = {"wandb": "Wandb", "mlflow": "Mlflow", "trackio": "Trackio"}
NAMES = tuple(_CLASSES)


def named(given: Sequence[str]) -> tuple[str, ...]:
    """The trackers of ``--log``, each once; several may stand in one word, by commas.

    Raises:
        UserError: there is none of that name.
    """
    names = [name.strip() for word in given for name in word.split(",")]
    for name in names:
        if name not in NAMES:
            raise UserError(f"--log is {name!a}; expected of: {', '.join(NAMES)}.")
    return tuple(dict.fromkeys(names))


def get(name: str) -> type[Tracker]:
    """The class of a tracker, whose package need not be installed."""
    module = import_module(f"iql_fast.runs.loggers.{name}")
    found: type[Tracker] = getattr(module, _CLASSES[name])
    return found


def check(names: Sequence[str]) -> list[str]:
    """What a user should know before training: where a tracker's server does not answer.

    Raises:
        UserError: a package is missing, or a tracker could only fail.
    """
    notes = []
    for name in names:
        try:
            package = import_module(name)
        except ImportError as error:
            raise _missing(name, str(error)) from None
        if package.__file__ is None:  # the folder of that name that the package leaves behind
            raise _missing(name, "it is not installed")
        if note := get(name).check():
            notes.append(f"--log {name}: {note}")
    return notes


def _missing(name: str, why: str) -> UserError:
    return UserError(f"--log {name} needs a package ({why}): pip install 'iql-fast[log]'.")
