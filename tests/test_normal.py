"""Runs beside our own: only like with like, and what is said of where a score lies."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from iql_fast.runs import curves, normal, standing
from iql_fast.support.errors import UserError
from iql_fast.tasks import reference_curves
from tools import reference_curves as tool

from . import report_runs

STEPS = ("--steps", "300", "--seeds", "2")
OURS = {0: [10.0, 20.0, 50.0], 1: [12.0, 30.0, 58.0]}


@pytest.fixture
def ours(tmp_path, monkeypatch):
    """Two runs of our own in a folder, in place of those of the package."""
    report_runs.write(tmp_path / "ours", *STEPS, scores=OURS)
    tool.add([tool.checked(tmp_path / "ours")], tmp_path / "curves")
    found = tuple(
        reference_curves.from_record(json.loads(path.read_text()))
        for path in (tmp_path / "curves").iterdir()
    )
    monkeypatch.setattr(reference_curves, "ours", lambda: found)
    return found


def said(tmp_path, *arguments, scores, **options):
    arguments = arguments or ("--steps", "300")
    path = report_runs.write(tmp_path / "theirs", *arguments, scores=scores, **options)
    return normal.sentence(standing.read(path))


def test_those_of_the_package_are_read_and_can_be_written_again():
    for curves_ in reference_curves.ours():
        again = reference_curves.from_record(json.loads(json.dumps(curves_.record())))
        assert again == curves_
        assert all(len(curve.scores) == len(curves_.steps) for curve in curves_.curves.values())


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        # Of ours the means are 26.67 and 33.33.
        ([20.0, 30.0, 40.0], "30.0 after 300 steps: within the range of our 2 runs (26.7 to "),
        ([0.0, 0.0, 3.0], "1.0 after 300 steps: below all of our 2 runs (26.7 to 33.3), which "
         "chance alone does once in 3. Look at the notes on its data, and at its losses and "),
        ([90.0, 90.0, 90.0], "above all of our 2 runs (26.7 to 33.3), which chance alone does once "
         "in 3."),
    ],
)  # fmt: skip
def test_where_a_score_lies(ours, tmp_path, scores, words):
    assert words in said(tmp_path, scores={0: scores})


def test_several_seeds(ours, tmp_path):
    two = {0: [0.0] * 3, 1: [1.0] * 3}
    words = said(tmp_path, *STEPS, scores=two)
    assert "below all of our 2 runs (26.7 to 33.3), which chance alone does once in 6." in words


def test_seeds_that_lie_apart(ours, tmp_path):
    words = said(tmp_path, *STEPS, scores={0: [0.0] * 3, 1: [30.0] * 3})
    assert "15.0 after 300 steps: below the range of our 2 runs" in words
    assert "though not all seeds are" in words


def test_a_run_under_way_is_held_against_ours_at_its_step(ours, tmp_path):
    words = said(tmp_path, scores={0: [11.0, 21.0]}, finished=False)
    assert words == "16.0 after 200 steps: within the range of our 2 runs (15.0 to 21.0)."


def test_versions_that_differ_are_named(ours, tmp_path, monkeypatch):
    monkeypatch.setitem(report_runs.VERSIONS, "torch", "3.0.0")
    assert "Versions that differ: torch 3.0.0 (ours 2.13.0)." in said(
        tmp_path, scores={0: [0.0] * 3}
    )


@pytest.mark.parametrize(
    ("arguments", "options", "why"),
    [
        (("--steps", "400"), {}, "ours were trained for 300 steps"),
        (("--steps", "300", "--expectile", "0.9"), {}, "ours were trained with hidden 8"),
        (
            ("--steps", "300", "--method", "td3_bc"),
            {},
            "no runs of our own of this task and method",
        ),
        (("--steps", "300"), {"data": {"seed": 1}}, "regenerated data of another recipe or seed"),
        (("--steps", "300"), {"data": {"path": "/x/y-0000aaaa.hdf5"}}, "of another recipe or seed"),
        (("--steps", "300"), {"data": {"origin": "d4rl"}}, "data of the origin regenerated"),
        (("--steps", "300"), {"data": {"origin": "file"}}, "its data are a file of your own"),
        (("--steps", "300"), {"scored": False}, "it is not scored"),
        ((*STEPS, "--expectile", "0.6", "0.7"), {}, "its seeds have settings of their own"),
    ],
)
def test_only_like_is_compared_with_like(ours, tmp_path, arguments, options, why):
    scores = {seed: [30.0] * 4 for seed in (0, 1)}
    words = said(tmp_path, *arguments, scores=scores, **options)
    assert words.startswith("No comparison with runs of our own: ")
    assert why in words


def test_before_the_first_evaluation(ours, tmp_path):
    words = said(tmp_path, scores=None, finished=False)
    assert "there is no evaluation yet at a step at which ours were scored" in words


def test_gymnasiums_mechanics_are_those_of_a_version(ours, tmp_path, monkeypatch):
    run = standing.read(tmp_path / "ours")
    kinds = [
        normal.kind_of(run.options, run.record["data"], place, version)
        for place in (run.scoring, replace(run.scoring, physics="gymnasium"))
        for version in ("3.17.0", "3.18.0")
    ]  # fmt: skip
    assert kinds[0] == kinds[1]
    assert kinds[2].differs(kinds[3]) == ["simulator"]


def test_the_band_is_drawn_behind_the_scores(ours, tmp_path):
    run = standing.read(tmp_path / "ours")
    band = normal.band(run.options, run.record["data"], run.scoring, "3.17.0")
    assert (band.runs, band.steps.tolist()) == (2, [100, 200, 300])
    np.testing.assert_array_equal(band.low, [10.0, 20.0, 50.0])
    np.testing.assert_array_equal(band.high, [12.0, 30.0, 58.0])
    pictures = []
    for shown in (None, band):
        out = tmp_path / "curves.png"
        curves.draw(out, "t", run.folder.metrics, run.folder.scores, {}, "score", ours=shown)
        with Image.open(out) as picture:
            pictures.append(np.array(picture.convert("RGB").resize((300, 200))).astype(int))
    assert np.abs(pictures[0] - pictures[1]).max() > 30


# The tool.


def test_a_run_of_the_same_kind_replaces_its_seeds_and_keeps_the_others(ours, tmp_path, capsys):
    folder = tmp_path / "curves"
    again = report_runs.write(
        tmp_path / "again", "--steps", "300", "--seeds", "2", "--seed", "1",
        scores={1: [1.0, 2.0, 3.004], 2: [4.0, 5.0, 6.0]},
    )  # fmt: skip
    tool.add([tool.checked(again)], folder)
    (path,) = folder.iterdir()
    assert capsys.readouterr().out.splitlines()[-1] == f"{path}: seeds 0, 1, 2"
    found = reference_curves.from_record(json.loads(path.read_text()))
    assert {seed: list(curve.scores) for seed, curve in found.curves.items()} == {
        0: OURS[0], 1: [1.0, 2.0, 3.0], 2: [4.0, 5.0, 6.0]
    }  # fmt: skip


def test_another_kind_gets_a_file_of_its_own(ours, tmp_path):
    other = report_runs.write(
        tmp_path / "o", "--steps", "300", "--expectile", "0.9", scores={0: [1.0] * 3}
    )
    tool.add([tool.checked(other)], tmp_path / "curves")
    assert len(list((tmp_path / "curves").iterdir())) == 2


def test_what_is_no_measure_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    good = report_runs.write(tmp_path / "good", *STEPS, scores=OURS)
    open_ = report_runs.write(tmp_path / "open", *STEPS, scores=OURS, finished=False)
    own = report_runs.write(tmp_path / "own", *STEPS, scores=OURS, data={"origin": "file"})
    bare = report_runs.write(tmp_path / "bare", "--steps", "300", scores=None)
    cut = report_runs.write(tmp_path / "cut", *STEPS, scores={0: [1.0] * 2, 1: [1.0] * 2})
    for path, why in (
        (open_, "has not ended"), (own, "a file of your own"), (bare, "is not whole"),
        (cut, "is not whole: .*scores.csv lacks 2 of 6"),
    ):  # fmt: skip
        folder = tmp_path / "none"
        arguments = ["reference_curves.py", str(good), str(path), "--folder", str(folder)]
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(UserError, match=why):
            tool.main()
        assert not folder.exists()


def test_other_steps_are_refused(ours, tmp_path):
    other = report_runs.write(
        tmp_path / "o", *STEPS, "--seed", "5", "--eval-interval", "300",
        scores={5: [1.0], 6: [1.0]},
    )  # fmt: skip
    text = (other / "scores.csv").read_text().replace("\n100,", "\n300,")
    (other / "scores.csv").write_text(text)
    with pytest.raises(UserError, match="was scored at other steps"):
        tool.add([tool.checked(other)], tmp_path / "curves")
