"""The weighted sum of a token's rows."""

from __future__ import annotations

import math

import pytest
import torch

from torch_sm80moe import combine, reference, testing

DTYPES = [torch.float16, torch.bfloat16]


def check(rows, topk_weights, row_position) -> None:
    out = combine(rows, topk_weights, row_position)
    expected = reference.combine(rows, topk_weights, row_position)
    assert out.dtype == rows.dtype
    assert out.is_contiguous()
    testing.assert_close(out, expected, testing.ROUNDINGS_COMBINE, list(rows.shape))


@pytest.mark.sanitizer
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("hidden_size", [8, 72, 1024, 2056])
@pytest.mark.parametrize("shape", [(1, 1), (5, 2), (70, 8), (3, 33)], ids=str)
def test_random_rows(shape, hidden_size, dtype, device):
    rows = torch.randn(shape[0] * shape[1], hidden_size, device=device).to(dtype)
    position = torch.randint(0, rows.size(0), shape, device=device).int()
    check(rows, torch.rand(shape, device=device), position)


def test_positions_outside_contribute_nothing(device):
    rows = torch.randn(10, 64, device=device).half()
    weights = torch.rand(4, 3, device=device)
    position = torch.tensor(
        [[0, -1, 9], [-1, -1, -1], [10, 3, 2**31 - 1], [-(2**31), 5, 5]], device=device
    ).int()
    weights[0, 1] = weights[2, 0] = math.nan
    check(rows, weights, position)
    assert not combine(rows, weights, position)[1].any()


def test_rows_that_nobody_reads_may_hold_nan(device):
    rows = torch.full((6, 64), math.nan, device=device).bfloat16()
    rows[4] = 1
    position = torch.tensor([[4, 4], [-1, 4]], device=device).int()
    out = combine(rows, torch.ones(2, 2, device=device), position)
    assert out[:, 0].tolist() == [2, 1]


def test_no_rows_and_no_tokens(device):
    rows = torch.empty(0, 64, device=device).half()
    nowhere = torch.full((3, 2), -1, device=device).int()
    assert not combine(rows, torch.ones(3, 2, device=device), nowhere).any()
    assert combine(rows, torch.ones(0, 2, device=device), nowhere[:0]).shape == (0, 64)


def test_strided_rows_and_weights(device):
    rows = torch.randn(20, 128, device=device).half()[::2, 8:80]
    weights = torch.rand(5, 6, device=device)[:, 1:3]
    check(rows, weights, torch.randint(0, 10, (5, 2), device=device).int())


def test_sum_is_in_fp32(device):
    """1 + 2048 * 2^-11 is 2; summed in fp16 it would stay 1, for 2^-11 is half a unit there."""
    rows = torch.full((2, 8), 2.0**-11, device=device).half()
    rows[0] = 1
    position = torch.ones(1, 2049, device=device).int()
    position[0, 0] = 0
    out = combine(rows, torch.ones(1, 2049, device=device), position)
    assert out[0, 0] == 2
