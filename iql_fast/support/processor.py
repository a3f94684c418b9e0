"""The processor's name."""

from __future__ import annotations

import functools
import platform
from pathlib import Path


@functools.cache
def processor() -> str:
    """As the system tells it: with family and model, since machines of a cloud share a name."""
    told = dict[str, str]()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            told.setdefault(name.strip(), value.strip())
    except OSError:
        pass
    name = told.get("model name") or platform.processor() or platform.machine()
    if "cpu family" in told:
        name += f" (family {told['cpu family']}, model {told.get('model', '?')})"
    return name
