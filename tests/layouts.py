"""Logged steps in every layout that a file may have, what is right to make of them, and files of
them: for hypothesis (``tests/test_fuzz.py``) and for the fuzzer (``tools/fuzz.py``).

A layout has no fault, and then its rows have to come out as they went in, to float32's rounding; or
it has one, and then it has to be refused.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import h5py
import numpy as np

from iql_fast.data import describe, own, resolve
from iql_fast.data.logged import LoggedTransitions
from iql_fast.data.transform import to_training
from iql_fast.support.errors import UserError
from iql_fast.tasks.presets import Family

T = TypeVar("T")
Array = np.ndarray[Any, Any]


class Choose(Protocol):
    """Whoever decides: hypothesis, or the bytes of a fuzzer."""

    def among(self, options: Sequence[T]) -> T:
        """One of them; the first is the plainest."""
        ...

    def whole(self, low: int, high: int) -> int:
        """A number from ``low`` to ``high``."""
        ...


class Wrong(AssertionError):
    """What was read is not what was written, or what had to be refused was taken."""


NUMBERS = ("f4", "f8", "f2", ">f4", ">f8", "g", "i1", "i2", "i8", "u1", ">u2", "u8")
FLAGS = ("?", "u1", "i1", "i4", ">i8", "f2", "f4", "f8")
PARQUET = {"g", ">f4", ">f8", ">u2", ">i8"}  # that it has not
OPTIONAL = ("timeouts", "next_observations", "masks", "valids", "episode_index")
YOUNGER = {"terminals": "terminations", "timeouts": "truncations"}
LEROBOT = {
    "observations": "observation.state",
    "actions": "action",
    "rewards": "next.reward",
    "terminals": "next.done",
}
WIDE = ("observations", "next_observations", "actions")


@dataclass
class Layout:
    """Columns by their known names, as they are to be stored.

    Attributes:
        horizon: that whoever reads them knows.
        faults: why they have to be refused.
    """

    columns: dict[str, Array]
    horizon: int | None = None
    faults: list[str] = field(default_factory=list)


def layout(choose: Choose, container: str) -> Layout:
    """Any."""
    rows = choose.among((7, 1, 2, 3, 30))
    rng = np.random.default_rng(choose.whole(0, 255))
    wide, narrow = choose.among((2, 1, 3)), choose.among((1, 2))
    scale = choose.among((1.0, 1.0, 1.0, 100.0, 1e-42, 1e30))
    walk = np.cumsum(rng.normal(size=(rows + 1, wide)), 0)
    if choose.among((False, True)):
        walk = np.repeat(walk[:1], rows + 1, 0)  # stays in one place
    columns: dict[str, Array] = {
        "observations": walk[:-1] * scale,
        "actions": rng.uniform(-1, 1, (rows, narrow)) * choose.among((1.0, 1.0, 3.0, 1e20)),
        "rewards": rng.normal(size=rows) * choose.among((1.0, 1.0, 0.0, 1e30)),
        "terminals": rng.random(rows) < 0.2,
        "timeouts": rng.random(rows) < choose.among((0.2, 1.0, 0.0)),
        "next_observations": (walk[1:] if choose.among((True, False)) else walk[:-1]) * scale,
        "masks": rng.random(rows) < 0.7,
        "valids": rng.random(rows) < choose.among((0.8, 0.8, 0.8, 0.0)),
        "episode_index": np.sort(rng.integers(0, 3, rows)) + choose.among((0, 2**24, 2**53 + 1)),
    }
    if choose.among((False, True)):
        columns["masks"] = ~columns["terminals"]
    for name in OPTIONAL:
        if not choose.among((False, True)) and (name, container) != ("episode_index", "lerobot"):
            del columns[name]
    made = Layout(columns, choose.among((None, 3, 1)))
    for name in columns:
        columns[name] = _stored(choose, name, columns[name], container)
        with np.errstate(over="ignore"):
            if name != "episode_index" and not np.isfinite(columns[name].astype("f4")).all():
                made.faults.append(f"{name} is beyond float32")
    if choose.among((False, False, True)):
        _spoil(choose, made, container)
    if container != "parquet" and choose.among((False, False, True)):
        for name in ("rewards", "terminals", "timeouts", "episode_index"):
            if name in columns and columns[name].ndim == 1:
                columns[name] = columns[name][:, None]
    return made


def _stored(choose: Choose, name: str, column: Array, container: str) -> Array:
    """In some type that holds it, more or less."""
    types: tuple[str, ...] = FLAGS if column.dtype == bool else NUMBERS
    if name == "episode_index":
        types = ("i8", "f8", "u8", "f4")
    kind = choose.among([t for t in types if container in ("hdf5", "npz") or t not in PARQUET])
    if column.dtype == bool:
        return (column * choose.among((1, 255) if kind not in ("?", "i1") else (1,))).astype(kind)
    if np.dtype(kind).kind in "iu" and name != "episode_index":
        limits = np.iinfo(kind)
        # The largest double below 2^63 is 1024 less.
        column = np.clip(np.rint(column), max(limits.min, -(2.0**62)), min(limits.max, 2.0**62))
    with np.errstate(over="ignore"):
        return column.astype(kind)


def _spoil(choose: Choose, made: Layout, container: str) -> None:
    """One fault, of those that the container can hold."""
    columns = made.columns
    name = choose.among(list(columns))
    column = columns[name]
    table = container in ("parquet", "lerobot")
    kinds = ["value", "missing", "text", "empty", *(() if table else ("rows", "one row", "deep"))]
    kind = choose.among([*kinds, *(() if table else ("scalar", "complex", "void", "narrow"))])
    if kind == "missing":
        name = choose.among(("rewards", "observations", "actions", "terminals"))
        del columns[name]
    elif kind == "value":
        wrong: tuple[float, ...] = (np.nan, np.inf)
        if column.dtype.kind == "b" or name in ("terminals", "timeouts", "masks", "valids"):
            wrong = (0.5, 2, -1, np.nan, 1e-50, 1 + 1e-12, 254)
        elif name != "episode_index":
            wrong = (np.nan, np.inf, -np.inf, 1e300)
        columns[name] = column.astype("f8")
        columns[name][choose.whole(0, len(column) - 1)] = choose.among(wrong)
    elif kind == "text":
        columns[name] = np.array(["1"] * len(column)).reshape(-1)
        if name in WIDE and not table:
            columns[name] = columns[name][:, None]
    elif kind == "empty":
        for other in columns:
            columns[other] = columns[other][:0]
    elif kind == "rows":
        columns[name] = column[:-1]
    elif kind == "one row" and len(column) > 1:
        columns[name] = column[:1]
    elif kind == "deep":
        columns[name] = np.repeat(column[..., None], 2, -1)[..., None]
    elif kind == "scalar":
        columns[name] = column.reshape(-1)[0]
    elif kind == "complex":
        columns[name] = column.astype("c16")
    elif kind == "void":
        columns[name] = np.zeros(len(column), [("a", "f4"), ("b", "i4")])
    elif kind == "narrow":
        name = choose.among(("observations", "actions"))
        columns[name] = columns[name][:, :0]
    else:
        return
    made.faults.append(f"{name}: {kind}")


# --- what is right ------------------------------------------------------------------------------


def kept(made: Layout) -> list[tuple[int, Array | None, bool]]:
    """(row, its s' where that matters, whether it is terminal) of every transition, a row at a time
    after the rules at the top of ``iql_fast/data/own.py``."""
    columns = {
        name: column[:, 0] if column.ndim == 2 and name not in WIDE else column
        for name, column in made.columns.items()
    }
    rows = len(columns["rewards"])

    def flag(name: str, row: int) -> bool:
        return name in columns and bool(columns[name][row] != 0)

    cut = [flag("timeouts", row) for row in range(rows)]
    if episodes := columns.get("episode_index", np.zeros(0)).tolist():
        for row in range(rows):
            last = row == rows - 1 or episodes[row] != episodes[row + 1]
            cut[row] = cut[row] or (last and not flag("terminals", row))
    says = "timeouts" in columns or "episode_index" in columns
    if not says and "masks" not in columns and made.horizon is not None:
        age = 0
        for row in range(rows):
            age += 1
            cut[row] = age == made.horizon
            age = 0 if cut[row] or flag("terminals", row) else age
    dead = [
        not flag("masks", row) if "masks" in columns else flag("terminals", row)
        for row in range(rows)
    ]
    differ = any(dead[row] != flag("terminals", row) for row in range(rows))
    states_only = "masks" in columns and not says and differ
    found = []
    for row in range(rows):
        ended = flag("terminals", row) or cut[row] or row == rows - 1
        following = None if ended else columns["observations"][row + 1]
        has = not ended or (dead[row] and not states_only)
        if "next_observations" in columns:
            has, following = True, columns["next_observations"][row]
        if has and ("valids" not in columns or flag("valids", row)):
            found.append((row, following, dead[row]))
    return found


def same(one: Array, other: Any, what: str) -> None:
    if not np.array_equal(one, np.asarray(other).astype("f4")):
        raise Wrong(f"{what} changed: {one!r} for {other!r}")


def check(made: Layout, path: Path) -> LoggedTransitions | None:
    """Read it and compare; None where it was, rightly, refused."""
    right = [] if made.faults else kept(made)
    try:
        read = own.read(path, horizon=made.horizon)
    except UserError as error:
        if right:
            raise Wrong(f"refused: {error}") from None
        return None
    if not right:
        raise Wrong(f"taken: {made.faults or 'there is no transition'}")
    if read.rows != len(made.columns["rewards"]):
        raise Wrong("rows are miscounted")
    found, picked = read.transitions, [row for row, _, _ in right]
    same(found.observations, made.columns["observations"][picked], "observations")
    same(found.actions, made.columns["actions"][picked], "actions")
    same(found.rewards, made.columns["rewards"].reshape(-1)[picked], "rewards")
    for i, (_, following, dead) in enumerate(right):
        if bool(found.terminals[i]) != dead:
            raise Wrong("terminals changed")
        if following is not None and not (dead and "next_observations" not in made.columns):
            same(found.next_observations[i], following, "next_observations")
    if not np.isfinite(found.next_observations).all():
        raise Wrong("next_observations are not finite")
    return found


def check_prepared(path: Path, family: Family) -> None:
    """What is trained on, of a file that can be read: its numbers in other units, and no others."""
    found = resolve.find("", resolve.Search(path))
    with contextlib.redirect_stdout(io.StringIO()):
        describe.show(found)
    logged = found.logged
    try:
        made, units, record, _ = to_training(logged, family, str(path), found.bounds)
    except UserError:
        return  # of values that a scale takes beyond float32
    columns = (made.observations, made.actions, made.rewards, made.masks, made.next_observations)
    if any(column.dtype != np.float32 or not np.isfinite(column).all() for column in columns):
        raise Wrong("what is trained on is not finite, or not float32")
    same(made.observations, logged.observations, "observations")
    same(made.masks, ~logged.terminals, "masks")
    with np.errstate(over="ignore", under="ignore"):
        rewards = (logged.rewards * record["reward_scale"]).astype("f4")
        same(made.rewards, rewards + np.float32(record["reward_shift"]), "rewards")
    back = units.act(made.actions).astype("f8")
    reach = 1.0 if units.action_line is None else units.action_line[1].astype("f8")
    if np.any(np.abs(back - logged.actions) > 2e-5 * reach + 1e-5 * np.abs(logged.actions)):
        raise Wrong("actions changed")


# --- files --------------------------------------------------------------------------------------


def write_npz(choose: Choose, made: Layout, folder: Path) -> Path:
    columns = _renamed(choose, made.columns, YOUNGER)
    if choose.among((False, True)):
        columns = {name: np.asfortranarray(column) for name, column in columns.items()}
    save: Callable[..., None] = choose.among((np.savez, np.savez_compressed))
    save(folder / "a.npz", **columns)
    return folder / "a.npz"


def _renamed(choose: Choose, columns: dict[str, Array], names: dict[str, str]) -> dict[str, Array]:
    return {
        names[name] if name in names and choose.among((False, True)) else name: column
        for name, column in columns.items()
    }


def write_parquet(choose: Choose, made: Layout, folder: Path) -> Path:
    from pyarrow import parquet

    table = _table(choose, made, _renamed(choose, made.columns, YOUNGER | LEROBOT))
    compression = choose.among(("snappy", "none", "zstd"))
    size = choose.among((None, 2))
    parquet.write_table(table, folder / "a.parquet", compression=compression, row_group_size=size)
    return folder / "a.parquet"


def _table(choose: Choose, made: Layout, columns: dict[str, Array]) -> Any:
    import pyarrow as arrow

    arrays = {}
    for name, column in columns.items():
        plain = arrow.array(column.reshape(-1))
        if column.ndim == 2 and column.shape[1]:
            width = column.shape[1]
            kind = choose.among(("list", "fixed", "large"))
            if kind == "fixed":
                plain = arrow.FixedSizeListArray.from_arrays(plain, width)
            else:
                ends = np.arange(len(column) + 1) * width
                lists = arrow.ListArray if kind == "list" else arrow.LargeListArray
                plain = lists.from_arrays(ends.astype("i4" if kind == "list" else "i8"), plain)
        elif choose.among((False, False, True)) and len(plain):
            plain = plain.dictionary_encode()
        arrays[name] = plain
    fault = choose.among((None,) * 12 + ("null", "ragged", "inner null", "twice"))
    table = arrow.table(arrays)
    name = choose.among(list(arrays))
    index = table.column_names.index(name)
    if fault and not made.faults and table.num_rows > 1:
        values = table[name].to_pylist()
        if fault == "twice":
            # One that stands there twice is none of the two.
            table = table.append_column(name, table[name])
        elif fault == "null":
            values[0] = None
        elif fault == "ragged" and isinstance(values[0], list):
            values[1] = [*values[1], values[1][0]]
        elif fault == "inner null" and isinstance(values[0], list):
            values[1][0] = None
        else:
            return table
        if fault != "twice":
            table = table.set_column(index, name, arrow.array(values))
        made.faults.append(f"{name}: {fault}")
    return table


def write_lerobot(choose: Choose, made: Layout, folder: Path) -> Path:
    from pyarrow import parquet

    columns = {LEROBOT.get(name, name): column for name, column in made.columns.items()}
    table = _table(choose, made, columns)
    first, chunk = choose.among(((0, 0), (999, 0), (0, 999)))
    files = choose.among((1, 2, 3))
    size = max(1, -(-table.num_rows // files))
    for number in range(files):
        to = folder / "data" / f"chunk-{chunk + number * bool(chunk):03}"
        to.mkdir(parents=True, exist_ok=True)
        rows = table.slice(number * size, size)
        parquet.write_table(rows, to / f"file-{first + number * (not chunk):03}.parquet")
    (folder / "meta").mkdir()
    (folder / "meta" / "info.json").write_text(json.dumps({"codebase_version": "v3.0"}))
    return folder


#: How HDF5 may keep an array, and ways in which it keeps none.
HARMLESS = (
    *("gzip", "chunked", "resizable", "fletcher32", "soft", "hard", "array", "enum", "other file"),
    *("virtual", "external"),
)
HARMFUL = (
    *("virtual without source", "virtual without dataset", "virtual in part", "external cut"),
    *("dangling", "null", "named type", "time", "loop", "opaque"),
)


def write_hdf5(choose: Choose, made: Layout, folder: Path) -> Path:
    path = folder / "a.hdf5"
    columns = _renamed(choose, made.columns, YOUNGER)
    as_group = {
        name
        for name in ("observations", "next_observations")
        if name in columns and columns[name].ndim == 2 and choose.among((False, False, True))
    }
    # One at most, and that only of what has no other: two faults would hide each other.
    harm = choose.among(("", "", *HARMFUL)) if not made.faults else ""
    harmed = choose.among([name for name in columns if name not in as_group] or [""])
    with h5py.File(path, "w", libver=choose.among(("earliest", "latest"))) as file:
        if choose.among((False, True)):
            file.create_group("metadata")["policy/weights"] = np.zeros(3)
            file.attrs["about"] = "anything"
        for name, column in columns.items():
            if name in as_group:
                _write_group(choose, file.create_group(name, track_order=True), column)
            else:
                how = choose.among(("plain", "plain", "plain", *HARMLESS))
                if harm and name == harmed and _write_dataset(harm, file, name, column):
                    made.faults.append(f"{name}: {harm}")
                elif file.get(name, getlink=True) is None:
                    _write_dataset(how, file, name, column)
    return path


def _write_group(choose: Choose, group: Any, column: Array) -> None:
    """Each column an array, in an order that is not that of their names."""
    deep = choose.among((False, True))
    if column.dtype.kind == "U":  # HDF5 has no such text
        column = column.astype("S1")
    for i in reversed(range(column.shape[1])):
        part = column[:, i] if choose.among((False, True)) else column[:, i : i + 1]
        group["b/" * (deep and i > 0) + f"{'abc'[i]}"] = part


def _write_dataset(how: str, file: Any, name: str, column: Array) -> bool:
    """Whether it could be written in that way; otherwise it is in a plain one."""
    text = column.dtype.kind == "U"
    if text:
        column = column.astype("S1")
    if column.ndim == 0 or not column.size or text:
        file[name] = column
        return False
    side = Path(file.filename).parent / "side.hdf5"
    if how in ("gzip", "fletcher32", "chunked", "resizable"):
        options: dict[str, Any] = {"compression": "gzip"} if how == "gzip" else {}
        options["fletcher32"] = how == "fletcher32"
        most = tuple([None] * column.ndim) if how == "resizable" else None
        file.create_dataset(name, data=column, chunks=True, maxshape=most, **options)
    elif how in ("soft", "hard"):
        file[f"elsewhere/{name}"] = column
        file[name] = (
            h5py.SoftLink(f"/elsewhere/{name}") if how == "soft" else file["elsewhere"][name]
        )
    elif how == "array" and column.ndim == 2 and name not in ("rewards", "terminals"):
        kind = np.dtype((column.dtype, column.shape[1:]))
        file.create_dataset(name, (len(column),), kind)[...] = column
    elif how == "enum" and column.dtype.kind in "iu":
        kind = h5py.enum_dtype({"A": 0, "B": 1}, column.dtype)
        file.create_dataset(name, data=column, dtype=kind)
    elif how == "other file":
        with h5py.File(side, "a") as other:
            other[name] = column
        file[name] = h5py.ExternalLink(side.name, name)
    elif how.startswith("virtual"):
        with h5py.File(side, "a") as other:
            if how != "virtual without dataset":
                other[name] = column
        source = "none.hdf5" if how == "virtual without source" else side.name
        virtual = h5py.VirtualLayout(column.shape, column.dtype)
        whole = h5py.VirtualSource(source, name, column.shape, column.dtype)
        if how == "virtual in part":
            virtual[1:] = whole[1:]
        else:
            virtual[...] = whole
        file.create_virtual_dataset(name, virtual)
    elif how.startswith("external"):
        raw = side.with_name(f"{name}.raw")
        cut = 1 if how == "external cut" else 0
        raw.write_bytes(column.tobytes()[: column.nbytes - cut])
        pieces = [(str(raw), 0, h5py.h5f.UNLIMITED)]
        file.create_dataset(name, column.shape, column.dtype, external=pieces)
    elif how == "dangling":
        file[name] = h5py.SoftLink("/nowhere")
    elif how == "null":
        file[name] = h5py.Empty("f4")
    elif how == "named type":
        file[name] = np.dtype("f4")
    elif how == "time":
        space = h5py.h5s.create_simple(column.shape)
        h5py.h5d.create(file.id, name.encode(), h5py.h5t.UNIX_D32LE, space)
    elif how == "loop":
        file.create_group(name)["again"] = h5py.SoftLink(f"/{name}")
    elif how == "opaque":
        file[name] = np.zeros(column.shape, "V4")
    else:
        file[name] = column
        return False
    return True


WRITERS: dict[str, Callable[[Choose, Layout, Path], Path]] = {
    "hdf5": write_hdf5,
    "npz": write_npz,
    "parquet": write_parquet,
    "lerobot": write_lerobot,
}
