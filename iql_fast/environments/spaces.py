"""Gymnasium's spaces as the vectors that networks read and put out.

A Dict, a Tuple or a Box of several dimensions is flattened as ``gymnasium.spaces.flatten`` does:
parts in the space's order, each in C order. What is not made of numbers that differ by amounts
(Discrete, MultiDiscrete, images, text) is refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from iql_fast.support.errors import UserError

if TYPE_CHECKING:  # what trains without a simulator need not load Gymnasium
    from gymnasium import spaces

#: A part of a flattened observation: where it lies in a Dict or a Tuple, and how many numbers.
Part = tuple[str, int]


def observation_parts(space: spaces.Space[Any], where: str) -> list[Part]:
    """The parts of an observation space, in their order; a Box is one part, called ``""``.

    Raises:
        UserError: a part is not a vector; names the space.
    """
    parts = [(path, int(np.prod(box.shape))) for path, box in _boxes(space, "", where)]
    if not sum(size for _, size in parts):
        raise UserError(f"{where}: observations hold no numbers; their space is {_short(space)}.")
    return parts


def _boxes(
    space: spaces.Space[Any], path: str, where: str
) -> Iterator[tuple[str, spaces.Box]]:  # fmt: skip
    from gymnasium import spaces

    inner: Any = None
    if isinstance(space, spaces.Dict):
        inner = space.spaces.items()
    elif isinstance(space, spaces.Tuple):
        inner = enumerate(space.spaces)
    if inner is not None:
        for key, part in inner:
            yield from _boxes(part, f"{path}/{key}" if path else str(key), where)
        return
    name = f"observations{' ' + path if path else ''}"
    if not isinstance(space, spaces.Box):
        raise UserError(
            f"{where}: {name} have the space {_short(space)}; only vectors of numbers (Box, and "
            "Dict and Tuple of them) can be trained on."
        )
    if space.dtype == np.uint8 and len(space.shape) >= 2:
        raise UserError(
            f"{where}: {name} are images ({_short(space)}); there is no image encoder here. "
            "Encode them to vectors first."
        )
    yield path, space


def sorted_by_key(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """The space with the keys of every Dict in it sorted, as Minari stores it."""
    from gymnasium import spaces

    if isinstance(space, spaces.Dict):
        parts = {key: sorted_by_key(part) for key, part in sorted(space.spaces.items())}
        return spaces.Dict(parts)
    if isinstance(space, spaces.Tuple):
        return spaces.Tuple([sorted_by_key(part) for part in space.spaces])
    return space


def flat_observations(space: spaces.Space[Any], observations: Any) -> NDArray[np.float32]:
    """``[T, O]`` of T observations as a Minari episode holds them: each part an array ``[T, ...]``,
    in dicts and tuples as the space is.

    Raises:
        TypeError, ValueError, KeyError: they are not of the space.
    """
    from gymnasium import spaces

    if isinstance(space, spaces.Dict):
        columns = [flat_observations(part, observations[key]) for key, part in space.spaces.items()]
        return np.concatenate(columns, 1)
    if isinstance(space, spaces.Tuple):
        columns = [
            flat_observations(part, rows)
            for part, rows in zip(space.spaces, observations, strict=True)
        ]
        return np.concatenate(columns, 1)
    rows = np.asarray(observations)
    if rows.dtype.kind not in "fiub":
        raise TypeError(f"{rows.dtype} where real numbers are expected")
    with np.errstate(over="ignore"):  # what float32 cannot hold is then not finite
        return rows.reshape(len(rows), math.prod(rows.shape[1:])).astype(np.float32, copy=False)


@dataclass(frozen=True)
class ActionBounds:
    """The least and the largest action ``[A]`` of an environment; infinite where there is none."""

    low: NDArray[np.float32]
    high: NDArray[np.float32]

    @property
    def are_of_the_networks(self) -> bool:
        """Whether they are -1 and 1."""
        return bool(np.all(self.low == -1) and np.all(self.high == 1))


def action_bounds(space: spaces.Space[Any], where: str) -> ActionBounds:
    """The bounds of an action space, flattened.

    Raises:
        UserError: actions are not vectors of numbers; names the space.
    """
    from gymnasium import spaces

    if not isinstance(space, spaces.Box):
        raise UserError(
            f"{where}: actions have the space {_short(space)}; IQL here has a Gaussian policy and "
            "needs a Box, a vector of continuous actions."
        )
    if space.dtype is not None and space.dtype.kind != "f":
        raise UserError(
            f"{where}: actions are whole numbers ({_short(space)}); a Gaussian policy puts out "
            "others. Only a Box of floating-point numbers can be acted in."
        )
    low, high = (np.asarray(bound, np.float32).reshape(-1) for bound in (space.low, space.high))
    if not len(low):
        raise UserError(f"{where}: actions hold no numbers; their space is {_short(space)}.")
    if np.any(low >= high):
        i = int(np.argmax(low >= high))
        raise UserError(
            f"{where}: action {i} has the bounds {low[i]:g} and {high[i]:g}, between which there "
            "is nothing to choose."
        )
    return ActionBounds(low, high)


def _short(space: spaces.Space[Any]) -> str:
    text = " ".join(str(space).split())
    return text if len(text) <= 80 else f"{text[:77]}..."
