"""The page: one file that needs nothing from anywhere else.

Whatever comes from a run is escaped where it enters the page; besides that, the page's own policy
(CSP) lets the browser run no script but those whose SHA-256 it names, and fetch nothing.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from iql_fast import __version__
from iql_fast.reports import content, details, figures
from iql_fast.reports.content import Comparison, Group
from iql_fast.reports.jobs import Job
from iql_fast.runs import settings
from iql_fast.runs.folder import REPORT_MARK, is_report
from iql_fast.support.errors import UserError
from iql_fast.support.files import written_beside

#: Runs of which an episode is filmed, unless more are asked for.
FILMS = 3


class Strip(NamedTuple):
    """A score on a line from ``ends[0]`` to ``ends[1]``: places in percent of its length.

    Attributes:
        middle, low, high: of the interquartile mean and its interval.
        paper, data: None where there is none.
    """

    middle: float
    low: float
    high: float
    paper: float | None
    data: float | None
    ends: tuple[float, float]


def check(out: Path) -> None:
    """Raise a ``UserError`` where a page would replace what is none, or something is missing."""
    if out.is_dir():
        raise UserError(f"{out} is a folder. Name a file with --out.")
    if out.exists() and not is_report(out):
        raise UserError(
            f"{out} exists and is no former report, so it will not be touched. Remove it, or name "
            "another file with --out."
        )
    figures.script()


def write(out: Path, title: str, jobs: Sequence[Job], films: int = FILMS) -> None:
    """Write the page about these jobs.

    Args:
        films: of how many runs, the first ones, an episode is filmed.

    Raises:
        UserError: it cannot be written, or a package is missing.
    """
    text = render(title, jobs, films)
    with written_beside(out) as partial:
        partial.write_text(text, encoding="utf-8")


def render(title: str, jobs: Sequence[Job], films: int = FILMS) -> str:
    """The text of the page."""
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError:
        raise UserError(f"A report needs Jinja2: {figures.REMEDY}.") from None
    environment = Environment(
        loader=PackageLoader("iql_fast.reports", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["media"] = _media
    # Bokeh's JSON refers to what stands before, so that its keys stay in their order.
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}
    groups = content.groups(jobs)
    panels = figures.panels(groups)
    scripts = [_inline(figures.script()), _inline(_own("page.js"))]
    runs = [
        details.of_run(job.name, job.run, number < films)
        for number, job in enumerate(job for job in jobs if job.run is not None)
        if job.run is not None
    ]
    compared = content.comparison(jobs)
    shown = [layer for layer in figures.LAYERS if any(layer in p.layers for p in panels)]
    return environment.get_template("page.html").render(
        title=title,
        made=datetime.datetime.now().strftime("%Y-%m-%d %H:%M"),
        version=__version__,
        jobs=jobs,
        state_of=content.state_of,
        groups=groups,
        shared=settings.label(content.common_settings(jobs)),
        strips=strips(groups),
        compared=compared,
        told=_told(compared),
        panels=panels,
        items=[{"key": p.key, "item": p.item} for p in panels],
        layers={layer: figures.LAYERS[layer] for layer in shown},
        hidden=figures.HIDDEN,
        style_of=figures.style,
        runs=runs,
        others=_others(groups),
        verdicts=_by_text((run.verdict, run.name) for run in runs),
        notes=_by_text((note, run.name) for run in runs for note in run.notes),
        unpictured=_by_text((r.picture, r.name) for r in runs if isinstance(r.picture, str)),
        options=details.options_of(jobs),
        scripts=scripts,
        style=_own("page.css"),
        colours=figures.COLOURS,
        score_panels=sum(panel.key == content.SCORE for panel in panels),
        policy=policy(scripts),
        mark=REPORT_MARK,
    )


def policy(scripts: Sequence[str]) -> str:
    """What the browser may do: run these scripts, show what the page holds, and nothing else."""
    hashes = (base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def strips(groups: Sequence[Group]) -> list[Strip | None]:
    """Of each group; None where it has no scores. Groups of one unit share their scale."""
    ends: dict[str, tuple[float, float]] = {}
    for group in groups:
        if group.final is not None:
            low, high = ends.get(group.unit, (0.0, 0.0))
            found = [*_known(group), low, high]
            ends[group.unit] = min(found), max(found)
    return [None if g.final is None else _strip(g, ends[g.unit]) for g in groups]


def _known(group: Group) -> list[float]:
    """The numbers of a strip."""
    assert group.final is not None
    middle = group.final.middle
    numbers = [
        middle.value,
        middle.low,
        middle.high,
        group.published.get("paper"),
        group.data_score,
    ]
    return [x for x in numbers if x is not None and x == x]


def _strip(group: Group, ends: tuple[float, float]) -> Strip:
    assert group.final is not None
    width = ends[1] - ends[0] or 1.0

    def place(score: float | None) -> float | None:
        return None if score is None else 100 * (score - ends[0]) / width

    value, low, high = group.final.middle
    middle = place(value) or 0.0
    reach = (middle, middle) if low != low else (place(low) or 0.0, place(high) or 0.0)
    paper, data = place(group.published.get("paper")), place(group.data_score)
    return Strip(middle, *reach, paper, data, ends)


def _told(compared: Comparison) -> Mapping[str, Any]:
    """Which tasks the comparison is over, and whether there is one."""
    pairs = [one for row in compared.improvements for one in row if one is not None]
    return {
        "any": bool(pairs),
        "several": any(len(one.tasks) > 1 for one in compared.sets),
        "left_out": sorted({label for one in pairs for label in one.left_out}),
    }


def _by_text(said: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """What is said -> the runs of which it is."""
    found: dict[str, list[str]] = {}
    for text, name in said:
        found.setdefault(text, []).append(name)
    return found


def _others(groups: Sequence[Group]) -> dict[str, dict[str, float]]:
    """Title of the data -> what others than the paper report."""
    found = {
        group.title: {x: v for x, v in group.published.items() if x != "paper"} for group in groups
    }
    return {title: scores for title, scores in found.items() if scores}


def _own(name: str) -> str:
    """The text of a file beside this one."""
    return resources.files("iql_fast.reports").joinpath(name).read_text(encoding="utf-8")


def _inline(script: str) -> str:
    """A script as it may stand in a page, which nothing in it can end."""
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _media(media: tuple[str, bytes]) -> str:
    """The address of an image that the page holds."""
    kind, data = media
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
