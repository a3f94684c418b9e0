"""Minari's datasets as logged transitions."""

from __future__ import annotations

from typing import Any

import numpy as np

from iql_fast.data.d4rl import LoggedTransitions
from iql_fast.environments.scoring import Scoring
from iql_fast.support.errors import UserError


def is_id(name: str) -> bool:
    """Whether a task name is a Minari id, such as ``mujoco/hopper/medium-v0``."""
    return "/" in name


def family(dataset_id: str) -> str:
    """The family whose reward transform and settings fit a Minari dataset."""
    lowered = dataset_id.lower()
    for word, name in {"antmaze": "antmaze", "kitchen": "kitchen", "mujoco": "locomotion"}.items():
        if word in lowered:
            return name
    return "adroit"


def load(dataset_id: str, offline: bool = False) -> tuple[LoggedTransitions, Scoring]:
    """The transitions of a Minari dataset, and where policies trained on them are scored.

    Raises:
        UserError: minari is missing, the dataset cannot be had, or its spaces are not flat boxes.
    """
    try:
        import minari
    except ImportError:
        raise UserError(
            f"{dataset_id} is a Minari id, and minari is not installed: "
            "pip install 'iql-fast[minari]'."
        ) from None
    try:
        dataset = minari.load_dataset(dataset_id, download=not offline)
    except Exception as error:  # minari lets errors of whatever storage it uses through
        raise UserError(
            f"Minari has no dataset {dataset_id!r} here and could not download it "
            f"({type(error).__name__}: {error}). `minari list remote` shows what exists; "
            "`minari download` fetches it."
        ) from None
    pieces: dict[str, list[np.ndarray]] = {
        key: [] for key in ("observations", "actions", "rewards", "terminals", "next", "ends")
    }
    for episode in dataset.iterate_episodes():
        observations = episode.observations
        if not isinstance(observations, np.ndarray) or observations.ndim != 2:
            raise UserError(
                f"{dataset_id}: episode {episode.id} has observations of type "
                f"{type(observations).__name__}; only flat vectors of floats can be trained on."
            )
        steps = len(episode.rewards)
        if len(observations) != steps + 1 or len(episode.actions) != steps:
            raise UserError(
                f"{dataset_id}: episode {episode.id} has {steps} rewards, {len(observations)} "
                f"observations and {len(episode.actions)} actions; expected T, T + 1 and T."
            )
        ends = np.zeros(steps, dtype=bool)
        ends[-1:] = True
        for key, column in {
            "observations": observations[:-1],
            "actions": episode.actions,
            "rewards": episode.rewards,
            "terminals": episode.terminations,
            "next": observations[1:],
            "ends": ends,
        }.items():
            pieces[key].append(column)
    if not pieces["rewards"]:
        raise UserError(f"{dataset_id} holds no episode.")
    columns = {key: np.concatenate(arrays) for key, arrays in pieces.items()}
    logged = LoggedTransitions(
        columns["observations"].astype(np.float32),
        columns["actions"].astype(np.float32),
        columns["rewards"].astype(np.float32),
        columns["terminals"].astype(bool),
        columns["next"].astype(np.float32),
        columns["ends"],
    )
    return logged, scoring(dataset)


def scoring(dataset: Any) -> Scoring:
    """The environment that a Minari dataset names for evaluation, or else the one that it was
    recorded in; its reference returns where the dataset has them."""
    import json

    metadata = dataset.storage.metadata
    spec = metadata.get("eval_env_spec") or metadata.get("env_spec")
    if spec is None:
        return Scoring(None, "the dataset does not name an environment")
    text = spec if isinstance(spec, str) else spec.to_json()
    horizon = json.loads(text)["max_episode_steps"]
    if horizon is None:
        return Scoring(None, "the dataset's environment has no time limit")
    low, high = metadata.get("ref_min_score"), metadata.get("ref_max_score")
    reference = None if low is None or high is None else (float(low), float(high))
    return Scoring(text, "", int(horizon), reference)
