"""``python -m iql_fast.data``: list, look at, make and fetch datasets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from iql_fast.data import d4rl, download, regenerate, resolve
from iql_fast.environments import scoring
from iql_fast.support import cli
from iql_fast.support.errors import UserError
from iql_fast.tasks import catalogue
from iql_fast.tasks.catalogue import Physics


@dataclass
class List:
    """Show every task: what is in the cache, what can be made here, the paper's score."""

    def run(self) -> None:
        from rich.console import Console
        from rich.table import Table

        table = Table(title=f"Tasks (cache: {resolve.cache_folder()})")
        for heading in ("task", "obs / act", "D4RL's file", "regenerated", "IQL in the paper"):
            table.add_column(heading, overflow="fold", no_wrap=heading == "task")
        can_make = set(regenerate.available())
        for name in catalogue.names():
            task = catalogue.get(name)
            original = "cached" if resolve.downloaded_path(task).exists() else "-"
            made = "possible" if name in can_make else "-"
            if resolve.regenerated_path(task, 0).exists():
                made = "cached"
            sizes = f"{task.environment.obs_dim} / {task.environment.act_dim}"
            table.add_row(name, sizes, original, made, str(task.published.get("paper", "-")))
        Console().print(table)


@dataclass
class Info:
    """Show rows, trajectories, a histogram of returns, and the checks of a dataset in the cache."""

    name: Annotated[str, tyro.conf.Positional]
    """The task."""
    dataset: Path | None = None
    """A file of your own in D4RL's layout, instead of the cache."""
    seed: int = 0
    """Of the regenerated data, where those are looked at."""
    physics: Physics = "d4rl"
    """Of the regenerated data, where those are looked at."""

    def run(self) -> None:
        task = catalogue.get(self.name)
        places = [
            resolve.downloaded_path(task),
            resolve.regenerated_path(task, self.seed, self.physics),
        ]
        path = self.dataset or next((place for place in places if place.exists()), None)
        if path is None:
            raise UserError(
                f"{task.name} is not in the cache {resolve.cache_folder()}. `python -m "
                f"iql_fast.data fetch {task.name}` downloads it, `... make {task.name}` "
                "regenerates it."
            )
        environment = task.environment
        steps = d4rl.read(path, environment.obs_dim, environment.act_dim)
        logged = d4rl.transitions(steps, environment.horizon)
        returns = d4rl.trajectory_returns(logged.rewards, logged.ends)
        lengths = np.diff(np.flatnonzero(np.append(logged.ends, True)), prepend=-1)
        print(f"{path}")
        print("checks: keys, lengths, finite, action range: passed")
        print(f"rows logged {len(steps.rewards)}, transitions {len(logged.rewards)}")
        print(f"trajectories {len(returns)}, mean length {lengths[lengths > 0].mean():.1f}")
        print(f"terminal rows {int(logged.terminals.sum())}")
        print(
            f"returns: mean {returns.mean():.1f}, std {returns.std():.1f}, "
            f"min {returns.min():.1f}, max {returns.max():.1f}, "
            f"normalised mean {scoring.of_task(task).score(float(returns.mean())):.1f}"
        )
        counts, edges = np.histogram(returns, bins=20)
        for count, low, high in zip(counts, edges[:-1], edges[1:], strict=True):
            bar = "#" * round(50 * count / counts.max())
            print(f"{low:10.1f} .. {high:10.1f} {count:7d} {bar}")


@dataclass
class Make:
    """Regenerate a dataset: roll this project's behaviour policies out in MuJoCo."""

    name: Annotated[str, tyro.conf.Positional]
    """The task."""
    seed: int = 0
    """Of the roll-outs."""
    physics: Physics = "d4rl"
    """d4rl: mechanics of the MuJoCo that D4RL's data come from; gymnasium: of the installed one."""
    rows: int | None = None
    """Transitions (default: as many as D4RL's)."""
    workers: int | None = None
    """Processes (default: all cores). The data do not depend on it."""
    out: Path | None = None
    """Where to write (default: the cache, where training finds it)."""

    def run(self) -> None:
        task = catalogue.get(self.name)
        if self.rows is not None and self.rows < 2:
            raise UserError(f"--rows {self.rows}: a dataset needs at least 2 rows.")
        if self.rows is not None and self.out is None:
            raise UserError(
                "--rows makes a dataset that is not the task's: say with --out where it goes."
            )
        path = self.out or resolve.regenerated_path(task, self.seed, self.physics)
        regenerate.regenerate(
            task.name,
            path,
            physics=self.physics,
            seed=self.seed,
            rows=self.rows,
            workers=self.workers,
        )
        print(path)


@dataclass
class Fetch:
    """Download D4RL's own file of a task into the cache."""

    name: Annotated[str, tyro.conf.Positional]
    """The task."""

    def run(self) -> None:
        task = catalogue.get(self.name)
        path = resolve.downloaded_path(task)
        if not path.exists():
            download.download(task.d4rl_file, path)
        print(path)


def main() -> None:
    commands = {"list": List, "info": Info, "make": Make, "fetch": Fetch}
    tyro.extras.subcommand_cli_from_dict(
        commands,  # type: ignore[arg-type]
        description="List, look at, make and fetch datasets.",
    ).run()


if __name__ == "__main__":
    cli.main(main)
