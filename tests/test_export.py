"""The policy outside of the package: as a function, and as files that other programs run."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import iql_fast
from iql_fast import export
from iql_fast.environments.episodes import run_episodes
from iql_fast.policies import formats
from iql_fast.policies.acting import with_units
from iql_fast.policies.policy import policy_from_state
from iql_fast.policies.units import from_record
from iql_fast.runs import checkpoint, folder, saved
from iql_fast.support.errors import UserError

from .conftest import d4rl_columns, write_hdf5

FORMATS = sorted(formats.FORMATS)
SUFFIXES = {"onnx": ".onnx", "torch": ".pt2", "safetensors": ".safetensors"}


def change(run: Path, **record: object) -> Path:
    """Edit the record of a run, as if it had begun so."""
    path = run / "config.json"
    content = json.loads(path.read_text()) | record
    for name in ("options_sha256", "settled_sha256"):
        content.pop(name, None)
    path.write_text(json.dumps(content))
    return run


def export_policy(*arguments: object) -> None:
    """The command, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["export", *map(str, arguments)])
        export.main()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A short run of the seeds 3 and 4, of the paper's networks, on scaled observations."""
    place = tmp_path_factory.mktemp("trained")
    columns = d4rl_columns()
    columns["observations"] = 2 * columns["observations"] + 1
    arguments = [
        *("--task", "hopper-medium-v2", "--dataset", write_hdf5(place / "data.hdf5", columns)),
        *("--out", place / "run", "--steps", 200, "--seeds", 2, "--seed", 3, "--batch-size", 16),
        *("--log-interval", 100, "--checkpoint-interval", 100, "--eval-episodes", 0),
        "--normalize-obs",
    ]
    result = subprocess.run(
        [sys.executable, "-m", "iql_fast.train", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=place,
    )
    assert result.returncode == 0, result.stderr
    return place / "run"


@pytest.fixture(scope="module")
def stretched(trained, tmp_path_factory):
    """The same with actions from -3 to 5."""
    run = tmp_path_factory.mktemp("stretched") / "run"
    return change(Path(shutil.copytree(trained, run)), action_bounds=[[-3.0] * 3, [5.0] * 3])


@pytest.fixture(scope="module")
def files(stretched):
    """The last policy of the second seed in every format."""
    for name in FORMATS:
        export_policy(stretched, "--to", name, "--seed", 4)
    return {name: stretched / f"policy-seed4{SUFFIXES[name]}" for name in FORMATS}


@pytest.fixture
def own(trained, tmp_path):
    """A copy to change."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture(scope="module")
def observations():
    rng = np.random.default_rng(1)
    return (1 + 3 * rng.standard_normal((10_000, 11))).astype(np.float32)


def computed(name: str, path: Path, observations: np.ndarray) -> np.ndarray:
    """What a file computes for somebody who has nothing of this package."""
    if name == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return session.run(["action"], {"observation": observations})[0]
    if name == "torch":
        return torch.export.load(path).module()(torch.from_numpy(observations)).detach().numpy()
    held = {key: array.astype(np.float64) for key, array in load_file(path).items()}
    h = (observations - held["observation.mean"]) / held["observation.scale"]
    for i in range(3):
        h = h @ held[f"layers.{i}.weight"].T + held[f"layers.{i}.bias"]
        h = np.tanh(h) if i == 2 else np.maximum(h, 0)
    return (held["action.middle"] + held["action.half"] * h).astype(np.float32)


def test_the_function_is_what_was_trained(stretched, observations):
    state = checkpoint.load(stretched / "checkpoint").state
    mean, scale = json.loads((stretched / "config.json").read_text())["observation_scaling"]
    for index, seed in enumerate((3, 4)):
        h = (torch.from_numpy(observations).double() - torch.tensor(mean)) / torch.tensor(scale)
        for i in range(3):
            weight, bias = (state[f"actor.layers.{i}.{part}"][index] for part in ("weight", "bias"))
            h = torch.nn.functional.linear(h, weight.double(), bias.double())
            h = torch.tanh(h) if i == 2 else torch.relu(h)
        actions = iql_fast.load_policy(stretched, seed=seed)(observations)
        assert actions.dtype == np.float32
        np.testing.assert_allclose(actions, 1 + 4 * h.numpy(), rtol=0, atol=1e-6)
        assert actions.min() < -2
        assert actions.max() > 4


@pytest.mark.parametrize("name", FORMATS)
def test_every_file_is_the_function(stretched, files, observations, name):
    policy = iql_fast.load_policy(stretched, seed=4)
    expected = policy(observations)
    actions = computed(name, files[name], observations)
    assert actions.shape == (10_000, 3)
    assert actions.dtype == np.float32
    np.testing.assert_allclose(actions, expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(
        computed(name, files[name], observations[:1]), expected[:1], rtol=0, atol=1e-6
    )


def test_a_row_alone_has_the_action_that_it_has_in_a_batch(stretched, observations):
    policy = iql_fast.load_policy(stretched)
    alone = [policy(row) for row in observations[:200]]
    assert alone[0].shape == (3,)
    np.testing.assert_allclose(alone, policy(observations)[:200], rtol=0, atol=1e-6)
    assert policy(observations[:0]).shape == (0, 3)
    np.testing.assert_array_equal(policy(observations[0].tolist()), alone[0])


def test_seeds_and_checkpoints_are_told_apart(stretched, observations):
    default = iql_fast.load_policy(str(stretched))
    assert (default.seed, default.step, default.task) == (3, 200, "hopper-medium-v2")
    earlier = iql_fast.load_policy(stretched, seed=4, checkpoint=100)
    assert (earlier.seed, earlier.step) == (4, 100)
    later = iql_fast.load_policy(stretched, seed=4)
    for one, other in ((default, later), (earlier, later)):
        assert np.abs(one(observations) - other(observations)).max() > 0.01


def test_evaluation_and_the_function_agree(trained, command, tmp_path, observations):
    run = tmp_path / "evaluated"
    shutil.copytree(trained, run)
    result = command("evaluate", "--run", run, "--episodes", 2, "--workers", 1)
    assert result.returncode == 0, result.stderr
    returns = json.loads((run / "evaluation.json").read_text())["returns"]
    played = []
    for seed in (3, 4):
        keys = [(seed, saved.KEY_OFFSET + 200, episode) for episode in range(2)]
        function = SimpleNamespace(mean_action=iql_fast.load_policy(run, seed=seed))
        played.append([e.total for e in run_episodes("iql_fast/hopper-v2", 1000, function, keys)])
    # The simulator enlarges what evaluation's float32 rounds away.
    np.testing.assert_allclose(returns, played, rtol=1e-3)
    assert abs(returns[0][0] / returns[1][0] - 1) > 0.01

    units = from_record(json.loads((run / "config.json").read_text()))
    evaluated = with_units(policy_from_state(checkpoint.load(run / "checkpoint").state, 1), units)
    actions = iql_fast.load_policy(run, seed=4)(observations)
    np.testing.assert_allclose(evaluated.mean_action(observations), actions, rtol=0, atol=1e-5)


def test_the_function_needs_no_torch(trained):
    script = (
        "import sys, iql_fast\n"
        "assert 'numpy' not in sys.modules\n"
        "policy = iql_fast.load_policy(sys.argv[1])\n"
        "assert policy([0.0] * 11).shape == (3,)\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script, str(trained)], check=True)


LAYOUT = [["goal/0", 3], ["goal/1", 2], ["robot", 6]]


@pytest.mark.parametrize("batch", [(), (1,), (2,), (5,)])
def test_a_structured_observation(own, observations, batch):
    policy = iql_fast.load_policy(change(own, observation_layout=LAYOUT))
    flat = observations[: batch[0]] if batch else observations[0]
    a, b, c = flat[..., :3], flat[..., 3:5], flat[..., 5:]
    expected = policy(flat)
    nested = {"robot": c.reshape(*batch, 2, 3), "goal": (a, b), "more": "is not looked at"}
    np.testing.assert_array_equal(policy(nested), expected)
    np.testing.assert_array_equal(policy({"goal/0": a, "goal/1": b, "robot": c}), expected)


def test_other_structures_of_observations(own, observations):
    row, rows = observations[0], observations[:4]
    change(own, observation_layout=[["0", 1], ["1", 10]])
    policy = iql_fast.load_policy(own)
    np.testing.assert_array_equal(policy((row[0], row[1:])), policy(row))
    np.testing.assert_array_equal(policy((rows[:, 0], rows[:, 1:])), policy(rows))
    change(own, observation_layout=[[str(i), 1] for i in range(11)])
    policy = iql_fast.load_policy(own)
    np.testing.assert_array_equal(policy(tuple(row[:, None])), policy(row))  # of one row
    np.testing.assert_array_equal(policy(tuple(rows.T)), policy(rows))
    change(own, observation_layout=[["", 11]])  # a box of two dimensions
    policy = iql_fast.load_policy(own)
    assert policy(row.reshape(1, 11)).shape == (1, 3)
    np.testing.assert_array_equal(policy(row.reshape(11, 1)), policy(row))
    np.testing.assert_array_equal(policy(rows.reshape(4, 11, 1)), policy(rows))
    with pytest.raises(ValueError, match=r"expected an observation \[11\].*\[4, 12\]"):
        policy(np.zeros((4, 12)))
    with pytest.raises(ValueError, match="not a mapping"):
        policy({"": row})


@pytest.mark.parametrize("shape", [(), (10,), (12,), (11, 1), (2, 10), (1, 1, 11)])
def test_an_observation_of_another_shape_is_refused(trained, shape):
    policy = iql_fast.load_policy(trained)
    with pytest.raises(ValueError, match=r"expected an observation \[11\] or a batch \[N, 11\]"):
        policy(np.zeros(shape))


def test_a_structure_that_does_not_fit_is_refused(own):
    with pytest.raises(ValueError, match=r'no "observation_layout" .*not a mapping'):
        iql_fast.load_policy(own)({"robot": np.zeros(11)})
    policy = iql_fast.load_policy(change(own, observation_layout=LAYOUT))
    with pytest.raises(ValueError, match='nothing at "goal/1"'):
        policy({"goal": (np.zeros(3),), "robot": np.zeros(6)})
    with pytest.raises(ValueError, match=r'sizes "goal/0" 3, .*the shapes .*"robot" \[7\]'):
        policy({"goal": (np.zeros(3), np.zeros(2)), "robot": np.zeros(7)})
    with pytest.raises(ValueError, match=r'"goal/1" \[5, 2\]'):
        policy({"goal": (np.zeros((4, 3)), np.zeros((5, 2))), "robot": np.zeros((4, 6))})


def test_what_a_run_does_not_hold(own, tmp_path):
    with pytest.raises(UserError, match=r"has no seed 5 \(it has: 3, 4\)"):
        iql_fast.load_policy(own, seed=5)
    with pytest.raises(UserError, match=r"no checkpoint of step 150 \(it holds: 100, 200\)"):
        iql_fast.load_policy(own, checkpoint=150)
    with pytest.raises(UserError, match="is not the folder of a run"):
        iql_fast.load_policy(tmp_path)
    (own / "checkpoint" / "000000200" / "state.safetensors").write_bytes(b"half")
    with pytest.raises(UserError, match=r"000000200 is damaged.*go on from step 100"):
        iql_fast.load_policy(own)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("observation_scaling", [[0.0] * 11, [1.0] * 10]),
        ("action_bounds", [[-3.0] * 2, [5.0] * 3]),
        ("observation_layout", [["a", 4], ["b", 6]]),
    ],
)
def test_a_record_that_does_not_fit_the_weights(own, key, value):
    with pytest.raises(UserError, match=rf'config.json: "{key}" is for '):
        iql_fast.load_policy(change(own, **{key: value}))


def test_a_policy_that_has_not_been_trained_yet(own):
    options = json.loads((own / "config.json").read_text())["options"]
    change(own, options=options | {"steps": 100, "extraction": "after"})
    assert iql_fast.load_policy(own).step == 200
    with pytest.raises(UserError, match=r"step 100 .* holds no trained policy: .* after step 100"):
        iql_fast.load_policy(own, checkpoint=100)


def test_files_say_what_they_are(own, files):
    import onnx

    wanted = {
        "task": "hopper-medium-v2",
        "data": "hopper-medium-v2 (data.hdf5)",
        "seed": "4",
        "step": "200",
        "iql_fast_version": iql_fast.__version__,
    }
    model = onnx.load(files["onnx"])
    assert {prop.key: prop.value for prop in model.metadata_props} == wanted
    assert (model.ir_version, model.opset_import[0].version) == (9, 20)
    extra = {"metadata.json": ""}
    torch.export.load(files["torch"], extra_files=extra)
    assert json.loads(extra["metadata.json"]) == wanted
    from safetensors import safe_open

    with safe_open(files["safetensors"], "numpy") as file:
        assert file.metadata() == wanted
    change(own, observation_layout=LAYOUT)
    export_policy(own, "--to", "safetensors")
    with safe_open(own / "policy-seed3.safetensors", "numpy") as file:
        assert json.loads(file.metadata()["observation_layout"]) == LAYOUT


def test_the_command(own, command, tmp_path):
    result = command("export", own, "--to", "onnx")
    assert result.returncode == 0, result.stderr
    told, path = result.stdout.splitlines()
    assert told == (
        "hopper-medium-v2 (data.hdf5), seed 3, step 200: its actions are the policy's within 0"
    )
    assert path == str(own / "policy-seed3.onnx")
    result = command("export", own, "--to", "onnx", "--seed", 9)
    assert result.returncode == 2
    assert result.stderr.startswith("Error: ")
    result = command("export", own, "--to", "safetensors", "--out", "new/here")
    assert result.returncode == 0, result.stderr
    assert formats.is_export(tmp_path / "new" / "here")


def test_names_of_files(own):
    export_policy(own, "--to", "safetensors", "--checkpoint", 100, "--seed", 4)
    options = json.loads((own / "config.json").read_text())["options"]
    change(own, options=options | {"seeds": 1})
    export_policy(own, "--to", "safetensors")
    names = ["policy-seed4-step100.safetensors", "policy.safetensors"]
    assert sorted(path.name for path in own.glob("policy*")) == names


@pytest.mark.parametrize("name", FORMATS)
def test_a_former_export_is_replaced_and_nothing_else(own, files, name):
    out = own / f"policy-seed3{SUFFIXES[name]}"
    shutil.copy(files[name], out)
    before = out.read_bytes()
    export_policy(own, "--to", name)
    assert out.read_bytes() != before
    for path in (out, own / "config.json", own / "checkpoint/000000200/state.safetensors"):
        if path == out:
            out.write_bytes(b"somebody's")
        before = path.read_bytes()
        with pytest.raises(UserError, match="is no former export"):
            export_policy(own, "--to", name, "--out", path)
        assert path.read_bytes() == before
    with pytest.raises(UserError, match=r"is a folder\. Name a file"):
        export_policy(own, "--to", name, "--out", own)


def test_a_run_that_is_replaced_takes_its_exports_along(own, files):
    for path in files.values():
        shutil.copy(path, own)
    (own / "policy.onnx").write_bytes(b"somebody's")
    folder.create(own, overwrite=True, needed_bytes=0)
    assert [path.name for path in own.glob("policy*")] == ["policy.onnx"]


@pytest.mark.parametrize("fault", [1e-4, np.nan])
def test_a_file_that_computes_something_else_is_not_written(own, monkeypatch, fault):
    format_ = formats.FORMATS["safetensors"]

    def faulty(content: bytes):
        run = format_.decode(content)
        return lambda rows: run(rows) + np.float32(fault) * (len(rows) == 1)

    monkeypatch.setitem(formats.FORMATS, "safetensors", format_._replace(decode=faulty))
    with pytest.raises(UserError, match=r"differ by up to (0\.0001|nan)"):
        export_policy(own, "--to", "safetensors")
    assert not [path for path in own.iterdir() if "policy" in path.name]


def test_without_onnx(own, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r"needs onnx: pip install 'iql-fast\[export\]'"):
        export_policy(own, "--to", "onnx")
    assert not list(own.glob("*policy*"))


def test_without_onnxruntime(own, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    export_policy(own, "--to", "onnx")
    told = capsys.readouterr().out.splitlines()[0]
    assert "not checked, since onnxruntime is not installed: pip install 'iql-fast[export]'" in told
    assert (own / "policy-seed3.onnx").exists()
