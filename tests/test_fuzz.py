"""What comes in at random: files of every layout, options of every kind, records that somebody has
changed. Each is taken as it stands or refused with what to do, never anything else."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import fields, replace
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import h5py
import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iql_fast.environments import scoring
from iql_fast.runs import checkpoint, config, publishing, trained
from iql_fast.runs.config import TrainConfig
from iql_fast.runs.folder import RunFolder
from iql_fast.runs.rows import StepTable, last_step, read_rows
from iql_fast.support.errors import UserError

from . import layouts, odd_runs

#: The same examples every time.
FIXED = settings(
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=100,
    suppress_health_check=list(HealthCheck),
)


def outcome(act):
    """What it comes to and "", or None and what the refusal says."""
    try:
        return act(), ""
    except UserError as error:
        return None, str(error)


class Drawn:
    """Hypothesis as who chooses."""

    def __init__(self, data):
        self.data = data

    def among(self, options):
        return options[self.whole(0, len(options) - 1)]

    def whole(self, low, high):
        return self.data.draw(st.integers(low, high))


# --- data ---------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("container", layouts.WRITERS)
@settings(FIXED, max_examples=60)
@given(data=st.data())
def test_every_layout_is_read_as_it_was_written_or_refused(container, data):
    choose = Drawn(data)
    with tempfile.TemporaryDirectory() as folder:
        made = layouts.layout(choose, container)
        path = layouts.WRITERS[container](choose, made, Path(folder))
        if layouts.check(made, path) is not None:
            layouts.check_prepared(path, choose.among(("neutral", "locomotion", "antmaze")))


class Plain:
    """The plainest of everything."""

    def among(self, options):
        return options[0]

    def whole(self, low, high):
        return low


def test_the_check_of_layouts_notices(tmp_path):
    """A number that is another, a row that is gone, a fault that is taken."""
    made = layouts.layout(Plain(), "hdf5")
    path = layouts.write_hdf5(Plain(), made, tmp_path)
    assert len(layouts.check(made, path).rewards) == 6
    with h5py.File(path, "a") as file:
        before = file["rewards"][2]
        file["rewards"][2] = before + 1
    with pytest.raises(layouts.Wrong, match="rewards changed"):
        layouts.check(made, path)
    with h5py.File(path, "a") as file:
        file["rewards"][2] = before
        file["valids"] = np.arange(7) != 3
    with pytest.raises(layouts.Wrong, match="observations changed"):
        layouts.check(made, path)
    made.faults.append("a fault")
    with pytest.raises(layouts.Wrong, match="taken"):
        layouts.check(made, path)
    made.faults.clear()
    path.write_bytes(b"")
    with pytest.raises(layouts.Wrong, match="refused"):
        layouts.check(made, path)


# --- options ------------------------------------------------------------------------------------


def hints():
    """Name -> type of every option that stands in a file."""
    parts = [type(getattr(TrainConfig(), group)) for group in config.GROUPS]
    found = {}
    for part in (TrainConfig, *parts):
        found |= get_type_hints(part)
    for name in (*config.GROUPS, "config", "resume"):
        found.pop(name, None)
    return found


HINTS = hints()
WHOLE = st.integers(-(10**40), 10**40) | st.sampled_from([2**53 + 1, 2**63 - 1, 2**63, 10**400])
REAL = st.floats(allow_nan=False, allow_infinity=False)
WORDS = st.text(st.sampled_from("abz019 -_./:#[]{}'\"\u00e4\u4e2d\u0663"), min_size=1).filter(
    lambda text: text[0] != "-" and text == text.strip() and text != "None"
)


def right(hint):
    """Values of an option of that type."""
    kinds = get_args(hint)
    if get_origin(hint) is Literal:
        return st.sampled_from(kinds)
    if get_origin(hint) is tuple:
        # Of several numbers, a negative one may look like an option of the command line.
        each = WORDS if kinds[0] is str else (WHOLE if kinds[0] is int else REAL).map(abs)
        most = 4 if ... in kinds else len(kinds)
        return st.lists(each, min_size=1 if ... in kinds else most, max_size=most).map(tuple)
    if kinds:
        return st.one_of(*(right(kind) for kind in kinds))
    return {
        int: WHOLE,
        float: REAL,
        bool: st.booleans(),
        Path: WORDS.map(Path),
        type(None): st.none(),
        str: WORDS,
    }[hint]


def stored(value):
    """As a file holds it."""
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value


def typed(name, value):
    """As the command line has it."""
    flag = "--" + name.replace("_", "-")
    if isinstance(value, bool):
        return [flag if value else f"--no-{flag[2:]}"]
    if isinstance(value, tuple):
        return [flag, *map(str, value)]
    return [f"{flag}={value}"]


def in_python(values):
    """The options with these set."""
    options, own = TrainConfig(), dict(values)
    for group in config.GROUPS:
        part = getattr(options, group)
        names = [field.name for field in fields(part) if field.name in own]
        part = replace(part, **{name: own.pop(name) for name in names})
        options = replace(options, **{group: part})
    return replace(options, **own)


@settings(FIXED, max_examples=6)  # of all options each
@given(data=st.data())
def test_options_are_the_same_wherever_they_stand(data):
    """In YAML, in JSON, in Python and on the command line."""
    values = {name: data.draw(right(hint), name) for name, hint in HINTS.items()}
    expected = in_python(values)
    text = yaml.safe_dump(
        {name.replace("_", "-"): stored(value) for name, value in values.items()},
        allow_unicode=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "options.yaml"
        path.write_text(text, encoding="utf-8")
        found = replace(config.parse(["--config", str(path)]), config=None)
    again = json.loads(json.dumps(config.flat(found)))
    arguments = [part for name, value in values.items() for part in typed(name, value)]
    for one in (
        found,
        config.with_options(TrainConfig(), again, "here"),
        config.parse(arguments),
    ):
        assert one == expected
        assert repr(one) == repr(expected)  # types, too: 1 is no 1.0


WRONG = (
    *odd_runs.ODD,
    *("1.5.2", "0x", "1 2", "yes", "True", b"bytes", [[]], [{}], [True], [""]),
)


def is_wrong(name, value):
    """Whether no reading of a value makes it one of the option's."""
    kinds = {HINTS[name], *get_args(HINTS[name])}
    kinds |= {part for kind in kinds for part in get_args(kind)}
    if isinstance(value, dict | bytes):
        return True
    if isinstance(value, bool):
        return bool not in kinds
    if isinstance(value, list):
        several = any(get_origin(kind) is tuple for kind in kinds)
        empty = set() if str in kinds else {""}  # which is not a number
        return not several or any(
            isinstance(part, list | dict | bool) or part in empty for part in value
        )
    if isinstance(value, str):
        return not kinds & {str, Path} and value in ("", "x", "1.5.2", "0x", "1 2", "..", "\x00")
    return value is None and type(None) not in kinds


@pytest.mark.parametrize("name", HINTS)
def test_wrong_values_are_refused_by_file_and_name(name):
    for value in WRONG:
        found, refusal = outcome(
            lambda odd=value: config.with_options(TrainConfig(), {name: odd}, "the file")
        )
        if refusal:
            assert "the file" in refusal
            assert name in refusal
        else:
            assert not is_wrong(name, value), (value, found)


# --- records ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small():
    return odd_runs.small_run()


@FIXED
@given(data=st.data())
def test_a_record_that_was_changed_is_refused_or_does(small, data):
    choose = Drawn(data)
    plain = {name: value for name, value in small.record.items() if name != "options_sha256"}
    record = odd_runs.edited(choose, choose.among((plain, small.record)))
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(small.write(Path(folder) / "run"))
        run.config.write_text(json.dumps(record))
        found, refusal = outcome(run.read_config)
        if refusal:
            assert "config.json" in refusal
            return
        scoring.from_record(found["scoring"])
        policy, refusal = outcome(lambda: trained.load(run.path))
        if refusal:
            assert str(run.path) in refusal
        else:
            assert np.isfinite(policy(np.zeros(2, np.float32))).all()


@settings(FIXED, max_examples=30)  # each folder is brought to the disk
@given(data=st.data())
def test_a_record_that_was_changed_makes_a_card_or_is_refused(small, data):
    choose = Drawn(data)
    record = odd_runs.edited(choose, {k: v for k, v in small.record.items() if "sha256" not in k})
    with tempfile.TemporaryDirectory() as folder:
        run, out = RunFolder(small.write(Path(folder) / "run")), Path(folder) / "hub"
        run.config.write_text(json.dumps(record))
        policy, refusal = outcome(lambda: trained.load(run.path))
        if refusal:
            return
        _, refusal = outcome(lambda: publishing.write(out, run, policy))
        if refusal:
            assert "config.json" in refusal
            assert not out.exists()
            return
        head = yaml.safe_load((out / "README.md").read_text().split("---\n")[1])
        assert head["library_name"] == "iql-fast"
        told = odd_runs.edited(choose, json.loads((out / "config.json").read_text()))
        (out / "config.json").write_text(json.dumps(told))
        again, refusal = outcome(lambda: trained.load(out))
        if refusal:
            assert str(out) in refusal
        else:
            row = np.zeros(2, np.float32)
            np.testing.assert_array_equal(again(row), policy(row))


@FIXED
@given(data=st.data())
def test_a_checkpoints_record_that_was_changed_is_refused_or_does(small, data):
    told = odd_runs.edited(Drawn(data), small.told)
    with tempfile.TemporaryDirectory() as folder:
        place = small.write(Path(folder) / "run") / "checkpoint"
        (place / "000000200" / "state.json").write_text(json.dumps(told))
        found, refusal = outcome(lambda: checkpoint.load(place))
        if refusal:
            assert "000000200" in refusal
            return
        assert found.step == 200
        assert all(seconds >= 0 for seconds in found.seconds.values())


@settings(FIXED, max_examples=40)  # each row is brought to the disk
@given(rows=st.lists(st.tuples(st.integers(0, 2**62), st.integers(0, 2**62), REAL), max_size=5))
def test_a_table_gives_back_what_was_written(rows):
    with tempfile.TemporaryDirectory() as folder:
        table = StepTable(Path(folder) / "scores.csv", ("seed", "score"))
        for step, seed, score in rows:
            table.append([{"step": step, "seed": seed, "score": score}])
        found = read_rows(table.path, table.columns)
        assert [(int(r["step"]), int(r["seed"]), float(r["score"])) for r in found] == rows
        assert last_step(table.path) == max([step for step, _, _ in rows], default=0)


CHARACTERS = st.text(st.sampled_from('0123456789,.-e"\r\n \0_+nai\u0663\ufeff'), max_size=40)


@FIXED
@given(text=CHARACTERS)
def test_any_text_is_a_table_or_is_refused_by_its_line(text):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scores.csv"
        path.write_text("step,seed,score\n" + text, encoding="utf-8", newline="")
        rows, refusal = outcome(lambda: read_rows(path))
        if refusal:
            assert "is damaged in line" in refusal
            return
        kept = path.read_text(encoding="utf-8")
        written = [line for line in kept[: kept.rfind("\n")].split("\n")[1:] if line]
        assert [",".join(row.values()) for row in rows] == written
        shutil.copy(path, Path(folder) / "copy.csv")
        StepTable(path, ("seed", "score")).cut_after(2**64)
        assert read_rows(path) == rows
