"""The damaged runs, and the commands on whole ones, that ``tools/campaign.py`` tries."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ["MUJOCO_GL"] = "disable"

import numpy as np
from campaign_cases import STEPS, Case, run, trained

from iql_fast import compare, evaluate, export, train
from iql_fast.data import __main__ as data_command
from iql_fast.runs import checkpoint
from iql_fast.support.errors import UserError

LATER = 300


class Lost(Exception):
    """A file that was there before a command is gone, or was changed by one that refused."""


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def watched(copy: Path, module: Any, *arguments: object) -> None:
    """A command on a damaged run, which may not touch what it refuses, nor what is not its own."""
    before = contents(copy)
    try:
        run(module, *arguments)
    except UserError:
        after = contents(copy)
        if changed := [path.name for path in before if before[path] != after.get(path)]:
            raise Lost(f"refused, but changed {', '.join(changed)}") from None
        raise
    if contents(copy).get(copy / "mine.txt") != before[copy / "mine.txt"]:
        raise Lost("mine.txt is not what it was")


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
            watched(copy, train, "--resume", copy)

        yield Case("runs", f"resume, {name} {how}", resume, prepared.ends_right)

        if name == "metrics.csv":
            continue
        used = name.replace(f"{STEPS:09d}", f"{LATER:09d}")

        def exported(
            folder: Path, used: str = used, damage: Callable[[Path], None] = damage
        ) -> None:
            copy = prepared.copy(folder, True)
            damage(copy / used)
            watched(copy, export, copy, "--to", "safetensors")

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
            watched(copy, train, "--resume", copy)

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
