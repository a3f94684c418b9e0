"""What ``tools/fuzz.py`` has read: of each target, the files that bytes are made into, and what is
right to come of them."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import shutil
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from iql_fast.data import own
from iql_fast.support.errors import UserError
from iql_fast.tasks.presets import Family
from tests import layouts
from tests.layouts import Wrong

T = TypeVar("T")
Read = Callable[[bytes], None]

FAMILIES: tuple[Family, ...] = ("neutral", "locomotion", "antmaze")


class Bytes:
    """Choices out of a fuzzer's bytes; where they are at an end, always the first."""

    def __init__(self, data: bytes) -> None:
        import atheris

        self._provider = atheris.FuzzedDataProvider(data)

    def among(self, options: Sequence[T]) -> T:
        return options[self.whole(0, len(options) - 1)]

    def whole(self, low: int, high: int) -> int:
        return int(self._provider.ConsumeIntInRange(low, high))

    def text(self) -> str:
        """What is left."""
        return str(self._provider.ConsumeUnicode(self._provider.remaining_bytes()))

    def rest(self) -> bytes:
        return bytes(self._provider.ConsumeBytes(self._provider.remaining_bytes()))


def refused(act: Callable[[], T]) -> T | None:
    """What it comes to; None where it was refused."""
    try:
        return act()
    except UserError as error:
        if not str(error).strip() or "\n\n" in str(error):
            raise Wrong("a refusal that is not a paragraph") from None
        return None


def written(choose: Bytes, path: Path, content: Any) -> None:
    """JSON that was edited as such, or as text."""
    how = choose.among(("edited", "text", "cut", "deep", "bytes"))
    from tests.odd_runs import edited

    text = json.dumps(edited(choose, content))
    if how == "text":
        text = choose.text()
    elif how == "cut":
        text = text[: choose.whole(0, len(text))]
    elif how == "deep":
        text = "[" * choose.among((100_000, 500))
    if how == "bytes":
        path.write_bytes(choose.rest())
    else:
        path.write_text(text, encoding="utf-8", errors="surrogatepass")


# --- data ---------------------------------------------------------------------------------------


def data(container: str, folder: Path) -> Read:
    """Layouts of ``tests/layouts.py``."""

    def read(content: bytes) -> None:
        choose = Bytes(content)
        made = layouts.layout(choose, container)
        path = layouts.WRITERS[container](choose, made, folder)
        if layouts.check(made, path) is not None:
            layouts.check_prepared(path, choose.among(FAMILIES))

    return read


def data_bytes(container: str, folder: Path) -> Read:
    """Whole files."""
    path = folder / f"a.{container}"

    def read(content: bytes) -> None:
        path.write_bytes(content)
        if refused(lambda: own.read(path, horizon=3)) is not None:
            layouts.check_prepared(path, "neutral")

    return read


class _First:
    """The plainest of everything, but for some."""

    def __init__(self, picks: Sequence[int]) -> None:
        self._picks = itertools.chain(picks, itertools.repeat(0))

    def among(self, options: Sequence[T]) -> T:
        return options[next(self._picks) % len(options)]

    def whole(self, low: int, high: int) -> int:  # noqa: ARG002
        return low


def write_seeds(name: str, folder: str) -> None:
    """Inputs that a target begins with."""
    place = Path(folder)
    container, _, whole = name.partition("-")
    for seed in range(12):
        if whole:
            work = place.parent / f".{name}"
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            choose = _First(np.random.default_rng(seed).integers(0, 3, 8 * seed).tolist())
            made = layouts.layout(choose, container)
            path = layouts.WRITERS[container](choose, made, work)
            (place / f"{seed}").write_bytes(path.read_bytes())
            shutil.rmtree(work)
        else:
            (place / f"{seed}").write_bytes(np.random.default_rng(seed).bytes(40 * seed + 1))


def minari(folder: Path) -> Read:
    """A dataset of Minari's whose metadata and columns were changed."""
    import gymnasium
    import h5py

    from iql_fast.data import minari as source
    from iql_fast.data.transform import to_training
    from tests.conftest import write_minari
    from tests.odd_runs import edited

    write_minari("plain/hopper-v0")
    original = folder.parent / "minari/plain/hopper-v0"
    metadata = json.loads((original / "data/metadata.json").read_text())
    spec = gymnasium.spec("Hopper-v5").to_json()
    metadata |= {"env_spec": spec, "eval_env_spec": spec}
    metadata |= {"ref_min_score": -20.0, "ref_max_score": 3000.0}
    for key, value in metadata.items():
        if isinstance(value, str) and value[:1] in "{[":
            metadata[key] = json.loads(value)

    def read(content: bytes) -> None:
        choose = Bytes(content)
        place = folder.parent / "minari/odd/hopper-v0"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(original, place)
        changed = edited(choose, metadata)
        inner = {k: json.dumps(v) if isinstance(v, dict) else v for k, v in changed.items()}
        written(choose, place / "data/metadata.json", inner)
        with h5py.File(place / "data/main_data.hdf5", "a") as file:
            for _ in range(choose.whole(0, 2)):
                episode = file[choose.among(list(file) or ["/"])]
                name = choose.among(("actions", "rewards", "observations", "terminations"))
                kind = choose.among(("U", "f8", "i4", "c16", "f2"))
                if name in episode and hasattr(episode[name], "dtype"):
                    column = episode[name][()]
                    del episode[name]
                    if choose.among((False, True)):
                        episode[name] = column[: choose.whole(0, 9)]
                    elif kind != "U" and column.dtype.kind != "c":
                        episode[name] = column.astype(kind)
                elif choose.among((False, True)):
                    episode.attrs["id"] = choose.whole(-1, 3)
        found = refused(lambda: source.load("odd/hopper-v0", offline=True))
        if found is not None:
            made = refused(lambda: to_training(found.transitions, "neutral", "here", found.bounds))
            if made is not None and not all(
                np.isfinite(c).all() for c in made[0].columns().values()
            ):
                raise Wrong("what is trained on is not finite")

    return read


# --- runs ---------------------------------------------------------------------------------------


def rows(folder: Path) -> Read:
    """Tables of a run."""
    from iql_fast.runs import curves
    from iql_fast.runs.rows import StepTable, last_step, read_rows
    from iql_fast.runs.summary import summarise

    fields = ("step", "seed", "score", "return", "1", "0", "50", "-1", "1.5", "nan", "1e2", "_")
    signs = (",", "\n", "\r\n", "\r", '"', " ", "\0", "\ufeff", "\u0663", "9" * 5000, "\x85", ";")

    def read(content: bytes) -> None:
        choose = Bytes(content)
        path = folder / "scores.csv"
        how = choose.among(("plain", "pieces", "text", "bytes"))
        text = "step,seed,score,return\n50,0,1.5,30\n50,1,nan,2\n100,0,-1e3,4\n100,1,2,5\n"
        if how == "plain":
            at = choose.whole(0, len(text))
            sign = choose.among((*signs, *fields))
            text = text[:at] + sign + text[at + choose.whole(0, 8) :]
        elif how == "pieces":
            text = "step,seed,score,return\n"
            text += "".join(choose.among((*fields, *signs)) for _ in range(choose.whole(0, 40)))
        elif how == "text":
            text = choose.text()
        if how == "bytes":
            path.write_bytes(choose.rest())
        else:
            path.write_text(text, encoding="utf-8", errors="surrogatepass", newline="")
        found = refused(lambda: read_rows(path))
        columns = ("seed", "score", "return")
        if refused(lambda: read_rows(path, ("step", *columns))) is None:
            return
        assert found is not None
        last = refused(lambda: last_step(path))
        if last != max([int(row["step"]) for row in found], default=0):
            raise Wrong("the last step is another")
        if found:
            with np.errstate(invalid="ignore"):  # of scores that are infinite
                refused(lambda: summarise(found, 1))
            refused(lambda: curves.by_seed(found, "score"))
        StepTable(path, columns).cut_after(10**19)
        if read_rows(path) != found:
            raise Wrong("cutting after the last step changed rows")

    return read


def record(folder: Path) -> Read:
    """A run's record and what is made of it."""
    from iql_fast.environments import scoring
    from iql_fast.runs import config, publishing, trained
    from iql_fast.runs.curves import reference_lines
    from iql_fast.runs.folder import RunFolder
    from tests import odd_runs

    plain = odd_runs.small_run()
    run, hub = RunFolder(plain.write(folder / "run")), folder / "hub"

    def read(content: bytes) -> None:
        choose = Bytes(content)
        unsigned = {k: v for k, v in plain.record.items() if k != "options_sha256"}
        written(choose, run.config, choose.among((unsigned, plain.record)))
        written(choose, run.summary, {"scores": {"final": {"mean": 1.0}}, "steps": 200})
        refused(run.read_summary)
        found = refused(run.read_config)
        if found is None:
            return
        where = scoring.from_record(found["scoring"])
        reference_lines(where, found["data"])
        stored = config.of_record(found["options"])
        base = refused(lambda: config.with_options(config.TrainConfig(), stored, "here"))
        if base is not None and (whole := refused(lambda: config.completed(base))) is not None:
            refused(lambda: config.check_same(config.flat(whole), stored, config.FREE))
        policy = refused(lambda: trained.load(run.path))
        if policy is not None:
            policy(np.zeros(2, np.float32))
            trained.about(policy)
            shutil.rmtree(hub, ignore_errors=True)
            if refused(lambda: publishing.write(hub, run, policy)) is not None:
                told = json.loads((hub / "config.json").read_text())
                written(choose, hub / "config.json", told)
                refused(lambda: trained.load(hub))

    return read


def checkpoint(folder: Path) -> Read:
    """A checkpoint's record, and the header of its state."""
    from safetensors.numpy import load, save

    from iql_fast.runs import checkpoint as checkpoints
    from iql_fast.runs import trained
    from tests.odd_runs import edited, small_run

    plain, told, state = small_run()
    run = folder / "run"
    size = struct.unpack("<Q", state[:8])[0]
    header, numbers = json.loads(state[8 : 8 + size]), state[8 + size :]
    names = ("000000200", "200", "1000000000", "\u00b2", "9" * 200, "000000100", ".1.2.partial")

    def read(content: bytes) -> None:
        choose = Bytes(content)
        shutil.rmtree(run, ignore_errors=True)
        place = run / "checkpoint"
        place.mkdir(parents=True)
        (run / "config.json").write_text(json.dumps(plain))
        inside = place / choose.among(names)
        inside.mkdir()
        changed = edited(choose, header)
        if choose.among((False, True)):
            kinds = ("F64", "F32", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "C64", "U64")
            changed["step"] = {
                "dtype": choose.among(kinds),
                "shape": choose.among(([], [1], [2], [0])),
                "data_offsets": [0, choose.among((8, 4, 2, 1, 16, 0))],
            }
        text = json.dumps(changed).encode("utf-8", "surrogatepass")
        whole = struct.pack("<Q", len(text) + choose.among((0, 0, 1, 2**40))) + text + numbers
        how = choose.among(("header", "arrays", "bytes"))
        if how == "arrays":
            arrays = load(state)
            for _ in range(choose.whole(1, 2)):
                name = choose.among(sorted(arrays))
                array = arrays.pop(name)
                if (kind := choose.among(("", "f8", "i4", "f2", "short", "flat"))) == "short":
                    arrays[name] = array.reshape(-1)[:2]
                elif kind == "flat":
                    arrays[name] = array.reshape(-1)
                elif kind:
                    arrays[name] = array.astype(kind)
            whole = save(arrays)
        elif how == "bytes":
            whole = choose.rest()
        if choose.among((True, True, False)):
            (inside / "state.safetensors").write_bytes(whole)
        if choose.among((False, True)):
            (place / "000000100").mkdir(exist_ok=True)
            (place / "000000100" / "state.json").write_text("{}")
        signed = told | choose.among(({"sha256": hashlib.sha256(whole).hexdigest()}, {"format": 1}))
        written(choose, inside / "state.json", signed)
        held = checkpoints.steps(place)
        if held != sorted(held):
            raise Wrong("checkpoints are not in order")
        found = refused(lambda: checkpoints.load(place))
        if found is not None:
            if found.step != held[-1] or found.state["step"].item() != found.step:
                raise Wrong("the checkpoint is of another step")
            if not all(math.isfinite(s + 0.0) for s in found.seconds.values()):
                raise Wrong("seconds are no numbers")
        refused(lambda: trained.load(run))

    return read


def yaml(folder: Path) -> Read:
    """Options in YAML."""
    from iql_fast.runs import config

    names = list(config.flat(config.TrainConfig()))
    path = folder / "options.yaml"
    values = (
        *("1", "0", "-1", "1.5", "1e6", "1e400", ".inf", ".nan", "true", "null", "~", "yes", "x"),
        *("''", "'1'", "[1, 2]", "[0.5]", "[]", "{}", "[[1]]", "{a: 1}", "0x1F", "0o7", "1_000"),
        *("2024-01-01", "!!int x", "!!float ''", "!!bool x", "!!timestamp x", "!!binary x"),
        *("!!set {a}", "&a [*a]", "*b", "<<: 1", "=", '"\\ud800"', "~/x", "~nobody/x", "'\\0'"),
        *("9007199254740993", "1e-400", "1:30", "hopper-medium-v2", "fp64", "new", "\u0663"),
        *("9" * 4000, "0x" + "f" * 5000, "1" + "0" * 400),
    )

    def read(content: bytes) -> None:
        choose = Bytes(content)
        lines = []
        for _ in range(choose.whole(0, 4)):
            name = choose.among((*names, "config", "resume", "<<", "1", "!!int x", "? [a]"))
            lines.append(f"{name}: {choose.among(values)}")
        if choose.among((False, True)):
            lines.append(choose.text())
        text = choose.among(("", "", "task: hopper-medium-v2\n")) + "\n".join(lines)
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
        found = refused(lambda: config.parse(["--config", str(path)]))
        if found is None:
            return
        flat = config.flat(found)
        again = config.with_options(config.TrainConfig(), json.loads(json.dumps(flat)), "here")
        if repr(again) != repr(found):  # repr: a NaN is not equal to itself
            raise Wrong("options that were recorded come back as others")
        refused(lambda: config.completed(found))

    return read


def target(name: str, place: Path) -> Read:
    """What reads bytes, each time in a folder without files of the last."""
    folder = place / "files"
    folder.mkdir()
    container, _, whole = name.partition("-")
    if container not in layouts.WRITERS:
        return {
            "rows": rows,
            "record": record,
            "checkpoint": checkpoint,
            "yaml": yaml,
            "minari": minari,
        }[name](folder)
    if whole:
        return data_bytes(container, folder)
    inner = data(container, folder)

    def read(content: bytes) -> None:
        shutil.rmtree(folder)
        folder.mkdir()
        inner(content)

    return read
