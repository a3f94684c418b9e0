"""The environment that data were recorded in, with those of its wrappers that matter.

A dataset names its environment by Gymnasium's specification, wrappers included. One that changes
observations, actions or rewards belongs to what is to be learned, and is kept. One that counts,
films or checks costs time and changes nothing.
"""

from __future__ import annotations

import copy
import importlib
import inspect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gymnasium.envs.registration import EnvSpec, WrapperSpec

#: Wrappers that keep books, by the name of their class. The time limit is the episode's horizon,
#: which callers keep themselves.
BOOKKEEPING = frozenset(
    {
        "Autoreset",
        "DataCollector",
        "HumanRendering",
        "Monitor",
        "OrderEnforcing",
        "PassiveEnvChecker",
        "RecordEpisodeStatistics",
        "RecordVideo",
        "RenderCollection",
        "TimeLimit",
    }
)
#: What a wrapper defines that changes an environment.
CHANGES = frozenset(
    {"step", "reset", "observation", "action", "reward", "observation_space", "action_space"}
)


class CannotBeMadeAgain(Exception):
    """A wrapper changes the environment, and its specification does not say how."""


def that_matter(spec: EnvSpec) -> EnvSpec:
    """The specification without the wrappers that only keep books.

    Raises:
        CannotBeMadeAgain: says which wrapper and why.
    """
    kept = tuple(wrapper for wrapper in spec.additional_wrappers if _matters(wrapper))
    own = copy.copy(spec)
    own.additional_wrappers = kept
    return own


def _matters(wrapper: WrapperSpec) -> bool:
    if wrapper.name in BOOKKEEPING:
        return False
    if wrapper.kwargs is not None:  # its arguments were recorded: it can be made again
        return True
    if _changes_nothing(wrapper.entry_point):
        return False
    raise CannotBeMadeAgain(
        f"its environment was wrapped in {wrapper.name} ({wrapper.entry_point}), whose arguments "
        "were not recorded (gymnasium.utils.RecordConstructorArgs does)"
    )


def _changes_nothing(entry_point: str) -> bool:
    """Whether a wrapper is known to leave everything as it is: of it and of what it inherits,
    nothing but ``gymnasium.Wrapper`` itself defines what changes an environment."""
    import gymnasium

    module, _, name = entry_point.partition(":")
    try:
        found: Any = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        return False
    if not inspect.isclass(found) or not issubclass(found, gymnasium.Wrapper):
        return False
    own = found.__mro__[: found.__mro__.index(gymnasium.Wrapper)]
    if CHANGES & {name for part in own for name in vars(part)}:
        return False
    # Spaces may be set in the constructor.
    return all("__init__" not in vars(part) for part in own)
