"""``python -m iql_fast.experiments NAME``: the paper's own experiments."""

from __future__ import annotations

from typing import Protocol

import tyro

from iql_fast.experiments.expectile import Expectile
from iql_fast.experiments.maze import Maze
from iql_fast.experiments.stages import Stages
from iql_fast.experiments.tau import Tau
from iql_fast.experiments.theory import Theory
from iql_fast.support import cli


class Experiment(Protocol):
    """Options as fields, and what is done with them."""

    def run(self) -> None:
        """Compute, print, write; a ``UserError`` before any work where something is wrong."""


def main() -> None:
    """Parse the command line and do the experiment."""
    commands: dict[str, type[Experiment]] = {
        "expectile": Expectile,
        "maze": Maze,
        "stages": Stages,
        "tau": Tau,
        "theory": Theory,
    }
    chosen: Experiment = tyro.extras.subcommand_cli_from_dict(
        commands,  # type: ignore[arg-type]
        prog="python -m iql_fast.experiments",
        description="The experiments of the IQL paper, each with a picture and its numbers.",
    )
    chosen.run()


if __name__ == "__main__":
    cli.main(main)
