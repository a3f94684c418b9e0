"""``python -m iql_fast.data``: list, look at, make and fetch datasets."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from iql_fast.data import describe, download, minari, regenerate, resolve
from iql_fast.data.resolve import Search
from iql_fast.support import cli, output
from iql_fast.support.errors import UserError
from iql_fast.tasks import catalogue
from iql_fast.tasks.catalogue import Physics


@dataclass
class List:
    """Show every task: what is in the cache, what can be made here, the paper's score."""

    def run(self) -> None:
        from rich.table import Table

        table = Table(title=f"Tasks (cache: {resolve.cache_folder()})")
        for heading in ("task", "obs / act", "D4RL's file", "regenerated", "IQL in the paper"):
            table.add_column(heading, overflow="fold", no_wrap=heading == "task")
        can_make = set(regenerate.available())
        for name in catalogue.names():
            task = catalogue.get(name)
            here = resolve.downloaded_path(task).exists()
            original = "cached" if here else "-" if task.d4rl_file else "to bring"
            made = "possible" if name in can_make else "-"
            if resolve.regenerated_path(task, 0).exists():
                made = "cached"
            sizes = f"{task.environment.obs_dim} / {task.environment.act_dim}"
            table.add_row(name, sizes, original, made, str(task.published.get("paper", "-")))
        console = output.console()
        console.print(table)
        console.print("Minari's on this machine:", ", ".join(minari.local_ids()) or "none")
        console.print(
            "Besides: Minari's ids (`minari list remote`), OGBench's single tasks by name, and "
            "files of your own (--dataset FILE)."
        )
        console.print("What is to bring, and how: `python -m iql_fast.data fetch NAME`.")


@dataclass
class Info:
    """Show how a dataset is understood: rows, trajectories, a histogram of returns, the range of
    actions, what was inferred or dropped. A file, a task in the cache, a Minari id."""

    name: Annotated[str, tyro.conf.Positional]
    """The task, the Minari id, or a file (.hdf5, .npz, .parquet, a LeRobot folder)."""
    dataset: Path | None = None
    """A file of your own to be understood as the task's, instead of the cache."""
    env: str = ""
    """Gymnasium id of the environment that a file of your own belongs to."""
    seed: int = 0
    """Of the regenerated data, where those are looked at."""
    physics: Physics = "d4rl"
    """Of the regenerated data, where those are looked at."""

    def run(self) -> None:
        describe.show(self._found())

    def _found(self) -> resolve.Found:
        if self.name not in catalogue.names():
            if os.path.exists(self.name):  # Path.exists raises on a name that is too long
                return resolve.find("", Search(Path(self.name), self.env))
            if resolve.is_others(self.name):
                return resolve.find(self.name, Search(env=self.env, offline=True))
        task = catalogue.get(self.name)
        places = (
            resolve.downloaded_path(task),
            resolve.regenerated_path(task, self.seed, self.physics),
        )
        if self.dataset is None and not any(place.exists() for place in places):
            if not task.d4rl_file:
                raise UserError(resolve.missing(task))
            made = f", `... make {task.name}` regenerates it"
            raise UserError(
                f"{task.name} is not in the cache {resolve.cache_folder()}. `python -m "
                f"iql_fast.data fetch {task.name}` downloads it"
                f"{made if task.name in regenerate.available() else ''}."
            )
        search = Search(self.dataset, seed=self.seed, physics=self.physics, offline=True)
        return resolve.find(task.name, search)


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
        if self.seed < 0:
            raise UserError(f"--seed is {self.seed}; expected a number of at least 0.")
        if self.workers is not None and self.workers < 1:
            raise UserError(f"--workers is {self.workers}; expected a positive number.")
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
    """Download D4RL's own file of a task into the cache, or a dataset of Minari's into its own."""

    name: Annotated[str, tyro.conf.Positional]
    """The task, or the Minari id."""

    def run(self) -> None:
        if self.name not in catalogue.names() and minari.is_id(self.name):
            print(minari.fetch(self.name))
            return
        task = catalogue.get(self.name)
        path = resolve.downloaded_path(task)
        if not path.exists():
            if not task.d4rl_file:
                raise UserError(resolve.missing(task))
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
