"""Where the picture, the numbers and the table of a command go."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iql_fast.support.errors import UserError
from iql_fast.support.files import check_writable, write_json, written_beside

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Console


class Output:
    """The files ``NAME.png`` and ``NAME.json`` in a folder.

    Raises:
        UserError: the folder cannot be written; before any work has been done.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.picture = folder / f"{name}.png"
        self.numbers = folder / f"{name}.json"
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder} is a file. Name another folder with --out.")
        check_writable(self.picture)

    def write(self, figure: Figure, numbers: dict[str, Any]) -> None:
        """Write both files and print where they are, the picture last."""
        write_json(self.numbers, numbers)
        save(figure, self.picture)
        print(self.numbers)
        print(self.picture)


def save(figure: Figure, path: Path) -> None:
    """Write a picture as PNG."""
    with written_beside(path) as partial:
        figure.savefig(partial, format="png", dpi=130)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure whose parts make room for each other, sizes in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def print_table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """The first column to the left, the others to the right."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="right" if i else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console().print(table)


def console() -> Console:
    """Of the command line: what is printed there is printed as it is, brackets of paths too."""
    from rich.console import Console

    return Console(markup=False)
