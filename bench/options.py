"""What the benchmarks' command lines share."""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.workload import Workload
from iql_fast.support.files import written_beside

#: A quick benchmark starts no round that would end later than this.
QUICK_SECONDS = 45.0


def positive(text: str) -> int:
    """For argparse: an integer from 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


def positive_seconds(text: str) -> float:
    """For argparse: a number above 0."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a length of time")
    return value


def picture(text: str) -> Path:
    """For argparse: a file whose ending says its format."""
    path = Path(text)
    if path.suffix not in (".png", ".pdf", ".svg"):
        raise argparse.ArgumentTypeError(f"{text} should end in .png, .pdf or .svg")
    return path


def add_outputs(parser: argparse.ArgumentParser) -> None:
    """``--json`` and ``--plot``."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here")
    parser.add_argument(
        "--plot", type=picture, metavar="FILE", help="draw them here (.png, .pdf or .svg)"
    )


def add_rounds(parser: argparse.ArgumentParser, rows: int) -> None:
    """How much is measured, and on how many rows."""
    parser.add_argument("--rounds", type=positive, default=9, metavar="N", help="default: 9")
    parser.add_argument(
        "--window",
        type=positive_seconds,
        default=2.0,
        metavar="SECONDS",
        help="of a contender in a round (default: 2)",
    )
    parser.add_argument("--rows", type=positive, default=rows, metavar="N", help="of the dataset")


def add_sizes(parser: argparse.ArgumentParser) -> None:
    """Sizes of the workload; by default hopper's, with the paper's networks and batch."""
    usual = Workload()
    parser.add_argument("--hidden", type=positive, nargs="+", default=usual.hidden, metavar="N")
    parser.add_argument("--batch", type=positive, default=usual.batch, metavar="N")
    parser.add_argument("--rows", type=positive, default=usual.rows, metavar="N")


def workload(arguments: argparse.Namespace) -> Workload:
    """The workload of the sizes that ``add_sizes`` has parsed."""
    return Workload(hidden=tuple(arguments.hidden), batch=arguments.batch, rows=arguments.rows)


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    with written_beside(path) as partial:
        partial.write_text(text)
