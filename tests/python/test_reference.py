"""The specification against the plainest loops there are, in float64."""

from __future__ import annotations

import math

import torch

from torch_sm80moe import reference, testing
from torch_sm80moe.testing import HAZARDS, Problem

SWIGLU = ("swiglu_alpha", "swiglu_beta", "swiglu_limit")


def naive_fused_moe(x, w13, w2, topk_weights, topk_ids) -> torch.Tensor:
    """Go token by token and choice by choice, as the formula does."""
    out = torch.zeros(x.shape, dtype=torch.float64)
    intermediate_size = w2.size(2)
    for token in range(x.size(0)):
        for choice in range(topk_ids.size(1)):
            expert = int(topk_ids[token, choice])
            if 0 <= expert < w13.size(0):
                gate = w13[expert, :intermediate_size].double() @ x[token].double()
                up = w13[expert, intermediate_size:].double() @ x[token].double()
                y = w2[expert].double() @ (gate / (1 + (-gate).exp()) * up)
                out[token] += topk_weights[token, choice].double() * y
    return out


def test_fused_moe():
    for hazard in HAZARDS:
        inputs = Problem(9, 4, 3, 16, 24, hazard=hazard).make()
        expected = naive_fused_moe(*inputs)
        in_fp64 = reference.fused_moe(*inputs, dtype=torch.float64)
        torch.testing.assert_close(in_fp64, expected, rtol=1e-12, atol=1e-12)
        in_fp32 = reference.fused_moe(*inputs)
        torch.testing.assert_close(in_fp32.double(), expected, rtol=1e-4, atol=1e-5)


def test_fused_moe_is_the_composition_of_its_parts():
    inputs = Problem(9, 4, 3, 16, 24, hazard="out_of_range").make()
    offsets, row_index, row_position = reference.sort_by_expert(inputs.topk_ids, 4)
    intermediate = reference.grouped_gemm(
        inputs.hidden_states,
        inputs.w13,
        offsets,
        row_index,
        top_k=3,
        epilogue="swiglu",
        dtype=torch.float64,
    )
    rows = reference.grouped_gemm(intermediate, inputs.w2, offsets, dtype=torch.float64)
    out = reference.combine(rows, inputs.topk_weights, row_position, dtype=torch.float64)
    torch.testing.assert_close(out, naive_fused_moe(*inputs), rtol=1e-12, atol=1e-12)


NAIVE_ACTIVATIONS = {
    "silu": lambda x: x / (1 + math.exp(-x)),
    "gelu": lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
    "gelu_tanh": lambda x: x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    "relu": lambda x: max(x, 0.0),
    "relu2": lambda x: max(x, 0.0) ** 2,
    "identity": lambda x: x,
}


def naive_row(x, scale, w13, bias, options, constants) -> list[float]:
    """Compute one row of the intermediate, element by element."""
    act = NAIVE_ACTIVATIONS[options["activation"]]
    columns = [
        float(w.double() @ x.double()) * scale + float(b) for w, b in zip(w13, bias, strict=True)
    ]
    if not options["gated"]:
        return [act(c) for c in columns]
    half = len(columns) // 2
    gates_and_ups = {
        "gate_up": (columns[:half], columns[half:]),
        "up_gate": (columns[half:], columns[:half]),
        "interleaved": (columns[::2], columns[1::2]),
    }[options["gate_up_order"]]
    row = []
    for gate, up in zip(*gates_and_ups, strict=True):
        if constants is None:
            row.append(act(gate) * up)
            continue
        alpha, beta, limit = constants
        gate, up = min(gate, limit), max(-limit, min(up, limit))
        row.append(gate / (1 + math.exp(-alpha * gate)) * (up + beta))
    return row


def test_fused_moe_with_options():
    swiglu = [torch.rand(4) + 0.5 for _ in range(3)]
    for activation in NAIVE_ACTIVATIONS:
        for gated, order in ((False, "gate_up"), (True, "up_gate"), (True, "interleaved")):
            for on_input in (False, True):
                constants = swiglu if gated and activation == "silu" and on_input else None
                inputs = Problem(5, 4, 3, 16, 24, hazard="out_of_range").make()
                x, w13, w2, weights, ids = inputs._replace(w13=inputs.w13[:, : 48 if gated else 24])
                biases = torch.randn(w13.shape[:2]).bfloat16(), torch.randn(4, 16).bfloat16()
                residual = torch.randn(5, 16).bfloat16()
                options = {"activation": activation, "gated": gated, "gate_up_order": order}
                expected = residual.double()
                for token in range(5):
                    for choice in range(3):
                        e, weight = int(ids[token, choice]), float(weights[token, choice])
                        if 0 <= e < 4:
                            before, after = (weight, 1.0) if on_input else (1.0, weight)
                            own = None if constants is None else [float(c[e]) for c in constants]
                            row = naive_row(x[token], before, w13[e], biases[0][e], options, own)
                            y = w2[e].double() @ torch.tensor(row, dtype=torch.float64)
                            expected[token] += after * (y + biases[1][e].double())
                out = reference.fused_moe(
                    *(x, w13, w2, weights, ids),
                    w13_bias=biases[0],
                    w2_bias=biases[1],
                    **options,
                    **({} if constants is None else dict(zip(SWIGLU, constants, strict=True))),
                    apply_router_weight_on_input=on_input,
                    residual=residual,
                    dtype=torch.float64,
                )
                torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9)


def test_topk_route():
    logits = [[0.0, 2.0, 1.0, 2.0]]
    total = sum(math.exp(v) for v in logits[0])
    weights, ids = reference.topk_route(torch.tensor(logits), 3, renormalize=False)
    assert ids.tolist() == [[1, 3, 2]]
    expected = torch.tensor([[math.exp(v) / total for v in (2.0, 2.0, 1.0)]])
    torch.testing.assert_close(weights, expected)
    weights, _ = reference.topk_route(torch.tensor(logits), 3)
    torch.testing.assert_close(weights, expected / expected.sum())


def naive_route(row, bias, scoring, top_k, n_group, topk_group, group_score, renormalize, factor):
    """Choose for one token, from lists of numbers."""
    exponentials = [math.exp(v) for v in row]
    scores = {
        "softmax": [e / sum(exponentials) for e in exponentials],
        "sigmoid": [e / (1 + e) for e in exponentials],
        "sqrtsoftplus": [math.sqrt(math.log(1 + e)) for e in exponentials],
    }[scoring]
    choice = [score + b for score, b in zip(scores, bias, strict=True)]
    size = len(row) // n_group
    groups = [range(g * size, (g + 1) * size) for g in range(n_group)]

    def score_of_group(group):
        best = sorted((choice[e] for e in group), reverse=True)
        return sum(best[:2]) if group_score == "top2_sum" else best[0]

    kept = sorted(groups, key=lambda group: (-score_of_group(group), group.start))[:topk_group]
    ids = sorted((e for group in kept for e in group), key=lambda e: (-choice[e], e))[:top_k]
    total = sum(scores[e] for e in ids) if renormalize else 1
    return [scores[e] / total * factor for e in ids], ids


def test_topk_route_with_all_arguments():
    for scoring in ("softmax", "sigmoid", "sqrtsoftplus"):
        for group_score in ("max", "top2_sum"):
            for n_group, topk_group in ((1, 1), (4, 2), (6, 1), (12, 5)):
                for renormalize in (True, False):
                    logits, bias = torch.randn(6, 12), torch.randn(12)
                    top_k = min(4, 12 // n_group * topk_group)
                    groups = (n_group, topk_group, group_score, renormalize, 2.5)
                    weights, ids = reference.topk_route(
                        logits,
                        top_k,
                        scoring=scoring,
                        correction_bias=bias,
                        n_group=n_group,
                        topk_group=topk_group,
                        group_score=group_score,
                        renormalize=renormalize,
                        routed_scaling_factor=2.5,
                        dtype=torch.float64,
                    )
                    for token, row in enumerate(logits.tolist()):
                        right = naive_route(row, bias.tolist(), scoring, top_k, *groups)
                        assert ids[token].tolist() == right[1]
                        torch.testing.assert_close(weights[token].tolist(), right[0])


def test_topk_route_counts_before_it_maps():
    logits = torch.tensor([[1.0, 2.0, 0.0], [0.0, 2.0, 1.0]])
    expert_map = torch.tensor([-1, 7, 5], dtype=torch.int32)
    _, ids, counts = reference.topk_route(
        logits, 2, expert_map=expert_map, return_tokens_per_expert=True
    )
    assert ids.tolist() == [[7, -1], [7, 5]]
    assert counts.tolist() == [1, 2, 1]


def test_sort_by_expert():
    offsets, row_index, row_position = reference.sort_by_expert(
        torch.tensor([[2, 0], [5, 0], [-1, 2]]), 3
    )
    assert offsets.tolist() == [0, 2, 2, 4]
    assert row_index.tolist() == [1, 3, 0, 5, -1, -1]
    assert row_position.tolist() == [[2, 0], [-1, 1], [-1, 3]]


def test_error_is_measured_by_scale():
    expected = torch.tensor([[3e-6, 0.0], [0.0, 4e-6]])
    out = expected.clone()
    out[1, 0] = 1e-6
    error = testing.measure_error(out, expected)
    assert math.isclose(error.relative, 1 / 5, rel_tol=1e-6)
    assert math.isclose(error.element, 1 / 2.5, rel_tol=1e-6)
    assert error.worst == (1, 0)


def test_nan_is_an_infinite_error():
    assert testing.measure_error(torch.tensor([math.nan]), torch.ones(1)).relative == math.inf
    assert testing.measure_error(torch.ones(2), torch.zeros(2)).element == math.inf
    assert testing.measure_error(torch.zeros(2), torch.zeros(2)).relative == 0


def test_one_rounding_more_is_noticed():
    """The checks of the layer would see a weight in bf16, or a sum over k in bf16."""
    inputs = Problem(128, 8, 4, 128, 64).make()
    right = testing.exact_then_round(inputs)
    testing.assert_rounds_as_documented(right, inputs, "right")
    coarse = inputs._replace(topk_weights=inputs.topk_weights.bfloat16().float())
    wrong = testing.exact_then_round(coarse)
    try:
        testing.assert_rounds_as_documented(wrong, inputs, "weights in bf16")
    except AssertionError as error:
        assert "documented roundings" in str(error)
    else:
        raise AssertionError("a rounding more went unnoticed")
