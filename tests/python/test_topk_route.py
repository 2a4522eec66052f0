"""The router: against the specification, and by hazard."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from torch_sm80moe import reference, testing, topk_route

LOGITS = [torch.float32, torch.float16, torch.bfloat16]
SCORINGS = ["softmax", "sigmoid", "sqrtsoftplus"]
# Every number of experts around which a lane of a warp gets one more.
SIZES = [1, 2, 8, 31, 32, 33, 60, 64, 100, 128, 129, 256, 384, 512, 1000, 1024]
GROUPS = {"n_group": 8, "topk_group": 3}


def check(logits: torch.Tensor, top_k: int, renormalize: bool = True, **arguments: Any) -> None:
    weights, ids = topk_route(logits, top_k, renormalize=renormalize, **arguments)
    right_weights, right_ids = reference.topk_route(
        logits, top_k, renormalize=renormalize, dtype=torch.float64, **arguments
    )
    assert weights.dtype == torch.float32
    assert ids.dtype == torch.int32
    assert weights.is_contiguous()
    assert ids.is_contiguous()
    assert torch.equal(ids, right_ids)
    torch.testing.assert_close(weights, right_weights.float(), **testing.ROUTER_TOLERANCE)


def scores_by_index(logits: torch.Tensor, scoring: str) -> torch.Tensor:
    scores, ids = reference.topk_route(
        logits, logits.size(1), scoring=scoring, renormalize=False, dtype=torch.float64
    )
    return torch.empty_like(scores).scatter(1, ids.long(), scores)


def distinct_scores(num_tokens: int, num_experts: int, device: torch.device) -> torch.Tensor:
    """Make logits of which no two of a token are close to each other."""
    steps = torch.rand(num_tokens, num_experts, device=device).argsort(dim=-1)
    return (steps + 0.3 * torch.rand(num_experts, device=device)) * (6 / num_experts) - 3


@pytest.mark.parametrize("renormalize", [True, False])
@pytest.mark.parametrize("dtype", LOGITS, ids=str)
@pytest.mark.parametrize("num_experts", SIZES)
def test_every_size_of_a_lane(num_experts, dtype, renormalize, device):
    for num_tokens in (1, 5, 130):
        logits = torch.randn(num_tokens, num_experts, device=device).to(dtype)
        for top_k in {1, min(2, num_experts), min(8, num_experts), num_experts}:
            check(logits, top_k, renormalize)


@pytest.mark.parametrize("scoring", SCORINGS)
@pytest.mark.parametrize("num_experts", SIZES)
def test_every_size_with_all_arguments(num_experts, scoring, device):
    """All experts of half of the groups, in an order that rounding may change."""
    n_group = math.gcd(num_experts, 8)
    topk_group = max(1, n_group // 2)
    top_k = num_experts // n_group * topk_group
    logits = torch.randn(5, num_experts, device=device)
    bias = torch.randn(num_experts, device=device)
    groups = {"n_group": n_group, "topk_group": topk_group}
    biased = {"scoring": scoring, "correction_bias": bias, **groups}
    weights, ids = topk_route(logits, top_k, routed_scaling_factor=2.5, **biased)

    scores = scores_by_index(logits, scoring)
    choice = scores + bias
    right_ids = reference.topk_route(logits, top_k, dtype=torch.float64, **biased)[1].long()
    assert (ids.sort(dim=-1).values.diff(dim=-1) > 0).all()
    torch.testing.assert_close(
        choice.gather(1, ids.long()), choice.gather(1, right_ids), rtol=1e-6, atol=1e-6
    )
    chosen = scores.gather(1, ids.long())
    expected = 2.5 * chosen / chosen.sum(dim=-1, keepdim=True)
    torch.testing.assert_close(weights, expected.float(), **testing.ROUTER_TOLERANCE)


@pytest.mark.parametrize("dtype", LOGITS, ids=str)
@pytest.mark.parametrize("renormalize", [True, False])
@pytest.mark.parametrize("scoring", SCORINGS)
def test_scoring(scoring, renormalize, dtype, device):
    """Without a bias logits decide, also where scores would tie: sigmoid(20) = sigmoid(30)."""
    logits = 8 * torch.randn(40, 60, device=device).to(dtype)
    check(logits, 60, renormalize, scoring=scoring)


def test_softmax_of_the_chosen_logits(device):
    """As gpt-oss has it: the same numbers as the softmax of all, renormalised."""
    logits = 5 * torch.randn(40, 32, device=device)
    weights, ids = topk_route(logits, 4)
    chosen = logits.double().gather(-1, ids.long()).softmax(dim=-1)
    torch.testing.assert_close(weights, chosen.float(), **testing.ROUTER_TOLERANCE)


@pytest.mark.parametrize("scoring", SCORINGS)
def test_bias_decides_but_does_not_weigh(scoring, device):
    logits = distinct_scores(30, 16, device)
    bias = torch.zeros(16, device=device)
    bias[5], bias[2] = 100, -100
    weights, ids = topk_route(logits, 15, scoring=scoring, correction_bias=bias, renormalize=False)
    assert (ids[:, 0] == 5).all()
    assert not (ids == 2).any()
    expected = scores_by_index(logits, scoring).gather(1, ids.long()).float()
    torch.testing.assert_close(weights, expected, **testing.ROUTER_TOLERANCE)


# Experts of groups [0, 1], [2, 3], [4, 5], by their scores.
PAIRS = [0.9, 0.1, 0.6, 0.5, 0.7, 0.2]


@pytest.mark.parametrize(
    ("group_score", "topk_group", "chosen"),
    [
        ("max", 1, [0, 1]),
        ("max", 2, [0, 4]),
        ("top2_sum", 1, [2, 3]),
        ("top2_sum", 2, [0, 2]),
        ("top2_sum", 3, [0, 4]),
    ],
)
def test_score_of_a_group(group_score, topk_group, chosen, device):
    logits = torch.tensor([PAIRS], device=device).logit()
    groups = {"n_group": 3, "topk_group": topk_group, "group_score": group_score}
    weights, ids = topk_route(logits, 2, scoring="sigmoid", renormalize=False, **groups)
    assert ids.tolist() == [chosen]
    expected = torch.tensor([[PAIRS[e] for e in chosen]], device=device)
    torch.testing.assert_close(weights, expected, **testing.ROUTER_TOLERANCE)


def test_groups_are_judged_with_the_bias(device):
    logits = torch.tensor([PAIRS], device=device).logit()
    bias = torch.tensor([0, 0, 0, 0, 0, 0.5], device=device)
    _, ids = topk_route(logits, 2, scoring="sigmoid", correction_bias=bias, n_group=3, topk_group=1)
    assert ids.tolist() == [[4, 5]]


@pytest.mark.sanitizer
@pytest.mark.parametrize("group_score", ["max", "top2_sum"])
@pytest.mark.parametrize(
    ("num_experts", "n_group", "topk_group"),
    [(256, 8, 4), (160, 8, 3), (60, 12, 5), (96, 32, 7), (1024, 16, 4), (6, 6, 2), (33, 3, 3)],
)
def test_groups(num_experts, n_group, topk_group, group_score, device):
    """Groups as wide as a warp and not, with one expert, as many as there may be."""
    for scoring in SCORINGS:
        check(
            distinct_scores(20, num_experts, device),
            min(8, num_experts // n_group * topk_group),
            scoring=scoring,
            n_group=n_group,
            topk_group=topk_group,
            group_score=group_score,
        )


def test_negative_scores_of_a_chosen_group_beat_other_groups(device):
    """A group that is not chosen has no experts: they do not count as zero."""
    bias = torch.full((16,), -5.0, device=device)
    arguments = {"scoring": "sigmoid", "correction_bias": bias, "n_group": 4, "topk_group": 1}
    _, ids = topk_route(distinct_scores(20, 16, device), 4, **arguments)
    assert (ids // 4 == ids[:, :1] // 4).all()


@pytest.mark.parametrize("num_experts", [4, 40, 200])
def test_ties_go_to_the_lowest_index(num_experts, device):
    check(torch.zeros(3, num_experts, device=device), 4)
    few_values = torch.randint(0, 3, (200, num_experts), device=device).float()
    check(few_values, 4)


def test_zeros_of_both_signs_tie(device):
    logits = torch.tensor([[-0.0, 0.0, -0.0, 0.0, 0.0]], device=device)
    assert topk_route(logits, 5)[1].tolist() == [[0, 1, 2, 3, 4]]


@pytest.mark.parametrize("scoring", SCORINGS)
@pytest.mark.parametrize("group_score", ["max", "top2_sum"])
def test_ties_of_groups_go_to_the_lowest(group_score, scoring, device):
    """Every token has the same experts in all of its groups."""
    one_group = distinct_scores(50, 8, device)
    check(one_group.repeat(1, 8), 6, scoring=scoring, group_score=group_score, **GROUPS)
    _, ids = topk_route(
        one_group.repeat(1, 8), 6, scoring=scoring, group_score=group_score, **GROUPS
    )
    assert (ids < 3 * 8).all()


@pytest.mark.parametrize("scoring", SCORINGS)
def test_ties_of_biased_scores_go_to_the_lowest(scoring, device):
    bias = torch.tensor([0.25, 0.5] * 10, device=device)
    check(torch.zeros(5, 20, device=device), 20, scoring=scoring, correction_bias=bias)


def test_weights_of_a_token_sum_to_one(device):
    for scoring in SCORINGS:
        weights, _ = topk_route(torch.randn(50, 16, device=device), 4, scoring=scoring)
        torch.testing.assert_close(weights.sum(1), torch.ones(50, device=device))


def test_scaling_factor(device):
    logits = torch.randn(50, 16, device=device)
    for renormalize in (True, False):
        plain = topk_route(logits, 4, renormalize=renormalize)
        scaled = topk_route(logits, 4, renormalize=renormalize, routed_scaling_factor=4)
        assert torch.equal(scaled[0], plain[0] * 4)
        assert torch.equal(scaled[1], plain[1])


def test_nan_counts_as_the_smallest(device):
    logits = torch.randn(20, 8, device=device)
    logits[::2, 3] = math.nan
    check(logits, 7)
    _, ids = topk_route(logits, 7)
    assert not (ids[::2] == 3).any()


@pytest.mark.parametrize("scoring", SCORINGS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 3e38, -3e38])
def test_every_weight_is_a_number(value, scoring, device):
    bias = torch.tensor([0.1, value, -0.1] * 3, device=device)
    for columns in (slice(None), slice(0, 1), slice(1, None)):
        logits = distinct_scores(3, 9, device)
        logits[:, columns] = value
        for renormalize in (True, False):
            for extra in ({}, {"correction_bias": bias, "n_group": 3, "topk_group": 2}):
                check(logits, 3, renormalize, scoring=scoring, **extra)
                weights, ids = topk_route(
                    logits, 3, renormalize=renormalize, scoring=scoring, **extra
                )
                assert weights.isfinite().all()
                assert ((ids >= 0) & (ids < 9)).all()


@pytest.mark.parametrize("dtype", LOGITS, ids=str)
@pytest.mark.parametrize(
    ("scoring", "value", "weight"),
    [
        ("softmax", math.nan, 0.5),
        ("softmax", -math.inf, 0.5),
        ("softmax", math.inf, 0.5),
        ("sigmoid", math.nan, 0.0),
        ("sigmoid", -math.inf, 0.0),
        ("sigmoid", math.inf, 0.5),
        ("sqrtsoftplus", math.nan, 0.0),
    ],
)
def test_row_without_a_finite_logit(scoring, value, weight, dtype, device):
    logits = torch.full((1, 5), value, dtype=dtype, device=device)
    weights, ids = topk_route(logits, 2, scoring=scoring)
    assert ids.tolist() == [[0, 1]]
    assert weights.tolist() == [[weight, weight]]


def test_nan_of_the_bias_is_the_last_choice(device):
    bias = torch.zeros(6, device=device)
    bias[4] = math.nan
    _, ids = topk_route(distinct_scores(20, 6, device), 6, correction_bias=bias)
    assert (ids[:, -1] == 4).all()


@pytest.mark.parametrize("num_tokens", [0, 1, 7, 3000])
@pytest.mark.parametrize("top_k", [1, 6, 40])
def test_tokens_per_expert(top_k, num_tokens, device):
    logits = torch.randn(num_tokens, 40, device=device)
    weights, ids, counts = topk_route(logits, top_k, return_tokens_per_expert=True)
    assert counts.dtype == torch.int32
    assert torch.equal(counts, ids.flatten().bincount(minlength=40).int())
    plain = topk_route(logits, top_k)
    assert torch.equal(weights, plain[0])
    assert torch.equal(ids, plain[1])


def test_expert_map(device):
    """The second of three devices, whose experts lie in another order there."""
    logits = torch.randn(70, 30, device=device)
    expert_map = torch.full((30,), -1, dtype=torch.int32, device=device)
    expert_map[10:20] = torch.arange(9, -1, -1, device=device).int()
    weights, ids, counts = topk_route(logits, 8, return_tokens_per_expert=True)
    mapped = topk_route(logits, 8, expert_map=expert_map, return_tokens_per_expert=True)
    assert torch.equal(mapped[0], weights)
    assert torch.equal(mapped[1], expert_map[ids.long()])
    assert torch.equal(mapped[2], counts)


def test_no_tokens(device):
    weights, ids = topk_route(torch.empty(0, 8, device=device), 2)
    assert weights.shape == ids.shape == (0, 2)
    weights, ids = topk_route(torch.empty(0, 32, device=device), 2, **GROUPS)
    assert weights.shape == ids.shape == (0, 2)


def test_rows_of_a_larger_tensor(device):
    frame = torch.full((12, 40), math.inf, device=device)
    frame[1:11, 3:19] = torch.randn(10, 16, device=device)
    check(frame[1:11, 3:19], 4)


def test_same_bits_every_time_and_for_every_part(device):
    logits = torch.randn(300, 64, device=device)
    bias = 0.1 * torch.randn(64, device=device)
    arguments = {"scoring": "sigmoid", "correction_bias": bias, **GROUPS}
    weights, ids = topk_route(logits, 8, **arguments)
    for part in (slice(None), slice(0, 1), slice(7, 200), slice(None, None, 3)):
        again = topk_route(logits[part], 8, **arguments)
        assert torch.equal(again[0], weights[part])
        assert torch.equal(again[1], ids[part])


@pytest.mark.gpu
def test_many_tokens(cuda):
    logits = torch.randn(131072, 128, device=cuda)
    check(logits, 8)
    _, ids, counts = topk_route(logits, 8, return_tokens_per_expert=True)
    assert torch.equal(counts, ids.flatten().bincount(minlength=128).int())


@pytest.mark.gpu
def test_graph_replay_counts_anew(cuda):
    logits = torch.randn(50, 16, device=cuda)
    graph = torch.cuda.CUDAGraph()
    topk_route(logits, 4, return_tokens_per_expert=True)
    with torch.cuda.graph(graph):
        weights, ids, counts = topk_route(logits, 4, return_tokens_per_expert=True)
    for _ in range(3):
        logits.copy_(torch.randn(50, 16, device=cuda))
        graph.replay()
        expected = topk_route(logits, 4, return_tokens_per_expert=True)
        assert torch.equal(weights, expected[0])
        assert torch.equal(ids, expected[1])
        assert torch.equal(counts, expected[2])
