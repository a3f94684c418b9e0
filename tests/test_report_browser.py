"""The page of a report in a browser: from a file, without a network, by pointer and by keyboard."""

from __future__ import annotations

import csv
import shutil

import pytest

from iql_fast.reports import jobs, page

from . import extras, report_runs

OPTIONS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
PATIENCE = 120_000  # ms: of a machine that does much else beside
NAMED = '<b>x< & "q" {{ 7 * 7 }}'
SCORES = {0: [10.0, 20.0, 50.0], 1: [12.0, 31.0, 58.0]}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """The page about two runs, of which one has a name that would be markup."""
    extras.needed("bokeh", "jinja2", "playwright", programs=("chromium",))
    place = tmp_path_factory.mktemp("report")
    two = ("--steps", "300", "--seeds", "2")
    report_runs.write(place / NAMED, *two, scores=SCORES, data={"title": "<i>data</i>"})
    later = {seed: [x + 1.5 for x in scores] for seed, scores in SCORES.items()}
    arguments = (*two, "--method", "td3_bc")
    report_runs.write(
        place / "second", *arguments, scores=later, data={"title": "<i>data</i>"}, scale=3.0
    )
    page.write(
        place / "report.html", "Two runs", jobs.of_paths([place / NAMED, place / "second"]), 0
    )
    return place / "report.html"


@pytest.fixture(scope="module")
def browser(file):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        program = shutil.which("chromium")
        launched = playwright.chromium.launch(
            executable_path=program, args=list(OPTIONS), timeout=PATIENCE
        )
        yield launched
        launched.close()


@pytest.fixture
def opened(browser, file):
    """Opens the page, waits until its figures are drawn, and sees to it that nothing else was asked
    for and no error was told."""
    asked, errors, contexts = [], [], []

    def opens(width=1280, scheme="light", **options):
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, **options
        )
        contexts.append(context)
        shown = context.new_page()
        shown.set_default_timeout(PATIENCE)
        shown.on("request", lambda request: asked.append(request.url))
        shown.on("pageerror", lambda error: errors.append(str(error)))
        shown.on(
            "console", lambda m: errors.append(m.text) if m.type in ("error", "warning") else None
        )
        shown.goto(file.as_uri())
        if options.get("java_script_enabled", True):
            shown.wait_for_selector("html[data-drawn=yes]", state="attached")
        return shown

    yield opens
    for context in contexts:
        context.close()
    assert errors == []
    assert {url for url in asked if not url.startswith(("data:", "blob:"))} == {file.as_uri()}


def point_at(shown, step, score):
    """Move the pointer over the first figure to where that is."""
    place = shown.evaluate(
        """([step, score]) => {
          const { view } = document.getElementById("plot-0").plot;
          const box = view.canvas_view.el.getBoundingClientRect();
          return [box.x + view.frame.x_scale.compute(step),
                  box.y + view.frame.y_scale.compute(score)];
        }""",
        [step, score],
    )
    shown.mouse.move(place[0] - 2, place[1])
    shown.mouse.move(*place, steps=3)


def until(shown, true):
    """Wait until something is true; the page's policy forbids Playwright's own way of waiting."""
    for _ in range(PATIENCE // 100):
        if true():
            return
        shown.wait_for_timeout(100)
    pytest.fail("it has not become true")


def rows(file, run):
    with open(file.parent / run / "scores.csv") as table:
        return list(csv.DictReader(table))


def test_the_tooltip_shows_the_value_of_the_table(opened, file):
    shown = opened()
    shown.locator("#plot-0").scroll_into_view_if_needed()
    tooltips = shown.locator(".bk-tooltip-content")
    readout = shown.locator("figure", has=shown.locator("#plot-0")).locator(".readout")
    for run in (NAMED, "second"):
        low, high = (float(row["score"]) for row in rows(file, run) if row["step"] == "200")
        words = f"{(low + high) / 2:g} ({low:g} to {high:g})"

        def told(mean=(low + high) / 2, words=words):
            point_at(shown, 200, mean)
            shown.wait_for_timeout(300)
            return words in " ".join(tooltips.all_inner_texts())

        until(shown, told)
        assert run in " ".join(tooltips.all_inner_texts())  # as text: no element came of it
        assert f"{run} {words}" in readout.inner_text()
    assert shown.locator(".bk-tooltip-content b").count() == 0


def test_a_curve_is_switched_off_and_on_by_its_key(opened):
    shown = opened()
    drawn = """() => [...document.querySelectorAll(".plot")].map(({ plot }) =>
      plot.root.renderers.filter((one) => one.visible).map((one) => one.tags.join(" ")))"""
    before = shown.evaluate(drawn)
    assert all("1 mean" in figure for figure in before)
    assert not any("seeds" in name for figure in before for name in figure)
    picture = shown.locator("#plot-0").screenshot()
    key = shown.get_by_role("button", name="second")
    assert key.get_attribute("aria-pressed") == "true"
    key.click()
    assert key.get_attribute("aria-pressed") == "false"
    after = shown.evaluate(drawn)
    assert not any(name.startswith("1 ") for figure in after for name in figure)
    assert all("0 mean" in figure for figure in after)
    shown.wait_for_timeout(300)
    assert shown.locator("#plot-0").screenshot() != picture
    key.click()
    assert shown.evaluate(drawn) == before


def test_a_layer_is_switched_on(opened):
    shown = opened()
    key = shown.get_by_role("button", name="single seeds")
    assert key.get_attribute("aria-pressed") == "false"
    key.click()
    visible = shown.evaluate(
        """() => document.getElementById("plot-0").plot.root.renderers
          .filter((one) => one.tags[1] === "seeds").map((one) => one.visible)"""
    )
    assert visible == [True] * 4


def test_the_keyboard_reaches_everything(opened):
    shown = opened()
    reached = set()
    for _ in range(60):
        shown.keyboard.press("Tab")
        reached.add(
            shown.evaluate(
                """() => { const e = document.activeElement;
                  return [e.tagName, e.className, e.id || e.textContent.trim()].join("|") }"""
            )
        )
    for what in ("A||Scores", "BUTTON|sort|final", "BUTTON|key|second", "DIV|plot|plot-0"):
        assert what in reached, sorted(reached)
    shown.get_by_role("button", name="second").focus()
    shown.keyboard.press("Space")
    assert shown.get_by_role("button", name="second").get_attribute("aria-pressed") == "false"
    shown.locator("#plot-0").focus()
    shown.keyboard.press("ArrowRight")
    shown.keyboard.press("ArrowRight")
    readout = shown.locator("figure", has=shown.locator("#plot-0")).locator(".readout")
    assert readout.inner_text() == f"step 200: {NAMED} 25.5 (20 to 31)"  # the other is off
    shown.keyboard.press("End")
    assert readout.inner_text().startswith("step 300: ")


def test_a_table_is_sorted_by_its_headings(opened):
    shown = opened()
    names = lambda: shown.locator("#scores tbody th").all_inner_texts()  # noqa: E731
    first = [name.split("\n")[0] for name in names()]
    button = shown.get_by_role("button", name="final")
    for order in ("ascending", "descending"):
        button.click()
        assert button.locator("xpath=..").get_attribute("aria-sort") == order
        values = shown.locator("#scores td[data-label=final]").evaluate_all(
            "cells => cells.map((cell) => Number(cell.dataset.value))"
        )
        assert values == sorted(values, reverse=order == "descending")
    assert [name.split("\n")[0] for name in names()] == first[::-1]


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_no_screen_scrolls_sideways(opened, width):
    shown = opened(width)
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    wide = shown.locator(".plot canvas").evaluate_all(
        "all => Math.max(...all.map((one) => one.getBoundingClientRect().right))"
    )
    assert wide <= width


def contrast(a, b):
    """Of two colours ``rgb(r, g, b)``, as WCAG defines it."""

    def luminance(colour):
        channels = [int(x) / 255 for x in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_schemes_can_be_read(opened, scheme):
    shown = opened(scheme=scheme)
    paper = shown.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (contrast(paper, "rgb(0, 0, 0)") < 2) == (scheme == "dark")
    texts = shown.evaluate(
        """() => [...document.querySelectorAll("main *, header *")]
          .filter((e) => e.childNodes.length && e.offsetParent !== null && !e.closest("svg"))
          .map((e) => getComputedStyle(e).color)"""
    )
    assert min(contrast(paper, colour) for colour in set(texts)) >= 4.5
    axes, lines = shown.evaluate(
        """() => { const probe = document.createElement("i"); document.body.append(probe);
          const rgb = (c) => { probe.style.color = c; return getComputedStyle(probe).color; };
          const { root } = document.getElementById("plot-0").plot;
          return [[...root.below, ...root.left].map((a) => rgb(a.major_label_text_color)),
            root.renderers.filter((r) => r.tags[1] === "mean" && r.name)
              .map((r) => rgb(r.glyph.line_color.value))]; }"""
    )
    assert min(contrast(paper, colour) for colour in axes) >= 4.5
    assert min(contrast(paper, colour) for colour in lines) >= 3  # WCAG's for graphics


def test_a_change_of_scheme_repaints_the_figures(opened):
    shown = opened()
    colour = "document.getElementById('plot-0').plot.root.left[0].major_label_text_color"
    light = shown.evaluate(colour)
    shown.emulate_media(color_scheme="dark")
    until(shown, lambda: shown.evaluate(colour) != light)
    shown.emulate_media(media="print")  # on paper the page is light, whatever the screen is
    until(shown, lambda: shown.evaluate(colour) == light)


def test_a_script_that_is_not_the_pages_does_not_run(opened, file):
    """What an error in the escaping would let in."""
    spoiled = file.with_name("spoiled.html")
    text = file.read_text().replace("<h1>", "<script>document.title = 'run'</script><h1>")
    spoiled.write_text(
        text.replace("<h2>Scores", "<img src=x onerror=\"document.title='run'\"><h2>S")
    )
    shown = opened(java_script_enabled=True)
    other = shown.context.new_page()
    other.goto(spoiled.as_uri())
    other.wait_for_timeout(500)
    assert other.title() == "Two runs"


def test_without_scripts_the_numbers_are_there(opened):
    shown = opened(java_script_enabled=False)
    assert "54 (50 to 58)" not in shown.inner_text("body")
    assert "30.2 ± 3.5" in shown.inner_text("#scores")
    assert "The curves need JavaScript" in shown.inner_text("#curves")
