"""What a person who trains is shown: a bar while the run goes on, a table at its end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from iql_fast.runs.loop import Loop


@contextmanager
def shown(loop: Loop, console: Console) -> Iterator[None]:
    """A progress bar with steps/s, time left and the last score, while the block is executed."""
    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]} steps/s"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[score]}"),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task(
            "", total=loop.config.total_steps, completed=loop.engine.step, rate="-", score=""
        )

        def advance(step: int, rate: float, score: str) -> None:
            last = str(progress.tasks[0].fields["score"])
            progress.update(bar, completed=step, rate=f"{rate:.0f}", score=score or last)

        loop.advance = advance
        loop.say = progress.console.print
        yield


def print_summary(summary: dict[str, Any], console: Console) -> None:
    """Times, and scores beside the published ones."""
    seconds = summary["seconds"]
    console.print(
        f"{summary['training_steps']:,} steps of {len(summary['seeds'])} seed(s): "
        f"training {seconds['training']:.0f} s ({summary['seed_steps_per_second']:.0f} steps/s "
        f"over all seeds), evaluation {seconds['evaluation']:.0f} s, "
        f"records {seconds['records']:.0f} s"
    )
    for note in summary["warnings"]:
        console.print(f"warning {note}", style="yellow")
    if "scores" not in summary:
        return
    table = Table(title=summary["title"])
    table.add_column("")
    table.add_column(summary["unit"], justify="right")
    final, best = summary["scores"]["final"], summary["scores"]["best"]
    of = "" if final["evaluations"] == final["due"] else f" of {final['due']}"
    table.add_row(
        f"this run, mean of the last {final['evaluations']}{of} evaluation(s)",
        f"{final['mean']:.1f} +- {final['std']:.1f}",
    )
    if "online" in summary:
        before, after = summary["online"]["before"], summary["online"]["after"]
        table.add_row(
            f"before -> after {summary['online']['steps']:,} steps in the environment",
            f"{before['mean']:.1f} +- {before['std']:.1f} -> "
            f"{after['mean']:.1f} +- {after['std']:.1f}",
        )
    table.add_row("this run, best evaluation", f"{best['mean']:.1f} +- {best['std']:.1f}")
    if summary["behaviour_score"] is not None:
        table.add_row("mean return of the data", f"{summary['behaviour_score']:.1f}")
    for source, score in summary["published"].items():
        on = "" if summary["origin"] == "d4rl" else " (on D4RL's own data)"
        table.add_row(f"published: {source}{on}", f"{score:.1f}")
    console.print(table)
