"""Batches: the rows of the engines' generator, and what is gathered with them."""

from __future__ import annotations

import pytest
import torch

from iql_fast import ops
from iql_fast.formulas import philox
from tests.ops_cases import DEVICES, NATIVE, needs_extension


@NATIVE
@DEVICES
def test_rows_are_those_of_the_engines(native: bool, device: str) -> None:
    row = torch.arange(1000, device=device)
    columns = [row, row[:, None].float().expand(1000, 3), (row % 2 == 0).view(1000, 1, 1)]
    state = torch.tensor([2**40 + 7, 5], device=device)
    for step in (5, 6):
        rows, numbers, even = ops.sample_batch(columns, 257, state, native=native)
        expected = torch.from_numpy(philox.batch_rows(2**40 + 7, step, 257, 1000)).to(device)
        assert torch.equal(rows, expected)
        assert torch.equal(numbers, expected[:, None].float().expand(257, 3))
        assert torch.equal(even, (expected % 2 == 0).view(257, 1, 1))
    assert state.tolist() == [2**40 + 7, 7]


@NATIVE
def test_a_restored_state_goes_on_with_the_same_batches(native: bool) -> None:
    columns = [torch.randn(50, 2)]
    state = torch.tensor([1, 0])
    ops.sample_batch(columns, 8, state, native=native)
    saved = state.clone()
    first = ops.sample_batch(columns, 8, state, native=native)
    again = ops.sample_batch(columns, 8, saved, native=native)
    assert torch.equal(first[0], again[0])


@NATIVE
def test_no_rows(native: bool) -> None:
    batch = ops.sample_batch([torch.zeros(4, 3)], 0, torch.tensor([0, 0]), native=native)
    assert batch[0].shape == (0, 3)
    assert ops.sample_batch([torch.zeros(4, 0)], 5, torch.tensor([0, 0]))[0].shape == (5, 0)
    with pytest.raises(ValueError, match="there is no column"):
        ops.sample_batch([], 3, torch.tensor([0, 0]), native=native)


@needs_extension
def test_what_it_does_not_take_is_refused() -> None:
    state = torch.tensor([0, 0])
    with pytest.raises(RuntimeError, match="equally many rows"):
        ops.sample_batch([torch.zeros(3), torch.zeros(4)], 2, state)
    with pytest.raises(RuntimeError, match="cannot draw from 0 rows"):
        ops.sample_batch([torch.zeros(0)], 2, state)
    with pytest.raises(RuntimeError, match="must be an int64 tensor"):
        ops.sample_batch([torch.zeros(3)], 2, torch.zeros(2))
    with pytest.raises(IndexError, match="row 3 of a column with 3"):
        torch.ops.iql_fast.gather_rows([torch.zeros(3)], torch.tensor([0, 3]))
    with pytest.raises(IndexError, match="row -1 of a column"):
        torch.ops.iql_fast.gather_rows([torch.zeros(3)], torch.tensor([-1]))


@NATIVE
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dropout_is_that_of_the_engines(native: bool, dtype: torch.dtype) -> None:
    seeds, shape = [3, 2**40 + 7], (67, 37)  # 2,479 units: no multiple of four, many of blocks
    factors = (torch.ops.iql_fast if native else ops.plain).dropout_factors
    for step, layer in ((0, 0), (2**33 + 5, 1)):
        drawn = factors(torch.zeros(2, *shape, dtype=dtype), torch.tensor(seeds), step, layer, 0.3)
        assert drawn.dtype == dtype
        for seed, one in zip(seeds, drawn, strict=True):
            keep = torch.from_numpy(philox.dropout_keep(seed, step, layer, shape, 0.3))
            torch.testing.assert_close(one, keep.to(dtype) / 0.7)


@needs_extension
def test_dropout_that_it_does_not_take_is_refused() -> None:
    factors, seeds = torch.ops.iql_fast.dropout_factors, torch.tensor([1, 2])
    with pytest.raises(RuntimeError, match="at least 0 and below 1"):
        factors(torch.zeros(2, 3, 4), seeds, 0, 0, 1.0)
    for shape in ((3, 3, 4), (2, 3)):
        with pytest.raises(RuntimeError, match="one a leading index"):
            factors(torch.zeros(shape), seeds, 0, 0, 0.5)
    assert factors(torch.zeros(2, 3, 0), seeds, 0, 0, 0.5).shape == (2, 3, 0)
    like = torch.zeros(2, 3, 4, requires_grad=True)
    assert not factors(like, seeds, 0, 0, 0.5).requires_grad
