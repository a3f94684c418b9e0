"""The bad inputs that ``tools/campaign.py`` tries."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ["MUJOCO_GL"] = "disable"

import h5py
import numpy as np
import torch

from iql_fast import engines, ops, train
from iql_fast.data.dataset import Transitions

STEPS = 200
SMALL = (
    *("--task", "hopper-medium-v2", "--hidden", "16", "16", "--batch-size", "16"),
    *("--log-interval", "50", "--checkpoint-interval", "100", "--eval-episodes", "0"),
)


class Case(NamedTuple):
    """What is tried.

    Attributes:
        act: does it, in the case's own folder.
        right: after it was done: whether that was right; None: it has to be refused.
    """

    kind: str
    name: str
    act: Callable[[Path], None]
    right: Callable[[Path], bool] | None = None


def columns(rows: int = 200, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "observations": rng.normal(size=(rows, 11)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (rows, 3)).astype(np.float32),
        "rewards": rng.normal(size=rows).astype(np.float32),
        "terminals": np.arange(rows) % 40 == 39,
        "timeouts": np.arange(rows) % 40 == 19,
    }


def write(path: Path, content: dict[str, Any]) -> Path:
    with h5py.File(path, "w") as file:
        for name, column in content.items():
            file[name] = column
    return path


def run(module: Any, *arguments: object) -> None:
    """A command as its ``main`` runs it."""
    sys.argv = [module.__name__, *map(str, arguments)]
    module.main()


def trained(folder: Path, *more: object) -> None:
    dataset = write(folder / "data.hdf5", columns())
    run(train, *SMALL, "--dataset", dataset, "--out", folder / "run", "--steps", STEPS, *more)


# --- options ------------------------------------------------------------------------------------

NUMBERS = ("nan", "inf", "-inf", "-1", "1e400", "x", "", "0x10", "1_0", "\u0661")
OPTIONS = {
    "--expectile": (*NUMBERS, "0", "1", "2"),
    "--discount": (*NUMBERS, "1.5"),
    "--polyak": (*NUMBERS, "1.5"),
    "--temperature": NUMBERS,
    "--weight-clip": (*NUMBERS, "0"),
    "--actor-lr": NUMBERS,
    "--actor-dropout": (*NUMBERS, "1"),
    "--batch-size": (*NUMBERS, "0", "1.5", "99999999999999999999"),
    "--hidden": (*NUMBERS, "0", "16.5"),
    "--critics": (*NUMBERS, "0", "2.5"),
    "--seeds": (*NUMBERS, "0", "100000000"),
    "--seed": ("-1", "x", "1.5", "9223372036854775807", "99999999999999999999"),
    "--threads": ("-1", "x", "1.5", "100000"),
    "--steps": ("0", "-1", "x", "1.5"),
    "--log-interval": ("0", "-5", "x"),
    "--checkpoint-interval": ("0", "70", "x"),
    "--eval-interval": ("0", "70", "x"),
    "--reward-scale": ("nan", "inf", "0", "-1", "x"),
    "--engine": ("gpu", "", "CPU"),
    "--precision": ("fp8", ""),
    "--physics": ("real",),
    "--preset": ("walking", ""),
    "--dataset": ("none.hdf5", "/", "/dev/null"),
    "--resume": ("none", "/"),
    "--config": ("none.yaml", "/"),
    "--out": ("/dev/null", "/proc/run"),
}
TAKEN = {("--hidden", "1_0"), ("--batch-size", "1_0"), ("--critics", "1_0"), ("--seeds", "1_0")}


def options() -> Iterator[Case]:
    for option, values in OPTIONS.items():
        for value in values:
            try:  # what Python itself reads as a number in range is no fault
                number = float(value)
            except ValueError:
                number = None
            fine = value in ("1_0", "\u0661") and number is not None
            if fine:
                continue

            def act(folder: Path, option: str = option, value: str = value) -> None:
                trained(folder, option, value)

            yield Case("options", f"{option} {value!r}", act)


# --- YAML ---------------------------------------------------------------------------------------

YAML = (
    "[]",
    "null",
    "1",
    "text",
    "a: [",
    "\t- x",
    "? x",
    "seed: 1\nseed: 2",
    "batch-size: 1\nbatch_size: 2",
    "config: x.yaml",
    "resume: x",
    "nothing: 1",
    "1: 2",
    "null: 3",
    "[1]: 2",
    "seed: 1.5",
    "seed: true",
    "seed: null",
    "seed: [1]",
    "seed: {}",
    "seed: -1",
    "seed: .nan",
    "seed: 1e99",
    "steps: '1.5'",
    "steps: 2024-01-01",
    "hidden: [16.5]",
    "hidden: [true]",
    "hidden: []",
    "hidden: 'x'",
    "hidden: {a: 1}",
    "hidden: [[16]]",
    "hidden: [-1]",
    "discount: true",
    "discount: 'x'",
    "discount: [0.9, 2]",
    "discount: .inf",
    "discount: null",
    "expectile: [0.7, 0.8, 0.9]",
    "expectile: {}",
    "task: null",
    "task: 3",
    "task: [a]",
    "dataset: 3",
    "dataset: [x]",
    "offline: 1",
    "offline: 'yes'",
    "overwrite: null",
    "engine: true",
    "engine: 7",
    "precision: 32",
    "preset: 1",
    "reference: [1]",
    "reference: [1, 1]",
    "reference: [a, b]",
    "reference: 5",
    "reward_scale: nan",
    "reward_scale: true",
    "threads: .inf",
    "value-order: newest",
    "extraction: later",
    "eval_episodes: -1",
    "!!python/object:os.system x",
    "a: &a [*a]",
    "seed: !!int 'x'",
    "\x00",
)


def yaml() -> Iterator[Case]:
    for text in YAML:

        def act(folder: Path, text: str = text) -> None:
            (folder / "o.yaml").write_text(text)
            dataset = write(folder / "data.hdf5", columns())
            steps = ("--steps", STEPS, "--log-interval", 50, "--checkpoint-interval", 100)
            where = ("--dataset", dataset, "--out", folder / "run")
            run(train, "--config", folder / "o.yaml", *where, *steps)

        yield Case("yaml", repr(text), act)


# --- files of data ------------------------------------------------------------------------------


def spoil(column: Any, how: str) -> Any:
    rows = len(column)
    if how == "nan":
        changed = column.astype(float)
        changed.reshape(rows, -1)[rows // 2, 0] = np.nan
        return changed
    return {
        "inf": lambda: np.where(np.arange(column.size).reshape(column.shape) == 7, np.inf, column),
        "text": lambda: np.full(rows, b"x"),
        "complex": lambda: column * (1 + 1j),
        "time": lambda: np.zeros(rows, "i8").astype(h5py.opaque_dtype(np.dtype("M8[s]"))),
        "short": lambda: column[:-1],
        "none": lambda: column[:0],
        "cube": lambda: np.zeros((rows, 2, 2), np.float32),
        "scalar": lambda: np.float32(1),
        "compound": lambda: np.zeros(rows, [("a", "f4"), ("b", "f4")]),
        "empty": lambda: h5py.Empty("f4"),
        "half": lambda: np.full(rows, 0.5),
        "big": lambda: np.full(column.shape, 1e39),
    }[how]()


HOW = (
    "nan",
    "inf",
    "text",
    "complex",
    "time",
    "short",
    "none",
    "cube",
    "scalar",
    "compound",
    "empty",
)


def files() -> Iterator[Case]:
    names = ("observations", "actions", "rewards", "terminals", "timeouts", "next_observations")
    for name, how in itertools.product(names, (*HOW, "big", "half")):
        flag = name in ("terminals", "timeouts")
        if (how == "half" and not flag) or (how == "big" and flag):
            continue

        def act(folder: Path, name: str = name, how: str = how) -> None:
            content = columns()
            content["next_observations"] = content["observations"] + 1
            content[name] = spoil(content[name], how)
            path = write(folder / "data.hdf5", content)
            run(train, *SMALL, "--dataset", path, "--out", folder / "run", "--steps", STEPS)

        yield Case("files", f"{name} {how}", act)

    def linked(link: Any, name: str) -> Callable[[Path], None]:
        def act(folder: Path) -> None:
            content = columns()
            del content[name]
            path = write(folder / "data.hdf5", content)
            with h5py.File(path, "a") as file:
                file[name] = link
            run(train, *SMALL, "--dataset", path, "--out", folder / "run", "--steps", STEPS)

        return act

    for name in names[:5]:
        yield Case("files", f"{name} soft link to nowhere", linked(h5py.SoftLink("/no"), name))
        external = h5py.ExternalLink("no.hdf5", "/x")
        yield Case("files", f"{name} external link to nowhere", linked(external, name))

        def virtual(folder: Path, name: str = name) -> None:
            content = columns()
            shape = content.pop(name).shape
            path = write(folder / "data.hdf5", content)
            layout = h5py.VirtualLayout(shape, np.float32)
            layout[...] = h5py.VirtualSource("no.hdf5", "x", shape)
            with h5py.File(path, "a") as file:
                file.create_virtual_dataset(name, layout)
            run(train, *SMALL, "--dataset", path, "--out", folder / "run", "--steps", STEPS)

        yield Case("files", f"{name} virtual, without its source", virtual)

        def missing(folder: Path, name: str = name) -> None:
            content = columns()
            del content[name]
            path = folder / "data.npz"
            np.savez(path, **content)
            run(train, *SMALL, "--dataset", path, "--out", folder / "run", "--steps", STEPS)

        if name != "timeouts":
            yield Case("files", f"npz without {name}", missing)

        def objects(folder: Path, name: str = name) -> None:
            path = folder / "data.npz"
            np.savez(path, **columns() | {name: np.array([{}] * 200, dtype=object)})
            run(train, *SMALL, "--dataset", path, "--out", folder / "run", "--steps", STEPS)

        yield Case("files", f"npz with objects as {name}", objects)

    for suffix, share in itertools.product(("hdf5", "npz", "parquet"), (0.0, 0.3, 0.9)):

        def cut(folder: Path, suffix: str = suffix, share: float = share) -> None:
            path = folder / f"data.{suffix}"
            if suffix == "hdf5":
                write(path, columns())
            elif suffix == "npz":
                np.savez(path, **columns())
            else:
                import pyarrow
                from pyarrow import parquet

                content = columns().items()
                table = {name: list(c) if c.ndim == 2 else c for name, c in content}
                parquet.write_table(pyarrow.table(table), path)
            whole = path.read_bytes()
            path.write_bytes(whole[: int(share * len(whole))])
            run(train, *SMALL, "--dataset", path, "--out", folder / "run", "--steps", STEPS)

        yield Case("files", f"{suffix} cut to {share:.0%}", cut)


# --- from Python --------------------------------------------------------------------------------


def python() -> Iterator[Case]:
    rng = np.random.default_rng(0)

    def transitions() -> dict[str, Any]:
        c = columns(50)
        masks = np.ones(50, np.float32)
        one = {name: c[name] for name in ("observations", "actions", "rewards")}
        return one | {"masks": masks, "next_observations": c["observations"] + rng.normal()}

    def engine(**changes: Any) -> Callable[[Path], None]:
        def act(_: Path) -> None:
            content = transitions() | changes.pop("data", {})
            content = {
                k: v.astype(np.float32) if k == "next_observations" else v
                for k, v in content.items()
            }
            hyper = engines.Hyperparameters(batch_size=8, **changes.pop("hyper", {}))
            network = engines.NetworkSpec(
                11, 3, **{"hidden": (16, 16)} | changes.pop("network", {})
            )
            asked = {"name": "cpu", "seeds": [0]} | changes
            steps = asked.pop("steps", 10)
            made = engines.create(
                asked.pop("name"),
                network,
                hyper,
                Transitions(**content),
                asked.pop("seeds"),
                **asked,
            )
            made.run(steps)

        return act

    bad = (float("nan"), float("inf"), -1.0, "x", None, (), (0.5, 0.5))
    for name in ("expectile", "discount", "polyak", "weight_clip", "value_lr", "temperature"):
        for value in bad:
            yield Case("python", f"{name} {value!r}", engine(hyper={name: value}))
    for name, value in (
        ("value_order", "newest"),
        ("actor_schedule_steps", -5),
        ("actor_dropout", 1.0),
        ("stages", ()),
    ):
        yield Case("python", f"{name} {value!r}", engine(hyper={name: value}))
    for changes in (
        {"seeds": []},
        {"seeds": [-1]},
        {"seeds": [2**64]},
        {"seeds": ["x"]},
        {"threads": -4},
        {"precision": "fp8"},
        {"name": "gpu"},
        {"steps": -5},
        {"steps": 1.5},
        {"network": {"hidden": ()}},
        {"network": {"critics": 0}},
        {"data": {"rewards": np.zeros(50)}},
        {"data": {"masks": np.zeros(49, "f4")}},
        {"data": {"actions": np.zeros((50, 4), "f4")}},
        {"data": {"rewards": np.full(50, np.nan, "f4")}},
    ):
        yield Case("python", repr(changes)[:60], engine(**changes))
    one = torch.ones(4)
    for name, call in {
        "tau": lambda: ops.expectile_loss(one, one, -0.5),
        "tau nan": lambda: ops.expectile_loss(one, one, float("nan")),
        "clip nan": lambda: ops.awr_weights(one, one, 3.0, float("nan")),
        "beta": lambda: ops.awr_weights(one, one, -1.0),
        "discount": lambda: ops.twin_q_loss([one], one, one, one, 3.0),
        "alpha": lambda: ops.polyak_update_(one.clone(), one, -0.1),
        "alpha nan": lambda: ops.polyak_update_(one.clone(), one, float("nan")),
        "shapes": lambda: ops.expectile_loss(one, torch.ones(3), 0.5),
        "dtypes": lambda: ops.expectile_loss(one, one.double(), 0.5),
        "reduction": lambda: ops.expectile_loss(one, one, 0.5, "most"),
    }.items():
        yield Case("python", f"ops {name}", lambda _, call=call: call() and None)
