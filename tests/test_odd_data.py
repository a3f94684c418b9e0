"""Data of a user's own at their oddest: each is right, or refused by a reason in one paragraph."""

from __future__ import annotations

import itertools
import json
import zipfile
from pathlib import Path

import gymnasium
import h5py
import numpy as np
import pytest

from iql_fast import data
from iql_fast.data import own
from iql_fast.data.__main__ import Info
from iql_fast.data.transform import Rewards, normalised, to_training
from iql_fast.environments import simulator, workers
from iql_fast.environments.episodes import EvaluationFailed, Evaluator, run_episodes
from iql_fast.environments.spaces import ActionBounds, action_bounds, observation_parts
from iql_fast.policies.policy import Policy
from iql_fast.policies.units import Units
from iql_fast.support.errors import UserError

from . import odd_environments as odd
from .test_own_data import logged, walk, write

MODULE = "tests.odd_environments"


def by_the_row(columns):
    """(row, s', terminal) of each transition, a row at a time; s' None where it is worth nothing.
    What ``docs/data.md`` says, as a loop."""
    rows = len(columns["rewards"])
    masks, timeouts = columns.get("masks"), columns.get("timeouts", np.zeros(rows, bool))
    terminals, following = columns["terminals"], columns.get("next_observations")
    says_more = masks is not None and any(masks[i] == terminals[i] for i in range(rows))
    ogbench = says_more and "timeouts" not in columns
    found = []
    for i in range(rows):
        terminal = bool(terminals[i]) if masks is None else not masks[i]
        cut, last = bool(timeouts[i]) or bool(terminals[i]), i == rows - 1
        if "valids" in columns and not columns["valids"][i]:
            continue
        if following is not None:
            found.append((i, following[i], terminal))
        elif terminal and not (ogbench and (cut or last)):
            found.append((i, None, terminal))
        elif not cut and not last:
            found.append((i, columns["observations"][i + 1], terminal))
    return found


@pytest.mark.parametrize("names", [
    names for n in range(5)
    for names in itertools.combinations(("timeouts", "masks", "next_observations", "valids"), n)
])  # fmt: skip
def test_every_combination_of_columns_against_a_loop(tmp_path, names):
    rng = np.random.default_rng(0)
    for trial in range(8):
        rows = int(rng.integers(3, 30))
        columns = walk(rows, terminals=np.flatnonzero(rng.random(rows) < 0.2), seed=trial)
        columns["timeouts"] = rng.random(rows) < 0.2
        columns["valids"] = rng.random(rows) < 0.8
        said = rng.random(rows) < 0.7
        columns["masks"] = said if trial % 2 else ~columns["terminals"]
        columns["next_observations"] = rng.normal(size=(rows, 2)).astype(np.float32)
        optional = {"timeouts", "masks", "next_observations", "valids"}
        kept = {k: v for k, v in columns.items() if k not in optional or k in names}
        expected = by_the_row(kept)
        path = write(tmp_path, "npz", kept)
        if not expected:
            with pytest.raises(UserError, match="none of its"):
                own.read(path)
            continue
        read = own.read(path).transitions
        picked = [i for i, _, _ in expected]
        for name in ("observations", "actions", "rewards"):
            np.testing.assert_array_equal(getattr(read, name), columns[name][picked])
        assert read.terminals.tolist() == [terminal for _, _, terminal in expected]
        for row, (_, following, _) in enumerate(expected):
            if following is not None:
                np.testing.assert_array_equal(read.next_observations[row], following)


def test_trajectories_end_where_rows_were_dropped_whatever_they_look_like(tmp_path):
    columns = walk(20, ends=[4, 9, 14, 19])
    columns["observations"][:] = 0  # every episode begins and stays in one place
    assert own.read(write(tmp_path, "npz", columns)).transitions.lengths().tolist() == [4] * 4
    # Of two rows each, of which one is left.
    read = own.read(write(tmp_path, "npz", walk(20, ends=range(1, 20, 2)))).transitions
    assert read.ordered
    assert read.lengths().tolist() == [1] * 10


def test_masks_that_say_no_more_than_terminals_drop_no_step(tmp_path):
    columns = walk(20, terminals=[9, 19])
    del columns["timeouts"]
    columns["masks"] = 1.0 - columns["terminals"]
    assert np.flatnonzero(own.read(write(tmp_path, "npz", columns)).transitions.terminals).tolist()


def test_what_is_inferred_or_dropped_is_said(tmp_path):
    columns = walk(20, terminals=[9])
    del columns["timeouts"]
    notes = own.read(write(tmp_path, "npz", columns)).notes
    assert any("no column says where episodes were cut" in note for note in notes)
    columns |= {"valids": np.arange(20) != 3, "next_observations": columns["observations"]}
    notes = own.read(write(tmp_path, "npz", columns)).notes
    assert "1 of 20 rows are not valid: dropped" in notes
    columns["valids"][:] = False
    with pytest.raises(UserError, match="'valids' leaves none of its 20"):
        own.read(write(tmp_path, "npz", columns))


def changed(columns, **others):
    return columns | {name: np.asarray(column) for name, column in others.items()}


@pytest.mark.parametrize("kind", ["npz", "hdf5"])
@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (walk(0), "has 0 rows"),
        (changed(walk(9), actions=np.zeros((9, 0))), "'actions' has no columns"),
        (changed(walk(9), rewards=1.0), "'rewards' is a single number"),
        (changed(walk(9), terminals=0.5), "'terminals' is a single number"),
        (changed(walk(9), rewards=np.full(9, 1e300)), r"'rewards' is not finite.*float32 ends at"),
        (changed(walk(9), episode_index=np.zeros(8)), r"'episode_index' has shape \(8,\)"),
    ],
)
def test_columns_that_hold_nothing_or_too_much(tmp_path, kind, columns, message):
    with pytest.raises(UserError, match=message):
        own.read(write(tmp_path, kind, columns))


def test_files_that_were_damaged(tmp_path):
    whole = write(tmp_path, "npz", walk(500)).read_bytes()
    np.save(tmp_path / "lone.npy", np.zeros(3))
    damaged = {
        "cut": whole[: len(whole) // 2],
        "spoilt": whole[:900] + b"x" * 40 + whole[940:],
        "empty": b"",
        "lone": (tmp_path / "lone.npy").read_bytes(),
    }
    for name, content in damaged.items():
        path = tmp_path / f"{name}.npz"
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"{name}\.npz cannot be read as \.npz"):
            own.read(path)
    with pytest.raises(UserError, match="There is no dataset file"):
        own.read(tmp_path / ("a" * 300 + ".npz"))


@pytest.mark.parametrize("name", ["a" * 300, "a" * 300 + "-v0", "../../etc-v0", "\0", "é"])
def test_names_that_nothing_has(name):
    with pytest.raises(UserError, match="There is no task"):
        Info(name).run()


def test_pickles_are_never_opened(tmp_path):
    columns = changed(walk(9), observations=np.zeros((9, 2), object))
    with pytest.raises(UserError, match="allow_pickle=False"):
        own.read(write(tmp_path, "npz", columns))


def grouped(folder, parts, rows=10, **others):
    """A file whose observations are a group, in the order in which its arrays were written."""
    path = folder / "group.hdf5"
    columns = walk(rows, terminals=[rows - 1]) | others
    del columns["observations"]
    columns["actions"] = np.tile(columns["actions"], 2)
    with h5py.File(path, "w", track_order=True) as file:
        for name, column in columns.items():
            file[name] = column
        group = file.create_group("observations", track_order=True)
        for name, part in parts.items():
            group[name] = part
    return path


def test_groups_are_put_side_by_side_by_name(tmp_path):
    b, a = np.ones((10, 2)), np.zeros(10)
    read = own.read(grouped(tmp_path, {"b": b, "a": a})).transitions
    assert read.observations[0].tolist() == [0, 1, 1]
    loaded = data.load("", dataset=grouped(tmp_path, {"b": b, "a": a}))
    assert loaded.parts == [("a", 1), ("b", 2)]


def test_groups_that_are_no_vectors(tmp_path):
    ones = np.ones((10, 2))
    for parts, message in (
        ({}, "is a group of 0 array"),
        ({"a": ones, "b": ones[:7]}, r"'observations/b' has shape \(7, 2\)"),
        ({"a": ones, "b": 3.0}, r"'observations/b' has shape \(\)"),
        ({"a": ones, "eye": np.zeros((10, 8, 8, 3), np.uint8)}, "'observations/eye' holds images"),
    ):
        with pytest.raises(UserError, match=message):
            own.read(grouped(tmp_path, parts))


def test_a_group_has_the_order_of_the_environment_that_scores_it(tmp_path):
    """The environment's Dict is not sorted by its keys; the file's arrays are."""
    space = odd.OBSERVATIONS["unsorted"]
    parts = {
        "a": np.full((10, 1), 1.0),
        "b": np.full((10, 2), 2.0),
        "inner/y": np.full((10, 1), 3.0),
        "inner/z": np.full((10, 2, 2), 4.0),
    }
    loaded = data.load("", dataset=grouped(tmp_path, parts), env=f"{MODULE}:OddUnsorted-v0")
    assert loaded.parts == [("a", 1), ("b", 2), ("inner/y", 1), ("inner/z", 4)]
    env = workers.environment(loaded.scoring.environment)
    seen, _ = env.reset(seed=3)
    plain, _ = simulator.make(f"{MODULE}:OddUnsorted-v0").reset(seed=3)
    assert seen.shape == loaded.transitions.observations[0].shape
    np.testing.assert_array_equal(seen[:1], plain["a"])
    np.testing.assert_array_equal(seen[1:3], plain["b"])
    np.testing.assert_array_equal(seen[4:], plain["inner"]["z"].ravel())
    assert list(space.spaces) != sorted(space.spaces)
    parts["c"] = parts.pop("a")
    with pytest.raises(UserError, match=r"c \[1\].*those of .*OddUnsorted-v0 are a \[1\]"):
        data.load("", dataset=grouped(tmp_path, parts), env=f"{MODULE}:OddUnsorted-v0")


def table(columns, **types):
    import pyarrow as arrow

    return arrow.table(
        {
            name: arrow.array(list(column) if column.ndim == 2 else column, types.get(name))
            for name, column in columns.items()
        }
    )


def parquet_file(path, content):
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(content, path)
    return path


def test_every_kind_of_list_that_parquet_has(tmp_path):
    import pyarrow as arrow

    columns = walk(20, terminals=[19])
    plain = own.read(parquet_file(tmp_path / "a.parquet", table(columns))).transitions
    single = arrow.float32()
    tensor = arrow.FixedShapeTensorArray.from_numpy_ndarray(columns["observations"])
    for content in (
        table(columns, observations=arrow.large_list(single), actions=arrow.large_list(single)),
        table(columns, observations=arrow.list_(single, 2)),
        table(columns).set_column(0, "observations", tensor),
    ):
        read = own.read(parquet_file(tmp_path / "b.parquet", content)).transitions
        np.testing.assert_array_equal(read.observations, plain.observations)
        np.testing.assert_array_equal(read.actions, plain.actions)
    nested = arrow.array([[[1.0]]] * 20)
    with pytest.raises(UserError, match=r"'observations' holds list<.*list<.*double>> where"):
        own.read(
            parquet_file(
                tmp_path / "c.parquet", table(columns).set_column(0, "observations", nested)
            )
        )
    with pytest.raises(UserError, match="has 0 rows"):
        own.read(parquet_file(tmp_path / "d.parquet", table(columns).slice(0, 0)))


@pytest.mark.parametrize("kind", ["npz", "hdf5", "parquet"])
def test_episodes_that_are_numbered_are_cut_apart(tmp_path, kind):
    columns = walk(20, terminals=[19])
    del columns["timeouts"]
    columns["episode_index"] = np.arange(20) // 7
    read = own.read(write(tmp_path, kind, columns)).transitions
    assert read.lengths().tolist() == [6, 6, 6]  # the last of 0 and 1 has no s'
    assert read.tail_is_whole


def lerobot(folder, *tables, info='{"codebase_version": "v3.0"}'):
    (folder / "meta").mkdir(parents=True, exist_ok=True)
    (folder / "meta" / "info.json").write_text(info)
    for number, content in enumerate(tables):
        parquet_file(folder / "data" / "chunk-000" / f"file-{number:03}.parquet", content)
    return folder


def frames(**others):
    columns = walk(20, terminals=[19])
    return {
        "observation.state": columns["observations"],
        "action": columns["actions"],
        "next.reward": columns["rewards"],
        "next.done": columns["terminals"],
        "episode_index": np.arange(20) // 10,
    } | others


def test_lerobots_columns_of_other_shapes_and_precisions(tmp_path):
    expected = own.read(lerobot(tmp_path / "a", table(frames()))).transitions
    wide = frames()
    for name in ("next.reward", "next.done", "episode_index"):
        wide[name] = wide[name][:, None]  # a flag [N, 1] must not be spread to [N, N]
    double = frames()
    double["action"] = double["action"].astype(float)
    for folder, tables in (
        ("b", [table(wide)]),
        ("c", [table(frames()).slice(0, 7), table(double).slice(7)]),
    ):
        read = own.read(lerobot(tmp_path / folder, *tables)).transitions
        np.testing.assert_array_equal(read.actions, expected.actions)
        np.testing.assert_array_equal(read.ends, expected.ends)
        np.testing.assert_array_equal(read.terminals, expected.terminals)


def test_lerobot_folders_that_lack_something(tmp_path):
    text = frames(**{"next.reward": np.array(["much"] * 20)})
    without = frames()
    del without["next.reward"]
    for number, (tables, info, message) in enumerate(
        (
            ([table(frames())], "{", r"info\.json cannot be read as a JSON object"),
            ([table(frames())], "3", r"info\.json cannot be read as a JSON object"),
            ([table(frames()), table(text)], None, "cannot be read as Parquet"),
            ([table(without)], None, r"lacks the key 'rewards' \(or next\.reward\)"),
        )
    ):
        info = json.dumps({"codebase_version": "v3.0"}) if info is None else info
        with pytest.raises(UserError, match=message) as caught:
            own.read(lerobot(tmp_path / str(number), *tables, info=info))
        assert "OGBench" not in str(caught.value)


def test_bounds_that_are_as_good_as_none():
    rng = np.random.default_rng(0)
    actions = rng.uniform((0, -5, -1), (2, 5, 1), (40, 3)).astype(np.float32)
    largest = np.finfo(np.float32).max
    bounds = ActionBounds(np.float32([0, -largest, -3]), np.float32([1e30, largest, 3]))
    transitions, units, _, notes = to_training(logged(actions), "neutral", "here", bounds)
    assert units.act_low.tolist() == [0, actions[:, 1].min(), -3]
    assert units.act_high.tolist() == [actions[:, 0].max(), actions[:, 1].max(), 3]
    np.testing.assert_allclose(units.act(transitions.actions), actions, atol=1e-3)
    assert any("0 [0, " in note and "1 [-" in note and "2 [" not in note for note in notes)


def test_a_bound_stays_where_an_action_never_moved():
    actions = np.zeros((40, 1), np.float32)
    bounds = ActionBounds(np.float32([0]), np.float32([np.inf]))
    _, units, _, _ = to_training(logged(actions), "neutral", "here", bounds)
    assert (units.act_low.tolist(), units.act_high.tolist()) == ([0], [1])


def test_actions_never_leave_their_bounds_by_rounding():
    rng = np.random.default_rng(0)
    low = rng.uniform(-5, 0, 10_000).astype(np.float32)
    high = (low + rng.uniform(0.1, 5, 10_000)).astype(np.float32)
    units = Units(act_low=low, act_high=high)
    ones = np.ones(10_000, np.float32)
    assert np.all(units.act(ones) <= high)
    assert np.all(units.act(-ones) >= low)
    np.testing.assert_allclose(units.act(ones), high, rtol=1e-5, atol=1e-6)


def test_rewards_that_a_scale_makes_infinite():
    source = logged(rewards=np.full(40, 1e20))
    with pytest.raises(UserError, match=r"1e\+30 \* reward \+ 0 is beyond.*row 0"):
        to_training(source, "neutral", "here", rewards=Rewards(scale=1e30))


def test_spaces_that_no_policy_has():
    whole = gymnasium.spaces.Box(0, 10, (2,), np.int32)
    with pytest.raises(UserError, match="actions are whole numbers"):
        action_bounds(whole, "here")
    with pytest.raises(UserError, match="actions hold no numbers"):
        action_bounds(odd.unit(0), "here")
    for space in (odd.unit(0), gymnasium.spaces.Dict({})):
        with pytest.raises(UserError, match="observations hold no numbers"):
            observation_parts(space, "here")


def constant():
    return Policy((np.zeros((4, 2), np.float32),), (np.zeros(2, np.float32),), np.zeros(2))


def test_wrappers_of_an_environments_constructor_are_kept():
    single, double = (
        run_episodes(f"{MODULE}:{name}", odd.STEPS, constant(), [(0, 0, 0)])[0].total
        for name in ("OddBox-v0", "OddDoubled-v0")
    )
    assert double == pytest.approx(2 * single)
    assert single > 0
    kept, again = (workers.environment(f"{MODULE}:OddBox-v0") for _ in range(2))
    assert kept is again
    assert kept is kept.unwrapped


def test_an_environment_that_breaks_down_is_named(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))  # of its class
    named = pytest.raises(EvaluationFailed, match=r"OddFailing-v0 failed \(RuntimeError: the mo")
    with Evaluator(f"{MODULE}:OddFailing-v0", odd.STEPS, 1) as evaluator, named:
        evaluator.returns([constant()], [0], 0, 1)


def test_families_are_told_by_whole_names():
    assert data.preset_of("D4RL/pen/human-v2").family == "adroit"
    assert data.preset_of("D4RL/pendulum/swing-v0").family == "neutral"


def test_episodes_that_say_nothing_and_flags_of_one_row(tmp_path):
    columns = walk(20, terminals=[19])
    for wrong in (np.nan, np.inf):
        numbers = np.where(np.arange(20) == 3, wrong, 0.0)
        path = write(tmp_path, "npz", changed(columns, episode_index=numbers))
        with pytest.raises(UserError, match=f"'episode_index' is {wrong} in row 3"):
            own.read(path)
    # One flag must not be spread over every row.
    path = write(tmp_path, "npz", changed(columns, episode_index=np.zeros(20), timeouts=[True]))
    with pytest.raises(UserError, match=r"'timeouts' has shape \(1,\)"):
        own.read(path)
    path = write(tmp_path, "npz", changed(columns, episode_index=["a"] * 20))
    with pytest.raises(UserError, match="'episode_index' holds <U1 where real numbers"):
        own.read(path)


def test_any_byte_of_a_flag_is_looked_at(tmp_path):
    """A file may hold a bool that is neither 0 nor 1, which numpy takes for true."""
    odd_bytes = np.where(np.arange(20) == 3, 2, 0).astype(np.uint8).view(bool)
    with pytest.raises(UserError, match="'terminals' is 2 in row 3"):
        own.read(write(tmp_path, "npz", changed(walk(20), terminals=odd_bytes)))


def test_zip_files_of_other_things(tmp_path):
    path = write(tmp_path, "npz", walk(9))
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("masks", "text")
    with pytest.raises(UserError, match="'masks' is not an array of NumPy's"):
        own.read(path)


def test_columns_that_stand_there_twice(tmp_path):
    content = table(walk(9))
    twice = content.append_column("rewards", content["terminals"])
    with pytest.raises(UserError, match=r"cannot be read as Parquet .Multiple matches"):
        own.read(parquet_file(tmp_path / "a.parquet", twice))


def test_lerobots_files_follow_each_other_by_number(tmp_path):
    whole = table(frames())
    folder = lerobot(tmp_path / "two")
    for number, start in ((999, 0), (1000, 12)):
        path = folder / "data" / "chunk-000" / f"file-{number:03}.parquet"
        parquet_file(path, whole.slice(start, 12))
    read = own.read(folder).transitions
    expected = own.read(lerobot(tmp_path / "one", whole)).transitions
    np.testing.assert_array_equal(read.observations, expected.observations)


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_numbers_near_the_end_of_float32(tmp_path, capsys):
    columns = walk(20, terminals=[4, 9, 14, 19])
    columns["observations"] *= np.float32(1e37)
    columns["rewards"][:] = 1e30
    columns["actions"][:] = -1e20
    path = write(tmp_path, "npz", columns)
    Info(str(path)).run()
    assert "   4 ####" in capsys.readouterr().out  # returns of a single bin
    loaded = data.load("", dataset=path)
    assert np.all(np.abs(loaded.transitions.actions) <= 1)
    np.testing.assert_allclose(loaded.units.act(loaded.transitions.actions), -1e20, rtol=1e-5)


def test_actions_that_hardly_move_are_taken_to_stand_still():
    """Their own range is nothing that float32 can scale by."""
    actions = np.full((40, 2), 1e20, np.float32)
    actions[0, 0] = np.nextafter(actions[0, 0], np.float32(0))
    actions[:, 1] = 0
    actions[0, 1] = 1e-45
    infinite = np.full(2, np.inf, np.float32)
    transitions, units, _, _ = to_training(
        logged(actions), "neutral", "here", ActionBounds(-infinite, infinite)
    )
    assert np.isfinite(transitions.actions).all()
    np.testing.assert_allclose(units.act(transitions.actions), actions, rtol=1e-5, atol=1e-4)


def test_observations_that_scaling_makes_infinite():
    source = logged(rewards=np.zeros(40))
    transitions, _, _, _ = to_training(source, "neutral", "here")
    transitions.observations[:] = 1
    transitions.next_observations[:] = 1
    transitions.next_observations[7] = 1e37
    with pytest.raises(UserError, match=r"next_observations scaled .* in transition 7"):
        normalised(transitions)
