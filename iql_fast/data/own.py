"""Steps that a user logged, as transitions.

A row that is terminal is kept whatever else it is flagged, the last row too: its s' is worth
nothing, so that it need not be known. Every other row needs an s': the file's own where it has
``next_observations``, otherwise the observation of the next row, unless an episode ends between the
two. D4RL's own files have rules of their own (``iql_fast.data.d4rl``).

OGBench's layout has ``masks``: those say what is worth nothing more, ``terminals`` that a
trajectory ends, and the last row of one is only a state (its reader, ``ogbench/utils.py``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from iql_fast.data import columns, d4rl, logged
from iql_fast.data.columns import Columns
from iql_fast.data.logged import SAME_STATE, BoolArray, FloatArray, LoggedTransitions
from iql_fast.support.errors import UserError

#: A step this many times as far as the median one hints at an episode's end that nothing marks.
FAR = 1000.0


class Read(NamedTuple):
    """What a file holds.

    Attributes:
        rows: logged, of which ``transitions`` may lack some.
        notes: what was inferred, dropped or looks wrong, a sentence each.
    """

    transitions: LoggedTransitions
    rows: int
    notes: tuple[str, ...]


def read(
    path: Path,
    obs_dim: int | None = None,
    act_dim: int | None = None,
    horizon: int | None = None,
    endless: bool = False,
) -> Read:
    """Read and check a file of logged steps.

    Args:
        obs_dim, act_dim: that the data must have; None where they say themselves.
        horizon: steps after which an episode is cut; None where nobody knows.
        endless: whether episodes are cut and never end of themselves: what is flagged terminal is
            the last row of a trajectory then, and its s' is worth as much as any.

    Raises:
        UserError: naming the file, the key and the row, and what to do.
    """
    found = columns.read(path)
    where = str(path)
    logged.check_shapes(found, where)
    logged.check_sizes(found, where, obs_dim, act_dim)
    numbers = ("observations", "actions", "rewards", "next_observations")
    logged.check_finite({name: found[name] for name in numbers if name in found}, where)
    said: list[str] = []
    if endless:
        found, said = _never_terminal(found)
    transitions, notes = _transitions(found, where, horizon)
    notes = [*said, *notes, *_oddities(transitions, horizon)]
    return Read(transitions, len(found["rewards"]), tuple(notes))


def _never_terminal(found: Columns) -> tuple[Columns, list[str]]:
    """The columns with what was flagged terminal cut there instead, and what to say of it."""
    terminals = found["terminals"]
    ends = terminals | found.get("timeouts", np.zeros_like(terminals))
    columns = {name: column for name, column in found.items() if name != "masks"}
    columns["terminals"] = np.zeros_like(terminals)
    if ends.any() or "timeouts" in found or "next_observations" in found:
        columns["timeouts"] = ends  # else all that is known of ends is the horizon
    count = int(terminals.sum())
    if not count:
        return columns, []
    return columns, [f"{count:,} terminal row(s) end a trajectory, but no episode: all masks are 1"]


def _transitions(
    found: Columns, where: str, horizon: int | None
) -> tuple[LoggedTransitions, list[str]]:
    rows = len(found["rewards"])
    no = np.zeros(rows, dtype=bool)
    flagged = found["terminals"] | found.get("timeouts", no)
    terminals = ~found["masks"] if "masks" in found else found["terminals"]
    notes: list[str] = []
    if "timeouts" not in found and "masks" not in found and horizon is not None:
        cut = no.copy()
        cut[d4rl.last_allowed_steps(found["terminals"], horizon)] = True
        flagged = flagged | cut
        if cut.any():
            notes.append(
                f"no column says where episodes were cut: taken to be after {horizon} steps"
            )
    elif not {"timeouts", "masks", "next_observations"} & found.keys():
        notes.append("no column says where episodes were cut: taken to be nowhere")
    if "next_observations" in found:
        has, following = ~no, found["next_observations"]
    else:
        has, following, dropped = _successors(found, flagged, terminals)
        notes += dropped
        if not has.any():
            raise UserError(
                f"{where}: none of its {rows} row(s) is a transition: each ends an episode, and "
                "the file has no next_observations."
            )
    if "valids" in found:
        if invalid := int((has & ~found["valids"]).sum()):
            notes.append(f"{invalid:,} of {rows:,} rows are not valid: dropped")
        has &= found["valids"]
        if not has.any():
            raise UserError(f"{where}: 'valids' leaves none of its {rows} row(s).")
    keep = np.flatnonzero(has)
    whole = len(keep) == rows

    def pick(column: NDArray[Any]) -> NDArray[Any]:
        return column if whole else np.asarray(column[keep])

    observations, next_observations = pick(found["observations"]), pick(following)
    # A row that was dropped ends what led to it, wherever the next one begins.
    marked = pick(flagged)[:-1] | (np.diff(keep) > 1)
    ends = np.ones(len(keep), dtype=bool)
    gaps = _gaps(observations, next_observations)
    ends[:-1] = gaps | marked
    unmarked = gaps & ~marked
    ordered = bool(unmarked.sum() <= len(keep) / 2)
    if not ordered:
        ends[:] = True
        notes.append("its rows do not follow each other: every row counts as a trajectory")
    elif "next_observations" in found and unmarked.any():
        notes.append(
            f"{int(unmarked.sum()):,} row(s) end a trajectory that no flag ends, the first in row "
            f"{keep[int(np.argmax(unmarked))]:,}: the next row is another state than their s'"
        )
    return (
        LoggedTransitions(
            observations,
            pick(found["actions"]),
            pick(found["rewards"]),
            pick(terminals),
            next_observations,
            ends,
            tail_is_whole=bool(flagged[-1]) or not ordered,
            ordered=ordered,
        ),
        notes,
    )


def _successors(
    found: Columns, flagged: BoolArray, terminals: BoolArray
) -> tuple[BoolArray, FloatArray, list[str]]:
    """Whether a row has an s' or needs none, every row's s', and what to say of the others."""
    rows = len(flagged)
    follows = ~flagged
    follows[-1] = False
    # OGBench keeps a trajectory's last state in a row of its own, which is no step. Masks that say
    # no more than terminals, or beside timeouts, are not OGBench's.
    ogbench = "masks" in found and "timeouts" not in found
    ogbench = ogbench and not np.array_equal(terminals, found["terminals"])
    has = follows if ogbench else follows | terminals
    following = np.empty_like(found["observations"])
    following[:-1] = found["observations"][1:]
    following[-1] = found["observations"][-1]
    notes = []
    lost = ~has
    at_end = int(lost[-1] and not flagged[-1])
    cut = int(lost.sum()) - at_end
    if cut:
        why = "only hold a trajectory's last state" if ogbench else "were cut after, s' unknown"
        notes.append(f"{cut:,} of {rows:,} rows {why}: dropped")
    if at_end:
        notes.append("the last row is followed by nothing: dropped")
    return has, following, notes


def _gaps(observations: FloatArray, following: FloatArray) -> BoolArray:
    """``[N - 1]``: whether the next row's state is another than a row's s'."""
    found = np.empty(len(observations) - 1, dtype=bool)
    for start in range(0, len(found), logged.BLOCK):
        stop = min(start + logged.BLOCK, len(found))
        with np.errstate(over="ignore"):  # what is beyond float32 is far enough
            step = observations[start + 1 : stop + 1] - following[start:stop]
            found[start:stop] = np.linalg.norm(step, axis=1) > SAME_STATE
    return found


def _oddities(transitions: LoggedTransitions, horizon: int | None) -> list[str]:
    """What hints at ends of episodes that nothing marks."""
    notes = []
    lengths = transitions.lengths()
    if horizon is not None and transitions.ordered and lengths.max() > horizon:
        notes.append(
            f"warning: {int((lengths > horizon).sum())} trajectory(s) are longer than the limit of "
            f"{horizon} steps (up to {lengths.max():,}): are their ends marked?"
        )
    distance = distances(transitions)
    middle = float(np.median(distance))
    far = distance > FAR * middle
    if middle > 0 and far.any():
        notes.append(
            f"warning: in {int(far.sum()):,} transition(s) s' lies more than {FAR:.0f} times as "
            f"far from s as in the median one, the first in transition {int(np.argmax(far)):,}: "
            "does an episode end there?"
        )
    return notes


def distances(transitions: LoggedTransitions) -> np.ndarray:
    """``|s' - s|`` ``[N]``, of rows that are not terminal; 0 for those."""
    found = np.zeros(len(transitions.rewards))
    for start in range(0, len(found), logged.BLOCK):
        block = slice(start, start + logged.BLOCK)
        # In double precision, in which the square of a float32 is finite.
        step = transitions.next_observations[block].astype(np.float64)
        step -= transitions.observations[block]
        found[block] = np.linalg.norm(step, axis=1)
    found[transitions.terminals] = 0
    return found
