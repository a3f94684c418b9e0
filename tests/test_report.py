"""``python -m iql_fast.report``: what the page tells, and that nothing of a run becomes markup."""

from __future__ import annotations

import json
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from iql_fast import report
from iql_fast.reports import content, details, jobs, pictures
from iql_fast.runs import folder, standing
from iql_fast.support.errors import UserError
from iql_fast.tasks import reference_curves
from tools import reference_curves as tool

from . import extras, report_runs

TWO = ("--steps", "300", "--seeds", "2")
SCORES = {0: [10.0, 20.0, 50.0], 1: [12.0, 30.0, 58.0]}
ODD = "<b>x</b> & \"q\" 'p' </script><!-- {{ 7 * 7 }}"


@pytest.fixture
def run(tmp_path):
    return report_runs.write(tmp_path / "run", *TWO, scores=SCORES)


@pytest.fixture
def page(tmp_path, monkeypatch, capsys):
    """Runs the command and gives the text of the page that it wrote."""
    extras.needed("bokeh", "jinja2")
    monkeypatch.chdir(tmp_path)

    def made(*arguments):
        monkeypatch.setattr(sys, "argv", ["report", *map(str, arguments), "--films", "0"])
        report.main()
        out = capsys.readouterr().out.splitlines()[-1]
        return (tmp_path / out).read_text()

    return made


class Words(HTMLParser):
    """What a reader sees of a page, and the elements in it."""

    def __init__(self, text):
        super().__init__()
        self.words, self.elements, self._inside = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag in ("script", "style"):
            self._inside.append(tag)

    def handle_endtag(self, tag):
        if self._inside and tag == self._inside[-1]:
            self._inside.pop()

    def handle_data(self, data):
        if not self._inside:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def seen(text):
    return Words(text).text


def test_a_page_tells_what_there_is(run, page):
    text = seen(page(run))
    for words in (
        "hopper-medium-v2 (regenerated)", "finished", "30.0 ± 3.3", "30.0 (26.7 to 33.3)",
        "66.2 on D4RL's data", "CORL 67.5", "return mean 1479.5", "torch 2.13.0",
        "a processor", "python -m iql_fast.train --task hopper-medium-v2 --steps 300 --seeds 2 "
        "--hidden 8", "be897bfa",
    ):  # fmt: skip
        assert words in text, words
    assert "All of them: steps 300, hidden 8." in text


def test_nothing_is_asked_of_the_network(run, page):
    text = page(run)
    parsed = Words(text)
    for tag, attributes in parsed.elements:
        for name in ("src", "href", "srcset", "data", "action"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:")), (tag, value)
    policy = next(a["content"] for t, a in parsed.elements if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy
    assert "'unsafe-inline'" not in policy.partition("script-src")[2].partition(";")[0]
    assert not re.search(
        r"@import|url\((?!data:)", re.search(r"<style>(.*?)</style>", text, re.S)[1]
    )


def test_what_comes_from_a_run_becomes_no_markup(tmp_path, page):
    named = tmp_path / "a <b>x</b> {{ 7 * 7 }}".replace("/", "")
    run = report_runs.write(
        named, "--steps", "300", "--seeds", "2", scores=SCORES,
        data={"title": ODD, "path": ODD, "notes": [ODD], ODD: ODD, "origin": "file"},
    )  # fmt: skip
    record = json.loads((run / "config.json").read_text())
    record |= {"engine": ODD, "engine_because": ODD, "versions": {ODD: ODD}, "machine": {ODD: ODD}}
    record["goes_on_from"] = {"path": ODD}
    record["scoring"]["published"] = {ODD: 5.0}
    del record["settled_sha256"]
    (run / "config.json").write_text(json.dumps(record))
    (run / "summary.json").unlink()
    (run / "failure.json").write_text(json.dumps({ODD: ODD, "statistics": {ODD: ODD}}))
    text = page(run)
    parsed = Words(text)
    assert {tag for tag, _ in parsed.elements} <= {
        *("html", "head", "meta", "title", "style", "body", "header", "main", "nav", "section"),
        *("h1", "h2", "h3", "h4", "p", "a", "div", "table", "thead", "tbody", "tr", "th", "td"),
        *("button", "svg", "line", "path", "circle", "span", "small", "br", "ul", "li", "b"),
        *("dl", "dt", "dd", "figure", "figcaption", "output", "details", "summary", "pre", "code"),
        *("noscript", "script", "img"),
    }
    assert sum(tag == "script" for tag, _ in parsed.elements) == 3
    # <b> is the page's own, around the names of runs; none has "x" in it alone.
    assert not re.search(r"<b>x", text)
    assert "49" not in re.findall(r"<h1>(.*?)</h1>", text)[0]
    assert parsed.text.count("</script><!-- {{ 7 * 7 }}") >= 8


def test_a_run_that_goes_on_and_one_that_failed(tmp_path, page):
    begun = report_runs.write(tmp_path / "begun", *TWO, scores={0: [1.0], 1: [2.0]}, finished=False)
    failed = report_runs.write(tmp_path / "failed", *TWO, scores=None, finished=False)
    told = {"step": 7, "seed": 1, "network": "critic", "statistics": {"reward max": 3.5}}
    (failed / "failure.json").write_text(json.dumps(told))
    text = seen(page(begun, failed))
    assert "not finished: 100 of 300 steps" in text
    assert "failed: 100 of 300 steps" in text
    assert "network critic" in text
    assert "reward max 3.5" in text


def test_a_run_that_has_done_nothing_yet(tmp_path, page):
    bare = report_runs.write(tmp_path / "bare", *TWO, scores=None, scored=False, finished=False)
    (bare / "metrics.csv").unlink()
    text = seen(page(bare))
    assert "not finished: 0 of 300 steps" in text
    assert "No comparison with runs of our own: it is not scored." in text
    assert "No picture: the run has no simulator (the data name no environment)." in text


def test_fine_tuning(tmp_path, page):
    run = report_runs.write(
        tmp_path / "tuned", "--steps", "200", "--seeds", "2", "--actor-schedule", "constant",
        "--online-steps", "200", scores={0: [1.0, 10.0, 3.0, 40.0], 1: [1.0, 20.0, 3.0, 60.0]},
    )  # fmt: skip
    lines = [f"{step},{step % 2},50.0,{step}" for step in range(201, 400, 3)]
    (run / "episodes.csv").write_text("\n".join(["step,seed,return,length", *lines]) + "\n")
    text = seen(page(run))
    assert "15.0 before, 50.0 after" in text
    assert "sampled actions in training, means of 20 episodes" in text
    assert "where training goes on in the environment" in text
    (group,) = content.groups(jobs.of_paths([run]))
    assert (group.seam, len(group.acted[0])) == (200, len(lines))


def test_our_own_runs_stand_behind(run, tmp_path, page, monkeypatch):
    tool.add([tool.checked(run)], tmp_path / "curves")
    (path,) = (tmp_path / "curves").iterdir()
    found = reference_curves.from_record(json.loads(path.read_text()))
    monkeypatch.setattr(reference_curves, "ours", lambda: (found,))
    text = seen(page(run))
    assert "30.0 after 300 steps: within the range of our 2 runs (26.7 to 33.3)." in text
    assert "our own runs, lowest to highest" in text


def test_sets_over_tasks(tmp_path, page):
    paths = []
    for task, low in (("hopper-medium-v2", 10.0), ("halfcheetah-medium-v2", 40.0)):
        for method, more in (("iql", 0.0), ("td3_bc", 5.0)):
            scores = {0: [low + more], 1: [low + more + 2.0]}
            arguments = ("--task", task, "--method", method, "--steps", "100", "--seeds", "2")
            paths.append(
                report_runs.write(tmp_path / f"{task}-{method}", *arguments, scores=scores)
            )
    text = seen(page(*paths))
    assert "IQL 2 4 26.0 (25.0 to 27.0)" in text
    assert "IQL - 0.00 (0.00 to 0.00)" in text
    assert "TD3+BC 1.00 (1.00 to 1.00) -" in text


# Sweeps.


@pytest.fixture
def sweep(tmp_path):
    """Two expectiles of two seeds in two runs, and a job that has not begun."""
    place = tmp_path / "sweep"
    listed = []
    for number, first in enumerate((0, 2)):
        values = [0.6, 0.8]
        seeds = [first, first + 1]
        report_runs.write(
            place / f"run{number}", "--steps", "300", "--seeds", "2", "--seed", str(first),
            "--expectile", *map(str, values),
            scores={seed: [10.0 * seed + x for x in range(3)] for seed in seeds},
            finished=number == 0,
        )  # fmt: skip
        listed.append(
            {"name": f"job {number}", "folder": f"run{number}", "task": "hopper-medium-v2",
             "method": "iql", "seeds": seeds, "settings": [{"expectile": v} for v in values]}
        )  # fmt: skip
    listed.append({**listed[0], "name": "job 2", "folder": "run2", "method": "td3_bc",
                   "settings": [{"td3_bc_alpha": 1.0}, {"td3_bc_alpha": 1.0}]})  # fmt: skip
    (place / "sweep.json").write_text(json.dumps({"jobs": listed}))
    return place


def test_seeds_of_a_sweep_are_grouped_by_setting(sweep):
    groups = content.groups(jobs.of_paths([sweep]))
    assert [(g.label.partition(", ")[2], g.seeds) for g in groups] == [
        ("IQL, expectile 0.6", 2),
        ("IQL, expectile 0.8", 2),
        ("TD3+BC, td3 bc alpha 1", 2),
    ]
    # Seeds 0 and 2 have the first value, whose scores average 1 and 21.
    assert groups[0].final.mean == pytest.approx(11.0)
    np.testing.assert_array_equal(groups[0].curves["score"].values, [[0, 20], [1, 21], [2, 22]])
    assert groups[0].state == "1 of 2 runs finished; job 1 not finished: 300 of 300 steps"
    assert groups[2].state == "not begun"
    assert groups[2].final is None


def test_the_page_of_a_sweep(sweep, page):
    text = seen(page(sweep))
    assert (sweep / "report.html").exists()
    assert "IQL, expectile 0.8" in text
    assert "not begun" in text
    assert "3 runs, made" in text


def test_a_job_that_cannot_be_read_leaves_the_others(sweep):
    (sweep / "run1" / "config.json").write_text("{")
    found = jobs.of_paths([sweep])
    assert [job.run is None for job in found] == [False, True, True]
    assert "config.json is damaged" in found[1].missing


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda jobs_: jobs_.clear(), "'jobs' is not a list of jobs"),
        (lambda jobs_: jobs_[1].pop("folder"), "job 2 has no 'folder'"),
        (lambda jobs_: jobs_[0].update(seeds=[1]), "job 1 does not have 'settings' for each"),
        (lambda jobs_: jobs_[0].update(seeds=["a", "b"]), "job 1 does not have 'settings'"),
        (lambda jobs_: jobs_.append(None), "job 4 has no 'name'"),
    ],
)
def test_a_list_of_jobs_that_is_none(sweep, change, message):
    listed = json.loads((sweep / "sweep.json").read_text())
    change(listed["jobs"])
    (sweep / "sweep.json").write_text(json.dumps(listed))
    with pytest.raises(UserError, match=message):
        jobs.of_paths([sweep])


def test_a_job_of_other_seeds(sweep):
    listed = json.loads((sweep / "sweep.json").read_text())
    listed["jobs"][0]["seeds"] = [5, 6]
    (sweep / "sweep.json").write_text(json.dumps(listed))
    assert "holds a run of other seeds" in jobs.of_paths([sweep])[0].missing


# What comes in, and where it goes.


def test_what_is_no_run_is_refused(tmp_path, page):
    with pytest.raises(UserError, match="nowhere is not the folder of a run"):
        page(tmp_path / "nowhere")
    with pytest.raises(UserError, match="Name the folders"):
        page()


def test_only_a_former_report_is_replaced(run, tmp_path, page):
    page(run)
    page(run)  # its own
    (tmp_path / "mine.html").write_text("<p>mine</p>")
    with pytest.raises(UserError, match=r"mine.html exists and is no former report"):
        page(run, "--out", "mine.html")
    assert (tmp_path / "mine.html").read_text() == "<p>mine</p>"
    with pytest.raises(UserError, match="is a folder"):
        page(run, "--out", tmp_path)


def test_a_new_run_in_its_place_removes_the_report_and_no_other_page(run, page):
    page(run)
    folder.create(run, True, 0)
    assert not (run / "report.html").exists()
    (run / "config.json").write_text("{}")
    (run / "report.html").write_text("<p>mine</p>")
    folder.create(run, True, 0)
    assert (run / "report.html").exists()


def test_without_the_extra(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bokeh.resources", None)
    monkeypatch.setattr(sys, "argv", ["report", str(run)])
    with pytest.raises(UserError, match=r"pip install 'iql-fast\[report\]'"):
        report.main()
    assert not (run / "report.html").exists()


def test_runs_of_one_name_are_told_apart(tmp_path):
    paths = [report_runs.write(tmp_path / x / "run", *TWO, scores=SCORES) for x in "ab"]
    assert [job.name for job in jobs.of_paths([*paths, paths[0]])] == [str(p) for p in paths]


# Pictures.


def test_the_paths_that_a_run_drew(run):
    (run / "paths.png").write_bytes(b"\x89PNG\r\n\x1a\n...")
    picture = pictures.of_run(standing.read(run), filmed=False)
    assert picture.media == ("image/png", b"\x89PNG\r\n\x1a\n...")
    (run / "paths.png").write_bytes(b"<svg onload=x>")
    assert "is not one that a run draws" in pictures.of_run(standing.read(run), filmed=False)


@pytest.mark.parametrize("environment", ['{"id": "x"}', "os:Popen-v0"])
def test_no_code_that_a_run_names_is_imported(run, environment):
    record = json.loads((run / "config.json").read_text())
    record["scoring"]["environment"] = environment
    del record["settled_sha256"]
    (run / "config.json").write_text(json.dumps(record))
    said = pictures.of_run(standing.read(run), filmed=True)
    assert said.startswith("Not filmed, since the run names the code of its environment")


def test_where_nothing_can_be_filmed_the_page_says_why(run, monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "disable")
    said = pictures.of_run(standing.read(run), filmed=True)
    assert said.startswith("Not filmed: ")
    assert "checkpoint" in said


def test_settings_that_tell_something_come_first(tmp_path):
    paths = [
        report_runs.write(tmp_path / "a", *TWO, scores=SCORES),
        report_runs.write(tmp_path / "b", *TWO, "--temperature", "1", scores=SCORES),
    ]
    found = details.options_of(jobs.of_paths(paths))
    telling = {option.name: option for option in found if option.tells}
    assert list(telling) == [option.name for option in found[: len(telling)]]
    assert list(telling["temperature"].values) == ["3", "1"]
    assert list(telling["temperature"].departs) == [False, True]
    assert not any(option.name.startswith("td3") for option in found)
