"""Minari's datasets as logged transitions."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from iql_fast.data import logged
from iql_fast.data.logged import LoggedTransitions
from iql_fast.environments import spaces, wrappers
from iql_fast.environments.scoring import Scoring
from iql_fast.environments.spaces import ActionBounds, Part
from iql_fast.support.errors import UserError

_ID = re.compile(r"(?:[-_\w][-_\w/]*[-_\w]+/)?[-_\w]+?-v\d+")


@dataclass(frozen=True)
class MinariData:
    """A dataset of Minari's.

    Attributes:
        bounds: of its actions.
        parts: of its observations, in the order in which they were flattened.
        scoring: where policies trained on it are scored.
        notes: for the user, a sentence each.
    """

    transitions: LoggedTransitions
    bounds: ActionBounds
    parts: list[Part]
    scoring: Scoring
    notes: tuple[str, ...]


def is_id(name: str) -> bool:
    """Whether a name is a Minari id: one with a namespace, such as ``mujoco/hopper/medium-v0``, or
    that of a dataset that is stored here."""
    return _ID.fullmatch(name) is not None and ("/" in name or is_local(name))


def is_local(dataset_id: str) -> bool:
    """Whether Minari has the dataset on this machine."""
    from minari.storage import get_dataset_path

    try:
        return bool((get_dataset_path(dataset_id) / "data").is_dir())
    except (OSError, ValueError):  # a name that no file can have
        return False


def local_ids() -> list[str]:
    """The ids of the datasets on this machine."""
    import minari

    return sorted(minari.list_local_datasets())


def fetch(dataset_id: str) -> Path:
    """Bring a dataset to this machine; where it lies.

    Raises:
        UserError: it cannot be had.
    """
    return Path(_dataset(dataset_id, offline=False).storage.data_path).parent


def load(dataset_id: str, offline: bool = False) -> MinariData:
    """The transitions of a Minari dataset, and where policies trained on them are scored.

    Columns are filled episode by episode, so that little more memory is needed than they take.

    Raises:
        UserError: the dataset cannot be had, or it is not made of vectors of finite numbers.
    """
    dataset = _dataset(dataset_id, offline)
    parts = spaces.observation_parts(dataset.observation_space, dataset_id)
    bounds = spaces.action_bounds(dataset.action_space, dataset_id)
    widths = {"observations": sum(size for _, size in parts), "actions": len(bounds.low)}
    said = dataset.storage.metadata.get("total_steps")
    rows = _whole(said)
    if rows is None or rows < 1:
        raise UserError(f"{dataset_id} holds no step: it says that it has {said}.")
    try:
        columns: dict[str, Any] = {
            "observations": np.empty((rows, widths["observations"]), np.float32),
            "actions": np.empty((rows, widths["actions"]), np.float32),
            "rewards": np.empty(rows, np.float32),
            "terminals": np.empty(rows, bool),
            "next_observations": np.empty((rows, widths["observations"]), np.float32),
            "ends": np.zeros(rows, bool),
        }
    except (MemoryError, ValueError) as error:  # numpy's own limit is a ValueError
        raise UserError(
            f"{dataset_id} says that it has {rows:,} steps, which do not fit into the memory of "
            f"this machine ({error})."
        ) from None
    filled, firsts = 0, []
    whole = True
    for episode in _episodes(dataset, dataset_id):
        number, observations, actions, rewards, terminated, truncated = episode
        steps = len(rewards)
        if filled + steps > rows:
            raise UserError(f"{dataset_id} holds more steps than the {rows:,} that it says.")
        _check_widths(observations, actions, widths, f"{dataset_id}: episode {number}")
        block = slice(filled, filled + steps)
        columns["observations"][block] = observations[:-1]
        columns["next_observations"][block] = observations[1:]
        columns["actions"][block] = actions
        columns["rewards"][block] = rewards
        columns["terminals"][block] = terminated
        columns["ends"][block.stop - 1] = True
        firsts.append((filled, number))
        filled = block.stop
        whole = bool(terminated[-1] or truncated[-1])
    if filled != rows:
        raise UserError(f"{dataset_id} holds {filled:,} steps, but says that it has {rows:,}.")
    numbers = {
        name: columns[name] for name in ("observations", "actions", "rewards", "next_observations")
    }
    starts = np.array([first for first, _ in firsts])

    def place(row: int) -> str:
        episode = int(np.searchsorted(starts, row, "right")) - 1
        return f"step {row - starts[episode]} of episode {firsts[episode][1]}"

    logged.check_finite(numbers, dataset_id, place)
    transitions = LoggedTransitions(**columns, tail_is_whole=whole)
    longest = int(transitions.lengths().max())
    where, notes = scoring(dataset, longest)
    if longest == 1:
        notes = (*notes, "every episode is a single step (a bandit): values are its rewards")
    return MinariData(transitions, bounds, parts, where, notes)


def _dataset(dataset_id: str, offline: bool) -> Any:
    try:
        import minari
    except ImportError as error:
        raise UserError(
            f"{dataset_id} is a Minari id, and minari cannot be imported ({error}): "
            "pip install 'minari[hdf5,hf]'."
        ) from None
    try:
        return minari.load_dataset(dataset_id, download=not offline)
    except ImportError as error:  # of a storage that it only then looks for
        raise UserError(
            f"{dataset_id} is stored in a way that needs more than is installed ({error}): "
            "pip install 'iql-fast[arrow]'."
        ) from None
    except Exception as error:  # minari lets errors of whatever storage it uses through
        raise UserError(
            f"Minari has no dataset {dataset_id!r} here and could not download it "
            f"({type(error).__name__}: {error}). `minari list remote` shows what exists; "
            "`minari download` fetches it."
        ) from None


class _Episode(NamedTuple):
    """T steps: their observations ``[T + 1, O]``, actions ``[T, A]``, and the rest ``[T]``."""

    number: int
    observations: NDArray[np.float32]
    actions: NDArray[Any]
    rewards: NDArray[Any]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]


def _whole(value: Any) -> int | None:
    """A whole number, however it is stored; None where it is none."""
    try:
        return operator.index(value)
    except TypeError:
        return None


def _episodes(dataset: Any, dataset_id: str) -> Iterator[_Episode]:
    """Those that have a step."""
    for episode in _stored(dataset, dataset_id):
        where = f"{dataset_id}: episode {episode.id}"
        names = ("actions", "rewards", "terminations", "truncations")
        found = {name: np.asarray(getattr(episode, name)) for name in names}
        for name, column in found.items():
            if column.dtype.kind not in "fiub" or column.ndim == 0:
                raise UserError(
                    f"{where} has {name} of type {column.dtype} and shape {column.shape}; expected "
                    "real numbers, a row a step."
                )
        steps = len(found["rewards"])
        if steps == 0:
            continue
        try:
            observations = spaces.flat_observations(dataset.observation_space, episode.observations)
        except (TypeError, ValueError, KeyError) as error:
            raise UserError(
                f"{where} has observations that are not of their space ({error}). Fetch or make "
                "the dataset again."
            ) from None
        single = {name: column.size for name, column in found.items() if name != "actions"}
        lengths = {**single, "actions": len(found["actions"]), "observations": len(observations)}
        if any(lengths[name] != steps + (name == "observations") for name in lengths):
            listed = ", ".join(f"{count} {name}" for name, count in lengths.items())
            raise UserError(
                f"{where} has {steps} steps, but {listed}; expected T of each and T + 1 "
                "observations."
            )
        flags = []
        for name in ("terminations", "truncations"):
            column = found[name].reshape(steps)
            if not np.isin(column, (0, 1)).all():
                raise UserError(f"{where} has {name} that are neither 0 nor 1.")
            flags.append(column != 0)
        yield _Episode(
            int(episode.id),
            observations,
            found["actions"].reshape(steps, -1),
            found["rewards"].reshape(steps),
            *flags,
        )


def _stored(dataset: Any, dataset_id: str) -> Iterator[Any]:
    """A dataset's episodes, as Minari reads them."""
    try:
        yield from dataset.iterate_episodes()
    except Exception as error:  # of whatever storage it uses
        raise UserError(
            f"{dataset_id}: Minari cannot read its episodes ({type(error).__name__}: {error}). "
            "Fetch or make it again."
        ) from None


def _check_widths(observations: Any, actions: Any, widths: dict[str, int], where: str) -> None:
    for name, rows in (("observations", observations), ("actions", actions)):
        if rows.shape[1] != widths[name]:
            raise UserError(
                f"{where} has {name} of {rows.shape[1]} numbers, but their space has "
                f"{widths[name]}."
            )


def scoring(dataset: Any, longest: int) -> tuple[Scoring, tuple[str, ...]]:
    """The environment that a Minari dataset names for evaluation, or else the one that it was
    recorded in, as Minari repairs its specification; its reference returns where it has them.

    Args:
        longest: steps of the longest episode: the horizon where the environment has none.
    """
    # Minari offers the environment itself alone, which would be made here, and only to be scored
    # in worker processes.
    spec = dataset._eval_env_spec or dataset.env_spec
    if spec is None:
        return Scoring(None, "the dataset does not name an environment; --env does"), ()
    try:
        spec = wrappers.that_matter(spec)
    except wrappers.CannotBeMadeAgain as error:
        return Scoring(None, f"{error}; --env names another"), ()
    metadata = dataset.storage.metadata
    low, high = metadata.get("ref_min_score"), metadata.get("ref_max_score")
    reference, notes = None, []
    if low is not None and high is not None:
        try:
            reference = (float(low), float(high))
        except (TypeError, ValueError, OverflowError):
            reference = (np.nan, np.nan)
        if not (np.isfinite(reference).all() and reference[0] < reference[1]):
            notes.append(f"its reference returns {low} and {high} measure nothing: left out")
            reference = None
    if kept := [wrapper.name for wrapper in spec.additional_wrappers]:
        notes.append(f"the environment keeps the wrappers {', '.join(kept)}")
    horizon = _whole(spec.max_episode_steps)
    if horizon is None or horizon < 1:
        horizon = longest
        notes.append(f"its environment has no time limit: episodes are cut after {longest} steps")
    try:
        text = spec.to_json()
    except (TypeError, ValueError) as error:
        return Scoring(None, f"its environment cannot be written down ({error})"), ()
    return Scoring(text, "", int(horizon), reference), tuple(notes)
