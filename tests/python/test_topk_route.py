"""The router: against the specification, and by hazard."""

from __future__ import annotations

import math

import pytest
import torch

from torch_sm80moe import reference, testing, topk_route

LOGITS = [torch.float32, torch.float16, torch.bfloat16]


def check(logits: torch.Tensor, top_k: int, renormalize: bool = True) -> None:
    weights, ids = topk_route(logits, top_k, renormalize=renormalize)
    right_weights, right_ids = reference.topk_route(
        logits, top_k, renormalize=renormalize, dtype=torch.float64
    )
    assert weights.dtype == torch.float32
    assert ids.dtype == torch.int32
    assert weights.is_contiguous()
    assert ids.is_contiguous()
    assert torch.equal(ids, right_ids)
    torch.testing.assert_close(weights, right_weights.float(), **testing.ROUTER_TOLERANCE)


@pytest.mark.parametrize("renormalize", [True, False])
@pytest.mark.parametrize("dtype", LOGITS, ids=str)
@pytest.mark.parametrize(
    "num_experts", [1, 2, 8, 31, 32, 33, 60, 64, 100, 128, 129, 256, 384, 512, 1000, 1024]
)
def test_every_size_of_a_lane(num_experts, dtype, renormalize, device):
    for num_tokens in (1, 5, 130):
        logits = torch.randn(num_tokens, num_experts, device=device).to(dtype)
        for top_k in {1, min(2, num_experts), min(8, num_experts), num_experts}:
            check(logits, top_k, renormalize)


@pytest.mark.parametrize("num_experts", [4, 40, 200])
def test_ties_go_to_the_lowest_index(num_experts, device):
    check(torch.zeros(3, num_experts, device=device), 4)
    few_values = torch.randint(0, 3, (200, num_experts), device=device).float()
    check(few_values, 4)


def test_weights_of_a_token_sum_to_one(device):
    weights, _ = topk_route(torch.randn(50, 16, device=device), 4)
    torch.testing.assert_close(weights.sum(1), torch.ones(50, device=device))


def test_nan_counts_as_the_smallest(device):
    logits = torch.randn(20, 8, device=device)
    logits[::2, 3] = math.nan
    check(logits, 7)
    _, ids = topk_route(logits, 7)
    assert not (ids[::2] == 3).any()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 3e38, -3e38])
def test_every_weight_is_a_number(value, device):
    for columns in (slice(None), slice(0, 1), slice(1, None)):
        logits = torch.randn(3, 9, device=device)
        logits[:, columns] = value
        for renormalize in (True, False):
            weights, ids = topk_route(logits, 3, renormalize=renormalize)
            assert weights.isfinite().all()
            assert ((ids >= 0) & (ids < 9)).all()


def test_no_tokens(device):
    weights, ids = topk_route(torch.empty(0, 8, device=device), 2)
    assert weights.shape == ids.shape == (0, 2)


def test_rows_of_a_larger_tensor(device):
    frame = torch.full((12, 40), math.inf, device=device)
    frame[1:11, 3:19] = torch.randn(10, 16, device=device)
    check(frame[1:11, 3:19], 4)


def test_same_bits_every_time(device):
    logits = torch.randn(300, 64, device=device)
    first = topk_route(logits, 8)
    for _ in range(5):
        assert all(torch.equal(a, b) for a, b in zip(topk_route(logits, 8), first, strict=True))


@pytest.mark.gpu
def test_many_tokens(cuda):
    check(torch.randn(131072, 128, device=cuda), 8)
