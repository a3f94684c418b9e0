"""Packages of extras that ``[test]`` does not install, and programs that no package brings."""

from __future__ import annotations

import importlib.util
import os
import shutil

import pytest


def needed(*modules: str, programs: tuple[str, ...] = ()) -> None:
    """Skip where one of these modules or programs is missing; fail instead where
    ``IQL_FAST_REQUIRE_EXTRAS=1`` says that all are installed, as CI does."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    missing += [name for name in programs if shutil.which(name) is None]
    if not missing:
        return
    said = f"not installed: {', '.join(missing)}"
    if os.environ.get("IQL_FAST_REQUIRE_EXTRAS") == "1":
        pytest.fail(said)
    pytest.skip(said)
