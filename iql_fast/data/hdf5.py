"""Arrays out of HDF5 files, which may keep their numbers elsewhere, or nowhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iql_fast.support import memory
from iql_fast.support.errors import UserError


def array(
    node: Any, name: str, path: Path, may_be_group: bool = False, exact: bool = False
) -> NDArray[Any]:
    """The numbers of a dataset, or those of a group's arrays side by side.

    Args:
        exact: keep the type that they are stored in; otherwise doubles become float32 on their way,
            which takes half the memory.

    Raises:
        UserError: it is no array of numbers, or they are not there.
    """
    import h5py

    if isinstance(node, h5py.Dataset):
        _require_numbers(node, name, path)
        # HDF5 itself rounds doubles of the other byte order in another way than numpy.
        narrow = not exact and node.dtype == np.float64
        memory.require(node.size * (4 if narrow else node.dtype.itemsize), f"{path}: {name!r}")
        return np.asarray(node.astype(np.float32)[()] if narrow else node[()])
    if not isinstance(node, h5py.Group):
        raise UserError(f"{path}: {name!r} is the name of a type; expected an array.")
    if not may_be_group or not len(node):
        held = f"a group of {len(node)} array(s)"
        raise UserError(f"{path}: {name!r} is {held}; expected one array, one row a step.")
    # In the order of their names: h5py's own may be that in which they were written.
    parts = [array(node[key], f"{name}/{key}", path, True) for key in sorted(node)]
    for key, part in zip(sorted(node), parts, strict=True):
        if part.ndim == 0 or len(part) != len(parts[0]):
            raise UserError(
                f"{path}: '{name}/{key}' has shape {part.shape}, but '{name}/{sorted(node)[0]}' "
                f"has {parts[0].shape}. Every array must have one row a step."
            )
        if part.dtype == np.uint8 and part.ndim > 2:
            raise UserError(
                f"{path}: '{name}/{key}' holds images {part.shape[1:]}; there is no image encoder "
                "here. Encode them to vectors first."
            )
        if part.dtype.kind not in "fiub":
            raise UserError(
                f"{path}: '{name}/{key}' holds {part.dtype} where real numbers are expected."
            )
    flat = [part.reshape(len(part), int(np.prod(part.shape[1:]))) for part in parts]
    return np.concatenate(flat, 1)


def parts(node: Any) -> list[tuple[str, int]] | None:
    """(path, size) of each array of a group, in the order in which ``array`` puts them side by
    side; None of a dataset."""
    if hasattr(node, "dtype"):
        return None
    found: list[tuple[str, int]] = []
    for key in sorted(node):
        inner = node[key]
        if (within := parts(inner)) is not None:
            found += [(f"{key}/{place}", size) for place, size in within]
        else:
            shape = (*inner.shape, *inner.dtype.shape)  # an element may be an array itself
            found.append((key, int(np.prod(shape[1:]))))
    return found


def _require_numbers(dataset: Any, name: str, path: Path) -> None:
    """Raise a ``UserError`` where what a dataset is made of is not there: HDF5 reads zeros."""
    if dataset.shape is None:
        raise UserError(f"{path}: {name!r} holds nothing; expected one row a step.")
    if dataset.is_virtual:
        _require_virtual(dataset, name, path)
    remaining = dataset.size * dataset.id.get_type().get_size()
    for file, offset, size in dataset.external or ():
        source = path.parent / file
        _require_file(source, file, name, path)
        taken = min(size, remaining)
        if source.stat().st_size < offset + taken:
            raise UserError(
                f"{path}: {name!r} is kept in {file}, which is {source.stat().st_size} bytes long "
                f"where {offset + taken} are expected. Bring back the whole of it."
            )
        remaining -= taken


def _require_virtual(dataset: Any, name: str, path: Path) -> None:
    import h5py

    sources = dataset.virtual_sources()
    mapped = sum(source.vspace.get_select_npoints() for source in sources)
    if mapped < dataset.size:
        raise UserError(
            f"{path}: {name!r} is put together from other arrays, which make up {mapped} of its "
            f"{dataset.size} numbers. Write all of them into one file."
        )
    for source in sources:
        if "%" in source.file_name + source.dset_name:  # a pattern of names, which HDF5 fills in
            continue
        own = source.file_name == "."
        place = path if own else path.parent / source.file_name
        _require_file(place, source.file_name, name, path)
        with h5py.File(place, "r") as file:
            inner = file.get(source.dset_name)
            if not isinstance(inner, h5py.Dataset) or inner.shape is None:
                raise UserError(
                    f"{path}: {name!r} is kept in {source.dset_name!r} of {place.name}, which "
                    "is not there. Bring it back, or write the numbers into one file."
                )
            expected = source.src_space.shape
            if any(a < b for a, b in zip(inner.shape, expected, strict=False)):
                raise UserError(
                    f"{path}: {name!r} is kept in {source.dset_name!r} of {place.name}, which has "
                    f"the shape {inner.shape} where {expected} is expected. Bring back the whole."
                )
            _require_numbers(inner, source.dset_name, place)


def _require_file(source: Path, file: str, name: str, path: Path) -> None:
    if not source.exists():
        raise UserError(
            f"{path}: {name!r} is kept in {file}, which is not there. Bring it back, or write "
            "the numbers into one file."
        )
