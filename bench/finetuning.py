"""Speed of IQL's fine-tuning with one update for one step of the environment.

    python bench/finetuning.py                  # some minutes, on a quiet machine of two cores
    python bench/finetuning.py --corl FOLDER    # beside the loop of a checkout of CORL

An update waits for the step of the environment that comes before it only where its batch has that
very step; otherwise both go on at once. So the whole is held against the longer of the two: an
update alone, and a step of the simulator alone. All are measured in the same rounds, in random
order, with the paper's networks and batch; the environment is D4RL's hopper and AntMaze (umaze) as
this package has them. The rival is CORL's program for fine-tuning as it is, in the same environment
and with as many threads as there are cores (``bench/rivals/corl.py``).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent))  # after an installed iql_fast

from bench import console, results, rounds, tuning
from bench.contenders import Contender
from bench.options import add_outputs, add_rounds, positive, write_text
from bench.rivals import corl
from iql_fast.support import cli
from iql_fast.support.cores import usable_cores
from iql_fast.support.errors import UserError

#: What is measured with the threads that are asked for.
OURS = ("tuning", "update")


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--tasks",
        nargs="+",
        choices=tuning.TASKS,
        default=list(tuning.TASKS),
        metavar="TASK",
        help=f"which of {', '.join(tuning.TASKS)} (default: all)",
    )
    parser.add_argument(
        "--threads",
        type=positive,
        nargs="+",
        metavar="N",
        help="of an update (default: 1, and all cores); the simulator has a process of its own",
    )
    parser.add_argument(
        "--corl", metavar="FOLDER", help="a checkout of github.com/corl-team/CORL, timed beside"
    )
    add_rounds(parser, rows=1_000_000)
    add_outputs(parser)
    return parser


def main(arguments: list[str] | None = None) -> None:
    asked = parser().parse_args(arguments)
    threads = sorted(set(asked.threads or {1, usable_cores()}))
    contenders = []
    for task in asked.tasks:
        sizes = tuning.workload(task, asked.rows)
        contenders += [
            Contender(f"{kind}-{task}", count, workload=sizes) for count in threads for kind in OURS
        ]
        contenders.append(Contender(f"simulator-{task}", workload=sizes))
        if asked.corl:
            os.environ[corl.FOLDER] = str(Path(asked.corl).resolve())  # for its process
            contenders.append(Contender(f"corl-tuning-{task}", usable_cores(), workload=sizes))
    measured, left_out = rounds.run(
        contenders, asked.rounds, asked.window, lambda contender: contender.kind
    )
    table = results.rows(measured)
    found = [line_of(row, table) for row in table if row.contender.kind.startswith("tuning-")]
    if not found:
        reasons = "; ".join(dict.fromkeys(left_out.values()))
        raise UserError(f"Nothing could be measured: {reasons}.")
    show(found)
    for contender, reason in left_out.items():
        print(f"{contender.kind} is left out: {reason}")
    if asked.json:
        usual = tuning.workload("hopper", asked.rows)
        # What is "others" to a fine-tuning's own process is its simulator.
        quiet = [row for row in table if not row.contender.kind.startswith("tuning-")]
        machine = results.machine(quiet, left_out, usual)
        write_text(asked.json, json.dumps({"machine": machine, "results": found}, indent=1) + "\n")


def line_of(row: results.Row, table: Sequence[results.Row]) -> dict[str, Any]:
    """What is said of one fine-tuning: rates a second, and how much longer a step of it takes than
    the longer of its parts."""
    task = row.contender.kind.partition("-")[2]
    by_kind = {other.contender.kind: other for other in table if _beside(row, other)}
    update, simulator = (by_kind.get(f"{kind}-{task}") for kind in ("update", "simulator"))
    rival = by_kind.get(f"corl-tuning-{task}")
    slower = min((part.median for part in (update, simulator) if part is not None), default=None)
    return {
        "task": task,
        "threads": row.contender.threads,
        "disturbed": [why for part in (update, simulator, rival) if part for why in part.disturbed],
        "times_longer": None if slower is None else slower / row.median,
        "times_rival": results.ratio(row, rival),
    } | {
        f"{name}_{what}": None if part is None else getattr(part, what)
        for name, part in (
            ("steps", row),
            ("update", update),
            ("simulator", simulator),
            ("rival", rival),
        )
        for what in ("median", "low", "high")
    }


def _beside(row: results.Row, other: results.Row) -> bool:
    """Whether that is one of the rows which ``row`` is held against."""
    own = other.contender.kind.split("-")[0] in OURS
    return not own or other.contender.threads == row.contender.threads


def show(found: Sequence[dict[str, Any]]) -> None:
    from rich.table import Table

    shown = Table(title="a second, lowest and highest in brackets")
    for heading in ("task", "threads", "steps", "updates alone", "simulator alone"):
        shown.add_column(heading, justify="left" if heading == "task" else "right")
    for heading in ("step to the longer", "CORL", "times CORL", ""):
        shown.add_column(heading, justify="right")
    for line in found:
        shown.add_row(
            line["task"],
            str(line["threads"]),
            *(_rate(line, name) for name in ("steps", "update", "simulator")),
            console.number(line["times_longer"]),
            _rate(line, "rival"),
            console.number(line["times_rival"]),
            "noisy" if line["disturbed"] else "",
        )
    console.console().print(shown)


def _rate(line: dict[str, Any], name: str) -> str:
    if line[f"{name}_median"] is None:
        return "-"
    low, high = line[f"{name}_low"], line[f"{name}_high"]
    return f"{line[f'{name}_median']:,.0f} ({low:,.0f} to {high:,.0f})"


if __name__ == "__main__":
    cli.main(main)
