"""The native extension, or the reason why there is none."""

from __future__ import annotations

import importlib
from types import ModuleType

_module: ModuleType | None = None
_reason: str | None = None


def unavailable_reason() -> str:
    """Why the extension cannot be used; empty where it can."""
    global _module, _reason
    if _reason is None:
        try:
            import torch  # noqa: F401  the extension links to torch's libraries

            _module = importlib.import_module("iql_fast._C")
            _reason = ""
        except ModuleNotFoundError as error:
            _reason = (
                "the C++ extension was not built (no C++ compiler was found, or "
                "IQL_FAST_EXTENSION=0 was set, when iql_fast was installed); install a compiler "
                "and run `pip install -e .` again"
                if error.name == "iql_fast._C"
                else str(error)
            )
        except ImportError as error:
            _reason = (
                f"the C++ extension does not load ({error}); it was probably built against "
                "another torch: run `pip install -e .` again"
            )
    return _reason


def load() -> ModuleType:
    """The extension module.

    Raises:
        RuntimeError: there is none, with the reason.
    """
    reason = unavailable_reason()
    if _module is None:
        raise RuntimeError(reason)
    return _module
