"""The random numbers: Philox's published vectors, and what is built on them."""

import numpy as np
import pytest
import torch

from iql_fast.formulas import philox


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # the known answers that come with Random123
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (
            (0xFFFFFFFF,) * 4,
            (0xFFFFFFFF,) * 2,
            (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        ),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_known_answers(counter, key, expected):
    assert philox.philox4x32(counter, key) == expected
    for array in (np.array(counter, dtype=np.uint64), torch.tensor(counter)):
        words = philox.philox4x32(tuple(array[:, None]), key)
        assert tuple(int(word[0]) for word in words) == expected


def test_rows_are_the_multiply_shift_of_the_64_bit_word():
    rows = 1_000_003
    words = [philox.draw(7, 2**33 + 5, philox.BATCH, index) for index in range(50)]
    exact = [((w[1] << 32 | w[0]) * rows) >> 64 for w in words]
    assert philox.batch_rows(7, 2**33 + 5, 50, rows).tolist() == exact


def test_rows_are_uniform():
    counts = np.bincount(
        np.concatenate([philox.batch_rows(3, step, 256, 10) for step in range(400)]), minlength=10
    )
    expected = 400 * 256 / 10
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert chi_squared < 27.9  # 99.9% point for 9 degrees of freedom; the draw is fixed


def test_streams_steps_and_seeds_differ():
    draws = [
        philox.draw(*arguments, 8)
        for arguments in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 2**32, 0)]
    ]
    assert len(set(draws)) == len(draws)


def test_dropout_keeps_the_right_share():
    keep = philox.dropout_keep(0, 0, 0, (256, 255), 0.1)
    assert abs(keep.mean() - 0.9) < 4 * np.sqrt(0.09 / keep.size)


def test_torch_draws_what_numpy_draws():
    seeds, steps = [3, 2**40 + 7, 2**63 - 1], [0, 5, 2**33 + 1]
    tensors = torch.tensor(seeds), torch.tensor(steps)
    rows = philox.batch_rows_of(*tensors, 37, 2**31 + 11)
    keep = philox.dropout_keep_of(*tensors, 1, (5, 7), 0.3)
    for k, step in enumerate(steps):
        for s, seed in enumerate(seeds):
            expected = philox.batch_rows(seed, step, 37, 2**31 + 11)
            np.testing.assert_array_equal(rows[k, s].numpy(), expected)
            expected_keep = philox.dropout_keep(seed, step, 1, (5, 7), 0.3)
            np.testing.assert_array_equal(keep[k, s].numpy(), expected_keep)
