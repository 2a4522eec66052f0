"""vLLM's functions around experts: its arguments, by its names."""

from __future__ import annotations

import math
from enum import Enum
from typing import Any

import pytest
import torch

from torch_sm80moe import fused_moe, reference, testing
from torch_sm80moe.compat.vllm import fused_experts, fused_topk, grouped_topk
from torch_sm80moe.quantization import QuantScheme, pack, quantize
from torch_sm80moe.testing import Inputs, Problem

# What is decided in Python is the same everywhere: such tests leave the GPU alone.
CPU = torch.device("cpu")
DTYPES = [torch.float16, torch.bfloat16]
GPT_OSS = {"swiglu_alpha": 1.702, "swiglu_beta": 1.0, "swiglu_limit": 7.0}

# vLLM's name -> what it means in the reference, constants of SwiGLU as numbers.
ACTIVATIONS: dict[str, dict[str, Any]] = {
    "silu": {},
    "gelu": {"activation": "gelu"},
    "gelu_tanh": {"activation": "gelu_tanh"},
    "swigluoai": {"gate_up_order": "interleaved", **GPT_OSS},
    "swigluoai_uninterleave": GPT_OSS,
    "silu_no_mul": {"gated": False},
    "gelu_no_mul": {"activation": "gelu", "gated": False},
    "gelu_tanh_no_mul": {"activation": "gelu_tanh", "gated": False},
    "relu2_no_mul": {"activation": "relu2", "gated": False},
}


def problem(device: torch.device = CPU, num_tokens: int = 20, **sizes: Any) -> Inputs:
    return Problem(num_tokens, 8, 4, 72, 40, **sizes).make(device)


def check(out: torch.Tensor, inputs: Inputs, **options: Any) -> None:
    for name, value in options.items():
        if isinstance(value, float):
            options[name] = torch.full((8,), value, device=out.device)
    expected = reference.fused_moe(*inputs, **options)
    testing.assert_close(out, expected, testing.ROUNDINGS_FUSED_MOE, options)


def random(like: torch.Tensor, *shape: int) -> torch.Tensor:
    return torch.randn(shape, device=like.device).to(like.dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("hazard", ["none", "int64_ids", "out_of_range", "strided"])
def test_gates_before_ups(hazard, dtype, device):
    for num_tokens in (1, 20):
        inputs = problem(device, num_tokens, dtype=dtype, hazard=hazard)
        x, w1, w2, weights, ids = inputs
        check(fused_experts(x, w1, w2, weights, ids), inputs)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation(name, device):
    options = ACTIVATIONS[name]
    inputs = problem(device, dtype=torch.float16)
    # Some sums of gpt-oss must reach the limit of 7.
    inputs = inputs._replace(hidden_states=inputs.hidden_states * 5)
    if not options.get("gated", True):
        inputs = inputs._replace(w13=inputs.w13[:, :40])
    out = fused_experts(*inputs, activation=name)
    check(out, inputs, **options)
    if "gelu" in name:  # tolerances do not tell the two apart, bits do
        assert torch.equal(out, fused_moe(*inputs, **options))
    member = Enum("MoEActivation", {"IT": name}).IT
    assert torch.equal(fused_experts(*inputs, False, member), out)


def test_constants_of_the_caller(device):
    inputs = problem(device)
    limit = {"swiglu_limit": 0.5}
    check(fused_experts(*inputs, gemm1_clamp_limit=0.5), inputs, **limit)
    out = fused_experts(*inputs, activation="swigluoai_uninterleave", gemm1_clamp_limit=0.5)
    check(out, inputs, **{**GPT_OSS, **limit})
    zero = fused_experts(*inputs, activation="swigluoai_uninterleave", gemm1_beta=0.0)
    check(zero, inputs, **{**GPT_OSS, "swiglu_beta": 0.0})


def test_inplace(device):
    inputs = problem(device)
    expected = fused_experts(*inputs)
    x = inputs.hidden_states.clone()
    assert fused_experts(x, *inputs[1:], True) is x
    assert torch.equal(x, expected)


def test_biases(device):
    inputs = problem(device)
    w1_bias, w2_bias = random(inputs.w13, 8, 80), random(inputs.w2, 8, 72)
    out = fused_experts(*inputs, w1_bias=w1_bias, w2_bias=w2_bias)
    check(out, inputs, w13_bias=w1_bias, w2_bias=w2_bias)


def test_router_weight_on_input(device):
    inputs, w2_bias = problem(device), None
    for w2_bias in (None, random(inputs.w2, 8, 72)):
        out = fused_experts(*inputs, apply_router_weight_on_input=True, w2_bias=w2_bias)
        check(out, inputs, apply_router_weight_on_input=True, w2_bias=w2_bias)


def test_router_weights_of_another_type():
    inputs = problem()
    half = inputs.topk_weights.bfloat16()
    out = fused_experts(*inputs._replace(topk_weights=half))
    assert torch.equal(out, fused_experts(*inputs._replace(topk_weights=half.float())))


def test_expert_map(device):
    inputs = problem(device)
    expert_map = torch.tensor([-1, 3, -1, 0, 1, -1, 7, 2], device=device).int()
    for num_experts in (-1, 8):
        out = fused_experts(*inputs, expert_map=expert_map, global_num_experts=num_experts)
        check(out, inputs, expert_map=expert_map)


@pytest.mark.parametrize("name", ["w8a16", "w4a16-g32-asym", "mxfp4"])
@pytest.mark.parametrize("activation", ["silu", "swigluoai"])
def test_packed_weights(name, activation, device):
    x, w13, w2, weights, ids = Problem(20, 8, 4, 64, 32).make(device)
    scheme = QuantScheme.parse(name)
    quantized = [quantize(w, scheme) for w in (w13, w2)]
    w1_bias = random(w13, 8, 64)
    packed = [pack(w) for w in quantized]
    out = fused_experts(x, *packed, weights, ids, activation=activation, w1_bias=w1_bias)
    meant = Inputs(x, *(w.dequantize() for w in quantized), weights, ids)
    check(out, meant, **ACTIVATIONS[activation], w13_bias=w1_bias)


def test_packed_weights_that_do_not_fit():
    x, w13, w2, weights, ids = Problem(20, 8, 4, 64, 32).make(CPU)
    w1, other = (pack(quantize(w13, QuantScheme.parse(name))) for name in ("w8a16", "mxfp4"))
    with pytest.raises(TypeError, match=r"fused_experts: w2 must be a PackedWeight .* got Tensor"):
        fused_experts(x, w1, w2, weights, ids)
    with pytest.raises(ValueError, match="fused_experts: w2 must be w8a16 like w1, got mxfp4"):
        fused_experts(x, w1, other, weights, ids)
    with pytest.raises(ValueError, match="use_int8_w8a16 must be False, got True"):
        fused_experts(x, w1, w1, weights, ids, use_int8_w8a16=True)


REFUSED = {
    "quant_config": (object(), "None, got object"),
    "use_fp8_w8a8": (True, "False, got True"),
    "use_int8_w8a8": (True, "False, got True"),
    "use_int8_w8a16": (True, "False, got True"),
    "use_int4_w4a16": (True, "False, got True"),
    "per_channel_quant": (True, "False, got True"),
    "w1_scale": (torch.ones(8), "None, got Tensor"),
    "w2_scale": (torch.ones(8), "None, got Tensor"),
    "w1_zp": (torch.ones(8), "None, got Tensor"),
    "w2_zp": (torch.ones(8), "None, got Tensor"),
    "a1_scale": (torch.ones(1), "None, got Tensor"),
    "a2_scale": (torch.ones(1), "None, got Tensor"),
    "block_shape": ([128, 128], "None, got list"),
    "activation": ("swiglustep", "one of silu, .*, got swiglustep"),
    "global_num_experts": (16, r"-1 or 8 \(the experts of w1\), got 16"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name):
    value, sentence = REFUSED[name]
    inputs = problem()
    before = inputs.hidden_states.clone()
    with pytest.raises(ValueError, match=f"^fused_experts: {name} must be {sentence}"):
        fused_experts(*inputs, inplace=True, **{name: value})
    assert torch.equal(inputs.hidden_states, before)


def test_what_does_not_go_together():
    inputs = problem()
    bias = random(inputs.w13, 8, 80)
    with pytest.raises(ValueError, match=r"^fused_experts: w1_bias must be None with apply_router"):
        fused_experts(*inputs, w1_bias=bias, apply_router_weight_on_input=True)
    expert_map = torch.zeros(5, dtype=torch.int32)
    with pytest.raises(ValueError, match=r"must be -1 or 5 \(the length of expert_map\), got 8"):
        fused_experts(*inputs, expert_map=expert_map, global_num_experts=8)


def test_errors_are_in_words_of_vllm():
    inputs = problem()
    with pytest.raises(ValueError, match=r"^fused_experts: w1 must have shape \[E, 2I, 72\]"):
        fused_experts(*inputs._replace(w13=inputs.w13[..., :64]))
    with pytest.raises(TypeError, match=r"^fused_experts: w1_bias must be bfloat16, got float32"):
        fused_experts(*inputs, w1_bias=torch.zeros(8, 80))
    with pytest.raises(ValueError, match=r"^grouped_topk: num_expert_group must divide .*, got 3"):
        grouped_topk(inputs.hidden_states, torch.randn(20, 8), 2, True, 3, 1)
    with pytest.raises(
        ValueError, match=r"^fused_topk: gating_output must have 20 rows like hidde"
    ):
        fused_topk(inputs.hidden_states, torch.randn(19, 8), 2, True)


@pytest.mark.parametrize("renormalize", [True, False])
@pytest.mark.parametrize("scoring", ["softmax", "sigmoid"])
def test_fused_topk(scoring, renormalize):
    x, logits = torch.zeros(20, 72), torch.randn(20, 33)
    weights, ids, numbers = fused_topk(x, logits, 5, renormalize, scoring_func=scoring)
    scores = logits.softmax(-1) if scoring == "softmax" else logits.sigmoid()
    best, indices = scores.topk(5)
    best = best / best.sum(-1, keepdim=True) if renormalize else best
    torch.testing.assert_close(weights, best, **testing.ROUTER_TOLERANCE)
    assert torch.equal(ids, indices.int())
    assert numbers.is_contiguous()
    assert all(numbers[t, j] == j * 20 + t for t in range(20) for j in range(5))
    wide = fused_topk(x, logits, 5, renormalize, torch.int64, scoring)[1]
    assert torch.equal(wide, indices)


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("scoring", ["softmax", "sigmoid"])
def test_grouped_topk(scoring, with_bias):
    """Groups by their best expert, or by their two best where there is a bias."""
    x, logits = torch.zeros(20, 72), torch.randn(20, 32)
    bias = torch.randn(32) / 4 if with_bias else None
    weights, ids = grouped_topk(x, logits, 6, True, 8, 3, scoring, 2.5, bias)
    scores = logits.softmax(-1) if scoring == "softmax" else logits.sigmoid()
    choice = scores + bias if with_bias else scores
    groups = choice.view(20, 8, 4).topk(2 if with_bias else 1).values.sum(-1).topk(3).indices
    is_best = torch.zeros(20, 8).scatter(1, groups, 1).repeat_interleave(4, 1)
    expected = choice.masked_fill(is_best == 0, -math.inf).topk(6).indices
    assert torch.equal(ids, expected.int())
    chosen = scores.gather(1, expected)
    chosen = 2.5 * chosen / chosen.sum(-1, keepdim=True)
    torch.testing.assert_close(weights, chosen, rtol=1e-5, atol=1e-7)


@pytest.mark.compile
def test_in_one_graph(device):
    """A layer as vLLM's models write it, for all numbers of tokens."""
    torch._dynamo.reset()

    def layer(x, logits, w1, w2, expert_map):
        weights, ids, _ = fused_topk(x, logits, 4, True)
        return fused_experts(x, w1, w2, weights, ids, activation="swigluoai", expert_map=expert_map)

    compiled = torch.compile(layer, fullgraph=True, dynamic=True)
    expert_map = torch.arange(8, device=device).int().flip(0)
    for num_tokens in (17, 3):
        x, w1, w2, _, _ = problem(device, num_tokens)
        logits = torch.randn(num_tokens, 8, device=device)
        out = compiled(x, logits, w1, w2, expert_map)
        torch.testing.assert_close(out, layer(x, logits, w1, w2, expert_map))
    torch._dynamo.reset()
