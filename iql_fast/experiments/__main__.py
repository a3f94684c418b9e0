"""``python -m iql_fast.experiments NAME``: the paper's own experiments."""

from __future__ import annotations

import tyro

from iql_fast import cli
from iql_fast.experiments.expectile import Expectile


def main() -> None:
    """Parse the command line and do the experiment."""
    commands = {"expectile": Expectile}
    tyro.extras.subcommand_cli_from_dict(
        commands,  # type: ignore[arg-type]
        prog="python -m iql_fast.experiments",
        description="The experiments of the IQL paper, each with a picture and its numbers.",
    ).run()


if __name__ == "__main__":
    cli.main(main)
