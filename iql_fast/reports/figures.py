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
    from bokeh.plotting import figure as Figure

REMEDY = "pip install 'iql-fast[report]'"
#: Colours that people with any colour vision tell apart (Okabe and Ito's, without those that are
#: hard to see on white or on black), and dashes for when they begin anew.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("solid", "dashed", "dotted", "dashdot")
#: Steps of a curve that are drawn at most.
MOST_STEPS = 2000
#: Groups whose tooltips stand side by side; of more, only the one under the pointer is shown.
TOGETHER = 4
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


def style(number: int) -> tuple[str, str]:
    """Colour and dash of a group's line."""
    return COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS) % len(DASHES)]


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
    """Scores first, then every quantity that any of the groups has."""
    names = dict.fromkeys([SCORE, *(name for group in groups for name in group.curves)])
    return [_panel(name, groups) for name in names if any(name in g.curves for g in groups)]


def _panel(name: str, groups: Sequence[Group]) -> Panel:
    from bokeh.embed import json_item

    unit = ", ".join(dict.fromkeys(g.unit for g in groups if g.unit)) if name == SCORE else ""
    title = f"Score ({unit})" if unit else TITLES.get(name, name.replace("_", " "))
    plot = _empty(name, groups)
    layers, thinned = set[str](), 1
    if name == SCORE:
        layers |= set(_references(plot, groups))
    for number, group in enumerate(groups):
        if name in group.curves:
            curve = group.curves[name]
            every = -(-len(curve.steps) // MOST_STEPS)
            thinned = max(thinned, every)
            layers |= set(_draw(plot, number, group, _every(curve, every), name, len(groups)))
    _mark_place(plot)
    item = json_item(plot)  # type: ignore[no-untyped-call]
    return Panel(name, title, item, tuple(x for x in LAYERS if x in layers), thinned)


def _every(curve: Curve, every: int) -> Curve:
    """Every so many steps of a curve, the last of which stays the last."""
    first = (len(curve.steps) - 1) % every
    return Curve(curve.steps[first::every], curve.values[first::every])


def _empty(name: str, groups: Sequence[Group]) -> Figure:
    from bokeh.models import CustomJSTickFormatter, NumeralTickFormatter  # noqa: F401
    from bokeh.plotting import figure

    positive = all((g.curves[name].values > 0).all() for g in groups if name in g.curves)
    plot = figure(
        height=HEIGHT,
        sizing_mode="stretch_width",
        y_axis_type="log" if name in _LOGARITHMIC and positive else "linear",
        tools="box_zoom,reset,save",
        active_drag=None,
        toolbar_location="above",
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
    for seam in {group.seam for group in groups if group.seam is not None}:
        _seam(plot, seam)
    return plot


def _seam(plot: Figure, step: int) -> None:
    """Where training went on in the environment."""
    from bokeh.models import Span

    plot.add_layout(
        Span(location=step, dimension="height", line_dash="dotted", line_color="#888888")
    )


def _mark_place(plot: Figure) -> None:
    """The line that the arrow keys move."""
    from bokeh.models import Span

    plot.add_layout(
        Span(location=0, dimension="height", line_color="#888888", visible=False, name="place")
    )


def _draw(
    plot: Figure, number: int, group: Group, curve: Curve, name: str, groups: int
) -> Iterator[str]:
    """Line, range and single seeds of a group; yields the layers."""
    from bokeh.models import ColumnDataSource, HoverTool

    colour, dash = style(number)
    several = curve.values.shape[1] > 1
    columns = {
        "step": curve.steps.astype(np.int32),
        "mean": curve.values.mean(1),
        "low": curve.values.min(1),
        "high": curve.values.max(1),
    }
    source = ColumnDataSource({x: v if x == "step" else v.astype(np.float32) for x, v in columns.items()})
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
    if len(curve.steps) <= 100:
        points = plot.scatter("step", "mean", source=source, color=colour, size=4)
        _tag(points, number, "mean")
    yield "mean"
    value = "@mean{%.5g}" + (" (@low{%.5g} to @high{%.5g})" if several else "")
    plot.add_tools(
        HoverTool(
            renderers=[line],
            mode="vline" if groups <= TOGETHER else "mouse",
            tooltips=[("run", "$name"), ("step", "@step{0,0}"), (name, value)],
            formatters={"@mean": "printf", "@low": "printf", "@high": "printf"},
            visible=False,  # in the toolbar
        )
    )
    if name == SCORE and group.acted is not None:
        yield from _acted(plot, number, group)


def _acted(plot: Figure, number: int, group: Group) -> Iterator[str]:
    assert group.acted is not None
    if len(group.acted[0]) >= curves.EPISODES_TOGETHER:
        steps, means = (curves.together(x) for x in group.acted)
        every = -(-len(steps) // MOST_STEPS)
        colour, _ = style(number)
        line = plot.line(
            steps[::every].astype(np.int32), means[::every].astype(np.float32),
            color=colour, alpha=0.5, line_width=1, line_dash="dotted",
        )  # fmt: skip
        _tag(line, number, "acted")
        yield "acted"


def _references(plot: Figure, groups: Sequence[Group]) -> Iterator[str]:
    """Our own runs behind the scores; the paper's score and that of the data across them."""
    ends = [g.curves[SCORE].steps[[0, -1]] for g in groups if SCORE in g.curves]
    first, last = min(e[0] for e in ends), max(e[1] for e in ends)
    for number, group in enumerate(groups):
        colour, _ = style(number)
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
