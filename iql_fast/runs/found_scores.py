"""What a run knows of the scores of one checkpoint, by seed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from iql_fast.environments import scoring
from iql_fast.environments.scoring import Scoring
from iql_fast.runs.folder import RunFolder
from iql_fast.runs.rows import read_rows
from iql_fast.support.errors import UserError
from iql_fast.support.files import read_json


class Score(NamedTuple):
    """Of one seed's policy, over episodes: means and standard deviations."""

    score: float
    score_std: float
    episode_return: float
    return_std: float
    episodes: int


class Found(NamedTuple):
    """Scores of a checkpoint.

    Attributes:
        by_seed: in the order of seeds.
        how: what scored them, for people.
    """

    by_seed: dict[int, Score]
    how: str


def of_checkpoint(run: RunFolder, record: Mapping[str, Any], step: int) -> Found | None:
    """What ``python -m iql_fast.evaluate`` found for the step, else the run's own evaluation there;
    None where neither scored it.

    Raises:
        UserError: a file of the run is damaged.
    """
    return _evaluated(run, step) or _trained(run, record, step)


def _evaluated(run: RunFolder, step: int) -> Found | None:
    if not run.evaluation.exists():
        return None
    told = read_json(run.evaluation, f"{run.evaluation} cannot be used")
    if told.get("step") != step:
        return None
    try:
        scores, returns = (np.array(told[name], np.float64) for name in ("scores", "returns"))
        seeds = [int(seed) for seed in told["seeds"]]
        if scores.shape != returns.shape or scores.ndim != 2 or len(scores) != len(seeds):
            raise ValueError("its sizes do not fit each other")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{run.evaluation} is damaged ({error}). Score the run again: python -m "
            f"iql_fast.evaluate --run {run.path}."
        ) from None
    by_seed = {
        seed: Score(
            float(scores[s].mean()),
            float(scores[s].std()),
            float(returns[s].mean()),
            float(returns[s].std()),
            scores.shape[1],
        )
        for s, seed in enumerate(seeds)
    }
    return Found(by_seed, "`python -m iql_fast.evaluate`, after training")


def _trained(run: RunFolder, record: Mapping[str, Any], step: int) -> Found | None:
    rows = read_rows(run.scores) if run.scores.exists() else []
    where = scoring.from_record(record["scoring"])
    by_seed = {int(row["seed"]): _of_row(row, where) for row in rows if int(row["step"]) == step}
    return Found(by_seed, "the evaluation during training") if by_seed else None


def _of_row(row: Mapping[str, str], where: Scoring) -> Score:
    score, deviation = float(row["score"]), float(row["return_std"])
    if where.measure == "success":  # of outcomes that are 0 or 100
        spread = math.sqrt(max(0.0, score * (100 - score)))
    elif where.reference is None:
        spread = deviation
    else:
        spread = 100 * deviation / (where.reference[1] - where.reference[0])
    return Score(score, spread, float(row["return"]), deviation, int(row["episodes"]))
