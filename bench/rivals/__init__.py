"""IQL written with other libraries, to measure the engines against.

All follow the authors' update order with the sizes and semantics of the engines, train one seed
(that in JAX also several at once), keep the dataset in memory and draw the batches themselves.
``tests/test_bench.py`` checks that each computes what the reference engine does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from iql_fast.engines import Batch


class Rival(Protocol):
    """One seed's training, or that of S seeds."""

    #: ``run`` takes multiples of this many steps.
    unit: int

    def run(self, steps: int) -> None:
        """Do ``steps`` steps on batches drawn from the dataset; returns when they are done."""

    def step_on(self, batch: Batch) -> None:
        """Do one step on a batch (a leading axis S on every column)."""

    def load_weights(self, state: Mapping[str, Tensor]) -> None:
        """Take the weights over from the ``state_dict`` of an engine with S seeds at step 0."""

    def weights(self) -> dict[str, Tensor]:
        """The weights under the names, and with the shapes, of an engine's ``state_dict``."""
