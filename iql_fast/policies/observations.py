"""Observations as environments show them, flat as networks read them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]

#: (path, size) of each array of a structured observation, in the order of the flat one. One array
#: of several dimensions has the path "".
Layout = tuple[tuple[str, int], ...]


def flat(observation: Any, size: int, layout: Layout | None = None) -> FloatArray:
    """An observation ``[O]``, or a batch ``[N, O]``.

    Args:
        observation: just that; or, where there is a layout, one array a path: by the path itself,
            ``{"a/b": array}``, or nested as the environment shows it, ``{"a": {"b": array}}``, with
            the elements of a tuple counted from 0. A batch has a leading axis in every array.
        size: O.

    Raises:
        ValueError: the shape is another, an array is missing, or there is no layout.
    """
    structured = isinstance(observation, Mapping)
    plain = layout is None or layout == (("", size),)
    if layout is not None and not plain and (structured or isinstance(observation, tuple)):
        return _joined([(path, n, _at(observation, path)) for path, n in layout])
    if structured:
        raise ValueError(
            "this policy was trained on plain arrays (its run's config.json has no "
            f'"observation_layout" of several): expected [{size}] or [N, {size}], not a mapping'
        )
    array = np.asarray(observation, dtype=np.float32)
    if array.ndim in (1, 2) and array.shape[-1] == size:
        return array
    if layout is not None and plain and array.ndim > 1:
        if math.prod(array.shape[1:]) == size:
            return array.reshape(-1, size)
        if array.size == size:
            return array.ravel()
    raise ValueError(
        f"expected an observation [{size}] or a batch [N, {size}]; this has the shape "
        f"{list(array.shape)}"
    )


def _at(observation: Any, path: str) -> FloatArray:
    """The array at a path."""
    found = observation
    if isinstance(observation, Mapping) and path in observation:
        found = observation[path]
    else:
        for key in path.split("/"):
            try:
                found = found[int(key) if isinstance(found, tuple) else key]
            except (LookupError, TypeError, ValueError):
                raise ValueError(f'the observation has nothing at "{path}"') from None
    return np.asarray(found, dtype=np.float32)


def _joined(parts: list[tuple[str, int, FloatArray]]) -> FloatArray:
    """Arrays of (path, size, array) beside each other.

    An array ``[1, n]`` of size n could be one observation or a batch of one. The others decide; if
    they leave it open, it is a batch, since vectors are what environments show.
    """
    one = all(array.size == n for _, n, array in parts)
    rows = {array.shape[:1] for _, _, array in parts}
    batch = len(rows) == 1 and all(
        array.ndim > 0 and math.prod(array.shape[1:]) == n for _, n, array in parts
    )
    if batch and not (one and all(array.ndim == 1 for _, _, array in parts)):
        return np.concatenate([array.reshape(len(array), n) for _, n, array in parts], axis=1)
    if one:
        return np.concatenate([array.ravel() for _, _, array in parts])
    expected = ", ".join(f'"{path}" {n}' for path, n, _ in parts)
    shapes = ", ".join(f'"{path}" {list(array.shape)}' for path, _, array in parts)
    raise ValueError(
        f"expected arrays of the sizes {expected}, or batches of them with one leading axis; these "
        f"have the shapes {shapes}"
    )
