"""The specification: IQL in plain torch with autograd, in the authors' order, seeds leading.

What it computes stands in ``iql_fast.methods.iql``. Formulas follow the paper (Kostrikov, Nair,
Levine, ICLR 2022) and, where the paper is silent, the authors' code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from iql_fast.data.dataset import Transitions
from iql_fast.engines.base import METRICS, Hyperparameters, NetworkSpec, Precision, lacks
from iql_fast.engines.generic import GenericEngine


def unavailable_reason(precision: Precision = "fp32") -> str:
    """Why the engine cannot be used in that precision; empty where it can."""
    return lacks("reference", precision)


class ReferenceEngine(GenericEngine):
    """See ``iql_fast.engines.base.Engine``."""

    def __init__(
        self,
        network: NetworkSpec,
        hyper: Hyperparameters,
        data: Transitions,
        seeds: Sequence[int],
        precision: Precision = "fp32",
    ) -> None:
        self.network, self.hyper = network, hyper
        sized = replace(hyper, hidden=network.hidden, critics=network.critics)
        super().__init__(sized, data, seeds, precision)
        self.metrics = METRICS
