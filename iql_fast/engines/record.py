"""Metrics and failures of steps whose host does not look on: summed where they are computed."""

from __future__ import annotations

import torch
from torch import Tensor

from iql_fast.engines.base import METRICS, Metrics
from iql_fast.engines.metrics import metric_means
from iql_fast.formulas.losses import awr_weights
from iql_fast.methods.iql import TRAINED

#: What a step leaves behind, ``[S, B]`` each; the terms of the losses in the order of TRAINED.
RECORDED = (*(f"{net}_loss" for net in TRAINED), "value", "q", "advantage")


class Record:
    """Rows of K steps, and sums over all steps.

    Args:
        like: gives the dtype and the device.

    Attributes:
        rows: ``[K, len(RECORDED), S, B]``, which each step fills its part of.
        steps: done since ``take``; for the caller to count.
        failure: its first number is positive once a loss was not finite.
    """

    def __init__(self, chunk: int, seeds: int, batch_size: int, like: Tensor) -> None:
        self.rows = like.new_zeros(chunk, len(RECORDED), seeds, batch_size)
        self.steps = 0
        exact = like.double()
        self._sums = exact.new_zeros(len(RECORDED) + 3, seeds)
        self._largest = exact.new_zeros(seeds)
        self.failure = exact.new_zeros(8)

    def account(self, count: int, clock: Tensor, beta: Tensor, clip: Tensor) -> None:
        """Sum up the rows of so many steps, the first of which came after ``clock`` others.

        Args:
            beta, clip: of the weights, ``[S, 1]``.
        """
        rows = self.rows[:count]
        q, advantage = (rows[:, RECORDED.index(name)] for name in ("q", "advantage"))
        weight = awr_weights(advantage, beta, clip)
        means = rows.double().mean(-1)  # [count, len(RECORDED), S]
        more = torch.stack([advantage.double() ** 2, weight.double(), (weight >= clip).double()], 1)
        self._sums += torch.cat([means, more.mean(-1)], 1).sum(0)
        self._largest.copy_(torch.maximum(self._largest, weight.amax((0, 2)).double()))

        # The first loss that is not finite: its step, net and seed, and what it was made of.
        nets, seeds = len(TRAINED), rows.shape[2]
        bad = ~torch.isfinite(means[:, :nets]).flatten()
        at = bad.to(torch.uint8).argmax()
        k, s = at // (nets * seeds), at % seeds
        made_of = (
            torch.stack([q, q - advantage]).flatten(1, 2).index_select(1, (k * seeds + s)[None])
        )
        place = torch.stack([bad.any().long(), clock + k + 1, at // seeds % nets, s])
        extremes = torch.stack([made_of.amin(-1), made_of.amax(-1)], -1)
        found = torch.cat([place.double(), extremes.double().flatten()])
        known = (self.failure[0] > 0) | ~bad.any()
        self.failure.copy_(torch.where(known, self.failure, found))

    def take(self) -> tuple[Metrics, tuple[int, str, int, dict[str, float]] | None]:
        """The metrics since the last call, and the first failure: (step, net, index of the seed,
        ranges of Q and V)."""
        sums, largest = self._sums.cpu().numpy().copy(), self._largest.cpu().numpy().copy()
        failed, *place = self.failure.tolist()
        named = dict(zip(RECORDED, sums, strict=False))
        squared, named["weight"], named["weight_clipped"] = sums[len(RECORDED) :]
        named |= {"advantage_std": squared, "weight_max": largest}
        metrics = metric_means(named, squared, dict.fromkeys(METRICS, self.steps))
        self._clear_sums()
        if not failed:
            return metrics, None
        step, net, index = (int(number) for number in place[:3])
        ranges = zip(("q min", "q max", "v min", "v max"), place[3:], strict=True)
        return metrics, (step, TRAINED[net], index, dict(ranges))

    def clear(self) -> None:
        """Forget everything."""
        self._clear_sums()
        self.failure.zero_()

    def _clear_sums(self) -> None:
        self._sums.zero_()
        self._largest.zero_()
        self.steps = 0
