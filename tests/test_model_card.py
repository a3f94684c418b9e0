"""A policy as a folder for a hub: its card as the Hub's own parsers read it, and what loads it."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

import iql_fast
from iql_fast import export, train
from iql_fast.runs import config, folder, hub_folder, model_card
from iql_fast.support.errors import UserError

from .conftest import d4rl_columns, write_hdf5
from .test_methods import MLP, SIZES

#: Whose policies are functions of one observation.
METHODS = ("iql", "bc", "10bc", "td3_bc", "awac", "cql", "onestep", "abm")
SMALL = (
    *("--task", "hopper-medium-v2", "--batch-size", 16, "--threads", 1, "--log-interval", 10),
    *("--checkpoint-interval", 20, "--eval-episodes", 0, "--steps", 40),
)


def trains(place: Path, method: str, *more: object) -> Path:
    columns = d4rl_columns()
    columns["observations"] = 2 * columns["observations"] + 1
    dataset = write_hdf5(place / "data.hdf5", columns)
    asked = (*SMALL, *SIZES.get(method, MLP), "--dataset", dataset, "--out", place / "run")
    train.main([*map(str, (*asked, "--method", method, *more))])
    return place / "run"


def to_hub(*arguments: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["export", *map(str, arguments), "--to", "hub-folder"])
        export.main()


def evaluated(run: Path, step: int, scores, returns) -> None:
    """What ``iql_fast.evaluate`` leaves behind."""
    told = {"step": step, "seeds": [3, 4], "scores": scores, "returns": returns}
    (run / "evaluation.json").write_text(json.dumps(told))


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Seeds 3 and 4 on scaled observations, of each of which two episodes were scored."""
    run = trains(
        tmp_path_factory.mktemp("run"), "iql", "--seeds", 2, "--seed", 3, "--normalize-obs"
    )
    evaluated(run, 40, [[90.0, 100.0], [10.0, 30.0]], [[3000.0, 3100.0], [300.0, 900.0]])
    return run


@pytest.fixture
def run(original, tmp_path):
    return Path(shutil.copytree(original, tmp_path / "run"))


def change(run: Path, **parts: dict[str, object]) -> None:
    """Edit the record of a run, as if it had begun so."""
    record = json.loads((run / "config.json").read_text())
    for name, part in parts.items():
        record[name] |= part
    for name in ("options_sha256", "settled_sha256"):
        record.pop(name, None)
    (run / "config.json").write_text(json.dumps(record))


def head(card: Path) -> dict:
    return yaml.safe_load(card.read_text().split("---\n")[1])


def snippets(card: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card, re.S)


@pytest.mark.parametrize("method", METHODS)
def test_every_policy_is_loaded_by_each_way_of_its_card(method, tmp_path, monkeypatch):
    run = trains(tmp_path, method, "--seeds", 2)
    to_hub(run, "--seed", 1, "--out", tmp_path / "here" / "policy")
    original, loaded = (iql_fast.load_policy(p) for p in (run, tmp_path / "here" / "policy"))
    other = iql_fast.load_policy(run, seed=1)
    rows = np.random.default_rng(0).normal(1, 3, (50, 11)).astype(np.float32)
    np.testing.assert_array_equal(loaded(rows), other(rows))
    assert np.abs(loaded(rows) - original(rows)).max() > 1e-4
    assert (loaded.seed, loaded.step, loaded.task) == (1, 40, "hopper-medium-v2")
    card = (tmp_path / "here" / "policy" / "README.md").read_text()
    monkeypatch.chdir(tmp_path / "here")
    found = []
    for code in snippets(card):
        names: dict[str, object] = {}
        exec(compile(code, "card", "exec"), names)
        assert names["action"].shape == (3,)
        found.append(names["policy"](rows))
    assert len(found) == 2
    for actions in found:
        np.testing.assert_array_equal(actions, other(rows))


def test_the_snippet_of_numpy_needs_nothing_else(run, tmp_path):
    to_hub(run, "--out", tmp_path / "policy")
    code = snippets((tmp_path / "policy" / "README.md").read_text())[1]
    after = "\nimport sys\nassert not {'iql_fast', 'torch'} & set(sys.modules)\nprint(action)"
    done = subprocess.run(
        [sys.executable, "-c", code + after], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    expected = iql_fast.load_policy(run)(np.zeros(11))
    assert done.stdout.strip() == str(expected)


def test_loading_the_folder_needs_no_torch(run, tmp_path):
    to_hub(run, "--out", tmp_path / "policy")
    script = (
        "import sys, iql_fast\n"
        "assert iql_fast.load_policy('policy')([0.0] * 11).shape == (3,)\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path)


def test_the_hubs_own_parsers_read_the_card(run, capsys):
    from huggingface_hub import ModelCard, metadata_load
    from huggingface_hub.repocard_data import eval_results_to_model_index

    to_hub(run)
    out = run / "hub-seed3"
    assert capsys.readouterr().out.splitlines() == [
        "hopper-medium-v2 (data.hdf5), seed 3, step 40: its actions are the policy's within 0",
        f"upload it with: hf upload USER/NAME {out}",
        str(out),
    ]
    assert {path.name for path in out.iterdir()} == {
        *("README.md", "config.json", "model.safetensors", "curves.png"),
    }
    card = ModelCard.load(out / "README.md")
    data = card.data
    assert (data.library_name, data.pipeline_tag) == ("iql-fast", "reinforcement-learning")
    assert data.tags == ["reinforcement-learning", "offline-rl", "iql", "hopper-medium-v2"]
    assert data.license is None
    assert "add" in card.text.split("## Licence")[1]
    found = {result.metric_type: result for result in data.eval_results}
    assert {kind: result.metric_value for kind, result in found.items()} == {
        "normalized_score": 95.0,
        "normalized_score_std": 5.0,
        "mean_return": 3050.0,
        "return_std": 50.0,
    }
    score = found["normalized_score"]
    assert score.task_type == "reinforcement-learning"
    assert score.dataset_name == "hopper-medium-v2 (data.hdf5)"
    assert score.dataset_type == "hopper-medium-v2-data.hdf5"
    assert "2 episode(s) of seed 3" in score.metric_name
    # And back: what the Hub would write is what stands there.
    stands = metadata_load(out / "README.md")
    again = eval_results_to_model_index(data.model_name, data.eval_results)
    assert again == stands["model-index"]
    assert yaml.safe_load(str(data)) == stands
    for text in ("| **3** (this policy) | 95.0 ± 5.0 | 3050.0 ± 50.0 | 2 |", "57.5 ± 37.5"):
        assert text in card.text
    assert "| 4 | 20.0 ± 10.0 | 600.0 ± 300.0 | 2 |" in card.text
    assert "arxiv.org/abs/2110.06169" in card.text


def test_whose_data_they_are_is_said(run, tmp_path):
    out = tmp_path / "policy"
    change(run, data={"origin": "regenerated", "title": "hopper-medium-v2 (regenerated)"})
    to_hub(run, "--out", out)
    text, top = (out / "README.md").read_text(), head(out / "README.md")
    assert "d4rl" not in top["tags"]
    (result,) = top["model-index"][0]["results"]
    assert result["dataset"]["type"] == "hopper-medium-v2-regenerated"
    assert result["dataset"]["name"] == "hopper-medium-v2 (regenerated)"
    assert "**Trained on regenerated data" in text
    assert "Published for" not in text

    change(run, data={"origin": "d4rl", "title": "hopper-medium-v2"})
    to_hub(run, "--out", out)
    text, top = (out / "README.md").read_text(), head(out / "README.md")
    assert "d4rl" in top["tags"]
    assert top["model-index"][0]["results"][0]["dataset"]["type"] == "hopper-medium-v2"
    assert "> **" not in text
    assert "Published for IQL on this dataset: paper 66.2" in text
    change(run, scoring={"physics": "gymnasium"})
    to_hub(run, "--out", out)
    text = (out / "README.md").read_text()
    assert "**Scored in the mechanics of the installed MuJoCo" in text
    assert "Published for" not in text


def test_a_run_without_scores_has_no_model_index_and_says_why(run, tmp_path, capsys):
    to_hub(run, "--checkpoint", 20, "--out", tmp_path / "policy")
    said = " ".join(capsys.readouterr().out.split())
    assert "note the card has no model-index, since step 20 was not scored." in said
    assert f"`python -m iql_fast.evaluate --run {run} --checkpoint 20` does it." in said
    assert "model-index" not in head(tmp_path / "policy" / "README.md")
    assert "has no model-index" in (tmp_path / "policy" / "README.md").read_text()
    change(run, scoring={"environment": None, "note": "the data name no environment"})
    to_hub(run, "--checkpoint", 20, "--out", tmp_path / "policy")
    said = " ".join(capsys.readouterr().out.split())
    assert "no model-index, since the data name no environment." in said


def test_scores_of_training_itself(run, tmp_path):
    (run / "evaluation.json").unlink()
    (run / "scores.csv").write_text(
        "step,seed,score,return,return_std,episodes\n"
        "20,3,1.0,2.0,3.0,4\n20,4,1.0,2.0,3.0,4\n40,3,30.0,1000.0,325.45723,5\n40,4,5.0,6.0,7.0,5\n"
    )
    to_hub(run, "--out", tmp_path / "policy")
    card = head(tmp_path / "policy" / "README.md")
    metrics = {m["type"]: m["value"] for m in card["model-index"][0]["results"][0]["metrics"]}
    assert metrics == {
        "normalized_score": 30.0,
        "normalized_score_std": 10.0,
        "mean_return": 1000.0,
        "return_std": 325.4572,
    }
    change(run, scoring={"measure": "success"})
    to_hub(run, "--out", tmp_path / "policy")
    card = head(tmp_path / "policy" / "README.md")
    metrics = {m["type"]: m["value"] for m in card["model-index"][0]["results"][0]["metrics"]}
    assert metrics["success_rate"] == 30.0
    assert metrics["success_rate_std"] == pytest.approx(np.std([0] * 7 + [100] * 3), abs=1e-3)
    change(run, scoring={"measure": "return", "reference": None})
    to_hub(run, "--out", tmp_path / "policy")
    card = head(tmp_path / "policy" / "README.md")
    metrics = card["model-index"][0]["results"][0]["metrics"]
    assert [m["type"] for m in metrics] == ["mean_return", "return_std"]


def test_a_damaged_evaluation_is_named(run):
    (run / "evaluation.json").write_text('{"step": 40, "seeds": [3], "scores": [1], "returns": 2}')
    with pytest.raises(UserError, match=r"evaluation.json is damaged .*iql_fast.evaluate"):
        to_hub(run)
    assert not list(run.glob("*hub*"))


def test_pictures_of_the_run_go_along(run, tmp_path, capsys):
    out = tmp_path / "policy"
    (run / "walk.gif").write_bytes(b"GIF89a film")
    (run / "paths.png").write_bytes(b"paths")
    to_hub(run, "--out", out)
    assert (out / "episode.gif").read_bytes() == b"GIF89a film"
    assert (out / "paths.png").read_bytes() == b"paths"
    text = (out / "README.md").read_text()
    for name in ("curves.png", "episode.gif", "paths.png"):
        assert f"]({name})" in text
    to_hub(run, "--out", out, "--seed", 4)
    assert "walk.gif is left out: it is of the run's first seed" in capsys.readouterr().out
    assert not (out / "episode.gif").exists()
    to_hub(run, "--out", out, "--checkpoint", 20)  # they are of the last
    assert not (out / "paths.png").exists()


def test_the_command_of_the_card_asks_for_the_same_run(run, tmp_path):
    to_hub(run, "--out", tmp_path / "policy")
    text = (tmp_path / "policy" / "README.md").read_text()
    (line,) = re.findall(r"```bash\n(python -m iql_fast.train .*)\n```", text)
    words = shlex.split(line)
    assert words[:3] == ["python", "-m", "iql_fast.train"]
    again = config.flat(config.completed(config.parse(words[3:])))
    stored = json.loads((run / "config.json").read_text())["options"]
    assert Path(again.pop("dataset")).name == Path(stored.pop("dataset")).name
    assert {k: x for k, x in again.items() if k not in config.FREE} == {
        k: x for k, x in stored.items() if k not in config.FREE
    }
    assert "--overwrite" not in line
    assert str(tmp_path) not in text  # nobody's folders
    assert str(run.parent) not in (tmp_path / "policy" / "config.json").read_text()


@pytest.mark.parametrize("method", METHODS)
def test_commands_of_other_settings(method):
    extra = {
        "iql": "--online-steps 30 --actor-schedule constant --expectile 0.6 0.8 --seeds 2",
        "td3_bc": "--no-td3-bc-normalize --td3-bc-alpha 1.5",
        "onestep": "--onestep-q-steps 15 --onestep-beta-steps 15",
    }.get(method, "--batch-size 32 --reward-scale 2")
    asked = ["--task", "hopper-medium-v2", "--method", method, "--steps", "100", *extra.split()]
    options = config.flat(config.completed(config.parse(asked)))
    words = shlex.split(model_card.command({"options": options}))[3:]
    assert config.flat(config.completed(config.parse(words))) == options


def test_a_name_cannot_write_into_the_card(run, tmp_path):
    title = "x](http://bad) | <script>`# \n---\nlicense: mit"
    change(run, data={"title": title, "origin": "file"}, options={"task": ""})
    to_hub(run, "--out", tmp_path / "policy")
    card = tmp_path / "policy" / "README.md"
    top = head(card)
    assert "license" not in top
    assert top["model-index"][0]["results"][0]["dataset"]["name"] == title
    body = card.read_text().split("\n---\n\n", 1)[1]
    assert "<script>" not in body.replace("\\<script\\>", "")
    assert "](http://bad)" not in body.replace("\\](", "")
    assert iql_fast.load_policy(tmp_path / "policy").data == title


def test_nothing_of_anybodys_is_replaced(run, tmp_path):
    out = tmp_path / "policy"
    out.mkdir()
    to_hub(run, "--out", out)  # an empty folder will do
    before = (out / "model.safetensors").read_bytes()
    to_hub(run, "--out", out, "--seed", 4)  # and so will a former export
    assert (out / "model.safetensors").read_bytes() != before
    for spoil in (
        lambda: (out / "notes.txt").write_text("mine"),
        lambda: (out / "README.md").write_text("license: mit"),
        lambda: (out / "curves.png").unlink(),
        lambda: (out / "config.json").write_text("{}"),
    ):
        shutil.rmtree(out)
        to_hub(run, "--out", out)
        spoil()
        held = {path.name: path.read_bytes() for path in out.iterdir()}
        with pytest.raises(UserError, match="no former export as it was written"):
            to_hub(run, "--out", out)
        assert {path.name: path.read_bytes() for path in out.iterdir()} == held
    file = tmp_path / "file"
    file.write_text("mine")
    for other in (file, run):
        with pytest.raises(UserError, match="no former export"):
            to_hub(run, "--out", other)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_folder_that_cannot_be_finished_is_not_there(run, tmp_path, monkeypatch):
    out = tmp_path / "policy"
    to_hub(run, "--out", out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(UserError, match=r"policy cannot be written \(No space left"):
        to_hub(run, "--out", out, "--seed", 4)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir() if "policy" in path.name] == ["policy"]


def test_a_run_that_is_replaced_takes_its_folder_along(run):
    to_hub(run)
    to_hub(run, "--seed", 4)
    (run / "hub-seed4" / "mine.txt").write_text("mine")
    folder.create(run, overwrite=True, needed_bytes=0)
    assert [path.name for path in run.glob("hub*")] == ["hub-seed4"]


def test_what_a_folder_does_not_hold(run, tmp_path):
    out = tmp_path / "policy"
    to_hub(run, "--out", out)
    with pytest.raises(UserError, match=r"has no seed 4: it holds one policy, of seed 3"):
        iql_fast.load_policy(out, seed=4)
    with pytest.raises(UserError, match=r"has no checkpoint 20: it holds one policy, of .* 40"):
        iql_fast.load_policy(out, checkpoint=20)
    assert iql_fast.load_policy(out, seed=3, checkpoint=40).step == 40


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("seed", "3"), ("task", None), ("step", True), ("data", 1)),
        *(("observation_layout", [["a", 3]]), ("observation_layout", 5)),
    ],
)
def test_settings_that_do_not_fit_are_refused(run, tmp_path, key, value):
    out = tmp_path / "policy"
    to_hub(run, "--out", out)
    told = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(told | {key: value}))
    with pytest.raises(UserError, match=rf"holds no whole policy: config.json has .*{key}"):
        iql_fast.load_policy(out)


def test_weights_that_do_not_fit_are_refused(run, tmp_path):
    from safetensors.numpy import load_file, save_file

    out = tmp_path / "policy"
    to_hub(run, "--out", out)
    weights = out / hub_folder.WEIGHTS
    whole = load_file(weights)
    for name, array in {
        "layers.1.weight": np.zeros((16, 5), np.float32),
        "layers.2.bias": np.zeros(4, np.float32),
        "action.middle": np.zeros(2, np.float32),
        "observation.scale": np.zeros(11, np.float32),
        "observation.mean": np.zeros((1, 11), np.float32),
    }.items():
        save_file(whole | {name: array}, weights)
        with pytest.raises(UserError, match=r"in model.safetensors, .* does not fit"):
            iql_fast.load_policy(out)
    for name in whole:
        save_file({key: array for key, array in whole.items() if key != name}, weights)
        with pytest.raises(UserError, match="holds no whole policy"):
            iql_fast.load_policy(out)
    weights.write_bytes(b"half")
    with pytest.raises(UserError, match=r"model.safetensors is damaged"):
        iql_fast.load_policy(out)
    weights.unlink()
    with pytest.raises(UserError, match=r"model.safetensors cannot be read"):
        iql_fast.load_policy(out)


def test_structured_observations_stay_so(run, tmp_path):
    out = tmp_path / "policy"
    record = json.loads((run / "config.json").read_text())
    record["observation_layout"] = [["robot/arm", 8], ["goal", 3]]
    record.pop("settled_sha256")
    (run / "config.json").write_text(json.dumps(record))
    to_hub(run, "--out", out)
    policy, row = iql_fast.load_policy(out), np.arange(11, dtype=np.float32)
    shown = {"robot": {"arm": row[:8]}, "goal": row[8:]}
    np.testing.assert_array_equal(policy(shown), policy(row))
    assert "`robot/arm` (8), `goal` (3)" in (out / "README.md").read_text()


@pytest.mark.parametrize("method", ["dt", "bcq"])
def test_a_policy_that_is_no_function_is_refused_as_in_other_formats(method, tmp_path):
    run = trains(tmp_path, method)
    with pytest.raises(UserError, match="could be exported"):
        to_hub(run)
    assert not list(run.glob("*hub*"))
