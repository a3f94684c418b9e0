"""What fine-tuning trains on: the logged transitions, and those that each seed meets."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from iql_fast.data.dataset import FloatArray, Transitions
from iql_fast.support import memory


class Met(NamedTuple):
    """One transition of each seed: a leading axis S."""

    observations: NDArray[np.floating]
    actions: NDArray[np.floating]
    rewards: NDArray[np.floating]
    masks: NDArray[np.floating]
    next_observations: NDArray[np.floating]


class Replay:
    """A ring of transitions for each seed, first in, first out, in which the logged ones come
    first.

    The seeds have the logged transitions in common, which are not copied. All seeds have met
    equally many.

    Args:
        seeds: S.
        capacity: transitions that a ring holds, at least as many as are logged.
        most: transitions that a seed will meet; there is memory for no more, nor for more than the
            capacity.

    Attributes:
        met: columns ``[S, slots, ...]`` of what was met, number k in slot ``k % capacity``.
        met_rows: how many each seed has met, those that were displaced included.

    Raises:
        ValueError: the capacity is less than what is logged, or there is nothing to be met.
        UserError: there is not so much memory.
    """

    def __init__(self, logged: Transitions, seeds: int, capacity: int, most: int) -> None:
        if capacity < len(logged):
            raise ValueError(
                f"the capacity is {capacity:,}; expected at least the {len(logged):,} logged "
                "transitions"
            )
        if most < 1:
            raise ValueError(f"{most} transitions are to be met; expected 1 or more")
        self.logged, self.seeds, self.capacity, self.most = logged, seeds, capacity, most
        slots = min(most, capacity)
        columns = {name: getattr(logged, name) for name in Met._fields}
        shapes = {name: (seeds, slots, *x.shape[1:]) for name, x in columns.items()}
        self._bytes_each = sum(4 * int(np.prod(shape[2:])) for shape in shapes.values()) * seeds
        memory.require(
            slots * self._bytes_each, f"{slots:,} transitions to be met by each of {seeds} seeds"
        )
        # Not touched, and so not taken, before it is filled.
        self.met = {name: np.empty(shape, np.float32) for name, shape in shapes.items()}
        self.met_rows = 0

    def __len__(self) -> int:
        """Transitions in the ring of a seed."""
        return min(len(self.logged) + self.met_rows, self.capacity)

    @property
    def bytes_to_come(self) -> int:
        """Of all transitions that will be met, in a file."""
        return self.most * self._bytes_each

    @property
    def obs_dim(self) -> int:
        return self.logged.obs_dim

    @property
    def act_dim(self) -> int:
        return self.logged.act_dim

    def place(self, number: int) -> int:
        """Of the transition that was met as that number (0-based)."""
        return (len(self.logged) + number) % self.capacity

    def write(self, number: int, met: Met) -> None:
        """Set the transition of that number, of every seed. It need not count yet, and may count
        already (``met_rows``)."""
        slot = number % self.capacity
        for name, values in met._asdict().items():
            self.met[name][:, slot] = values

    def gather(self, index: int, places: NDArray[np.int64]) -> dict[str, FloatArray]:
        """The columns at some places ``[B]`` of the ring of the ``index``-th seed."""
        logged = len(self.logged)
        slots = np.where(places < logged, places - logged + self.capacity, places - logged)
        met = slots < self.met_rows
        found = {}
        for name, column in self.met.items():
            rows = getattr(self.logged, name)[np.where(met, 0, places)]
            rows[met] = column[index, slots[met]]
            found[name] = rows
        return found
