"""Whether a run's scores are what they are in our own runs: "is my result normal?"

Only like is held against like: the same task, method, physics, data, settings and steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import comb
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from iql_fast.environments.scoring import Scoring
from iql_fast.runs import settings
from iql_fast.runs.config import TrainConfig
from iql_fast.runs.standing import Standing
from iql_fast.runs.summary import FINAL_EVALUATIONS
from iql_fast.support.errors import UserError
from iql_fast.tasks import reference_curves
from iql_fast.tasks.reference_curves import Kind, ReferenceCurves

#: What is said of ours where an attribute of their kind is another.
_WORDS = {
    "physics": "scored in {} physics",
    "simulator": "scored by MuJoCo {}",
    "origin": "trained on data of the origin {}",
    "fingerprint": "trained on regenerated data of another recipe or seed",
    "settings": "trained with {}",
    "steps": "trained for {:,} steps",
}


class Band(NamedTuple):
    """Our runs at each evaluation: steps, lowest and highest score ``[T]``, and their number."""

    steps: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    runs: int

    @property
    def label(self) -> str:
        return f"{count(self.runs)} of our own, lowest to highest"


def kind_of(options: TrainConfig, data: Mapping[str, Any], scoring: Scoring, mujoco: str) -> Kind:
    """What a run has to have in common with ours.

    Args:
        data: the record of its data.
        mujoco: version that scores it.

    Raises:
        UserError: it cannot be held against any other; says why.
    """
    if scoring.environment is None:
        raise UserError("it is not scored")
    if data["origin"] == "file":
        raise UserError("its data are a file of your own")
    each = settings.of_seeds(options)
    if any(one != each[0] for one in each):
        raise UserError("its seeds have settings of their own")
    departing = {name: value for name, value in each[0].items() if name != "steps"}
    made = ""
    if data["origin"] == "regenerated":
        # The name of the file tells the recipe, which the seed completes.
        made = f"{Path(str(data.get('path'))).stem.rpartition('-')[2]}, seed {data.get('seed')}"
    return Kind(
        options.task,
        options.method,
        scoring.physics,
        "" if scoring.physics == "d4rl" else mujoco,
        str(data["origin"]),
        made,
        departing,
        options.total_steps,
    )


def kind(run: Standing) -> Kind:
    """``kind_of`` a run as it stands."""
    mujoco = run.versions.get("mujoco", "unknown")
    return kind_of(run.options, run.record["data"], run.scoring, mujoco)


def like(wanted: Kind) -> ReferenceCurves:
    """Our runs of that kind.

    Raises:
        UserError: there are none; says in what the nearest differ.
    """
    near = [
        found
        for found in reference_curves.ours()
        if (found.kind.task, found.kind.method) == (wanted.task, wanted.method)
    ]
    if not near:
        raise UserError("there are no runs of our own of this task and method")
    nearest = min(near, key=lambda found: len(found.kind.differs(wanted)))
    if differing := nearest.kind.differs(wanted):
        said = dict.fromkeys(_said(name, nearest.kind) for name in differing)
        raise UserError(f"ours were {', '.join(said)}")
    return nearest


def band(
    options: TrainConfig, data: Mapping[str, Any], scoring: Scoring, mujoco: str
) -> Band | None:
    """Our runs of the same kind, to be drawn behind a run's scores; None where there are none."""
    try:
        return band_of(like(kind_of(options, data, scoring, mujoco)))
    except UserError:
        return None


def band_of(curves: ReferenceCurves) -> Band:
    """The range of curves."""
    scores = _scores(curves)
    return Band(np.array(curves.steps, float), scores.min(0), scores.max(0), len(scores))


def _scores(curves: ReferenceCurves) -> NDArray[np.float64]:
    """``[seeds, T]``."""
    return np.array([curve.scores for curve in curves.curves.values()])


def band_behind(run: Standing) -> Band | None:
    """``band`` of a run as it stands."""
    mujoco = run.versions.get("mujoco", "unknown")
    return band(run.options, run.record["data"], run.scoring, mujoco)


def sentence(run: Standing) -> str:
    """Where a run's score lies among ours of the same kind; why there is no comparison, where there
    is none."""
    try:
        return _compared(run, like(kind(run)))
    except UserError as error:
        return f"No comparison with runs of our own: {error}."


def _compared(run: Standing, curves: ReferenceCurves) -> str:
    """The mean of the last evaluations so far, beside ours at the same steps."""
    by_step: dict[int, list[float]] = {}
    for row in run.scores.rows:
        by_step.setdefault(int(row["step"]), []).append(float(row["score"]))
    whole = {step: x for step, x in by_step.items() if len(x) == run.options.seeds}
    steps = [step for step in sorted(whole) if step in curves.steps][-FINAL_EVALUATIONS:]
    if not steps:
        raise UserError("there is no evaluation yet at a step at which ours were scored")
    own = np.mean([whole[step] for step in steps], 0)  # [seeds]
    theirs = _scores(curves)[:, np.isin(curves.steps, steps)].mean(1)
    low, high, mean = theirs.min(), theirs.max(), own.mean()
    said = f"{mean:.1f} after {steps[-1]:,} steps"
    beside = f"our {count(len(theirs))} ({low:.1f} to {high:.1f})"
    if low <= mean <= high:
        return f"{said}: within the range of {beside}."
    outside = own < low if mean < low else own > high
    where = "below" if mean < low else "above"
    if not outside.all():
        return f"{said}: {where} the range of {beside}, though not all seeds are."
    chance = 1 / comb(len(own) + len(theirs), len(own))
    said = f"{said}: {where} all of {beside}, which chance alone does once in {1 / chance:,.0f}."
    return said + (_advice(run, curves) if where == "below" else "")


def count(runs: int) -> str:
    """For people."""
    return "one run" if runs == 1 else f"{runs} runs"


def _advice(run: Standing, curves: ReferenceCurves) -> str:
    """What to look at where a score is lower than it should be."""
    own = run.versions
    theirs = next(iter(curves.curves.values())).versions
    others = [
        f"{name} {own[name]} (ours {v})" for name, v in theirs.items() if own.get(name, v) != v
    ]
    said = f" Versions that differ: {', '.join(others)}." if others else ""
    return f" Look at the notes on its data, and at its losses and values.{said}"


def _said(name: str, of_ours: Kind) -> str:
    """In what ours are others."""
    value = getattr(of_ours, name)
    if name == "settings":
        value = settings.label(value) or "the default settings"
    if name == "fingerprint" and not value:  # which their origin tells
        return _said("origin", of_ours)
    return _WORDS[name].format(value)
