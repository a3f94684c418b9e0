"""``python -m iql_fast.evaluate --run RUN``: score a run's policies again, with more episodes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from iql_fast.environments import film, scoring
from iql_fast.runs import paths, saved, trained
from iql_fast.runs.folder import RunFolder
from iql_fast.support import cli, output
from iql_fast.support.errors import UserError
from iql_fast.support.files import write_json


@dataclass
class Options:
    """Score the policies of a run in the simulator: the mean action, seeded episodes."""

    run: Path
    """folder of the run"""
    episodes: int = 100
    """episodes a seed"""
    checkpoint: int | None = None
    """step of the checkpoint (default: the last)"""
    workers: int | None = None
    """worker processes (default: all cores); scores do not depend on it"""
    target_return: float | None = None
    """return that a policy is asked for which acts by one (--method dt; default: the run's)"""
    video: Path | None = None
    """film the first seed's first episode too, with MuJoCo's renderer: a .gif or .webp"""


def asked_for(target_return: float | None, record: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's record says of its policy, where it is asked for another return.

    Raises:
        UserError: the policy acts by no return, or that is no number.
    """
    if target_return is None:
        return {}
    if "target_return" not in trained.acting(record):
        raise UserError(
            f"--target-return is for policies that are asked for a return (--method dt); this run "
            f"has --method {record['options'].get('method', 'iql')}. Leave it out."
        )
    if not math.isfinite(target_return):
        raise UserError(f"--target-return is {target_return}; expected a finite number.")
    return {"target_return": target_return}


def main() -> None:
    """Parse the command line, score, print a table, and write evaluation.json into the run."""
    from rich.table import Table

    from iql_fast.environments.episodes import Evaluator

    options = tyro.cli(Options, prog="python -m iql_fast.evaluate")
    for name in ("episodes", "workers"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} is {value}; expected a positive number.")
    if options.video is not None:
        film.check(options.video)
    run = RunFolder(options.run)
    record = run.read_config()
    where = scoring.from_record(record["scoring"])
    if where.environment is None:
        raise UserError(f"{record['data']['title']} cannot be scored: {where.note}.")
    asked = asked_for(options.target_return, record)
    found = saved.policies(run, record, options.checkpoint, asked)
    seeds, policies, key = trained.seeds(record), found.policies, found.key
    with Evaluator(where.environment, where.horizon, options.workers) as evaluator:
        if evaluator.note:
            print(f"note    {evaluator.note}")
        evaluation = evaluator.start(policies, seeds, key, options.episodes)
        returns = evaluation.returns()
        successes = evaluation.successes()
    scores = where.scores(returns, successes)

    title = f"{record['data']['title']}, step {found.step:,}, {options.episodes} episodes"
    table = Table(title=title)
    for heading in ("seed", where.unit, "std over episodes", "return", "success"):
        table.add_column(heading, justify="right")
    for s, seed in enumerate(seeds):
        row = (scores[s].mean(), scores[s].std(), returns[s].mean())
        told = where.measure == "success" or successes.any()
        success = f"{successes[s].mean():.0%}" if told else "-"
        table.add_row(str(seed), *(f"{value:.1f}" for value in row), success)
    means = scores.mean(1)
    table.add_row("all", f"{means.mean():.1f}", f"{means.std():.1f} (over seeds)", "", "")
    output.console().print(table)
    write_json(
        run.evaluation,
        {
            "title": record["data"]["title"],
            "step": found.step,
            "target_return": (trained.acting(record) | asked).get("target_return"),
            "seeds": list(seeds),
            "returns": returns.tolist(),
            "scores": scores.tolist(),
            "successes": successes.tolist(),
            "mean": float(means.mean()),
            "std_over_seeds": float(means.std()),
        },
    )
    if evaluator.layout is not None:
        paths.draw(run.paths, title, evaluator.layout, seeds, evaluation.paths(), returns)
        print(run.paths)
    if options.video is not None:
        first = (seeds[0], key, 0)
        film.write(options.video, where.environment, where.horizon, policies[0], first)
        print(options.video)


if __name__ == "__main__":
    cli.main(main)
