"""The curves of a page as Bokeh's figures: one a quantity, with a line for each group of seeds.

What a reader switches on and off is told by the ``tags`` of what draws it: the number of its group
(-1: of none) and its layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from iql_fast.reports.content import SCORE, Curve, Group
from iql_fast.runs import curves
from iql_fast.support.errors import UserError

if TYPE_CHECKING:
    from bokeh.models import GlyphRenderer
    from bokeh.plotting import figure as Plot  # noqa: N812  it is a class

REMEDY = "pip install 'iql-fast[report]'"
#: Colours on white and on black that people with any colour vision tell apart (after Okabe and
#: Ito), and dashes for when they begin anew.
COLOURS = (
    *(("#0072B2", "#4AA3E8"), ("#D55E00", "#F07B33"), ("#009E73", "#2BBE92")),
    *(("#CC79A7", "#E29AC1"), ("#E69F00", "#EDB53C"), ("#555C63", "#CDD3D9")),
)
DASHES = ("solid", "dashed", "dotted", "dashdot")
#: Steps of a curve that are drawn at most.
MOST_STEPS = 2000
HEIGHT = 280  # pixels

#: Layers, by their names in ``tags``: what each is called.
LAYERS = {
    "mean": "mean over seeds",
    "range": "lowest to highest seed",
    "seeds": "single seeds",
    "acted": f"sampled actions in training, means of {curves.EPISODES_TOGETHER} episodes",
    "published": "published scores",
    "data": "mean return of the data",
    "ours": "our own runs, lowest to highest",
}
#: Layers that are hidden until somebody switches them on.
HIDDEN = ("seeds",)
#: Quantities that a page calls otherwise than metrics.csv does.
TITLES = {
    "value_loss": "V loss",
    "critic_loss": "Q loss (summed over critics)",
    "actor_loss": "policy loss",
    "value": "V(s), in scaled rewards",
    "q": "min target Q(s, a), in scaled rewards",
    "advantage_std": "advantage, standard deviation",
    "weight": "weight exp(beta A), mean",
    "weight_max": "weight, largest",
    "weight_clipped": "weights at the clip, share",
    "actor_lr": "policy learning rate",
}
_LOGARITHMIC = ("value_loss", "critic_loss", "weight", "weight_max")


#: Groups and their numbers on the page.
Numbered = Sequence[tuple[int, Group]]


@dataclass(frozen=True)
class Panel:
    """A figure and what is said of it.

    Attributes:
        key: the quantity's name in its table.
        item: what Bokeh embeds, as JSON holds it.
        layers: that it has.
        thinned: every how many steps one is drawn.
    """

    key: str
    title: str
    item: Any
    layers: tuple[str, ...]
    thinned: int


def style(number: int) -> tuple[int, str]:
    """Place of the colour and dash of a group's line."""
    return number % len(COLOURS), DASHES[number // len(COLOURS) % len(DASHES)]


def _style(number: int) -> tuple[str, str]:
    """Colour on white and dash; a page in the dark has the other colour put in by its script."""
    place, dash = style(number)
    return COLOURS[place][0], dash


def script() -> str:
    """Bokeh's own, whole: a page that holds it needs nothing else.

    Raises:
        UserError: Bokeh is not installed.
    """
    try:
        from bokeh.resources import Resources
    except ImportError:
        raise UserError(f"A report needs Bokeh: {REMEDY}.") from None
    texts = Resources(mode="inline", components=["bokeh"], log_level="error").js_raw
    return "\n".join(texts)


def panels(groups: Sequence[Group]) -> list[Panel]:
    """Scores first, a panel for each problem, then every quantity that any of the groups has."""
    found = []
    scored = [(number, g) for number, g in enumerate(groups) if SCORE in g.curves]
    for where in dict.fromkeys((g.title, g.unit) for _, g in scored):
        of_one = [(number, g) for number, g in scored if (g.title, g.unit) == where]
        found.append(_panel(SCORE, f"{where[0]}: {where[1]}", of_one))
    names = dict.fromkeys(name for group in groups for name in group.curves if name != SCORE)
    for name in names:
        having = [(number, g) for number, g in enumerate(groups) if name in g.curves]
        found.append(_panel(name, TITLES.get(name, name.replace("_", " ")), having))
    return found


def _panel(name: str, title: str, groups: Numbered) -> Panel:
    from bokeh.embed import json_item

    plot = _empty(name, [group for _, group in groups])
    layers, thinned = set[str](), 1
    if name == SCORE:
        layers |= set(_references(plot, groups))
    for number, group in groups:
        curve = group.curves[name]
        every = -(-len(curve.steps) // MOST_STEPS)
        thinned = max(thinned, every)
        layers |= set(_draw(plot, number, group, _every(curve, every), name))
    _mark_place(plot)
    item = json_item(plot)  # type: ignore[no-untyped-call, unused-ignore]
    return Panel(name, title, item, tuple(x for x in LAYERS if x in layers), thinned)


def _every(curve: Curve, every: int) -> Curve:
    """Every so many steps of a curve, the last of which stays the last."""
    first = (len(curve.steps) - 1) % every
    return Curve(curve.steps[first::every], curve.values[first::every])


def _empty(name: str, groups: Sequence[Group]) -> Plot:
    from bokeh.models import NumeralTickFormatter
    from bokeh.plotting import figure

    positive = all((group.curves[name].values > 0).all() for group in groups)
    plot = figure(
        height=HEIGHT,
        sizing_mode="stretch_width",
        y_axis_type="log" if name in _LOGARITHMIC and positive else "linear",
        tools="box_zoom,reset,save",
        active_drag=None,
        toolbar_location="above",
        toolbar_inner=True,
        output_backend="canvas",
        background_fill_color=None,
        border_fill_color=None,
        outline_line_color=None,
        min_border_right=16,
        name=name,
    )
    plot.toolbar.logo = None
    plot.toolbar.autohide = True
    plot.xaxis.formatter = NumeralTickFormatter(format="0.[0]a")
    plot.xaxis.axis_label = "training steps"
    plot.xgrid.visible = False
    for axis in plot.axis:
        axis.axis_label_text_font = axis.major_label_text_font = "system-ui, sans-serif"
        axis.axis_label_text_font_size = axis.major_label_text_font_size = "12px"
        axis.axis_label_text_font_style = "normal"
    for seam in {group.seam for group in groups if group.seam is not None}:
        _seam(plot, seam)
    return plot


def _seam(plot: Plot, step: int) -> None:
    """Where training went on in the environment."""
    from bokeh.models import Span

    plot.add_layout(
        Span(location=step, dimension="height", line_dash="dotted", line_color="#888888")
    )


def _mark_place(plot: Plot) -> None:
    """The line that the arrow keys move."""
    from bokeh.models import Span

    plot.add_layout(
        Span(location=0, dimension="height", line_color="#888888", visible=False, name="place")
    )


def _draw(plot: Plot, number: int, group: Group, curve: Curve, name: str) -> Iterator[str]:
    """Line, range and single seeds of a group; yields the layers."""
    from bokeh.models import ColumnDataSource, HoverTool

    colour, dash = _style(number)
    several = curve.values.shape[1] > 1
    columns = {
        "step": curve.steps.astype(np.int32),
        "mean": curve.values.mean(1),
        "low": curve.values.min(1),
        "high": curve.values.max(1),
    }
    source = ColumnDataSource(
        {x: v if x == "step" else v.astype(np.float32) for x, v in columns.items()}
    )
    if several:
        band = plot.varea("step", "low", "high", source=source, color=colour, alpha=0.18)
        _tag(band, number, "range")
        yield "range"
        for seed in range(curve.values.shape[1]):
            steps, values = columns["step"], curve.values[:, seed].astype(np.float32)
            line = plot.line(steps, values, color=colour, alpha=0.6, line_width=1, visible=False)
            _tag(line, number, "seeds")
        yield "seeds"
    line = plot.line("step", "mean", source=source, color=colour, line_dash=dash, line_width=2)
    _tag(line, number, "mean")
    line.name = group.label
    if len(curve.steps) <= 12:  # a line of few points does not show where they are
        points = plot.scatter("step", "mean", source=source, color=colour, size=5)
        _tag(points, number, "mean")
    yield "mean"
    value = "@mean{%.5g}" + (" (@low{%.5g} to @high{%.5g})" if several else "")
    plot.add_tools(
        HoverTool(
            renderers=[line],
            mode="mouse",
            tooltips=[("run", "$name"), ("step", "@step{0,0}"), (name, value)],
            formatters={"@mean": "printf", "@low": "printf", "@high": "printf"},
            visible=False,  # in the toolbar
        )
    )
    if name == SCORE and group.acted is not None:
        yield from _acted(plot, number, group)


def _acted(plot: Plot, number: int, group: Group) -> Iterator[str]:
    assert group.acted is not None
    if len(group.acted[0]) >= curves.EPISODES_TOGETHER:
        steps, means = (curves.together(x) for x in group.acted)
        every = -(-len(steps) // MOST_STEPS)
        colour, _ = _style(number)
        line = plot.line(
            steps[::every].astype(np.int32), means[::every].astype(np.float32),
            color=colour, alpha=0.5, line_width=1, line_dash="dotted",
        )  # fmt: skip
        _tag(line, number, "acted")
        yield "acted"


def _references(plot: Plot, groups: Numbered) -> Iterator[str]:
    """Our own runs behind the scores; the paper's score and that of the data across them."""
    ends = [group.curves[SCORE].steps[[0, -1]] for _, group in groups]
    first, last = min(e[0] for e in ends), max(e[1] for e in ends)
    for number, group in groups:
        colour, _ = _style(number)
        if group.band is not None:
            band, shown = group.band, slice(0, int(np.searchsorted(group.band.steps, last)) + 1)
            columns = (band.steps[shown], band.low[shown], band.high[shown])
            area = plot.varea(*columns, color="#888888", alpha=0.3)
            _tag(area, number, "ours")
            yield "ours"
        for layer, score, dash in (
            ("published", group.published.get("paper"), "dashed"),
            ("data", group.data_score, "dotted"),
        ):
            if score is not None:
                line = plot.line(
                    [int(first), int(last)], [score, score], color=colour, line_dash=dash, alpha=0.8
                )
                _tag(line, number, layer)
                yield layer


def _tag(renderer: GlyphRenderer[Any], number: int, layer: str) -> None:
    renderer.tags = [number, layer]
    renderer.visible = layer not in HIDDEN
