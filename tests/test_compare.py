"""``python -m iql_fast.compare``: scores side by side, over tasks, and one set against another."""

from __future__ import annotations

import json
import shlex
import sys

import numpy as np
import pytest

from iql_fast import compare
from iql_fast.runs import sets, settings, standing
from iql_fast.runs.config import TrainConfig, completed, flat, parse
from iql_fast.support.errors import UserError

from . import report_runs

CHEETAH = ("--task", "halfcheetah-medium-v2")
TD3 = ("--method", "td3_bc")


@pytest.fixture
def told(monkeypatch, tmp_path, capsys):
    """Runs the command in an empty folder; what it prints, each line's spaces as one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["compare", *map(str, arguments)])
        compare.main()
        return " ".join(capsys.readouterr().out.split())

    return run


def made(folder, *arguments, final, seeds=(0, 1)):
    """A run of one evaluation, with these scores of its seeds."""
    scores = {seed: [score] for seed, score in zip(seeds, final, strict=True)}
    options = ("--steps", "100", "--seeds", str(len(seeds)), "--seed", str(seeds[0]))
    return report_runs.write(folder, *options, *arguments, scores=scores)


@pytest.fixture
def four(tmp_path):
    return [
        made(tmp_path / "hopper-iql", final=(10.0, 30.0)),
        made(tmp_path / "cheetah-iql", *CHEETAH, final=(40.0, 42.0)),
        made(tmp_path / "hopper-td3", *TD3, final=(20.0, 20.0)),
        made(tmp_path / "cheetah-td3", *CHEETAH, *TD3, final=(40.0, 50.0)),
    ]


def test_scores_and_their_intervals(told, four, tmp_path):
    out = told(*four[:2])
    assert "hopper-iql │ hopper-medium-v2 (regenerated) │ 100 │ 2 │ 20.0 +- 10.0" in out
    assert "20.0 (10.0 to 30.0)" in out
    assert "IQL │ 2 │ 4 │ 35.0 (" in out  # the middle two of 10, 30, 40 and 42
    assert "All of them: steps 100, hidden 8." in out
    assert (tmp_path / "compare.png").read_bytes().startswith(b"\x89PNG")


def test_one_task_makes_no_table_over_tasks(told, four):
    assert "Over tasks" not in told(four[0])


def test_one_set_against_another(told, four):
    out = told(*four[:2], "--against", *four[2:])
    # hopper: one of two is higher; halfcheetah: (0.5 + 0 + 1 + 0) / 4.
    assert (
        "Probability that IQL scores higher than TD3+BC, over hopper-medium-v2 (regenerated), "
        "halfcheetah-medium-v2 (regenerated): 0.44 (" in out
    )


def test_a_task_of_one_side_alone_is_left_out(told, four):
    out = told(*four[:2], "--against", four[2])
    assert "over hopper-medium-v2 (regenerated): 0.50 (" in out
    assert "Left out, since one side alone has them: halfcheetah-medium-v2 (regenerated)." in out


def test_only_like_is_compared(told, four, tmp_path):
    own = made(tmp_path / "d4rl", final=(1.0, 2.0))
    record = json.loads((own / "config.json").read_text())
    record["data"]["return_mean"] = 3.0  # other data of the same name
    (own / "config.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="have no data in common"):
        told(own, "--against", four[2])
    with pytest.raises(UserError, match=r"named first are of several methods .*IQL.*; TD3\+BC"):
        told(four[0], four[2], "--against", four[1])
    with pytest.raises(UserError, match=r"of --against are of several"):
        told(four[1], "--against", four[0], four[2])
    with pytest.raises(UserError, match=r"is named first and with --against"):
        told(four[0], "--against", four[0])


def test_runs_of_other_seeds_join_a_set_and_the_same_seeds_do_not(tmp_path):
    runs = [
        made(tmp_path / "a", final=(1.0, 2.0)),
        made(tmp_path / "b", final=(3.0, 4.0), seeds=(2, 3)),
        made(tmp_path / "again", final=(1.0, 2.0)),
    ]
    (found,) = sets.gathered([standing.read(path) for path in runs], {})
    assert sorted(found.scores[0]) == [1.0, 2.0, 3.0, 4.0]
    assert found.twice == 2


def test_the_same_seeds_twice_are_said(told, tmp_path):
    pair = [made(tmp_path / name, final=(1.0, 2.0)) for name in ("a", "again")]
    out = told(*pair)
    assert "2 score(s) of IQL are left out over tasks: of seeds that another run has too" in out
    assert "left out over tasks" not in told(pair[0], pair[0])


def test_seeds_of_several_settings_are_of_several_sets(tmp_path):
    run = standing.read(made(tmp_path / "a", "--expectile", "0.7", "0.9", final=(1.0, 2.0)))
    found = sets.gathered([run], sets.shared_settings([run]))
    assert [one.label for one in found] == ["IQL", "IQL, expectile 0.9"]  # 0.7 is the default
    assert [one.scores for one in found] == [[[1.0]], [[2.0]]]


def test_returns_of_several_tasks_are_not_on_one_scale():
    problems = [sets.Problem(name, "gymnasium", "return", None) for name in "ab"]
    one = sets.ScoreSet("IQL", "", {problem: {0: 1.0} for problem in problems})
    assert one.middle() is None
    assert sets.ScoreSet("IQL", "", {problems[0]: {0: 1.0, 1: 2.0}}).middle().value == 1.5


@pytest.mark.parametrize(
    "arguments",
    [
        ["--task", "hopper-medium-v2"],
        ["--task", "antmaze-umaze-v2", "--seeds", "3", "--seed", "7", "--expectile", "0.5"],
        ["--task", "hopper-medium-v2", "--seeds", "2", "--temperature", "1", "3"],
        ["--task", "hopper-medium-v2", "--method", "td3_bc", "--td3-bc-alpha", "1.5"],
        ["--task", "hopper-medium-v2", "--normalize-obs", "--hidden", "64", "32", "16"],
        ["--method", "td3_bc", "--task", "hopper-medium-v2", "--no-td3-bc-normalize"],
        [
            "--dataset",
            "/data/it's <b>mine</b>.hdf5",
            "--env",
            "Hopper-v5",
            "--reference",
            "-1",
            "9",
        ],
        ["--task", "hopper-medium-v2", "--actor-schedule", "constant", "--online-steps", "500"],
        ["--task", "hopper-medium-v2", "--preset", "antmaze", "--physics", "gymnasium"],
        ["--task", "hopper-medium-v2", "--log-interval", "300", "--checkpoint-interval", "600"],
    ],
)
def test_the_command_of_a_run_asks_for_the_same_run(arguments):
    options = completed(parse(arguments))
    program, *again = shlex.split(settings.command(options).partition(" -m ")[2])
    assert program == "iql_fast.train"
    assert completed(parse(again)) == options
    assert len(again) <= len(arguments) + 4  # and names little else


def test_what_departs_from_the_defaults():
    options = completed(parse(["--task", "hopper-medium-v2", "--steps", "500", "--threads", "1"]))
    assert settings.departures(options) == {"steps": 500}
    assert settings.label(settings.of_seed(options, 0)) == "steps 500"
    assert settings.departures(completed(TrainConfig(task="hopper-medium-v2"))) == {}
    swept = completed(
        parse(["--task", "hopper-medium-v2", "--seeds", "2", "--expectile", "0.7", "0.9"])
    )
    assert settings.of_seeds(swept) == [{}, {"expectile": [0.9]}]
    assert settings.varying(swept) == [{"expectile": [0.7]}, {"expectile": [0.9]}]
    assert flat(swept)["expectile"] == [0.7, 0.9]


def test_a_run_that_goes_on_from_another_says_so():
    options = completed(
        parse(
            ["--task", "hopper-medium-v2", "--steps", "500", "--actor-schedule", "constant",
             "--online-steps", "70"]
        )
    )  # fmt: skip
    words = settings.command(options, "/runs/a b")
    assert words == "python -m iql_fast.finetune --run '/runs/a b' --online-steps 70"


def test_scores_that_are_missing_are_said(told, four):
    lines = (four[0] / "scores.csv").read_text().splitlines()
    (four[0] / "scores.csv").write_text("\n".join(lines[:-1]) + "\n")
    assert "lacks 1 of 2: the first is of step 100 and seed 1" in told(four[0])


def test_a_run_without_scores(told, four, tmp_path):
    bare = report_runs.write(tmp_path / "bare", "--steps", "100", scores=None)
    with pytest.raises(UserError, match="bare has no scores yet"):
        told(four[0], bare)


def test_the_interval_is_that_of_the_seeds(tmp_path):
    run = standing.read(made(tmp_path / "a", final=(1.0, 3.0, 8.0), seeds=(4, 5, 6)))
    assert run.final == {4: 1.0, 5: 3.0, 6: 8.0}
    assert np.mean(list(run.final.values())) == 4.0
