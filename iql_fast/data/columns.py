"""A file of logged steps as columns: HDF5, NumPy's .npz, Parquet, or a folder of LeRobot's.

Names are those of D4RL's layout, or their younger synonyms; a group of arrays in place of one is
put side by side, as ``gymnasium.spaces.flatten`` does with a Dict.
"""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iql_fast.data import hdf5
from iql_fast.support import memory
from iql_fast.support.errors import UserError

Columns = dict[str, NDArray[Any]]

#: What a file must hold, and what it may.
REQUIRED = ("observations", "actions", "rewards", "terminals")
EPISODE = "episode_index"  # LeRobot's: a frame's episode
OPTIONAL = ("timeouts", "next_observations", "masks", "valids", EPISODE)
FLAGS = ("terminals", "timeouts", "masks", "valids")
#: Gymnasium's and LeRobot's names of what D4RL calls otherwise.
SYNONYMS = {
    "terminals": ("terminations", "next.done"),
    "timeouts": ("truncations",),
    "observations": ("observation.state",),
    "actions": ("action",),
    "rewards": ("next.reward",),
}
#: What may be a group of arrays.
GROUPS = ("observations", "next_observations")
FORMATS = ".hdf5, .h5, .npz, .parquet, or a LeRobot dataset's folder"


def read(path: Path) -> Columns:
    """The columns of a file that are known here: numbers as float32, flags as bool.

    Raises:
        UserError: naming the file, the key and the row, and what to do.
    """
    if not os.path.exists(path):  # Path.exists raises on a name that is too long
        raise UserError(f"There is no dataset file {path}.")
    suffix = path.suffix.lower()
    if path.is_dir():
        columns = _read_lerobot(path)
    elif suffix == ".npz":
        columns = _read_npz(path)
    elif suffix in (".parquet", ".pq"):
        columns = _read_parquet([path], path)
    else:
        columns = _read_hdf5(path)
    episodes = columns.pop(EPISODE, None)
    columns = _typed(columns, path)
    if episodes is not None:
        _cut_by_episode(columns, _numbers(_flat(episodes), EPISODE, path), path)
    return columns


def _cut_by_episode(columns: Columns, episodes: NDArray[Any], path: Path) -> None:
    """An episode whose last row is not terminal was cut there."""
    terminals = columns["terminals"]
    timeouts = columns.get("timeouts", np.zeros_like(terminals))
    for name, column in ((EPISODE, episodes), ("timeouts", timeouts)):
        if column.shape != terminals.shape or column.ndim != 1:
            raise UserError(
                f"{path}: {name!r} has shape {column.shape}, but 'terminals' has "
                f"{terminals.shape}. Every column must have one row a step."
            )
    if not np.isfinite(episodes).all():
        row = int(np.argmin(np.isfinite(episodes)))
        raise UserError(f"{path}: {EPISODE!r} is {episodes[row]} in row {row}; expected a number.")
    last = np.append(episodes[1:] != episodes[:-1], True)[: len(episodes)]
    columns["timeouts"] = timeouts | (last & ~terminals)


def _wanted(has: Callable[[str], bool]) -> dict[str, str]:
    """Known name -> the name that it has in the file."""
    found = {}
    for name in (*REQUIRED, *OPTIONAL):
        own = next((key for key in (name, *SYNONYMS.get(name, ())) if has(key)), None)
        if own is not None:
            found[name] = own
    return found


@contextmanager
def _reading(what: str, kind: str, advice: str) -> Iterator[None]:
    """What a library that reads files says against one, in whatever way, as one error."""
    try:
        yield
    except UserError:
        raise
    except MemoryError as error:
        raise UserError(
            f"{what} does not fit into the memory of this machine ({error}). Is it damaged? If "
            "not, divide it."
        ) from None
    except Exception as error:  # of HDF5, zip, NumPy, Arrow: there is no list of them
        said = str(error) or type(error).__name__
        raise UserError(f"{what} cannot be read as {kind} ({said}). {advice}") from None


def _read_hdf5(path: Path) -> Columns:
    import h5py

    advice = (
        "It is truncated or not an HDF5 file: fetch or make it again. What can be read here: "
        f"{FORMATS}."
    )
    with _reading(str(path), "HDF5", advice), h5py.File(path, "r") as file:
        held = set(file)  # a link to what is not there is still a key
        _require(held.__contains__, sorted(held), path)
        columns = {}
        for name, own in _wanted(held.__contains__).items():
            exact = name in FLAGS or name == EPISODE
            try:
                columns[name] = hdf5.array(file[own], own, path, name in GROUPS, exact)
            except UserError:
                raise
            except Exception as error:
                if "filter" in str(error):
                    raise UserError(
                        f"{path} is compressed in a way that is not installed here ({error}). `pip "
                        "install hdf5plugin` and importing it, or h5repack, may help."
                    ) from None
                with _reading(f"{path}: {own!r}", "an array of HDF5's", advice):
                    raise
        return columns


def group_parts(path: Path) -> list[tuple[str, int]] | None:
    """(path, size) of each array of a file's ``observations``, in the order in which ``read`` puts
    them side by side; None where they are one array."""
    if path.suffix.lower() in (".npz", ".parquet", ".pq") or path.is_dir():
        return None
    import h5py

    with h5py.File(path, "r") as file:
        return hdf5.parts(file[_wanted(set(file).__contains__)["observations"]])


def _read_npz(path: Path) -> Columns:
    advice = "Write it with numpy.savez, numeric arrays only."
    with _reading(str(path), ".npz", advice):
        with zipfile.ZipFile(path) as archive:  # numpy would take a lone array for one as well
            memory.require(sum(entry.file_size for entry in archive.infolist()), str(path))
        with np.load(path, allow_pickle=False) as file:
            _require(file.__contains__, sorted(file), path)
            columns = {name: file[own] for name, own in _wanted(file.__contains__).items()}
            for name, column in columns.items():
                if not isinstance(column, np.ndarray):  # NumPy hands on what else is in a zip file
                    raise UserError(f"{path}: {name!r} is not an array of NumPy's. {advice}")
            return columns


def _read_parquet(paths: list[Path], where: Path) -> Columns:
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError:
        raise UserError(f"{where} needs pyarrow: pip install 'iql-fast[arrow]'.") from None
    with _reading(str(where), "Parquet", "Fetch or make it again."):
        table = arrow.concat_tables(
            [parquet.read_table(path) for path in paths], promote_options="permissive"
        )
        names = table.column_names
        _require(names.__contains__, names, where)
        wanted = _wanted(names.__contains__)
        return {name: _arrow_array(table[own], own, where) for name, own in wanted.items()}


def _arrow_array(column: Any, name: str, where: Path) -> NDArray[Any]:
    import pyarrow as arrow

    whole = column.combine_chunks()
    if isinstance(whole, arrow.ChunkedArray):  # of one chunk, or none
        whole = whole.chunk(0) if whole.num_chunks else arrow.array([], whole.type)
    if isinstance(whole, arrow.ExtensionArray):  # tensors
        whole = whole.storage
    kind = whole.type
    if whole.null_count:
        row = whole.is_null().to_numpy(zero_copy_only=False).argmax()
        raise UserError(f"{where}: {name!r} has no value in row {row}.")
    types = arrow.types
    lists = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    flat = np.asarray((whole.flatten() if lists else whole).to_numpy(zero_copy_only=False))
    if flat.dtype.kind not in "fiub" and len(flat):
        raise UserError(
            f"{where}: {name!r} holds {kind} where real numbers, or lists of them of one length, "
            "are expected."
        )
    if not lists:
        return flat
    rows = len(whole)
    lengths = np.asarray(whole.value_lengths().to_numpy(zero_copy_only=False))
    if rows and np.any(lengths != lengths[0]):
        row = int(np.argmax(lengths != lengths[0]))
        raise UserError(
            f"{where}: {name!r} has {lengths[row]} numbers in row {row}, but {lengths[0]} in row 0."
        )
    return flat.reshape(rows, lengths[0] if rows else 0)


def _read_lerobot(folder: Path) -> Columns:
    """LeRobot's v3.0: ``data/chunk-*/file-*.parquet``, a row a frame. A frame that ``next.done``
    marks ends its episode in a terminal state; an episode without one was cut."""
    info = folder / "meta" / "info.json"
    if not info.is_file():
        raise UserError(
            f"{folder} is a folder without meta/info.json, so not a LeRobot dataset. What can be "
            f"read here: {FORMATS}."
        )
    try:
        version = dict(json.loads(info.read_text())).get("codebase_version")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{info} cannot be read as a JSON object ({error}).") from None
    if version != "v3.0":
        raise UserError(f"{folder} is of LeRobot's layout {version}; v3.0 can be read here.")
    files = sorted((folder / "data").glob("chunk-*/file-*.parquet"), key=_numbered)
    if not files:
        raise UserError(f"{folder} holds no data/chunk-*/file-*.parquet.")
    columns = _read_parquet(files, folder)
    if EPISODE not in columns:
        raise UserError(f"{folder} lacks the column {EPISODE!r}.")
    return columns


def _numbered(path: Path) -> list[tuple[int, str]]:
    """By which LeRobot's files are sorted: file-1000 follows file-999."""
    numbers = re.findall(r"\d+", f"{path.parent.name}/{path.name}", re.ASCII)
    return [(len(number), number) for number in (n.lstrip("0") for n in numbers)]


def _require(has: Callable[[str], bool], held: list[str], path: Path) -> None:
    found = _wanted(has)
    missing = [name for name in REQUIRED if name not in found]
    goals = path.suffix.lower() == ".npz" and {"observations", "terminals"} <= found.keys()
    if "rewards" in missing and goals:
        raise UserError(
            f"{path} lacks the key 'rewards'. OGBench's files of goals have none: a single task "
            "has them (--task NAME-singletask-v0)."
        )
    if missing:
        others = ", ".join(SYNONYMS.get(missing[0], ()))
        raise UserError(
            f"{path} lacks the key {missing[0]!r}{f' (or {others})' if others else ''}. A file of "
            f"logged steps holds {', '.join(REQUIRED)} and usually timeouts, one row a step; this "
            f"one holds {', '.join(held) or 'nothing'}."
        )


def _typed(columns: Mapping[str, NDArray[Any]], path: Path) -> Columns:
    typed: Columns = {}
    for name, column in columns.items():
        flat = name in FLAGS or name == "rewards"
        column = _numbers(_flat(column) if flat else column, name, path)
        with np.errstate(over="ignore"):  # what float32 cannot hold is named as not finite
            typed[name] = (
                _flag(column, name, path)
                if name in FLAGS
                else np.ascontiguousarray(column, dtype=np.float32)
            )
    return typed


def _numbers(column: NDArray[Any], name: str, path: Path) -> NDArray[Any]:
    """A column that holds real numbers, a row or more of them."""
    if column.dtype.kind not in "fiub":
        raise UserError(f"{path}: {name!r} holds {column.dtype} where real numbers are expected.")
    if column.ndim == 0:
        raise UserError(f"{path}: {name!r} is a single number; expected one row a step.")
    return column


def _flat(column: NDArray[Any]) -> NDArray[Any]:
    """``[N]`` from ``[N]`` or ``[N, 1]``; anything else is left for the checks to name."""
    return column[:, 0] if column.ndim == 2 and column.shape[1] == 1 else column


def _flag(column: NDArray[Any], name: str, path: Path) -> NDArray[np.bool_]:
    if column.dtype.kind == "b":
        column = column.view(np.uint8)  # a file may hold any byte there
    wrong = (column != 0) & (column != 1) & (column != 255)
    if wrong.any():
        row = int(np.argmax(wrong.reshape(len(wrong), -1).any(1)))
        raise UserError(
            f"{path}: {name!r} is {column[row]} in row {row}; a flag is 0 or 1 (or 255)."
        )
    return np.asarray(column != 0)
