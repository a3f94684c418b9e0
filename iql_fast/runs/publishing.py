"""A run's policy as a folder that can be published: gathers what the run knows of it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from iql_fast.policies import safetensors_file
from iql_fast.runs import checkpoint, config, found_scores, hub_folder, model_card, trained
from iql_fast.runs.config import TrainConfig
from iql_fast.runs.folder import RunFolder
from iql_fast.runs.model_card import About
from iql_fast.runs.trained import TrainedPolicy

CURVES, FILM, PATHS = "curves.png", "episode.gif", "paths.png"


def write(out: Path, run: RunFolder, policy: TrainedPolicy) -> list[str]:
    """Write the folder of a policy of a run.

    Returns:
        what its user should know: why something is not in it.

    Raises:
        UserError: ``out`` holds something else, or the run's own files are damaged.
    """
    hub_folder.check_place(out)
    record, notes = _checked(run), []
    scores = found_scores.of_checkpoint(run, record, policy.step)
    if scores is None:
        why = record["scoring"].get("note") or f"step {policy.step:,} was not scored"
        remedy = "" if record["scoring"]["environment"] is None else (
            f" `python -m iql_fast.evaluate --run {run.path} --checkpoint {policy.step}` does it."
        )  # fmt: skip
        notes.append(f"the card has no model-index, since {why}.{remedy}")
    elif policy.seed not in scores.by_seed:
        notes.append(f"the card has no model-index, since seed {policy.seed} was not scored")
    sources = _sources(run, record, policy, notes)
    pictures = {name: what for name, (_, what) in sources.items()}
    about = About(record, policy.whole, policy.seed, policy.step, scores, pictures)
    with hub_folder.written(out, _told(about, policy)) as folder:
        content = safetensors_file.encode(policy.whole, trained.about(policy))
        (folder / hub_folder.WEIGHTS).write_bytes(content)
        for name, (source, _) in sources.items():
            shutil.copyfile(source, folder / name)
        (folder / hub_folder.CARD).write_bytes(model_card.text(about).encode("utf-8", "replace"))
    return notes


def _checked(run: RunFolder) -> dict[str, Any]:
    """The run's record, whose options are all there and of their types."""
    record = run.read_config()
    stored = config.of_record(record["options"])
    options = config.with_options(TrainConfig(), stored, str(run.config))
    return record | {"options": config.flat(options)}


def _sources(
    run: RunFolder, record: Mapping[str, Any], policy: TrainedPolicy, notes: list[str]
) -> dict[str, tuple[Path, str]]:
    """Name in the folder -> picture in the run, and what it shows."""
    found = {}
    if run.curves.exists():
        found[CURVES] = (run.curves, "Score, losses, values and weights over training")
    if policy.step != checkpoint.steps(run.checkpoints)[-1]:
        return found  # the others are of the last
    if run.paths.exists():
        found[PATHS] = (run.paths, "Ways through the maze in the last evaluation")
    films = sorted(run.path.glob("*.gif"), key=lambda path: path.stat().st_mtime)
    if films and policy.seed != trained.seeds(record)[0]:
        notes.append(f"{films[-1].name} is left out: it is of the run's first seed")
    elif films and films[-1].stat().st_mtime < run.config.stat().st_mtime:
        notes.append(f"{films[-1].name} is left out: it is older than the run")
    elif films:
        found[FILM] = (films[-1], "An episode of the policy")
    return found


def _told(about: About, policy: TrainedPolicy) -> dict[str, Any]:
    """What ``config.json`` says of the policy."""
    record = about.record
    data = {k: v for k, v in record["data"].items() if k not in ("path", "notes", "download")}
    return {
        **{name: value for name, value in trained.about(policy).items() if name != "seed"},
        "method": about.method,
        "seed": policy.seed,
        "step": policy.step,
        "observation_dim": policy.obs_dim,
        "action_dim": policy.act_dim,
        "observation_layout": policy.layout,
        "settings": model_card.settings(record),
        "data_record": data,
        "scoring": record["scoring"],
        "engine": record["engine"],
        "versions": record.get("versions", {}),
        "command": model_card.command(record),
    }
