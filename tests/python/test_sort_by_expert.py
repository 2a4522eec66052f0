"""The sort: exact, stable, and without a row for ids that no expert has."""

from __future__ import annotations

import pytest
import torch

from torch_sm80moe import reference, sort_by_expert
from torch_sm80moe.testing import HAZARDS, Problem


def check(topk_ids: torch.Tensor, num_experts: int) -> None:
    for mine, right in zip(
        sort_by_expert(topk_ids, num_experts),
        reference.sort_by_expert(topk_ids, num_experts),
        strict=True,
    ):
        assert mine.dtype == torch.int32
        assert mine.is_contiguous()
        assert torch.equal(mine, right)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("num_experts", [1, 2, 31, 64, 257, 1024])
@pytest.mark.parametrize("shape", [(1, 1), (1, 8), (5, 3), (64, 2), (1000, 8)], ids=str)
def test_random_ids(shape, num_experts, dtype, device):
    # A few ids are outside on either side.
    ids = torch.randint(-1, num_experts + 1, shape, device=device).to(dtype)
    check(ids, num_experts)


@pytest.mark.sanitizer
@pytest.mark.parametrize("hazard", HAZARDS)
@pytest.mark.parametrize("num_tokens", [1, 16, 33, 700])
def test_hazard(num_tokens, hazard, device):
    check(Problem(num_tokens, 8, 4, 8, 8, hazard=hazard).make(device).topk_ids, 8)


def test_no_tokens(device):
    offsets, row_index, row_position = sort_by_expert(torch.empty(0, 4, device=device).int(), 3)
    assert offsets.tolist() == [0, 0, 0, 0]
    assert row_index.shape == (0,)
    assert row_position.shape == (0, 4)


def test_columns_of_a_larger_tensor(device):
    ids = torch.randint(0, 8, (50, 10), device=device)
    check(ids[:, 2:6], 8)


def test_rows_of_one_expert_keep_their_order(device):
    _, row_index, _ = sort_by_expert(torch.zeros(100, 2, dtype=torch.int64, device=device), 4)
    assert row_index.tolist() == list(range(200))


@pytest.mark.gpu
@pytest.mark.parametrize("num_experts", [8, 1000])
@pytest.mark.parametrize("num_tokens", [4096, 131072])
def test_many_pairs(num_tokens, num_experts, cuda):
    check(torch.randint(-1, num_experts, (num_tokens, 8), device=cuda), num_experts)


@pytest.mark.gpu
def test_graph_replay_with_other_ids(cuda):
    ids = torch.randint(0, 16, (300, 4), device=cuda)
    sort_by_expert(ids, 16)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = sort_by_expert(ids, 16)
    for _ in range(5):
        ids.random_(-1, 17)
        graph.replay()
        for mine, right in zip(results, reference.sort_by_expert(ids, 16), strict=True):
            assert torch.equal(mine, right)
