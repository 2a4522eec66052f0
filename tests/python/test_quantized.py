"""Quantised weights in the grouped GEMM and in the layer, against float32 of what they mean."""

from __future__ import annotations

import math
import re

import pytest
import torch

from tests.quantization.random_weights import (
    SCHEMES_16BIT,
    random_packed,
    random_values,
    random_weight,
)
from torch_sm80moe import (
    fused_moe_quantized,
    fused_moe_quantized_out,
    grouped_gemm_quantized,
    reference,
    sort_by_expert,
    tactic_table,
    testing,
    topk_route,
)
from torch_sm80moe.quantization import PackedWeight, QuantizedWeight, QuantScheme, pack

DTYPES = [torch.float16, torch.bfloat16]
# The sanitizers look at addresses and barriers, which do not know the dtype.
ONE_SANITIZED_DTYPE = [torch.float16, pytest.param(torch.bfloat16, marks=pytest.mark.sanitizer)]
EPILOGUES = ["none", "swiglu", "gated", "ungated"]
OPERATORS = torch.ops.sm80moe
# One a kernel, and one a way of sharing scales.
SOME_SCHEMES = [
    "w8a16",
    "w8a16-g64",
    "w8a16-g32-asym",
    "w8a16-asym",
    "w4a16",
    "w4a16-g128",
    "w4a16-g32-asym",
    "fp8-channel",
    "fp8-block",
    "mxfp4",
]


def random(device: torch.device, dtype: torch.dtype, *shape: int) -> torch.Tensor:
    return torch.randn(shape, device=device).to(dtype)


def offsets_of(device: torch.device, *counts: int) -> torch.Tensor:
    return torch.tensor([0, *counts], device=device).cumsum(0).int()


def check_gemm(a, packed, meaning, offsets, row_index=None, **options) -> torch.Tensor:
    out = grouped_gemm_quantized(a, packed, offsets, row_index, **options)
    options.pop("tactic", None)
    expected = reference.grouped_gemm(a, meaning, offsets, row_index, **options)
    assert out.dtype == a.dtype
    testing.assert_close(out, expected, testing.ROUNDINGS_GEMM, (str(packed.scheme), options))
    assert not out[int(offsets[-1]) :].any()
    return out


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", SCHEMES_16BIT)
def test_every_scheme(name, dtype, device):
    packed, meaning = random_packed(name, 4, 208, 384, device)
    a = random(device, dtype, 61, 384)
    check_gemm(a, packed, meaning, offsets_of(device, 20, 0, 33, 5))


@pytest.mark.parametrize("epilogue", EPILOGUES)
@pytest.mark.parametrize("name", SOME_SCHEMES)
def test_every_epilogue(name, epilogue, device):
    packed, meaning = random_packed(name, 3, 176, 256, device)
    a = random(device, torch.bfloat16, 40, 256)
    options = {}
    if epilogue in ("gated", "ungated"):
        options = {"activation": "gelu_tanh", "bias": random(device, torch.bfloat16, 3, 176)}
    check_gemm(a, packed, meaning, offsets_of(device, 9, 30, 1), epilogue=epilogue, **options)


@pytest.mark.parametrize("order", ["up_gate", "interleaved"])
@pytest.mark.parametrize("name", ["w8a16", "w4a16-g32-asym", "mxfp4"])
def test_orders_of_gates_and_ups(name, order, device):
    packed, meaning = random_packed(name, 2, 80, 128, device)
    a = random(device, torch.float16, 20, 128)
    offsets = offsets_of(device, 12, 8)
    check_gemm(a, packed, meaning, offsets, epilogue="swiglu", gate_up_order=order)


@pytest.mark.parametrize("k", [8, 40, 136, 520])
@pytest.mark.parametrize("name", ["w8a16", "w8a16-asym", "w4a16-asym", "fp8-block"])
def test_awkward_depths(name, k, device):
    packed, meaning = random_packed(name, 2, 56, k, device)
    check_gemm(random(device, torch.bfloat16, 30, k), packed, meaning, offsets_of(device, 30, 0))


@pytest.mark.parametrize("name", ["w8a16-g128", "w4a16-g64", "mxfp4"])
def test_gathered_rows(name, device):
    packed, meaning = random_packed(name, 4, 80, 256, device)
    row_index = torch.randperm(60, device=device).int()
    a = random(device, torch.bfloat16, 20, 256)
    check_gemm(a, packed, meaning, offsets_of(device, 11, 0, 29, 15), row_index, top_k=3)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", SOME_SCHEMES)
def test_the_layer(name, dtype, device):
    w13, meaning13 = random_packed(name, 8, 2 * 256, 128, device)
    w2, meaning2 = random_packed(name, 8, 128, 256, device)
    x = random(device, dtype, 37, 128)
    routing = topk_route(torch.randn(37, 8, device=device), 2)
    out = fused_moe_quantized(x, w13, w2, *routing)
    expected = reference.fused_moe(x, meaning13, meaning2, *routing)
    testing.assert_close(out, expected, testing.ROUNDINGS_FUSED_MOE, name)


def test_the_layer_with_options_of_gpt_oss(device):
    w13, meaning13 = random_packed("mxfp4", 4, 2 * 64, 128, device)
    w2, meaning2 = random_packed("mxfp4", 4, 128, 64, device)
    x = random(device, torch.bfloat16, 19, 128)
    routing = topk_route(torch.randn(19, 4, device=device), 2)
    options = {
        "w13_bias": random(device, torch.bfloat16, 4, 128),
        "w2_bias": random(device, torch.bfloat16, 4, 128),
        "gate_up_order": "interleaved",
        "swiglu_alpha": torch.full((1,), 1.702, device=device).expand(4),
        "swiglu_beta": torch.ones(1, device=device).expand(4),
        "swiglu_limit": torch.full((1,), 7.0, device=device).expand(4),
    }
    out = fused_moe_quantized(x, w13, w2, *routing, **options)
    expected = reference.fused_moe(x, meaning13, meaning2, *routing, **options)
    testing.assert_close(out, expected, testing.ROUNDINGS_FUSED_MOE, "gpt-oss")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["w8a16", "w4a16", "fp8-channel", "mxfp4"])
def test_every_stored_number_is_exact(name, dtype, device):
    """One activation that is one gives back a weight; a sum of one product rounds only once."""
    scheme = QuantScheme.parse(name)
    codes = 16 if scheme.weight_format in ("int4", "mxfp4") else 256
    k = 256
    values = torch.arange(codes, dtype=torch.uint8, device=device).repeat(k // codes)
    if scheme.weight_format == "int4":
        values = values.to(torch.int8) - 8
    elif scheme.weight_format == "fp8":
        values = values.where((values & 0x7F) <= 0x7E, 0).view(torch.float8_e4m3fn)
    elif scheme.weight_format == "int8":
        values = values.view(torch.int8)
    values = values.repeat(1, 8, 1)
    scale = torch.ones(scheme.scale_shape((1, 8, k)), device=device)
    if name == "mxfp4":
        scale = torch.full_like(scale, 127, dtype=torch.uint8)
    weight = QuantizedWeight(values, scale, None, scheme)
    a = torch.eye(k, dtype=dtype, device=device)
    out = grouped_gemm_quantized(a, pack(weight), offsets_of(device, k))
    assert out.float().equal(weight.dequantize()[0].T)


def test_mxfp4_of_a_wide_range(device):
    """Blocks of zeros have the smallest exponent; their neighbours must not feel it."""
    weight = random_weight("mxfp4", 1, 16, 128, device)
    weight.scale[:, :, 1::2] = 0
    a = random(device, torch.bfloat16, 9, 128)
    check_gemm(a, pack(weight), weight.dequantize(), offsets_of(device, 9))


def test_tiny_and_large_scales_beside_each_other(device):
    weight = random_weight("w4a16-g32", 1, 16, 256, device)
    weight.scale[:, :, ::3] = 1e-12
    a = random(device, torch.bfloat16, 9, 256)
    check_gemm(a, pack(weight), weight.dequantize(), offsets_of(device, 9))


def test_no_rows(device):
    packed, _ = random_packed("w8a16", 2, 48, 64, device)
    a = random(device, torch.float16, 0, 64)
    assert grouped_gemm_quantized(a, packed, offsets_of(device, 0, 0)).shape == (0, 48)


@pytest.mark.parametrize("name", SOME_SCHEMES)
def test_opcheck(name, device):
    packed, _ = random_packed(name, 2, 2 * 128, 128, device)
    down, _ = random_packed(name, 2, 128, 128, device)
    w, w2 = packed.tensors(), down.tensors()
    a = random(device, torch.float16, 6, 128)
    offsets = offsets_of(device, 2, 3)
    arguments = (w.values, w.scale, w.codes, offsets, None, w.weight_format, w.group_size)
    torch.library.opcheck(OPERATORS.grouped_gemm_quantized.default, (a, *arguments), {})
    weights, ids = topk_route(torch.randn(6, 2, device=device), 1)
    parts = (w.values, w.scale, w.codes, w2.values, w2.scale, w2.codes)
    layer = (a, *parts, weights, ids, w.weight_format, w.group_size)
    torch.library.opcheck(OPERATORS.fused_moe_quantized.default, layer, {})
    out = (*layer, torch.empty_like(a))
    torch.library.opcheck(OPERATORS.fused_moe_quantized_out.default, out, {})


def packed_of(**changes: object) -> PackedWeight:
    packed, _ = random_packed(str(changes.pop("name", "w4a16-g32-asym")), 2, 16, 64)
    for field, value in changes.items():
        object.__setattr__(packed, field, value)
    return packed


WRONG = [
    ({"values": torch.zeros(2, 16, 32)}, TypeError, "w must be uint8, got float32"),
    (
        {"values": torch.zeros(2, 16, 64, dtype=torch.uint8)},
        ValueError,
        "w must have shape [E, N, 32], got [2, 16, 64]",
    ),
    ({"scale": torch.ones(2, 2, 2, 8).half()}, TypeError, "w_scale must be float32, got float16"),
    (
        {"scale": torch.ones(2, 16, 2)},
        ValueError,
        "w_scale must have shape [2, 2, 2, 8], got [2, 16, 2]",
    ),
    (
        {"codes": torch.zeros(2, 2, 2, 8, 4, dtype=torch.uint8)},
        ValueError,
        "w_codes must have shape [2, 2, 1, 8, 4], got [2, 2, 2, 8, 4]",
    ),
    ({"name": "mxfp4", "codes": None}, ValueError, "w_codes must be a tensor for mxfp4, got None"),
    (
        {"name": "fp8-channel", "codes": torch.zeros(2, 2, 1, 8, 4, dtype=torch.uint8)},
        ValueError,
        "w_codes must be None for fp8, got a tensor",
    ),
]


@pytest.mark.parametrize(("changes", "error", "message"), WRONG, ids=lambda value: str(value)[:40])
def test_tensors_and_scheme_that_disagree(changes, error, message):
    a = torch.zeros(3, 64, dtype=torch.bfloat16)
    with pytest.raises(error) as caught:
        grouped_gemm_quantized(a, packed_of(**changes), offsets_of(torch.device("cpu"), 1, 2))
    assert str(caught.value) == f"grouped_gemm_quantized: {message}"


@pytest.mark.parametrize(
    ("name", "group_size", "message"),
    [
        ("w4a16-g32", 48, "must be 0, 32, 64 or 128 for int4, got 48"),
        ("fp8-block", 64, "must be 0 or 128 for fp8, got 64"),
        ("mxfp4", 64, "must be 32 for mxfp4, got 64"),
    ],
)
def test_a_group_size_that_the_format_does_not_have(name, group_size, message, device):
    packed, _ = random_packed(name, 2, 16, 128, device)
    a, w = torch.zeros(3, 128, dtype=torch.bfloat16, device=device), packed.tensors()
    arguments = (w.values, w.scale, w.codes, offsets_of(device, 1, 2), None, w.weight_format)
    with pytest.raises((ValueError, RuntimeError)) as caught:  # the latter from C++
        OPERATORS.grouped_gemm_quantized(a, *arguments, group_size)
    assert str(caught.value) == f"grouped_gemm_quantized: group_size {message}"


def test_weights_that_are_not_packed():
    a, offsets = torch.zeros(3, 64, dtype=torch.bfloat16), torch.tensor([0, 3]).int()
    for wrong in (torch.zeros(1, 16, 64), random_weight("w8a16", 1, 16, 64)):
        with pytest.raises(TypeError, match="w must be a PackedWeight"):
            grouped_gemm_quantized(a, wrong, offsets)


def test_weights_of_two_schemes():
    w13, _ = random_packed("w8a16", 2, 64, 64)
    w2, _ = random_packed("w4a16", 2, 64, 32)
    x, routing = torch.zeros(3, 64).half(), topk_route(torch.randn(3, 2), 1)
    with pytest.raises(ValueError, match="w2 must be w8a16 like w13, got w4a16"):
        fused_moe_quantized(x, w13, w2, *routing)


def test_a_weight_of_another_depth():
    packed, _ = random_packed("w8a16", 1, 16, 128)
    message = r"w must have shape \[E, N, 64\], got \[1, 16, 128\]"
    with pytest.raises(ValueError, match=message):
        grouped_gemm_quantized(torch.zeros(2, 64).half(), packed, torch.tensor([0, 2]).int())


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ONE_SANITIZED_DTYPE, ids=str)
@pytest.mark.parametrize("name", SOME_SCHEMES)
def test_every_tactic(name, dtype, cuda):
    """A row's bits are the same by all of those that batch invariance has to choose from."""
    packed, meaning = random_packed(name, 4, 272, 640, cuda)
    for num_tokens in (3, 90, 160, 310):  # loops for different numbers of row blocks
        a = random(cuda, dtype, num_tokens, 640)
        counts = (num_tokens // 2, 0, num_tokens - num_tokens // 2 - 1, 0)
        offsets, results = offsets_of(cuda, *counts), {}
        for tactic in tactic_table(packed.scheme.weight_format):
            try:
                results[tactic] = check_gemm(a, packed, meaning, offsets, tactic=tactic.id)
            except RuntimeError as error:
                assert "must have a kernel for the weight format" in str(error)
        assert len(results) >= 6
        alike = [result for tactic, result in results.items() if rounds_alike(packed, tactic)]
        assert len(alike) >= 4
        assert all(result.equal(alike[0]) for result in alike)


def rounds_alike(packed, tactic):
    """Whether a tactic gives the bits that batch invariance promises."""
    scheme = packed.scheme
    one_scale = scheme.weight_format == "int8" and scheme.symmetric and scheme.group_size <= 0
    return tactic.cta_m > (8 if one_scale or scheme.weight_format == "mxfp4" else 32)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["w8a16", "w4a16-g32-asym", "mxfp4", "fp8-channel"])
def test_batch_invariance_among_tactics(name, cuda):
    """Those that round alike agree to the bit; the others are refused."""
    w13, _ = random_packed(name, 4, 2 * 160, 544, cuda)
    w2, _ = random_packed(name, 4, 544, 160, cuda)
    x = random(cuda, torch.bfloat16, 60, 544)
    routing = topk_route(torch.randn(60, 4, device=cuda), 2)
    expected = fused_moe_quantized(x, w13, w2, *routing, batch_invariant=True)
    for tactic in tactic_table(w13.scheme.weight_format):
        chosen = {"batch_invariant": True, "tactic_w13": tactic.id, "tactic_w2": tactic.id}
        try:
            out = fused_moe_quantized(x, w13, w2, *routing, **chosen)
        except RuntimeError as error:
            assert re.search("must (have a kernel|round as other tactics do)", str(error))
        else:
            assert tactic.cta_m > 8
            assert torch.equal(out, expected), tactic


@pytest.mark.parametrize("num_tokens", [2, 37])
@pytest.mark.parametrize("name", ["w8a16", "w4a16-g32-asym", "mxfp4"])
def test_into_a_tensor_of_the_caller(name, num_tokens, device):
    w13, _ = random_packed(name, 4, 2 * 64, 96, device)
    w2, _ = random_packed(name, 4, 96, 64, device)
    x = random(device, torch.bfloat16, num_tokens, 96)
    routing = topk_route(torch.randn(num_tokens, 4, device=device), 2)
    frame = torch.full((num_tokens + 2, 112), math.nan, dtype=x.dtype, device=device)
    out = frame[1:-1, 8:104]
    assert fused_moe_quantized_out(x, w13, w2, *routing, out) is out
    assert out.equal(fused_moe_quantized(x, w13, w2, *routing))
    assert frame.isnan().sum() == frame.numel() - out.numel()


WRONG_OUT = [
    (torch.zeros(3, 64), TypeError, "out must be float16, got float32"),
    (torch.zeros(2, 64).half(), ValueError, "out must have shape [3, 64], got [2, 64]"),
    (torch.zeros(64).half().expand(3, 64), ValueError, "out must have rows that do not overlap"),
]


@pytest.mark.parametrize(("out", "error", "message"), WRONG_OUT, ids=["dtype", "shape", "rows"])
def test_a_wrong_tensor_of_the_caller(out, error, message):
    w13, _ = random_packed("w8a16", 2, 64, 64)
    w2, _ = random_packed("w8a16", 2, 64, 32)
    x, routing = torch.zeros(3, 64).half(), topk_route(torch.randn(3, 2), 1)
    with pytest.raises(error) as caught:
        fused_moe_quantized_out(x, w13, w2, *routing, out)
    assert str(caught.value).startswith(f"fused_moe_quantized_out: {message}")
    assert not out.any()


# Every number of groups that the chunks of a quad may be of, and rows that end within one.
DECODE_SCHEMES = [*SOME_SCHEMES, "w8a16-g32", "w8a16-g128-asym", "w4a16-g32", "w4a16-g64-asym"]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ONE_SANITIZED_DTYPE, ids=str)
@pytest.mark.parametrize("name", DECODE_SCHEMES)
def test_few_rows(name, dtype, cuda):
    """Kernels of their own, with and without options."""
    hidden_size, intermediate_size = 1152, 640
    w13, meaning13 = random_packed(name, 8, 2 * intermediate_size, hidden_size, cuda)
    w2, meaning2 = random_packed(name, 8, hidden_size, intermediate_size, cuda)
    for num_tokens, top_k in ((1, 1), (1, 8), (2, 2), (4, 3), (16, 2)):
        x = random(cuda, dtype, num_tokens, hidden_size)
        routing = topk_route(torch.randn(num_tokens, 8, device=cuda), top_k)
        options = {
            "gate_up_order": "up_gate",
            "w13_bias": random(cuda, dtype, 8, 2 * intermediate_size),
            "w2_bias": random(cuda, dtype, 8, hidden_size),
            "residual": random(cuda, dtype, num_tokens, hidden_size),
        }
        for chosen in ({}, options):
            out = fused_moe_quantized(x, w13, w2, *routing, **chosen)
            expected = reference.fused_moe(x, meaning13, meaning2, *routing, **chosen)
            testing.assert_close(out, expected, testing.ROUNDINGS_FUSED_MOE, (num_tokens, top_k))
            assert fused_moe_quantized(x, w13, w2, *routing, **chosen).equal(out)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["w8a16", "w4a16-g128", "mxfp4"])
def test_few_rows_that_are_not_gated(name, cuda):
    up, meaning_up = random_packed(name, 4, 256, 384, cuda)
    down, meaning_down = random_packed(name, 4, 384, 256, cuda)
    x = random(cuda, torch.bfloat16, 3, 384)
    routing = topk_route(torch.randn(3, 4, device=cuda), 2)
    options = {"gated": False, "activation": "relu2"}
    out = fused_moe_quantized(x, up, down, *routing, **options)
    expected = reference.fused_moe(x, meaning_up, meaning_down, *routing, **options)
    testing.assert_close(out, expected, testing.ROUNDINGS_FUSED_MOE, name)


@pytest.mark.gpu
def test_a_tactic_without_a_kernel(cuda):
    packed, _ = random_packed("w8a16", 1, 64, 64, cuda)
    a = random(cuda, torch.float16, 4, 64)
    with pytest.raises(RuntimeError, match="tactic must have a kernel for the weight format"):
        grouped_gemm_quantized(a, packed, offsets_of(cuda, 4), tactic=0)


@pytest.mark.gpu
def test_a_cuda_graph_with_other_routings(cuda):
    w13, meaning13 = random_packed("w4a16-g128", 8, 512, 256, cuda)
    w2, meaning2 = random_packed("w4a16-g128", 8, 256, 256, cuda)
    x, logits = random(cuda, torch.bfloat16, 24, 256), torch.randn(24, 8, device=cuda)
    weights, ids = topk_route(logits, 2)
    fused_moe_quantized(x, w13, w2, weights, ids)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = fused_moe_quantized(x, w13, w2, weights, ids)
    for _ in range(3):
        new_weights, new_ids = topk_route(torch.randn_like(logits), 2)
        weights.copy_(new_weights)
        ids.copy_(new_ids)
        graph.replay()
        expected = reference.fused_moe(x, meaning13, meaning2, weights, ids)
        testing.assert_close(out, expected, testing.ROUNDINGS_FUSED_MOE, "replay")


def test_rows_sorted_by_expert_meet_both_gemms(device):
    """The layer is its parts."""
    w13, _ = random_packed("w8a16-g64", 4, 128, 128, device)
    w2, _ = random_packed("w8a16-g64", 4, 128, 64, device)
    x = random(device, torch.bfloat16, 15, 128)
    weights, ids = topk_route(torch.randn(15, 4, device=device), 2)
    offsets, row_index, position = sort_by_expert(ids, 4)
    middle = grouped_gemm_quantized(x, w13, offsets, row_index, top_k=2, epilogue="swiglu")
    rows = grouped_gemm_quantized(middle, w2, offsets)
    expected = reference.combine(rows, weights, position).to(x.dtype)
    assert fused_moe_quantized(x, w13, w2, weights, ids).equal(expected)


def test_random_values_cover_the_ends():
    assert random_values("int4", (1000,), "cpu").unique().numel() == 16
