"""What a run's record says about the software and the machine."""

from __future__ import annotations

import os
import platform
from importlib import metadata

from iql_fast.support.processor import processor

PACKAGES = ("iql-fast", "torch", "numpy", "gymnasium", "mujoco", "minari", "h5py", "safetensors")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def machine() -> dict[str, str | int]:
    """Processor, cores, memory and operating system."""
    return {
        "system": f"{platform.system()} {platform.release()}",
        "processor": processor(),
        "cores": os.cpu_count() or 0,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
    }
