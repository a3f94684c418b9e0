"""Counter-based random numbers: Philox4x32-10 (Salmon et al., SC 2011), for numpy and for torch.

key = the seed; counter = (index, stream, step). A draw depends on nothing else, so a resumed run
continues the stream it left and every engine draws the same batches. ``csrc/include/iql/philox.h``
is the same in C++; this is its independent second statement.

Words are 32 bits, held in 64 (uint64 in numpy, int64 in torch), and broadcast against each other:
steps, seeds and indices may lie along axes of their own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

#: An int, or an array or tensor of them.
Words = Any
FourWords = tuple[Words, Words, Words, Words]

#: Streams: what a draw is for.
BATCH = 0
DROPOUT = 1  # + the number of the hidden layer
EXPLORATION = 48

_LOW = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)


def _high(product: Words) -> Words:
    """The upper word of 64 bits, whose first may be a sign."""
    return (product >> 32) & _LOW


def philox4x32(counter: FourWords, key: tuple[Words, Words]) -> FourWords:
    """Ten rounds on four words of counters under a key; four words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        product0 = _MULTIPLIERS[0] * c0
        product1 = _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (
            _high(product1) ^ c1 ^ k0,
            product1 & _LOW,
            _high(product0) ^ c3 ^ k1,
            product0 & _LOW,
        )
        k0 = (k0 + _KEY_STEPS[0]) & _LOW
        k1 = (k1 + _KEY_STEPS[1]) & _LOW
    return c0, c1, c2, c3


def draw(seed: Words, step: Words, stream: int, index: Words) -> FourWords:
    """The four words of some indices."""
    return philox4x32((index, stream, step & _LOW, _high(step)), (seed & _LOW, _high(seed)))


def row_of(words: FourWords, rows: int) -> Words:
    """A dataset's row, drawn with replacement.

    The 64-bit multiply-shift ``(x * rows) >> 64`` of the first two words; its bias is below
    ``rows / 2**64``.
    """
    return _high(words[1] * rows + _high(words[0] * rows))


def kept(words: Words, probability: float) -> Words:
    """Whether each of some words, as a number in [0, 1), is at least the probability."""
    return words >= int(probability * 2**32)


def batch_rows(seed: int, step: int, batch_size: int, rows: int) -> NDArray[np.int64]:
    """The dataset rows of a step's batch, ``[batch_size]``."""
    words = draw(seed, step, BATCH, np.arange(batch_size, dtype=np.uint64))
    chosen: NDArray[np.int64] = row_of(words, rows).astype(np.int64)
    return chosen


def dropout_keep(
    seed: int, step: int, layer: int, shape: tuple[int, int], probability: float
) -> NDArray[np.bool_]:
    """Which hidden units ``[batch, units]`` of a layer are kept, each with 1 - probability."""
    batch, units = shape
    words = draw(seed, step, DROPOUT + layer, np.arange((batch * units + 3) // 4, dtype=np.uint64))
    keep: NDArray[np.bool_] = kept(np.stack(words, -1).reshape(-1), probability)
    return keep[: batch * units].reshape(batch, units)


def batch_rows_of(seeds: Tensor, steps: Tensor, batch_size: int, rows: int) -> Tensor:
    """``batch_rows`` of seeds ``[S]`` at steps ``[K]``, int64 on any device: ``[K, S, B]``."""
    index = torch.arange(batch_size, device=seeds.device)
    drawn: Tensor = row_of(draw(seeds[:, None], steps[:, None, None], BATCH, index), rows)
    return drawn


def dropout_keep_of(
    seeds: Tensor, steps: Tensor, layer: int, shape: tuple[int, int], probability: float
) -> Tensor:
    """``dropout_keep`` of seeds ``[S]`` at steps ``[K]``: ``[K, S, batch, units]``."""
    batch, units = shape
    index = torch.arange((batch * units + 3) // 4, device=seeds.device)
    words: Tensor = torch.stack(
        draw(seeds[:, None], steps[:, None, None], DROPOUT + layer, index), -1
    )
    keep: Tensor = kept(words.flatten(2)[..., : batch * units], probability)
    return keep.view(*keep.shape[:2], *shape)
