"""What is done to logged transitions before training on them: the authors' transforms, or what a
user asks for in place of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from iql_fast.data.dataset import FloatArray, Transitions
from iql_fast.data.logged import BLOCK, LoggedTransitions
from iql_fast.environments.spaces import ActionBounds
from iql_fast.policies.units import Units
from iql_fast.support.errors import UserError

#: Actions are clipped to +-(1 - ACTION_MARGIN), so that a Gaussian policy's mean can reach them.
ACTION_MARGIN = 1e-5
#: |action| in the networks' units up to here is clipped, as the authors do: human demonstrations
#: overshoot to 1.4. Beyond, they are not in the units of their bounds.
ACTION_LIMIT = 2.0
#: A bound that is this many times as large as any action, and as 1, is as good as none.
NO_BOUND = 1e6
#: Actions whose range is a smaller share of them than this have none that float32 can tell.
STILL = 1e-6
#: Returns whose spread is a smaller share of them than this say nothing about the scale of rewards.
LEAST_SPREAD = 0.01

RewardTransform = Literal["authors", "none"]


@dataclass(frozen=True)
class Rewards:
    """``reward' = scale * reward + shift``.

    Attributes:
        transform: whose values of both: the authors' for the family, or 1 and 0.
        scale, shift: values in place of the transform's; None keeps those.
    """

    transform: RewardTransform = "authors"
    scale: float | None = None
    shift: float | None = None


def to_training(
    logged: LoggedTransitions,
    family: str,
    where: str,
    bounds: ActionBounds | None = None,
    rewards: Rewards | None = None,
) -> tuple[Transitions, Units, dict[str, Any], tuple[str, ...]]:
    """The authors' action clip, masks and reward transform.

    Locomotion's rewards are scaled so that the best and the worst trajectory differ by 1000 (the
    partial tail counted); AntMaze's are lowered by 1; Kitchen's and Adroit's stay as they are.

    Args:
        family: whose transform of rewards it is (``iql_fast.tasks.presets``).
        bounds: of the actions, which are scaled to [-1, 1]; None: they have these bounds.
        rewards: asked for in place of the authors'.

    Returns:
        The transitions; the units of the actions; what a run's record says of the transform; and
        what its user should know, a sentence each.

    Raises:
        UserError: actions lie far outside of their bounds; names the row.
    """
    units, notes = _action_units(logged.actions, bounds)
    actions = units.logged(logged.actions)
    _check_range(actions, logged.actions, where)
    scale, shift, more = _reward_scale(logged, family, rewards or Rewards())
    record: dict[str, Any] = {
        "reward_scale": scale,
        "reward_shift": shift,
        # Of all components: what the authors' clip changes by more than its margin.
        "actions_clipped": float((np.abs(actions) > 1 + 1e-6).mean()),
    }
    values = logged.rewards
    with np.errstate(over="ignore"):
        if scale != 1.0:
            values = (values * scale).astype(np.float32)
        if shift != 0.0:
            values = values + np.float32(shift)
    if not np.isfinite(values).all():
        raise UserError(
            f"{where}: {scale:g} * reward + {shift:g} is beyond float32's 3.4e38 in row "
            f"{int(np.argmin(np.isfinite(values)))}. Choose another --reward-scale."
        )
    limit = np.float32(1 - ACTION_MARGIN)
    return (
        Transitions(
            observations=np.ascontiguousarray(logged.observations, dtype=np.float32),
            actions=np.ascontiguousarray(np.clip(actions, -limit, limit)),
            rewards=np.ascontiguousarray(values, dtype=np.float32),
            masks=np.ascontiguousarray(~logged.terminals, dtype=np.float32),
            next_observations=np.ascontiguousarray(logged.next_observations, dtype=np.float32),
        ),
        units,
        record,
        (*notes, *more),
    )


def _action_units(
    actions: FloatArray, bounds: ActionBounds | None
) -> tuple[Units, tuple[str, ...]]:
    """What the networks' -1 and 1 stand for. Where an action has no bound, it is the data's."""
    if bounds is None or bounds.are_of_the_networks:
        return Units(), ()
    least, most = actions.min(0), actions.max(0)
    far = NO_BOUND * np.maximum(1, np.maximum(np.abs(least), np.abs(most)).astype(np.float64))
    no_low, no_high = (~(np.abs(bound) < far) for bound in (bounds.low, bounds.high))
    without = no_low | no_high
    if not without.any():
        return Units(act_low=bounds.low.copy(), act_high=bounds.high.copy()), ()
    low, high = np.where(no_low, least, bounds.low), np.where(no_high, most, bounds.high)
    # Never moved, but for rounding: any width will do, on a side that has no bound.
    low, high = low.astype(np.float64), high.astype(np.float64)
    rounding = STILL * np.maximum(np.abs(low), np.abs(high))
    still = high - low <= np.maximum(rounding, np.finfo(np.float32).tiny)
    width, largest = np.maximum(1, rounding), np.finfo(np.float32).max
    low, high = (
        np.where(still & no_low, np.maximum(np.minimum(low, high) - width, -largest), low),
        np.where(still & no_high, np.minimum(np.maximum(low, high) + width, largest), high),
    )
    which = ", ".join(f"{i} [{low[i]:.4g}, {high[i]:.4g}]" for i in np.flatnonzero(without)[:8])
    more = ", ..." if without.sum() > 8 else ""
    note = f"actions without bounds are scaled by the data's own: {which}{more}"
    return Units(act_low=low.astype(np.float32), act_high=high.astype(np.float32)), (note,)


def _check_range(actions: FloatArray, as_logged: FloatArray, where: str) -> None:
    # Not a number is out of range, too: of bounds that float32 can hardly tell apart.
    out_of_range = ~(np.abs(actions).max(1, initial=0) <= ACTION_LIMIT)
    if out_of_range.any():
        row = int(np.argmax(out_of_range))
        column = int(np.abs(actions[row]).argmax())
        raise UserError(
            f"{where}: 'actions' reaches {as_logged[row, column]:.4g} in row {row}, column "
            f"{column} ({int(out_of_range.sum())} such row(s)), far outside of their bounds. "
            "Rescale them, or name the environment whose actions they are with --env ID."
        )


def _reward_scale(
    logged: LoggedTransitions, family: str, asked: Rewards
) -> tuple[float, float, tuple[str, ...]]:
    scale, shift, notes = 1.0, 0.0, []
    if asked.transform == "authors":
        if family == "locomotion" and asked.scale is None:
            scale, reason = _spread_scale(logged)
            if reason:
                notes.append(
                    f"warning: rewards are not scaled by the spread of returns, as locomotion's "
                    f"are: {reason}; --reward-scale sets a scale"
                )
        elif family == "antmaze":
            shift = -1.0
    return (
        scale if asked.scale is None else asked.scale,
        shift if asked.shift is None else asked.shift,
        tuple(notes),
    )


def _spread_scale(logged: LoggedTransitions) -> tuple[float, str]:
    """The authors' scale of locomotion's rewards; 1 and the reason where it would mean nothing."""
    if not logged.ordered:
        return 1.0, "rows do not follow each other, so there are no returns"
    returns = logged.returns()
    if len(returns) == 1:
        return 1.0, "there is a single trajectory"
    spread, largest = float(np.ptp(returns)), float(np.abs(returns).max())
    if spread <= LEAST_SPREAD * largest:
        return 1.0, f"all returns are alike ({returns.min():.6g} to {returns.max():.6g})"
    return 1000.0 / spread, ""


def best(logged: LoggedTransitions, share: float, where: str) -> tuple[LoggedTransitions, str]:
    """The trajectories of the highest undiscounted returns, in the order in which they were logged,
    and a sentence on them.

    Args:
        share: of all trajectories; one at least is kept.

    Raises:
        UserError: rows do not follow each other, so that there are no returns.
    """
    if not logged.ordered:
        raise UserError(
            f"{where}: rows do not follow each other, so that there are no returns to choose the "
            "best trajectories by. Use --method bc."
        )
    returns, lengths = logged.returns(), logged.lengths()
    count = max(1, int(len(returns) * share))
    chosen = np.zeros(len(returns), dtype=bool)
    chosen[np.argsort(returns, kind="stable")[::-1][:count]] = True
    rows = np.repeat(chosen, lengths)
    columns = ("observations", "actions", "rewards", "terminals", "next_observations", "ends")
    return (
        replace(logged, **{name: getattr(logged, name)[rows] for name in columns}),
        f"{count:,} of {len(returns):,} trajectories, those of the highest returns "
        f"({returns[chosen].min():.6g} and above): {int(rows.sum()):,} rows",
    )


def with_next_actions(
    transitions: Transitions, logged: LoggedTransitions, where: str
) -> tuple[Transitions, str]:
    """The transitions with the action of the data's next row, and a sentence on those that were
    left out: they end a trajectory, but in no terminal state, after which none is worth anything.

    Raises:
        UserError: rows do not follow each other, or none has a next.
    """
    has_next = ~logged.ends | logged.terminals
    has_next[-1] = False
    if not logged.ordered or not has_next.any():
        raise UserError(
            f"{where}: rows do not follow each other, so that there are no next actions, which "
            "--method onestep needs. Use another method."
        )
    rows = np.flatnonzero(has_next)
    kept = {name: column[rows] for name, column in transitions.columns().items()}
    return (
        Transitions(**kept, next_actions=transitions.actions[rows + 1]),
        f"{len(has_next) - len(rows):,} of {len(has_next):,} rows have no next action: left out",
    )


def with_trajectories(
    transitions: Transitions, logged: LoggedTransitions, where: str
) -> tuple[Transitions, str]:
    """The transitions of whole trajectories with their returns to go and times, and a sentence on
    those that were left out: the last trajectory, where its end was not logged.

    Raises:
        UserError: rows do not follow each other, or no trajectory has two.
    """
    lengths = logged.lengths()
    if not logged.ordered or lengths.max() < 2:
        raise UserError(
            f"{where}: rows do not follow each other, so that there are no trajectories, which "
            "--method dt is trained on. Use another method, such as --method bc."
        )
    whole = lengths[: len(logged.whole_returns())]
    rows = int(whole.sum())
    if whole.max() < 2:
        raise UserError(
            f"{where}: the only trajectory of more than one row is the last, whose end was not "
            "logged, and --method dt is trained on whole ones. Log it to its end (a 1 in "
            "'terminals' or 'timeouts'), or use another method, such as --method bc."
        )
    kept = {name: column[:rows] for name, column in transitions.columns().items()}
    # Sums in double precision, each of its own trajectory alone.
    starts = np.cumsum(whole) - whole
    togo = np.empty(rows, np.float32)
    for start, length in zip(starts.tolist(), whole.tolist(), strict=True):
        own = slice(start, start + length)
        togo[own] = np.cumsum(kept["rewards"][own][::-1], dtype=np.float64)[::-1]
    times = np.arange(rows) - np.repeat(starts, whole)
    left_out = len(lengths) - len(whole)
    note = f"{len(whole):,} whole trajectories of {whole.min():,} to {whole.max():,} rows"
    return (
        Transitions(**kept, returns_to_go=togo, times=times.astype(np.float32)),
        note + (f"; {len(logged.ends) - rows:,} rows of a cut one are left out" * left_out),
    )


#: Added to the standard deviation of a column, which may be 0 (TD3+BC's value).
LEAST_DEVIATION = 1e-3


def normalised(
    transitions: Transitions, least_deviation: float = LEAST_DEVIATION
) -> tuple[Transitions, FloatArray, FloatArray]:
    """Observations with mean 0 and standard deviation 1 over the dataset (a departure), and the
    mean and the scale ``[O]`` of ``(observation - mean) / scale``."""
    # Sums in double precision: a million rows near 1000 lose the deviation in single.
    observations = transitions.observations
    mean = observations.mean(0, dtype=np.float64)
    squares = np.zeros(len(mean))
    for start in range(0, len(observations), BLOCK):
        squares += np.square(observations[start : start + BLOCK] - mean).sum(0)
    scale = (np.sqrt(squares / len(observations)) + least_deviation).astype(np.float32)
    center = mean.astype(np.float32)

    def scaled(name: str, columns: FloatArray) -> FloatArray:
        with np.errstate(over="ignore"):
            found: FloatArray = (columns - center) / scale
        wrong = ~np.isfinite(found).all(1)
        if wrong.any():
            raise UserError(
                f"{name} scaled to mean 0 and standard deviation 1 are beyond float32's 3.4e38 in "
                f"transition {int(np.argmax(wrong))}. Leave --normalize-obs out, or repair what "
                "logged them."
            )
        return found

    return (
        replace(
            transitions,
            observations=scaled("observations", observations),
            next_observations=scaled("next_observations", transitions.next_observations),
        ),
        center,
        scale,
    )
