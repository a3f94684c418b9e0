"""Table 2: scores before and after fine-tuning, beside the published ones."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from iql_fast import table
from iql_fast.data import resolve
from iql_fast.runs import table2
from iql_fast.runs.folder import RunFolder
from iql_fast.runs.rows import read_rows
from iql_fast.runs.tables import REGENERATED, Row
from iql_fast.support.errors import UserError
from iql_fast.tasks import catalogue

from .test_binary_hands import hand_columns

MAZES, HANDS = table2.GROUPS["antmaze-v0 total"], table2.GROUPS["hand-v0 total"]
QUICK = (
    *("--eval-episodes", 1, "--eval-workers", 1, "--threads", 1, "--offline"),
    *("--log-interval", 20, "--eval-interval", 20, "--checkpoint-interval", 20),
)


def change(task, before, after, mark=""):
    """A line of two seeds."""
    return table2.Change(
        *(
            Row(task, task + mark, scores, (2.0, 0.5), table2.published_for(when, task))
            for when, scores in (("before", before), ("after", after))
        )
    )


def cells(text):
    """Label -> the cells of its line."""
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {row[0]: row[1:] for row in rows}


def test_the_totals_of_the_published_rows():
    """Added up by hand."""
    found = cells(table2.markdown({}, "title", "note"))
    assert found["antmaze-v0 total"] == ["107.7 -> 108.3", "149.2 -> 231.1", "374.8 -> 437.5"]
    assert found["hand-v0 total"] == ["46.7 -> 103.1", "31.5 -> 9.9", "38.1 -> 124.0"]
    assert found["total"] == ["154.4 -> 211.4", "180.7 -> 241.0", "412.9 -> 561.5"]
    assert list(found)[:1] == ["AWAC (paper)"]  # the heading, whose label is empty
    assert list(found)[1:10] == [*MAZES, *HANDS]


def test_every_task_gives_every_total():
    changes = [change(task, (i, i + 2), (10, 20)) for i, task in enumerate((*MAZES, *HANDS))]
    whole = table2.totals(changes)
    assert [c.label for c in whole] == list(table2.GROUPS)
    assert [c.before.mean for c in whole] == [15 + 6, 21 + 3, 36 + 9]
    assert [c.before.std for c in whole] == [6, 3, 9]  # seeds add up: they are the same
    assert [c.after.scores for c in whole] == [(60, 120), (30, 60), (90, 180)]
    assert whole[0].after.published["IQL (paper)"] == pytest.approx(437.5)
    assert [c.label for c in table2.totals(changes[:2])] == ["total of 2"]
    assert table2.totals(changes[:6])[0].before.published == pytest.approx(
        {"AWAC (paper)": 107.7, "CQL (paper)": 149.2, "IQL (paper)": 374.8}
    )


def test_methods_side_by_side():
    ours = {
        "IQL": [change("pen-binary-v0", (30, 32), (60, 64), " (p.npz)")],
        "AWAC": [
            change("pen-binary-v0", (1, 3), (5, 5), " (p.npz)"),
            change("antmaze-umaze-v0", (7, 7), (8, 9), REGENERATED),
        ],
    }
    text = table2.markdown(ours, "title", "note")
    found = cells(text)
    assert text.splitlines()[4] == (
        "| | IQL (iql_fast) | AWAC (iql_fast) | AWAC (paper) | CQL (paper) | IQL (paper) |"
    )
    paper = ["44.6 -> 70.3", "31.2 -> 9.9", "37.4 -> 60.7"]
    both = ["31.0 +- 1.0 -> 62.0 +- 2.0", "2.0 +- 1.0 -> 5.0 +- 0.0"]
    assert found["pen-binary-v0 (p.npz)"] == both + paper
    assert found["antmaze-umaze-v0 (regenerated)"][:2] == ["-", "7.0 +- 0.0 -> 8.5 +- 0.5"]
    assert found["total of 2 (regenerated)"][:2] == ["-", "9.0 +- 1.0 -> 13.5 +- 0.5"]
    assert found["door-binary-v0"][:3] == ["-", "-", "1.3 -> 30.1"]  # not trained, published
    assert "pen-binary-v0" not in found
    assert found["minutes a task, all seeds (training alone)"][:2] == ["2.5 (2.0)"] * 2
    assert {line.count("|") for line in text.splitlines()[4:]} == {7}
    told = table2.numbers(ours)
    assert told["IQL"]["after"]["rows"][0]["scores"] == (60, 64)
    assert told["IQL"]["after"]["interquartile_mean"]["mean"] == 62


def test_files_of_a_table(tmp_path):
    ours = {"CQL": [change("door-binary-v0", (0, 4), (10, 30)), change("my-task", (1, 1), (1, 1))]}
    table2.write_csv(tmp_path / "table.csv", ours)
    lines = list(csv.DictReader((tmp_path / "table.csv").open()))
    assert [line["task"] for line in lines] == ["door-binary-v0", "my-task", "total of 2"]
    told = {key: lines[0][key] for key in ("mean_before", "std_before", "mean_after", "std_after")}
    assert list(told.values()) == ["2.000", "2.000", "20.000", "10.000"]
    assert (lines[0]["CQL (paper) before"], lines[0]["CQL (paper) after"]) == ("0.2", "0.0")
    assert lines[1]["IQL (paper) after"] == lines[2]["IQL (paper) after"] == ""
    table2.draw(tmp_path / "table.png", ours, "title")
    assert (tmp_path / "table.png").read_bytes().startswith(b"\x89PNG")


def test_a_line_is_of_the_seam_and_of_the_end():
    summary = {
        "title": "pen-binary-v0 (p.npz)",
        "seconds": {"training": 120.0, "evaluation": 30.0, "records": 1.0},
        "scores": {"final": {"per_seed": {"0": 3.0, "1": 4.0}}},
        "online": {
            "before": {"per_seed": {"0": 1.0, "1": 2.0}},
            "after": {"per_seed": {"0": 5.0, "1": 6.0}},
        },
    }
    found = table2.line("pen-binary-v0", summary)
    assert (found.task, found.label) == ("pen-binary-v0", "pen-binary-v0 (p.npz)")
    assert (found.before.scores, found.after.scores) == ((1.0, 2.0), (5.0, 6.0))
    assert found.minutes == (2.0, 0.5)
    assert found.after.published["AWAC (paper)"] == 70.3


def test_what_is_asked_of_each_task():
    asked = table.Options(fine_tuning=True, methods=("all",))
    runs = table.runs_of(asked)
    assert set(runs) == {(t, m) for t in (*MAZES, *HANDS) for m in ("iql", "awac", "cql")}
    maze, hand = runs["antmaze-umaze-v0", "iql"], runs["pen-binary-v0", "iql"]
    assert (maze.updates, maze.online.online_steps, maze.schedule_steps) == (10**6, 10**6, 0)
    assert (hand.updates, hand.online.online_steps, hand.schedule_steps) == (25_000, 10**6, 0)
    assert str(asked.folder) == "runs/table2"
    assert table2.about(runs.values()) == (
        "Table 2: 25,000 or 1,000,000 steps offline, then 1,000,000 in the environment, 10 seed(s)"
    )
    given = table.Options(fine_tuning=True, steps=7, online_steps=3, tasks=("pen-binary-v0",))
    (run,) = table.runs_of(given).values()
    assert (run.updates, run.online.online_steps) == (7, 3)
    with pytest.raises(UserError, match=r"td3_bc is not fine-tuned; these are: iql, awac, cql"):
        table.runs_of(table.Options(fine_tuning=True, methods=("td3_bc",)))
    with pytest.raises(UserError, match="--online-steps is 0"):
        table.runs_of(table.Options(fine_tuning=True, online_steps=0))


def test_hands_without_data_do_not_stop_the_others(tmp_path, capsys):
    asked = table.Options(fine_tuning=True, out=tmp_path / "table", offline=True)
    found = table.with_data(table.runs_of(asked), asked)
    assert [name for name, _ in found] == list(MAZES)  # which can be regenerated
    said = capsys.readouterr().out.splitlines()
    assert [line.split(" is left out: ")[0] for line in said] == list(HANDS)
    assert "relocate2_sparse.npy" in said[2]
    assert str(resolve.downloaded_path(catalogue.get("relocate-binary-v0"))) in said[2]


def test_the_published_table_alone(capsys):
    table.main(["--fine-tuning", "--published"])
    shown = capsys.readouterr().out
    assert shown.startswith("# Table 2 as it was published\n")
    assert "| total | 154.4 -> 211.4 | 180.7 -> 241.0 | 412.9 -> 561.5 |" in shown


def test_a_hand_is_trained_and_its_table_gone_on_with(tmp_path, capsys):
    place = resolve.downloaded_path(catalogue.get("pen-binary-v0"))
    place.parent.mkdir(parents=True)
    np.savez(place, **hand_columns())
    out = tmp_path / "table"
    asked = [
        *("--fine-tuning", "--tasks", "door-binary-v0", "pen-binary-v0", "--seeds", 2),
        *("--steps", 40, "--online-steps", 20, *QUICK, "--out", out),
    ]
    table.main(list(map(str, asked)))
    shown = capsys.readouterr().out
    assert shown.startswith("door-binary-v0 is left out: There are no data for door-binary-v0")
    label = "pen-binary-v0 (pen-binary-v0.npz)"
    summary = json.loads((out / "pen-binary-v0" / "summary.json").read_text())
    (line, total) = csv.DictReader((out / "table.csv").open())
    assert (line["task"], total["task"]) == (label, "total of 1")
    for when in ("before", "after"):
        scores = list(summary["online"][when]["per_seed"].values())
        assert all(0 <= score <= 100 for score in scores)
        assert float(line[f"mean_{when}"]) == pytest.approx(np.mean(scores), abs=1e-3)
        assert float(line[f"std_{when}"]) == pytest.approx(np.std(scores), abs=1e-3)
    text = (out / "table.md").read_text()
    assert text.strip() in shown
    assert "Table 2: 40 steps offline, then 20 in the environment, 2 seed(s)" in text
    assert cells(text)[label][-3:] == ["44.6 -> 70.3", "31.2 -> 9.9", "37.4 -> 60.7"]
    rows = read_rows(out / "pen-binary-v0" / "scores.csv")
    assert sorted({int(row["step"]) for row in rows}) == [20, 40, 60]

    # Stopped before its end, it is gone on with; then nothing is left to do.
    scores = (out / "pen-binary-v0" / "scores.csv").read_text()
    RunFolder(out / "pen-binary-v0").summary.unlink()
    table.main(list(map(str, asked)))
    assert "resumed from step 60" in capsys.readouterr().out
    assert (out / "pen-binary-v0" / "scores.csv").read_text() == scores
    place.unlink()
    table.main(list(map(str, asked)))
    assert "steps/s" not in capsys.readouterr().out
    with pytest.raises(UserError, match="holds a run with other options"):
        table.main([*map(str, asked), "--seeds", "1"])
