"""Folders of runs as reports read them, made by hand, with any number of evaluations."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from iql_fast.environments import scoring
from iql_fast.environments.scoring import Scoring
from iql_fast.runs import config
from iql_fast.runs.folder import settled
from iql_fast.support import digest
from iql_fast.tasks import catalogue

#: Columns of metrics.csv between the seed and the seconds: a few of IQL's.
METRICS = ("value_loss", "advantage")
VERSIONS = {"iql-fast": "0.1.0", "torch": "2.13.0", "numpy": "2.4.6", "gymnasium": "1.4.0",
            "mujoco": "3.17.0"}  # fmt: skip
REGENERATED = {"origin": "regenerated", "physics": "d4rl", "mujoco": "3.17.0", "seed": 0}


def write(
    folder: Path,
    *arguments: str,
    scores: Mapping[int, Sequence[float]] | None,
    data: Mapping[str, Any] | None = None,
    finished: bool = True,
    scored: bool = True,
    scale: float = 1.0,
) -> Path:
    """The folder of a run that logged and was scored every 100 steps.

    Args:
        arguments: of ``iql_fast.train``, after those of a small hopper run.
        scores: training seed -> the score of each evaluation; None: it has none.
        data: of the record, in place of regenerated ones.
        scale: of the metrics, which differ from run to run by it.
    """
    usual = ("--task", "hopper-medium-v2", "--log-interval", "100", "--eval-interval", "100",
             "--checkpoint-interval", "100", "--hidden", "8")  # fmt: skip
    options = config.completed(config.parse([*usual, *arguments]))
    where = scoring.of_task(catalogue.get(options.task)) if options.task else Scoring(None, "none")
    if not scored:
        where = Scoring(None, "the data name no environment")
    task = options.task or "own"
    record = {
        "options": config.flat(options),
        "options_sha256": digest.of_json(config.flat(options)),
        "engine": "cpu",
        "engine_because": "asked for",
        "data": {
            "title": f"{task} (regenerated)", "rows": 9, "return_mean": 1479.5,
            "path": f"/cache/{task}-seed0-d4rl-mujoco3.17.0-be897bfa.hdf5", **REGENERATED,
            **(data or {}),
        },
        "scoring": where.record(),
        "policy": None,
        "versions": VERSIONS,
        "machine": {"processor": "a processor", "cores": 2},
    }  # fmt: skip
    record["settled_sha256"] = digest.of_json(settled(record))
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(record))
    last = options.total_steps if finished else 100 * max(map(len, (scores or {0: [0]}).values()))
    _table(folder / "metrics.csv", (*METRICS, "seconds"), last, options.seed_list, scale)
    if scores is not None:
        lines = ["step,seed,score,return,return_std,episodes"]
        for place in range(max(map(len, scores.values()))):
            for seed in options.seed_list:
                lines.append(f"{100 * (place + 1)},{seed},{scores[seed][place]},1.0,0.5,10")
        (folder / "scores.csv").write_text("\n".join(lines) + "\n")
    if finished:
        (folder / "summary.json").write_text("{}")
    return folder


def _table(
    path: Path, columns: Sequence[str], last: int, seeds: Sequence[int], scale: float
) -> None:
    lines = [",".join(("step", "seed", *columns))]
    for step in range(100, last + 1, 100):
        for seed in seeds:
            values = scale * (1 + np.arange(len(columns))) + step / 1000 + seed / 10
            lines.append(",".join([str(step), str(seed), *(f"{x:.6g}" for x in values)]))
    path.write_text("\n".join(lines) + "\n")
