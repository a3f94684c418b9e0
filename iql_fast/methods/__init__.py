"""What is learned: one file a method."""

from __future__ import annotations

from importlib import import_module

from iql_fast.methods.base import Method

#: Name -> (module, class).
_CLASSES = {
    "iql": ("iql", "IQL"),
    "bc": ("bc", "BC"),
    "10bc": ("bc", "TopBC"),
    "td3_bc": ("td3_bc", "TD3BC"),
    "awac": ("awac", "AWAC"),
    "cql": ("cql", "CQL"),
    "onestep": ("onestep", "Onestep"),
    "bcq": ("bcq", "BCQ"),
    "abm": ("abm", "ABM"),
    "dt": ("dt", "DT"),
}
NAMES = tuple(_CLASSES)


def get(name: str) -> type[Method]:
    """The class of a method.

    Raises:
        KeyError: there is none of that name.
    """
    module, cls = _CLASSES[name]
    found: type[Method] = getattr(import_module(f"iql_fast.methods.{module}"), cls)
    return found
