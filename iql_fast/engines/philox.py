"""Counter-based random numbers: Philox4x32-10 (Salmon et al., SC 2011), vectorised in numpy.

key = the seed; counter = (index, stream, step). A draw depends on nothing else, so a resumed run
continues the stream it left and every engine draws the same batches. ``csrc/include/iql/philox.h``
is the same in C++; this is its independent second statement.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]  # 32-bit words, held in 64 bits so that products do not overflow

#: Streams: what a draw is for.
BATCH = 0
DROPOUT = 1  # + the number of the hidden layer

_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_STEPS = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))


def philox4x32(counter: Words, key: tuple[int, int]) -> Words:
    """Ten rounds on counters ``[4, n]`` under one key; four words each, ``[4, n]``."""
    c0, c1, c2, c3 = counter
    k0, k1 = np.uint64(key[0]), np.uint64(key[1])
    for _ in range(10):
        product0 = _MULTIPLIERS[0] * c0
        product1 = _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (
            (product1 >> _32) ^ c1 ^ k0,
            product1 & _LOW,
            (product0 >> _32) ^ c3 ^ k1,
            product0 & _LOW,
        )
        k0 = (k0 + _KEY_STEPS[0]) & _LOW
        k1 = (k1 + _KEY_STEPS[1]) & _LOW
    return np.stack([c0, c1, c2, c3])


def draw(seed: int, step: int, stream: int, count: int) -> Words:
    """The four words of indices 0..count-1: ``[4, count]``."""
    counter = np.empty((4, count), dtype=np.uint64)
    counter[0] = np.arange(count, dtype=np.uint64)
    counter[1] = stream
    counter[2] = step & 0xFFFFFFFF
    counter[3] = step >> 32
    return philox4x32(counter, (seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF))


def batch_rows(seed: int, step: int, batch_size: int, rows: int) -> NDArray[np.int64]:
    """The dataset rows of a step's batch, ``[batch_size]``, drawn with replacement.

    The 64-bit multiply-shift ``(x * rows) >> 64`` maps a 64-bit word to a row; its bias is below
    ``rows / 2**64``.
    """
    words = draw(seed, step, BATCH, batch_size)
    n = np.uint64(rows)
    low = (words[0] * n) >> _32
    chosen: NDArray[np.int64] = ((words[1] * n + low) >> _32).astype(np.int64)
    return chosen


def dropout_keep(
    seed: int, step: int, layer: int, shape: tuple[int, int], probability: float
) -> NDArray[np.bool_]:
    """Which hidden units ``[batch, units]`` of a layer are kept, each with 1 - probability."""
    batch, units = shape
    words = draw(seed, step, DROPOUT + layer, (batch * units + 3) // 4)
    uniform = words.T.reshape(-1)[: batch * units].reshape(batch, units)
    return uniform >= np.uint64(int(probability * 2**32))
