"""A picture of an episode: the paths through a maze that a run drew, or a film made here."""

from __future__ import annotations

import io
import tempfile
from dataclasses import dataclass
from pathlib import Path

from iql_fast.environments import film, simulator
from iql_fast.runs import saved
from iql_fast.runs.standing import Standing
from iql_fast.support.errors import UserError

#: Of a film: fewer than ``evaluate --video`` has, since a page holds several.
FRAMES = 90
#: Bytes of a picture of a run's that a page takes in.
LARGEST = 4 << 20
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Picture:
    """An image, and a film in its place while somebody lets it run.

    Attributes:
        media: type and content of the image.
        film: of the film; None where there is none.
        caption: what is to be seen.
    """

    media: tuple[str, bytes]
    film: tuple[str, bytes] | None
    caption: str


def of_run(run: Standing, filmed: bool) -> Picture | str:
    """The picture of a run; a sentence where there is none.

    Args:
        filmed: whether an episode may be played to film it, which takes some seconds.
    """
    if run.folder.paths.exists():
        return _paths(run)
    environment = run.scoring.environment
    if environment is None:
        return f"No picture: the run has no simulator ({run.scoring.note})."
    how = (
        "python -m iql_fast.evaluate --run RUN --video FILE.gif makes a film of any run's episode."
    )
    if not filmed:
        return f"Not filmed: --films N films the first N runs that have a simulator. {how}"
    if environment[:1] == "{" or ":" in environment:
        # Making it would import whatever code the run's folder names.
        called = simulator.label(environment)
        return f"Not filmed, since the run names the code of its environment, {called}. {how}"
    try:
        return _filmed(run, environment)
    except UserError as error:
        return f"Not filmed: {error}"
    except Exception as error:  # of whatever the environment does
        return f"Not filmed: {type(error).__name__}: {error}"


def _paths(run: Standing) -> Picture | str:
    path = run.folder.paths
    if path.stat().st_size > LARGEST or not (content := path.read_bytes()).startswith(_PNG):
        return f"No picture: {path} is not one that a run draws."
    caption = (
        "The ways through the maze in the last evaluation: the blue ones reach the goal, which is "
        "yellow, the red ones do not."
    )
    return Picture(("image/png", content), None, caption)


def _filmed(run: Standing, environment: str) -> Picture:
    """The first episode of the first seed's policy, as ``evaluate --video`` films it."""
    from PIL import Image

    simulator.require("A film")
    found = saved.policies(run.folder, run.record)
    seed = run.options.seed
    key = (seed, found.key, 0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.webp"
        total = film.write(path, environment, run.scoring.horizon, found.policies[0], key, FRAMES)
        moving = path.read_bytes()
    still = io.BytesIO()
    with Image.open(io.BytesIO(moving)) as frames:
        frames.seek(getattr(frames, "n_frames", 1) // 3)
        frames.convert("RGB").save(still, "WEBP", quality=85)
    said = f"An episode of seed {seed} after {found.step:,} steps: return {total:,.1f}."
    return Picture(("image/webp", still.getvalue()), ("image/webp", moving), said)
