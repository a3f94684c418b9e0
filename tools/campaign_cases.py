"""The bad inputs and the damaged runs that ``tools/campaign.py`` tries."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ["MUJOCO_GL"] = "disable"

import h5py
import numpy as np
import torch

from iql_fast import compare, engines, evaluate, export, ops, train
from iql_fast.data import __main__ as data_command
from iql_fast.data.dataset import Transitions
from iql_fast.runs import checkpoint

STEPS, LATER = 200, 300
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


# --- damaged runs -------------------------------------------------------------------------------


class Prepared:
    """An interrupted run, and the state in which it ends when it goes on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        child = os.fork()  # its threads end with it: forks of a process with threads may hang
        if child == 0:
            trained(folder, "--steps", LATER)
            shutil.copytree(folder / "run", folder / "reference")
            run(export, folder / "reference", "--to", "safetensors")
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            raise RuntimeError("the run that is to be damaged could not be made")
        shutil.copytree(folder / "run", folder / "whole")
        for name in ("summary.json", "curves.png"):
            (folder / "run" / name).unlink()
        shutil.rmtree(folder / "run" / "checkpoint" / f"{LATER:09d}")
        self.end = checkpoint.load(folder / "whole" / "checkpoint")

    def copy(self, folder: Path, finished: bool) -> Path:
        target = folder / "run"
        shutil.copytree(self.folder / ("whole" if finished else "run"), target)
        (target / "mine.txt").write_text("kept")
        return target

    def ends_right(self, folder: Path) -> bool:
        found = checkpoint.load(folder / "run" / "checkpoint")
        return found.step == self.end.step and all(
            tensor.equal(self.end.state[name]) for name, tensor in found.state.items()
        )


def damages() -> dict[str, Callable[[Path], None]]:
    def flip(share: float) -> Callable[[Path], None]:
        def act(path: Path) -> None:
            content = bytearray(path.read_bytes())
            content[int(share * (len(content) - 1))] ^= 0x10
            path.write_bytes(content)

        return act

    def folder(path: Path) -> None:
        path.unlink()
        path.mkdir()

    return {
        "removed": Path.unlink,
        "empty": lambda path: path.write_bytes(b""),
        "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        "doubled": lambda path: path.write_bytes(2 * path.read_bytes()),
        "a folder": folder,
        "text": lambda path: path.write_text("\ufefft\u00e4xt"),
        "[]": lambda path: path.write_text("[]"),
        "{}": lambda path: path.write_text("{}"),
        "null": lambda path: path.write_text("null"),
        **{f"flipped at {share:.0%}": flip(share) for share in (0.0, 0.2, 0.5, 0.8, 1.0)},
    }


def runs(prepared: Prepared) -> Iterator[Case]:
    newest = f"checkpoint/{STEPS:09d}"
    names = ("config.json", "metrics.csv", f"{newest}/state.json", f"{newest}/state.safetensors")
    for name, (how, damage) in itertools.product(names, damages().items()):

        def resume(folder: Path, name: str = name, damage: Callable[[Path], None] = damage) -> None:
            copy = prepared.copy(folder, False)
            damage(copy / name)
            run(train, "--resume", copy)

        yield Case("runs", f"resume, {name} {how}", resume, prepared.ends_right)

        if name == "metrics.csv":
            continue
        used = name.replace(f"{STEPS:09d}", f"{LATER:09d}")

        def exported(
            folder: Path, used: str = used, damage: Callable[[Path], None] = damage
        ) -> None:
            copy = prepared.copy(folder, True)
            damage(copy / used)
            run(export, copy, "--to", "safetensors")

        def same(folder: Path) -> bool:
            first, second = folder / "run" / "policy.safetensors", prepared.folder / "reference"
            if not second.exists():
                return False
            from safetensors.numpy import load_file

            one, other = load_file(first), load_file(second / "policy.safetensors")
            return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)

        yield Case("runs", f"export, {used} {how}", exported, same)

    def changed(change: Callable[[Path], None]) -> Callable[[Path], None]:
        def act(folder: Path) -> None:
            copy = prepared.copy(folder, False)
            change(copy)
            run(train, "--resume", copy)

        return act

    def edit(name: str, **content: Any) -> Callable[[Path], None]:
        def act(copy: Path) -> None:
            record = json.loads((copy / name).read_text())
            (copy / name).write_text(json.dumps(record | content))

        return act

    def options_edited(**content: Any) -> Callable[[Path], None]:
        def act(copy: Path) -> None:
            record = json.loads((copy / "config.json").read_text())
            record["options"] |= content
            (copy / "config.json").write_text(json.dumps(record))

        return act

    state = f"{newest}/state.json"
    for value in (-5, 0, 100, 10**9, "200", None, 200.5, True):
        yield Case("runs", f"resume, step {value!r}", changed(edit(state, step=value)))
    for value in (0, 3, "1", None):
        yield Case("runs", f"resume, format {value!r}", changed(edit(state, format=value)))
    for name in ("engine", "data", "scoring", "options"):
        for value in (None, 3, [], {}, "x"):
            act = changed(edit("config.json", **{name: value}))
            yield Case("runs", f"resume, {name} {value!r}", act, prepared.ends_right)
    for name, value in (
        ("batch_size", 32),
        ("hidden", [8, 8]),
        ("seeds", 2),
        ("seed", 5),
        ("steps", 400),
        ("expectile", [0.9]),
        ("critics", 3),
        ("nothing", 1),
        ("dataset", None),
        ("task", "x"),
    ):
        act = changed(options_edited(**{name: value}))
        yield Case("runs", f"resume, options edited: {name} {value!r}", act)
    yield Case("runs", "resume, no checkpoints", changed(lambda c: shutil.rmtree(c / "checkpoint")))
    for name in ("-1", "\u00b2", "x", "000000300", "1e2"):
        act = changed(lambda copy, name=name: (copy / "checkpoint" / name).mkdir())
        yield Case("runs", f"resume, a folder {name} beside", act, prepared.ends_right)


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


# --- other commands -----------------------------------------------------------------------------


def commands(prepared: Prepared) -> Iterator[Case]:
    whole = prepared.folder / "whole"
    for module, arguments in (
        *((evaluate, ("--run", whole, "--episodes", n)) for n in (0, -1, "x")),
        *((evaluate, ("--run", whole, "--workers", n)) for n in (0, -3, "x")),
        *((evaluate, ("--run", whole, "--checkpoint", n)) for n in (-1, 5, "x")),
        *((evaluate, ("--run", name)) for name in ("none", "/", "/dev/null")),
        (evaluate, ("--run", whole, "--video", "film.mp4", "--episodes", 1)),
        *((compare, (name,)) for name in ("none", "/", "/dev/null")),
        *((export, (whole, "--to", kind)) for kind in ("torchscript", "")),
        *((export, (whole, "--to", "safetensors", "--seed", n)) for n in (-1, 9, "x")),
        *((export, (whole, "--to", "safetensors", "--out", o)) for o in ("/proc/x", "/")),
        *((data_command, ("info", name)) for name in ("none", "/", "pen-human-v1", "x/y-v0")),
        *((data_command, ("make", name)) for name in ("none", "pen-human-v1", "")),
        *(
            (data_command, ("make", "hopper-medium-v2", *more, "--rows", 10, "--out", "m.hdf5"))
            for more in (("--workers", -2), ("--workers", 0), ("--seed", -3))
        ),
        (data_command, ("make", "hopper-medium-v2", "--rows", 1, "--out", "m.hdf5")),
        (data_command, ("make", "hopper-medium-v2", "--rows", 10, "--out", "/proc/x.hdf5")),
        *((data_command, ("fetch", name)) for name in ("none", "")),
        (data_command, ("show", "hopper-medium-v2")),
    ):
        name = f"{module.__name__.removeprefix('iql_fast.')} {' '.join(map(str, arguments))}"

        def act(_: Path, module: Any = module, arguments: Any = arguments) -> None:
            run(module, *arguments)

        yield Case("commands", name.replace(str(whole), "RUN"), act)
