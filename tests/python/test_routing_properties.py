"""What holds of routing for all inputs, searched by hypothesis."""

from __future__ import annotations

import pytest
import torch

from torch_sm80moe import sort_by_expert, topk_route

hypothesis = pytest.importorskip("hypothesis")
st = pytest.importorskip("hypothesis.strategies")

INT64 = st.integers(-(2**63), 2**63 - 1)


@st.composite
def ids_and_experts(draw):
    num_experts = draw(st.integers(1, 12))
    num_tokens, top_k = draw(st.integers(0, 12)), draw(st.integers(1, 5))
    an_id = st.one_of(st.integers(-2, num_experts + 1), INT64)
    flat = draw(st.lists(an_id, min_size=num_tokens * top_k, max_size=num_tokens * top_k))
    return torch.tensor(flat, dtype=torch.int64).reshape(num_tokens, top_k), num_experts


@hypothesis.given(ids_and_experts())
@hypothesis.settings(deadline=None)
def test_sort_is_a_stable_permutation_of_the_valid_pairs(case):
    topk_ids, num_experts = case
    results = sort_by_expert(topk_ids, num_experts)
    offsets, row_index, row_position = (result.flatten().tolist() for result in results)
    ids = topk_ids.flatten().tolist()
    in_order = sorted((e, p) for p, e in enumerate(ids) if 0 <= e < num_experts)
    assert offsets == [sum(e < bound for e, _ in in_order) for bound in range(num_experts + 1)]
    assert row_index == [p for _, p in in_order] + [-1] * (len(ids) - len(in_order))
    rows = {p: row for row, (_, p) in enumerate(in_order)}
    assert row_position == [rows.get(p, -1) for p in range(len(ids))]


@st.composite
def logits_and_k(draw):
    num_experts = draw(st.integers(1, 12))
    few_values = st.sampled_from([0.0, 1.0, -1.0, 1e30, float("inf"), float("-inf"), float("nan")])
    value = st.one_of(few_values, st.floats(-50, 50, width=32))
    row = st.lists(value, min_size=num_experts, max_size=num_experts)
    rows = draw(st.lists(row, min_size=1, max_size=6))
    return torch.tensor(rows), draw(st.integers(1, num_experts))


@hypothesis.given(logits_and_k())
@hypothesis.settings(deadline=None)
def test_router_chooses_the_largest_in_falling_order(case):
    logits, top_k = case
    weights, ids = topk_route(logits, top_k)
    limits = torch.finfo(torch.float32)
    for row, chosen in zip(
        logits.nan_to_num(limits.min, limits.max, limits.min).tolist(), ids.tolist(), strict=True
    ):
        assert chosen == sorted(range(len(row)), key=lambda e: (-row[e], e))[:top_k]
    assert torch.equal(weights.sort(dim=1, descending=True).values, weights)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(logits.size(0)))
