"""PEP 517 backend: setuptools, with torch at build time being the one that is already installed.

pip builds in an isolated environment, which would fetch a torch of its own: gigabytes, and perhaps
not the version that the extension will meet at run time. So this backend asks for torch only where
the target environment has none, and otherwise lets the build see the installed one.
"""

from __future__ import annotations

import importlib.machinery
import site
import sys
import sysconfig
from pathlib import Path
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import build_sdist

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

DEFAULT_TORCH = "torch==2.13.0"

Settings = dict[str, Any] | None


def _site_packages() -> list[str]:
    """Where the target environment imports from; pip hides these folders from the build."""
    folders = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    settings = Path(sys.prefix) / "pyvenv.cfg"
    outside = not settings.exists()
    if not outside and "include-system-site-packages = true" in settings.read_text().lower():
        base = {"base": sys.base_prefix, "platbase": sys.base_prefix}
        folders += [sysconfig.get_path(name, vars=base) for name in ("purelib", "platlib")]
        outside = True
    if outside:
        folders.append(site.getusersitepackages())
    return folders


def _torch_is_installed() -> bool:
    return importlib.machinery.PathFinder.find_spec("torch", _site_packages()) is not None


def _requires() -> list[str]:
    return [] if _torch_is_installed() else [DEFAULT_TORCH]


def _see_installed_torch() -> None:
    """Puts the target environment last on the path: the build's own packages come first."""
    if _torch_is_installed():
        sys.path += [path for path in dict.fromkeys(_site_packages()) if path not in sys.path]


def get_requires_for_build_sdist(config_settings: Settings = None) -> list[str]:  # noqa: ARG001
    return []


def get_requires_for_build_wheel(config_settings: Settings = None) -> list[str]:  # noqa: ARG001
    return _requires()


def get_requires_for_build_editable(config_settings: Settings = None) -> list[str]:  # noqa: ARG001
    return _requires()


def build_wheel(
    directory: str, config_settings: Settings = None, metadata_directory: str | None = None
) -> str:
    _see_installed_torch()
    return build_meta.build_wheel(directory, config_settings, metadata_directory)


def build_editable(
    directory: str, config_settings: Settings = None, metadata_directory: str | None = None
) -> str:
    _see_installed_torch()
    return build_meta.build_editable(directory, config_settings, metadata_directory)


def prepare_metadata_for_build_editable(directory: str, config_settings: Settings = None) -> str:
    _see_installed_torch()
    return build_meta.prepare_metadata_for_build_editable(directory, config_settings)


def prepare_metadata_for_build_wheel(directory: str, config_settings: Settings = None) -> str:
    _see_installed_torch()
    return build_meta.prepare_metadata_for_build_wheel(directory, config_settings)
