"""Int8 activations and int8 weights, against float64 of the documented roundings."""

from __future__ import annotations

import math

import pytest
import torch

from tests.quantization.random_weights import random_weight
from torch_sm80moe import (
    fused_moe_quantized,
    grouped_gemm_quantized,
    quantize_activations,
    reference,
    sort_by_expert,
    tactic_table,
    testing,
    topk_route,
)
from torch_sm80moe.quantization import QuantizedWeight, QuantScheme, pack, unpack

DTYPES = [torch.float16, torch.bfloat16]
# The sanitizers look at addresses and barriers, which do not know the dtype.
ONE_SANITIZED_DTYPE = [torch.float16, pytest.param(torch.bfloat16, marks=pytest.mark.sanitizer)]
DYNAMIC = ["w8a8", "w8a8-tensor"]
STATIC = ["w8a8-static", "w8a8-tensor-static"]
OPERATORS = torch.ops.sm80moe
# int8 itself is in the reference: what is left is the output, and of the layer each expert's row.
ROUNDINGS_GEMM, ROUNDINGS_LAYER = testing.ROUNDINGS_GEMM, testing.ROUNDINGS_FUSED_MOE


def random(device: torch.device, dtype: torch.dtype, *shape: int) -> torch.Tensor:
    return torch.randn(shape, device=device).to(dtype)


def offsets_of(device: torch.device, *counts: int) -> torch.Tensor:
    return torch.tensor([0, *counts], device=device).cumsum(0).int()


def range_of(name: str, device: torch.device, scale: float = 0.03, zero_point: int = -9):
    if "static" not in name:
        return None
    return torch.tensor([scale, float(zero_point)], device=device)


def packed_weight(name: str, device: torch.device, *shape: int):
    weight = random_weight(name, *shape, device)
    return pack(weight), weight.dequantize()


def check_gemm(name, a, offsets, row_index=None, *, n=208, w_input=None, weight=None, **options):
    """Run a GEMM on random weights, or on `weight`; return what it gave."""
    num_experts = offsets.numel() - 1
    weight = weight or random_weight(name, num_experts, n, a.size(1), a.device)
    w_input = range_of(name, a.device) if w_input is None else w_input
    out = grouped_gemm_quantized(a, pack(weight), offsets, row_index, w_input=w_input, **options)
    options.pop("tactic", None)
    expected = reference.grouped_gemm(
        a,
        weight.dequantize(torch.float64),
        offsets,
        row_index,
        dtype=torch.float64,
        int8=True,
        w_input=w_input,
        **options,
    )
    assert out.dtype == a.dtype
    testing.assert_close(out, expected, ROUNDINGS_GEMM, (name, options))
    assert not out[int(offsets[-1]) :].any()
    return out


# The stored activations


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("columns", [8, 72, 1000, 4104, 65536])
@pytest.mark.parametrize("name", ["w8a8", "w8a8-static"])
def test_stored_activations_are_the_reference_to_the_bit(name, columns, dtype, device):
    a = random(device, dtype, 9, columns) * torch.logspace(-6, 3, 9, device=device)[:, None]
    a = a.to(dtype)
    values, scale = quantize_activations(a, range_of(name, device))
    expected = reference.quantize_activations(a.cpu(), range_of(name, torch.device("cpu")))
    assert values.dtype == torch.int8 and values.shape == a.shape
    assert values.cpu().equal(expected[0]) and scale.cpu().equal(expected[1])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_ends_of_the_range(dtype, device):
    a = torch.tensor([[-4.0, 4.0, 0.0, 1e-3, -1.0, 2.0, 3.0, -3.96]], device=device).to(dtype)
    values, scale = quantize_activations(a)
    assert values.tolist() == [[-127, 127, 0, 0, -32, 64, 95, -126]]
    assert scale.item() == torch.tensor(4.0) * torch.tensor(1 / 127)
    values, scale = quantize_activations(a, torch.tensor([0.02, 100.0], device=device))
    assert values.tolist() == [[-100, 127, 100, 100, 50, 127, 127, -98]]


@pytest.mark.parametrize("zero_point", [-128, -1, 0, 127])
def test_saturation(zero_point, device):
    a = torch.tensor([[6e4, -6e4, math.inf, -math.inf, 0, 0, 0, math.nan]], device=device).half()
    values, _ = quantize_activations(a, torch.tensor([0.1, zero_point], device=device))
    z = zero_point
    assert values.tolist() == [[127, -128, 127, -128, z, z, z, -128]]


def test_zeros_and_numbers_that_are_none(device):
    a = torch.zeros(4, 16, device=device).bfloat16()
    a[1, 3], a[2, 5], a[3, 0] = math.nan, -math.inf, 1e-40
    values, scale = quantize_activations(a)
    assert not values[0].any() and not values[3].any()
    assert scale[0] == scale[3] == torch.tensor(2.0**-119) * torch.tensor(1 / 127)
    assert scale[1].isnan() and scale[2].isinf()


def test_rows_apart(device):
    wide = random(device, torch.float16, 5, 48)
    values, scale = quantize_activations(wide[:, 8:32])
    expected = quantize_activations(wide[:, 8:32].contiguous())
    assert values.equal(expected[0]) and scale.equal(expected[1])
    assert quantize_activations(wide[:0])[0].shape == (0, 48)


# The GEMM


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", [*DYNAMIC, *STATIC])
def test_every_scheme(name, dtype, device):
    check_gemm(name, random(device, dtype, 61, 384), offsets_of(device, 20, 0, 33, 5))


@pytest.mark.parametrize("epilogue", ["none", "swiglu", "gated", "ungated"])
@pytest.mark.parametrize("name", ["w8a8", "w8a8-static"])
def test_every_epilogue(name, epilogue, device):
    options = {"epilogue": epilogue}
    if epilogue in ("gated", "ungated"):
        options |= {"activation": "gelu", "bias": random(device, torch.bfloat16, 3, 208)}
        options |= {"row_scale": torch.rand(40, device=device)}
    a = random(device, torch.bfloat16, 40, 256)
    check_gemm(name, a, offsets_of(device, 9, 30, 1), **options)


@pytest.mark.parametrize("order", ["up_gate", "interleaved"])
def test_orders_of_gates_and_ups(order, device):
    a = random(device, torch.float16, 20, 128)
    options = {"epilogue": "swiglu", "gate_up_order": order}
    check_gemm("w8a8-static", a, offsets_of(device, 12, 8), **options)


@pytest.mark.parametrize("k", [8, 40, 136, 520])
@pytest.mark.parametrize("name", ["w8a8", "w8a8-static"])
def test_awkward_depths(name, k, device):
    check_gemm(name, random(device, torch.bfloat16, 30, k), offsets_of(device, 30, 0), n=56)


@pytest.mark.parametrize("name", ["w8a8", "w8a8-static"])
def test_gathered_rows(name, device):
    row_index = torch.randperm(60, device=device).int()
    a = random(device, torch.bfloat16, 20, 256)
    check_gemm(name, a, offsets_of(device, 11, 0, 29, 15), row_index, top_k=3)


@pytest.mark.parametrize("zero_point", [-128, 0, 127])
def test_sums_of_the_largest_products(zero_point, device):
    """65536 products of -128 or 127, less a zero point at the end of the range, fit."""
    k = 65536
    values = torch.tensor([-128, 127], dtype=torch.int8, device=device).repeat(8)[None, :, None]
    scheme = QuantScheme.parse("w8a8-static")
    scale = torch.full((1, 16, 1), 1e-6, device=device)
    weight = QuantizedWeight(values.expand(1, 16, k).contiguous(), scale, None, scheme)
    a = torch.tensor([[1e3], [-1e3]], device=device).expand(2, k).bfloat16()
    w_input = torch.tensor([0.01, float(zero_point)], device=device)
    offsets = offsets_of(device, 2)
    check_gemm("w8a8-static", a, offsets, weight=weight, w_input=w_input)


def test_a_token_that_is_no_number(device):
    a = random(device, torch.float16, 4, 64)
    a[1, 7], a[2, 9] = math.nan, math.inf
    packed, _ = packed_weight("w8a8", device, 1, 48, 64)
    out = grouped_gemm_quantized(a, packed, offsets_of(device, 4))
    assert out[1].isnan().all() and not out[2].isfinite().any()
    assert out[0].isfinite().all() and out[3].isfinite().all()


# The layer


def check_layer(name, x, num_experts, intermediate_size, top_k=2, weights=None, **options):
    device, hidden = x.device, x.size(1)
    gates = 1 if options.get("gated") is False else 2
    w13 = random_weight(name, num_experts, gates * intermediate_size, hidden, device)
    w2 = random_weight(name, num_experts, hidden, intermediate_size, device)
    ranges = {"w13_input": range_of(name, device), "w2_input": range_of(name, device, 0.02, 17)}
    routing = topk_route(torch.randn(x.size(0), num_experts, device=device), top_k)
    out = fused_moe_quantized(x, pack(w13), pack(w2), *routing, **ranges, **options)
    for tactic in ("tactic_w13", "tactic_w2", "batch_invariant"):
        options.pop(tactic, None)
    layer = x, w13.dequantize(torch.float64), w2.dequantize(torch.float64), *routing
    expected = reference.fused_moe(
        *layer, dtype=torch.float64, round_to=x.dtype, int8=True, **ranges, **options
    )
    what = name, tuple(x.shape), options
    testing.assert_close_but_for_ties(out, expected, ROUNDINGS_LAYER, what)
    return out


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", [*DYNAMIC, *STATIC])
def test_the_layer(name, dtype, device):
    check_layer(name, random(device, dtype, 37, 128), 8, 256)


@pytest.mark.parametrize("tokens", [1, pytest.param(3, marks=pytest.mark.sanitizer), 8, 16])
@pytest.mark.parametrize("name", ["w8a8", "w8a8-static"])
@pytest.mark.parametrize("gated", [True, False])
def test_few_tokens(name, gated, tokens, device):
    """Where whole layers take two kernels, and where ranges are known not."""
    for dtype, (hidden, intermediate) in ((torch.bfloat16, (136, 1032)), (torch.half, (1064, 40))):
        x = random(device, dtype, tokens, hidden) * torch.rand(tokens, 1, device=device)
        check_layer(name, x.to(dtype), 4, intermediate, gated=gated)


@pytest.mark.parametrize("sizes", [(8, 8), (24, 72), (136, 200), (64, 40)])
@pytest.mark.parametrize("name", ["w8a8", "w8a8-static"])
def test_awkward_sizes(name, sizes, device):
    hidden, intermediate = sizes
    check_layer(name, random(device, torch.bfloat16, 33, hidden), 4, intermediate)


@pytest.mark.parametrize("name", ["w8a8", "w8a8-static"])
@pytest.mark.parametrize("gated", [True, False])
def test_the_layer_with_options(name, gated, device):
    dtype, rows = torch.bfloat16, 2 * 72 if gated else 72
    x = random(device, dtype, 21, 64)
    options = {
        "gated": gated,
        "activation": "gelu_tanh",
        "w13_bias": random(device, dtype, 4, rows),
        "w2_bias": random(device, dtype, 4, 64),
        "residual": random(device, dtype, 21, 64),
        "apply_router_weight_on_input": True,
        "batch_invariant": True,
    }
    check_layer(name, x, 4, 72, **options)


def test_gates_with_constants(device):
    constants = {"swiglu_alpha": 1.7, "swiglu_beta": 1.0, "swiglu_limit": 0.8}
    options = {key: torch.full((4,), value, device=device) for key, value in constants.items()}
    x = random(device, torch.float16, 19, 64)
    check_layer("w8a8", x, 4, 128, gate_up_order="interleaved", **options)


@pytest.mark.parametrize("tokens", [8, 40])
def test_a_wrong_token_spoils_no_other(tokens, device):
    w13, _ = packed_weight("w8a8", device, 4, 2 * 64, 64)
    w2, _ = packed_weight("w8a8", device, 4, 64, 64)
    x = random(device, torch.bfloat16, tokens, 64)
    routing = topk_route(torch.randn(tokens, 4, device=device), 2)
    clean = fused_moe_quantized(x, w13, w2, *routing)
    x[3, 5], x[6, 0], x[7, 1] = math.nan, math.inf, -math.inf
    out = fused_moe_quantized(x, w13, w2, *routing)
    assert out[3].isnan().all()
    assert not out[6:8].isfinite().any()
    others = [token for token in range(tokens) if token not in (3, 6, 7)]
    assert out[others].equal(clean[others])


def test_tokens_of_zeros(device):
    w13, _ = packed_weight("w8a8", device, 4, 2 * 64, 64)
    w2, _ = packed_weight("w8a8", device, 4, 64, 64)
    x = torch.zeros(8, 64, device=device).half()
    routing = topk_route(torch.randn(8, 4, device=device), 2)
    assert not fused_moe_quantized(x, w13, w2, *routing).any()


def test_int8_is_visible(device):
    """The reference without int8 is further away than the tolerance: int8 is not left out."""
    weight = random_weight("w8a8", 1, 64, 256, device)
    a, offsets = random(device, torch.float16, 16, 256), offsets_of(device, 16)
    out = grouped_gemm_quantized(a, pack(weight), offsets)
    unrounded = reference.grouped_gemm(a, weight.dequantize(), offsets)
    with pytest.raises(AssertionError):
        testing.assert_close(out, unrounded, ROUNDINGS_GEMM, "without int8")


@pytest.mark.parametrize(("wrong_rows", "factor"), [(3, 1.02), (1, 2.0), (49, 1.004)])
def test_ties_excuse_few_rows_and_little(wrong_rows, factor):
    expected = torch.randn(50, 64, dtype=torch.float64)
    out = expected.bfloat16()
    testing.assert_close_but_for_ties(out, expected, ROUNDINGS_LAYER, "right")
    out[:1] *= 1.02
    testing.assert_close_but_for_ties(out, expected, ROUNDINGS_LAYER, "a row stored anew")
    out[:wrong_rows] = (expected[:wrong_rows] * factor + 0.01).bfloat16()
    with pytest.raises(AssertionError, match="wrong"):
        testing.assert_close_but_for_ties(out, expected, ROUNDINGS_LAYER, "wrong")


# Packing, opcheck, errors


@pytest.mark.parametrize("name", [*DYNAMIC, *STATIC])
@pytest.mark.parametrize("k", [8, 64, 72])
def test_packing_and_back(name, k, device):
    weight = random_weight(name, 3, 24, k, device)
    packed = pack(weight)
    again = unpack(packed)
    assert again.values.equal(weight.values) and again.scale.equal(weight.scale)
    assert packed.values[..., :k].view(torch.int8).equal(weight.values)
    assert not packed.values[..., k:].any()
    if "static" in name:
        sums = packed.codes.view(torch.int32).reshape(3, 24)
        assert sums.equal(weight.values.sum(-1, dtype=torch.int32))


@pytest.mark.parametrize("name", ["w8a8", "w8a8-static"])
def test_opcheck(name, device):
    w13, w2 = (pack(random_weight(name, 2, n, 128, device)) for n in (256, 128))
    w_input = range_of(name, device)
    first, second = w13.tensors(w_input), w2.tensors(w_input)
    a, offsets = random(device, torch.float16, 6, 128), offsets_of(device, 2, 3)
    arguments = (first.values, first.scale, first.codes, offsets, None)
    arguments = (a, *arguments, first.weight_format, first.group_size)
    keywords = {"w_input": w_input}
    torch.library.opcheck(OPERATORS.grouped_gemm_quantized.default, arguments, keywords)
    parts = (first.values, first.scale, first.codes, second.values, second.scale, second.codes)
    weights, ids = topk_route(torch.randn(6, 2, device=device), 1)
    layer = (a, *parts, weights, ids, first.weight_format, first.group_size)
    keywords = {"w13_input": w_input, "w2_input": w_input}
    torch.library.opcheck(OPERATORS.fused_moe_quantized.default, layer, keywords)
    torch.library.opcheck(OPERATORS.quantize_activations.default, (a, w_input), {})


WRONG_RANGES = [
    (torch.ones(2).half(), TypeError, "w_input must be float32, got float16"),
    (torch.ones(3), ValueError, "w_input must have shape [2], got [3]"),
    (torch.ones(4)[::2], ValueError, "w_input must be contiguous, got strides [2]"),
    (None, ValueError, "w_input must be a tensor with w8a8-static weights, got None"),
]


@pytest.mark.parametrize(("w_input", "error", "message"), WRONG_RANGES, ids=lambda v: str(v)[:40])
def test_wrong_ranges(w_input, error, message):
    packed = pack(random_weight("w8a8-static", 1, 16, 64))
    a, offsets = torch.zeros(3, 64).half(), offsets_of(torch.device("cpu"), 3)
    with pytest.raises(error) as caught:
        grouped_gemm_quantized(a, packed, offsets, w_input=w_input)
    assert str(caught.value) == f"grouped_gemm_quantized: {message}"


@pytest.mark.parametrize("name", ["w8a8", "w8a16"])
def test_ranges_that_nobody_wants(name):
    packed = pack(random_weight(name, 1, 16, 64))
    a, offsets = torch.zeros(3, 64).half(), offsets_of(torch.device("cpu"), 3)
    with pytest.raises(ValueError, match=f"w_input must be None with {name} weights"):
        grouped_gemm_quantized(a, packed, offsets, w_input=torch.ones(2))


def operator_call(changes: dict[str, object]) -> None:
    packed = pack(random_weight("w8a8-static", 1, 16, 64))
    tensors = {"w": packed.values, "w_scale": packed.scale, "w_codes": packed.codes}
    numbers = {"weight_format": packed.weight_format, "group_size": 0}
    arguments = {**tensors, **numbers, "w_input": torch.ones(2), **changes}
    offsets = offsets_of(torch.device("cpu"), 3)
    a = torch.zeros(3, int(changes.pop("k", 64))).half()
    OPERATORS.grouped_gemm_quantized(a=a, expert_offsets=offsets, row_index=None, **arguments)


WRONG_CALLS = [
    ({"w_codes": None}, "w_codes must be a tensor beside w_input, got None"),
    ({"w_input": None}, "w_codes must be None without w_input, got a tensor"),
    ({"group_size": 32}, "group_size must be 0 for w8a8, got 32"),
    ({"weight_format": 0, "w_codes": None}, "w_input must be None unless w8a8, got a tensor"),
    ({"weight_format": 5}, "weight_format must be between 0 and 4, got 5"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG_CALLS, ids=lambda value: str(value)[:30])
def test_operator_calls_that_disagree(changes, message):
    with pytest.raises(ValueError) as caught:
        operator_call(dict(changes))
    assert str(caught.value) == f"grouped_gemm_quantized: {message}"


def test_a_row_that_is_too_deep():
    k = 65536 + 8
    packed = pack(random_weight("w8a8", 1, 8, k))
    a, offsets = torch.zeros(1, k).half(), offsets_of(torch.device("cpu"), 1)
    message = r"w's depth must be between 1 and 65536 \(the most of w8a8\), got 65544"
    with pytest.raises(ValueError, match=message):
        grouped_gemm_quantized(a, packed, offsets)


def test_a_layer_that_is_half_static():
    w13, w2 = (pack(random_weight("w8a8", 2, n, 64)).tensors() for n in (128, 64))
    sums = torch.zeros(2, 16, 1, 8, 4, dtype=torch.uint8)
    parts = (w13.values, w13.scale, sums, w2.values, w2.scale, None)
    weights, ids = topk_route(torch.randn(3, 2), 1)
    layer = (torch.zeros(3, 64).half(), *parts, weights, ids, w13.weight_format, 0)
    with pytest.raises(ValueError, match="w2_input must be a tensor like w13_input, got None"):
        OPERATORS.fused_moe_quantized(*layer, w13_input=torch.ones(2))


WRONG_ACTIVATIONS = [
    (torch.zeros(3, 64), TypeError, "a must be float16 or bfloat16, got float32"),
    (torch.zeros(3).half(), ValueError, "a must have shape [S, K], got [3]"),
    (
        torch.zeros(3, 12).half(),
        ValueError,
        "a must have a last dimension that is a positive multiple of 8, got 12",
    ),
    (
        torch.zeros(1, 65544).half(),
        ValueError,
        "a's depth must be between 1 and 65536 (the most of w8a8), got 65544",
    ),
    (
        torch.zeros(64, 3).half().T,
        ValueError,
        "a must have a contiguous last dimension, got strides [1, 3]",
    ),
]


@pytest.mark.parametrize(("a", "error", "message"), WRONG_ACTIVATIONS, ids=lambda v: str(v)[:30])
def test_wrong_activations(a, error, message):
    with pytest.raises(error) as caught:
        quantize_activations(a)
    assert str(caught.value) == f"quantize_activations: {message}"


# On a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ONE_SANITIZED_DTYPE, ids=str)
@pytest.mark.parametrize("name", ["w8a8", "w8a8-static"])
def test_every_tactic(name, dtype, cuda):
    """They differ in speed alone: a token's bits are the same by all of them."""
    w13, w2 = random_weight(name, 4, 2 * 328, 520, cuda), random_weight(name, 4, 520, 328, cuda)
    ranges = {"w13_input": range_of(name, cuda), "w2_input": range_of(name, cuda, 0.02, 17)}
    for num_tokens in (3, 90, 400):
        x = random(cuda, dtype, num_tokens, 520)
        routing = topk_route(torch.randn(num_tokens, 4, device=cuda), 2)
        results = []
        for tactic in tactic_table("w8a8"):
            options = {"tactic_w13": tactic.id, "tactic_w2": tactic.id, **ranges}
            try:
                results.append(fused_moe_quantized(x, pack(w13), pack(w2), *routing, **options))
            except RuntimeError as error:
                assert "must have a kernel for the weight format" in str(error)
        assert len(results) >= 4
        assert all(result.equal(results[0]) for result in results)
        layer = x, w13.dequantize(torch.float64), w2.dequantize(torch.float64), *routing
        expected = reference.fused_moe(
            *layer, dtype=torch.float64, round_to=dtype, int8=True, **ranges
        )
        what = name, num_tokens
        testing.assert_close_but_for_ties(results[0], expected, ROUNDINGS_LAYER, what)


@pytest.mark.gpu
def test_a_cuda_graph_with_other_routings_and_ranges(cuda):
    name = "w8a8-static"
    w13, w2 = random_weight(name, 8, 512, 256, cuda), random_weight(name, 8, 256, 256, cuda)
    packed = pack(w13), pack(w2)
    x = random(cuda, torch.bfloat16, 24, 256)
    weights, ids = topk_route(torch.randn(24, 8, device=cuda), 2)
    ranges = {"w13_input": range_of(name, cuda), "w2_input": range_of(name, cuda, 0.02, 17)}
    fused_moe_quantized(x, *packed, weights, ids, **ranges)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = fused_moe_quantized(x, *packed, weights, ids, **ranges)
    for zero_point in (3, -20):
        new_weights, new_ids = topk_route(torch.randn(24, 8, device=cuda), 2)
        weights.copy_(new_weights)
        ids.copy_(new_ids)
        ranges["w13_input"][1] = zero_point
        graph.replay()
        dequantized = w13.dequantize(torch.float64), w2.dequantize(torch.float64)
        expected = reference.fused_moe(
            x, *dequantized, weights, ids, dtype=torch.float64, int8=True, **ranges
        )
        testing.assert_close(out, expected, ROUNDINGS_LAYER, "replay")


def test_the_layer_is_its_parts(device):
    """As far as the first GEMM: what it stores for the second is not an operator's result."""
    w13 = random_weight("w8a8", 4, 128, 128, device)
    x = random(device, torch.bfloat16, 15, 128)
    _, ids = topk_route(torch.randn(15, 4, device=device), 2)
    offsets, row_index, _ = sort_by_expert(ids, 4)
    options = {"top_k": 2, "epilogue": "swiglu"}
    check_gemm("w8a8", x, offsets, row_index, weight=w13, **options)
