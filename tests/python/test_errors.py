"""Wrong arguments: one sentence, nothing written, and the process goes on.

The functions raise ValueError or TypeError on every device. The bare operators say the same; on a
GPU, where C++ speaks, as a RuntimeError, which is asked for its sentence on the CPU, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

import torch_sm80moe
from tests.python.rules_of_kernels import can_speak, sentence_of_kernels
from torch_sm80moe._options import ACTIVATIONS, GATE_UP_ORDERS
from torch_sm80moe.testing import Problem

Arguments = dict[str, Any]
OPERATOR_ERRORS = (RuntimeError, ValueError, TypeError)


@dataclass(frozen=True)
class Case:
    """Arguments that are right but for one, and the sentence that they deserve."""

    change: Callable[[Arguments], None]
    error: type[Exception]
    sentence: str  # a regular expression for what follows "op: "


def put(name: str, make: Callable[[Any], Any]) -> Callable[[Arguments], None]:
    """Replace an argument by a function of it."""

    def change(arguments: Arguments) -> None:
        arguments[name] = make(arguments[name])

    return change


def many_tokens(arguments: Arguments) -> None:
    """Make 2^31 pairs out of one row that is shown again and again."""
    arguments["hidden_states"] = arguments["hidden_states"][:1].expand(2**30, -1)
    arguments["topk_ids"] = arguments["topk_ids"][:1].expand(2**30, -1)
    arguments["topk_weights"] = arguments["topk_weights"][:1].expand(2**30, -1)


def intermediate_of(size: int) -> Callable[[Arguments], None]:
    def change(arguments: Arguments) -> None:
        arguments["w13"] = arguments["w13"][:, : 2 * size].contiguous()
        arguments["w2"] = arguments["w2"][:, :, :size].contiguous()

    return change


def no_experts(arguments: Arguments) -> None:
    arguments["w13"], arguments["w2"] = arguments["w13"][:0], arguments["w2"][:0]


def no_choices(arguments: Arguments) -> None:
    for name in ("topk_weights", "topk_ids"):
        arguments[name] = arguments[name][:, :0]


def hidden_size_of(size: int) -> Callable[[Arguments], None]:
    def change(arguments: Arguments) -> None:
        for name in ("hidden_states", "w13"):
            arguments[name] = arguments[name][..., :size].contiguous()
        arguments["w2"] = arguments["w2"][:, :size].contiguous()
        if "out" in arguments:
            arguments["out"] = arguments["out"][:, :size].contiguous()

    return change


def wider_rows(tensor: torch.Tensor) -> torch.Tensor:
    """Keep the values, in rows whose stride is no multiple of 8."""
    frame = tensor.new_empty((*tensor.shape[:-1], tensor.shape[-1] + 4))
    return frame[..., : tensor.shape[-1]].copy_(tensor)


def transposed_memory(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.mT.contiguous().mT


# The problem below: T 5, E 4, k 2, H 64, I 72, bfloat16.
MOE_CASES = {
    "activations-fp32": Case(
        put("hidden_states", torch.Tensor.float),
        TypeError,
        "hidden_states must be float16 or bfloat16, got float32",
    ),
    "weights-differ": Case(
        put("w13", torch.Tensor.half), TypeError, "w13 must be bfloat16, got float16"
    ),
    "w2-int8": Case(put("w2", torch.Tensor.char), TypeError, "w2 must be bfloat16, got .*"),
    "router-bf16": Case(
        put("topk_weights", torch.Tensor.bfloat16),
        TypeError,
        "topk_weights must be float32, got bfloat16",
    ),
    "ids-float": Case(
        put("topk_ids", torch.Tensor.float),
        TypeError,
        "topk_ids must be int32 or int64, got float32",
    ),
    "activations-3d": Case(
        put("hidden_states", lambda t: t[None]),
        ValueError,
        r"hidden_states must have shape \[T, H\], got \[1, 5, 64\]",
    ),
    "w13-depth": Case(
        put("w13", lambda t: t[..., :56]),
        ValueError,
        r"w13 must have shape \[E, 2I, 64\], got \[4, 144, 56\]",
    ),
    "w2-experts": Case(
        put("w2", lambda t: t[:3]),
        ValueError,
        r"w2 must have shape \[4, 64, 72\], got \[3, 64, 72\]",
    ),
    "w2-transposed": Case(
        put("w2", lambda t: t.mT.contiguous()),
        ValueError,
        r"w2 must have shape \[4, 64, 72\], got \[4, 72, 64\]",
    ),
    "ids-tokens": Case(
        put("topk_ids", lambda t: t[:4]),
        ValueError,
        r"topk_ids must have shape \[5, k\], got \[4, 2\]",
    ),
    "router-choices": Case(
        put("topk_weights", lambda t: t[:, :1]),
        ValueError,
        r"topk_weights must have shape \[5, 2\], got \[5, 1\]",
    ),
    "no-experts": Case(no_experts, ValueError, "w13 must have 1 to 1024 experts, got 0"),
    "no-choices": Case(
        no_choices, ValueError, r"topk_ids must have at least one column, got \[5, 0\]"
    ),
    "hidden-60": Case(
        hidden_size_of(60),
        ValueError,
        "hidden_states must have a last dimension that is a positive multiple of 8, got 60",
    ),
    "hidden-0": Case(
        hidden_size_of(0),
        ValueError,
        "hidden_states must have a last dimension that is a positive multiple of 8, got 0",
    ),
    "intermediate-68": Case(
        intermediate_of(68),
        ValueError,
        "w13 must have a dimension 1 that is a positive multiple of 16, got 136",
    ),
    "intermediate-0": Case(
        intermediate_of(0),
        ValueError,
        "w13 must have a dimension 1 that is a positive multiple of 16, got 0",
    ),
    "too-many-rows": Case(
        many_tokens, ValueError, "topk_ids must make at most 2147483647 rows, got 2147483648"
    ),
    "activations-columns": Case(
        put("hidden_states", transposed_memory),
        ValueError,
        r"hidden_states must have a contiguous last dimension, got strides \[1, 5\]",
    ),
    "w13-columns": Case(
        put("w13", transposed_memory),
        ValueError,
        r"w13 must have a contiguous last dimension, got strides \[9216, 1, 144\]",
    ),
    "activations-stride": Case(
        put("hidden_states", wider_rows),
        ValueError,
        r"hidden_states must have strides that are multiples of 8 elements, "
        r"got strides \[68, 1\]",
    ),
    "w2-stride": Case(
        put("w2", wider_rows),
        ValueError,
        r"w2 must have strides that are multiples of 8 elements, got strides \[4864, 76, 1\]",
    ),
    "ids-columns": Case(
        put("topk_ids", transposed_memory),
        ValueError,
        r"topk_ids must have a contiguous last dimension, got strides \[1, 5\]",
    ),
    "router-columns": Case(
        put("topk_weights", transposed_memory),
        ValueError,
        r"topk_weights must have a contiguous last dimension, got strides \[1, 5\]",
    ),
}


def w13_without_gates(arguments: Arguments) -> None:
    arguments["gated"] = False


def order_without_gates(arguments: Arguments) -> None:
    arguments.update(gated=False, w13=arguments["w13"][:, :72], gate_up_order=2)


def swiglu_of_gelu(arguments: Arguments) -> None:
    arguments.update(activation=1, swiglu_limit=torch.ones(4, device=arguments["w2"].device))


def swiglu_without_gates(arguments: Arguments) -> None:
    limit = torch.ones(4, device=arguments["w2"].device)
    arguments.update(gated=False, w13=arguments["w13"][:, :72], swiglu_limit=limit)


# Of the problem above, with all tensors that are optional. Operators take numbers for names.
OPTION_CASES = {
    "ungated-shape": Case(
        w13_without_gates, ValueError, r"w2 must have shape \[4, 64, 144\], got \[4, 64, 72\]"
    ),
    "order-without-gates": Case(
        order_without_gates,
        ValueError,
        "gate_up_order must be gate_up where nothing is gated, got interleaved",
    ),
    "swiglu-of-gelu": Case(
        swiglu_of_gelu,
        ValueError,
        "swiglu_alpha must be None unless the activation is silu and gated, got a tensor",
    ),
    "swiglu-without-gates": Case(
        swiglu_without_gates,
        ValueError,
        "swiglu_alpha must be None unless the activation is silu and gated, got a tensor",
    ),
    "w13-bias-dtype": Case(
        put("w13_bias", torch.Tensor.float), TypeError, "w13_bias must be bfloat16, got float32"
    ),
    "w13-bias-shape": Case(
        put("w13_bias", lambda t: t[:, :72]),
        ValueError,
        r"w13_bias must have shape \[4, 144\], got \[4, 72\]",
    ),
    "w13-bias-stride": Case(
        put("w13_bias", wider_rows),
        ValueError,
        "w13_bias must have strides that are multiples of 8 elements, .*",
    ),
    "w13-bias-columns": Case(
        put("w13_bias", transposed_memory),
        ValueError,
        "w13_bias must have a contiguous last dimension, .*",
    ),
    "w2-bias-dtype": Case(
        put("w2_bias", torch.Tensor.half), TypeError, "w2_bias must be bfloat16, got float16"
    ),
    "w2-bias-shape": Case(
        put("w2_bias", lambda t: t[:3]),
        ValueError,
        r"w2_bias must have shape \[4, 64\], got \[3, 64\]",
    ),
    "residual-dtype": Case(
        put("residual", torch.Tensor.float), TypeError, "residual must be bfloat16, got float32"
    ),
    "residual-shape": Case(
        put("residual", lambda t: t[:4]),
        ValueError,
        r"residual must have shape \[5, 64\], got \[4, 64\]",
    ),
    "residual-stride": Case(
        put("residual", wider_rows), ValueError, "residual must have strides that are multiples.*"
    ),
    "alpha-dtype": Case(
        put("swiglu_alpha", torch.Tensor.half), TypeError, "swiglu_alpha must be float32, got .*"
    ),
    "beta-shape": Case(
        put("swiglu_beta", lambda t: t[:3]),
        ValueError,
        r"swiglu_beta must have shape \[4\], got \[3\]",
    ),
    "limit-dimensions": Case(
        put("swiglu_limit", lambda t: t[:, None]),
        ValueError,
        r"swiglu_limit must have shape \[4\], got \[4, 1\]",
    ),
}

MAP_CASES = {
    "dtype": Case(
        put("expert_map", torch.Tensor.long), TypeError, "expert_map must be int32, got int64"
    ),
    "dimensions": Case(
        put("expert_map", lambda t: t[None]),
        ValueError,
        r"expert_map must have shape \[G\], got \[1, 6\]",
    ),
    "empty": Case(
        put("expert_map", lambda t: t[:0]),
        ValueError,
        "the length of expert_map must be between 1 and 2147483647, got 0",
    ),
    "stride": Case(
        put("expert_map", lambda t: t[::2]),
        ValueError,
        r"expert_map must be contiguous, got strides \[2\]",
    ),
}

OUT_CASES = {
    "dtype": Case(put("out", torch.Tensor.half), TypeError, "out must be bfloat16, got float16"),
    "shape": Case(
        put("out", lambda t: t[:4]), ValueError, r"out must have shape \[5, 64\], got \[4, 64\]"
    ),
    "columns": Case(
        put("out", transposed_memory), ValueError, "out must have a contiguous last dimension.*"
    ),
    "stride": Case(
        put("out", wider_rows), ValueError, "out must have strides that are multiples of 8.*"
    ),
    "overlap": Case(
        put("out", lambda t: t[:1].expand(5, -1)),
        ValueError,
        r"out must have rows that do not overlap, got strides \[0, 1\]",
    ),
}


def moe_arguments(device: torch.device | str) -> Arguments:
    return Problem(5, 4, 2).make(device)._asdict()


def out_arguments(device: torch.device) -> Arguments:
    out = torch.full((5, 64), torch.nan, dtype=torch.bfloat16, device=device)
    return {**moe_arguments(device), "out": out}


def sort_arguments(device: torch.device) -> Arguments:
    return {"topk_ids": torch.zeros(5, 2, dtype=torch.int64, device=device), "num_experts": 4}


def expect(op: str, arguments: Arguments, error: type[Exception], sentence: str) -> None:
    """Call the function and the operator; all must refuse with the sentence."""
    expect_of_python(op, arguments, error, sentence)
    if can_speak():
        assert re.fullmatch(f"{op}: {sentence}", sentence_of_kernels(op, arguments) or "")


def expect_of_python(op: str, arguments: Arguments, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=f"^{op}: {sentence}"):
        getattr(torch_sm80moe, op)(**arguments)
    with pytest.raises(OPERATOR_ERRORS, match=f"{op}: {sentence}"):
        getattr(torch.ops.sm80moe, op)(**arguments)


@pytest.mark.parametrize("case", MOE_CASES.values(), ids=MOE_CASES.keys())
def test_fused_moe(case, device):
    arguments = moe_arguments(device)
    case.change(arguments)
    expect("fused_moe", arguments, case.error, case.sentence)
    torch_sm80moe.fused_moe(**moe_arguments(device))


@pytest.mark.parametrize("op", ["fused_moe", "fused_moe_out", "sort_by_expert"])
@pytest.mark.parametrize("case", MAP_CASES.values(), ids=MAP_CASES.keys())
def test_expert_map(case, op, device):
    make = {
        "fused_moe": moe_arguments,
        "fused_moe_out": out_arguments,
        "sort_by_expert": sort_arguments,
    }
    arguments = {**make[op](device), "expert_map": torch.arange(6, device=device).int()}
    case.change(arguments)
    expect(op, arguments, case.error, case.sentence)


@pytest.mark.parametrize("case", [*MOE_CASES.values(), *OUT_CASES.values()])
def test_fused_moe_out_writes_nothing(case, device):
    arguments = out_arguments(device)
    case.change(arguments)
    arguments["out"].fill_(torch.nan)
    expect("fused_moe_out", arguments, case.error, case.sentence)
    assert arguments["out"].isnan().all()


def option_arguments(device: torch.device) -> Arguments:
    arguments = moe_arguments(device)
    return {
        **arguments,
        "w13_bias": torch.randn(4, 144, device=device).bfloat16(),
        "w2_bias": torch.randn(4, 64, device=device).bfloat16(),
        "residual": torch.randn(5, 64, device=device).bfloat16(),
        "swiglu_alpha": torch.ones(4, device=device),
        "swiglu_beta": torch.ones(4, device=device),
        "swiglu_limit": torch.ones(4, device=device),
    }


@pytest.mark.parametrize("op", ["fused_moe", "fused_moe_out"])
@pytest.mark.parametrize("case", OPTION_CASES.values(), ids=OPTION_CASES.keys())
def test_options(case, op, device):
    arguments = option_arguments(device)
    if op == "fused_moe_out":
        arguments["out"] = torch.full((5, 64), torch.nan, device=device).bfloat16()
    case.change(arguments)
    names = {"activation": ACTIVATIONS, "gate_up_order": GATE_UP_ORDERS}
    with pytest.raises(OPERATOR_ERRORS, match=f"{op}: {case.sentence}"):
        getattr(torch.ops.sm80moe, op)(**arguments)
    if can_speak():
        assert re.fullmatch(f"{op}: {case.sentence}", sentence_of_kernels(op, arguments) or "")
    for name in names.keys() & arguments.keys():
        arguments[name] = names[name][arguments[name]]
    with pytest.raises(case.error, match=f"^{op}: {case.sentence}"):
        getattr(torch_sm80moe, op)(**arguments)
    if op == "fused_moe_out":
        assert arguments["out"].isnan().all()


def test_names_of_options(device):
    arguments = moe_arguments(device)
    with pytest.raises(ValueError, match=r'^fused_moe: activation must be "silu" or .*, got .swi'):
        torch_sm80moe.fused_moe(**arguments, activation="swish")
    with pytest.raises(ValueError, match=r'^fused_moe: gate_up_order must be "gate_up" or .*, got'):
        torch_sm80moe.fused_moe(**arguments, gate_up_order="down")
    for name, high in (("activation", 5), ("gate_up_order", 2)):
        for wrong in (-1, high + 1):
            sentence = f"fused_moe: {name} must be between 0 and {high}, got {wrong}"
            with pytest.raises(OPERATOR_ERRORS, match=sentence):
                torch.ops.sm80moe.fused_moe(**arguments, **{name: wrong})


@pytest.mark.parametrize("name", ["hidden_states", "w13", "w2", "topk_weights", "topk_ids"])
def test_argument_is_no_tensor(name, device):
    arguments = moe_arguments(device)
    arguments[name] = [1.0]
    with pytest.raises(TypeError, match=f"^fused_moe: {name} must be a tensor, got list"):
        torch_sm80moe.fused_moe(**arguments)


def router_arguments(device: torch.device) -> Arguments:
    return {
        "router_logits": torch.randn(5, 4, device=device),
        "top_k": 2,
        "correction_bias": torch.randn(4, device=device),
        "n_group": 2,
        "topk_group": 1,
        "expert_map": torch.arange(4, device=device).int(),
    }


def one_group_and_five_experts(arguments: Arguments) -> None:
    arguments["n_group"], arguments["top_k"] = 1, 5


ROUTER_CASES = {
    "dtype": Case(
        put("router_logits", torch.Tensor.int),
        TypeError,
        "router_logits must be float32 or float16 or bfloat16, got int32",
    ),
    "dimensions": Case(
        put("router_logits", lambda t: t[0]),
        ValueError,
        r"router_logits must have shape \[T, E\], got \[4\]",
    ),
    "no-experts": Case(
        put("router_logits", lambda t: t[:, :0]),
        ValueError,
        "router_logits must have 1 to 1024 experts, got 0",
    ),
    "too-many-experts": Case(
        put("router_logits", lambda t: t.repeat(1, 300)),
        ValueError,
        "router_logits must have 1 to 1024 experts, got 1200",
    ),
    "top-k-0": Case(
        put("top_k", lambda _: 0),
        ValueError,
        r"top_k must be between 1 and 2 \(the experts of topk_group groups\), got 0",
    ),
    "top-k-5": Case(
        one_group_and_five_experts,
        ValueError,
        r"top_k must be between 1 and 4 \(the number of experts\), got 5",
    ),
    "no-groups": Case(
        put("n_group", lambda _: 0), ValueError, "n_group must be between 1 and 32, got 0"
    ),
    "groups-of-unequal-size": Case(
        put("n_group", lambda _: 3),
        ValueError,
        "n_group must divide the number of experts, 4, got 3",
    ),
    "topk-group-0": Case(
        put("topk_group", lambda _: 0),
        ValueError,
        r"topk_group must be between 1 and 2 \(the number of groups\), got 0",
    ),
    "topk-group-3": Case(
        put("topk_group", lambda _: 3),
        ValueError,
        r"topk_group must be between 1 and 2 \(the number of groups\), got 3",
    ),
    "top-k-of-a-group": Case(
        put("top_k", lambda _: 3),
        ValueError,
        r"top_k must be between 1 and 2 \(the experts of topk_group groups\), got 3",
    ),
    "bias-dtype": Case(
        put("correction_bias", torch.Tensor.bfloat16),
        TypeError,
        "correction_bias must be float32, got bfloat16",
    ),
    "bias-shape": Case(
        put("correction_bias", lambda t: t[:3]),
        ValueError,
        r"correction_bias must have shape \[4\], got \[3\]",
    ),
    "bias-stride": Case(
        put("correction_bias", lambda t: t.repeat_interleave(2)[::2]),
        ValueError,
        r"correction_bias must be contiguous, got strides \[2\]",
    ),
    "map-dtype": Case(
        put("expert_map", torch.Tensor.long), TypeError, "expert_map must be int32, got int64"
    ),
    "map-shape": Case(
        put("expert_map", lambda t: t[None]),
        ValueError,
        r"expert_map must have shape \[4\], got \[1, 4\]",
    ),
    "columns": Case(
        put("router_logits", transposed_memory),
        ValueError,
        "router_logits must have a contiguous last dimension, got strides.*",
    ),
    "too-many-rows": Case(
        put("router_logits", lambda t: t[:1].expand(2**30, -1)),
        ValueError,
        "router_logits must make at most 2147483647 rows, got 2147483648",
    ),
}


@pytest.mark.parametrize("case", ROUTER_CASES.values(), ids=ROUTER_CASES.keys())
def test_topk_route(case, device):
    arguments = router_arguments(device)
    case.change(arguments)
    expect("topk_route", arguments, case.error, case.sentence)
    torch_sm80moe.topk_route(**router_arguments(device))


def test_router_names(device):
    arguments = router_arguments(device)
    with pytest.raises(
        ValueError, match=r'^topk_route: scoring must be "softmax" or .*, got .tanh'
    ):
        torch_sm80moe.topk_route(**arguments, scoring="tanh")
    with pytest.raises(ValueError, match=r'^topk_route: group_score must be "max" or .*, got .sum'):
        torch_sm80moe.topk_route(**arguments, group_score="sum")
    for name, high in (("scoring", 2), ("group_score", 1)):
        sentence = f"topk_route: {name} must be between 0 and {high}, got {high + 1}"
        with pytest.raises(OPERATOR_ERRORS, match=sentence):
            torch.ops.sm80moe.topk_route(**arguments, **{name: high + 1})


SORT_CASES = {
    "dtype": Case(
        put("topk_ids", torch.Tensor.short), TypeError, "topk_ids must be int32 or int64, got .*"
    ),
    "dimensions": Case(
        put("topk_ids", torch.Tensor.flatten),
        ValueError,
        r"topk_ids must have shape \[T, k\], got \[10\]",
    ),
    "no-columns": Case(
        put("topk_ids", lambda t: t[:, :0]),
        ValueError,
        r"topk_ids must have at least one column, got \[5, 0\]",
    ),
    "no-experts": Case(
        put("num_experts", lambda _: 0),
        ValueError,
        "num_experts must be between 1 and 1024, got 0",
    ),
    "too-many-experts": Case(
        put("num_experts", lambda _: 1025),
        ValueError,
        "num_experts must be between 1 and 1024, got 1025",
    ),
    "too-many-rows": Case(
        put("topk_ids", lambda t: t[:1].expand(2**30, -1)),
        ValueError,
        "topk_ids must make at most 2147483647 rows, got 2147483648",
    ),
}


@pytest.mark.parametrize("case", SORT_CASES.values(), ids=SORT_CASES.keys())
def test_sort_by_expert(case, device):
    arguments = sort_arguments(device)
    case.change(arguments)
    expect("sort_by_expert", arguments, case.error, case.sentence)


def cut_columns(size: int) -> Callable[[Arguments], None]:
    def change(arguments: Arguments) -> None:
        arguments["w"] = arguments["w"][:, :size]

    return change


GEMM_CASES = {
    "dtype": Case(
        put("a", torch.Tensor.float), TypeError, "a must be float16 or bfloat16, got float32"
    ),
    "weights-differ": Case(
        put("w", torch.Tensor.half), TypeError, "w must be bfloat16, got float16"
    ),
    "offsets-int64": Case(
        put("expert_offsets", torch.Tensor.long),
        TypeError,
        "expert_offsets must be int32, got int64",
    ),
    "index-int64": Case(
        put("row_index", torch.Tensor.long), TypeError, "row_index must be int32, got int64"
    ),
    "depth": Case(
        put("w", lambda t: t[..., :32]),
        ValueError,
        r"w must have shape \[E, N, 64\], got \[3, 48, 32\]",
    ),
    "offsets": Case(
        put("expert_offsets", lambda t: t[:3]),
        ValueError,
        r"expert_offsets must have shape \[4\], got \[3\]",
    ),
    "index-2d": Case(
        put("row_index", lambda t: t[None]),
        ValueError,
        r"row_index must have shape \[M\], got \[1, 6\]",
    ),
    "columns": Case(
        cut_columns(44),
        ValueError,
        "w must have a dimension 1 that is a positive multiple of 8, got 44",
    ),
    "stride": Case(
        put("a", wider_rows), ValueError, "a must have strides that are multiples of 8.*"
    ),
    "offsets-stride": Case(
        put("expert_offsets", lambda t: t.repeat_interleave(2)[::2]),
        ValueError,
        r"expert_offsets must be contiguous, got strides \[2\]",
    ),
    "index-stride": Case(
        put("row_index", lambda t: t.repeat_interleave(2)[::2]),
        ValueError,
        r"row_index must be contiguous, got strides \[2\]",
    ),
    "top-k": Case(
        put("top_k", lambda _: 0), ValueError, "top_k must be between 1 and 2147483647, got 0"
    ),
}


def gemm_arguments(device: torch.device) -> Arguments:
    return {
        "a": torch.randn(6, 64, device=device).bfloat16(),
        "w": torch.randn(3, 48, 64, device=device).bfloat16(),
        "expert_offsets": torch.tensor([0, 1, 3, 6], device=device).int(),
        "row_index": torch.arange(6, device=device).int(),
        "top_k": 1,
    }


@pytest.mark.parametrize("case", GEMM_CASES.values(), ids=GEMM_CASES.keys())
def test_grouped_gemm(case, device):
    arguments = gemm_arguments(device)
    case.change(arguments)
    expect("grouped_gemm", arguments, case.error, case.sentence)


def test_epilogue(device):
    arguments = gemm_arguments(device)
    with pytest.raises(
        ValueError, match=r"^grouped_gemm: epilogue must be \"none\" or .*, got 'gelu'"
    ):
        torch_sm80moe.grouped_gemm(**arguments, epilogue="gelu")
    with pytest.raises(
        OPERATOR_ERRORS, match="grouped_gemm: epilogue must be between 0 and 3, got 4"
    ):
        torch.ops.sm80moe.grouped_gemm(**arguments, epilogue=4)


def epilogue_options(device: torch.device) -> Arguments:
    return {
        "bias": torch.zeros(3, 48, device=device).bfloat16(),
        "swiglu_limit": torch.ones(3, device=device),
        "row_scale": torch.ones(6, device=device),
    }


@pytest.mark.parametrize("name", ["bias", "swiglu_limit", "row_scale"])
@pytest.mark.parametrize("epilogue", ["none", "swiglu"])
def test_plain_epilogues_take_no_options(epilogue, name, device):
    given = {name: epilogue_options(device)[name]}
    sentence = f'grouped_gemm: {name} must be None for the epilogue "{epilogue}", got a tensor'
    with pytest.raises(ValueError, match=f"^{sentence}"):
        torch_sm80moe.grouped_gemm(**gemm_arguments(device), epilogue=epilogue, **given)
    number = ("none", "swiglu").index(epilogue)
    with pytest.raises(OPERATOR_ERRORS, match=sentence):
        torch.ops.sm80moe.grouped_gemm(**gemm_arguments(device), epilogue=number, **given)


EPILOGUE_CASES = {
    "bias-shape": Case(
        put("bias", lambda t: t[:, :40]),
        ValueError,
        r"bias must have shape \[3, 48\], got \[3, 40\]",
    ),
    "bias-dtype": Case(
        put("bias", torch.Tensor.half), TypeError, "bias must be bfloat16, got float16"
    ),
    "limit-shape": Case(
        put("swiglu_limit", lambda t: t[:2]),
        ValueError,
        r"swiglu_limit must have shape \[3\], got \[2\]",
    ),
    "scale-dtype": Case(
        put("row_scale", torch.Tensor.half), TypeError, "row_scale must be float32, got float16"
    ),
    "scale-shape": Case(
        put("row_scale", lambda t: t[:5]),
        ValueError,
        r"row_scale must have shape \[6\], got \[5\]",
    ),
    "scale-stride": Case(
        put("row_scale", lambda t: t.repeat_interleave(2)[::2]),
        ValueError,
        r"row_scale must be contiguous, got strides \[2\]",
    ),
}


@pytest.mark.parametrize("case", EPILOGUE_CASES.values(), ids=EPILOGUE_CASES.keys())
def test_options_of_epilogues(case, device):
    arguments = {**gemm_arguments(device), **epilogue_options(device)}
    case.change(arguments)
    with pytest.raises(case.error, match=f"^grouped_gemm: {case.sentence}"):
        torch_sm80moe.grouped_gemm(**arguments, epilogue="gated")
    with pytest.raises(OPERATOR_ERRORS, match=f"grouped_gemm: {case.sentence}"):
        torch.ops.sm80moe.grouped_gemm(**arguments, epilogue=2)


def test_swiglu_needs_sixteens(device):
    arguments = gemm_arguments(device)
    cut_columns(40)(arguments)
    sentence = "grouped_gemm: w must have a dimension 1 that is a positive multiple of 16, got 40"
    with pytest.raises(ValueError, match=f"^{sentence}"):
        torch_sm80moe.grouped_gemm(**arguments, epilogue="swiglu")
    with pytest.raises(OPERATOR_ERRORS, match=sentence):
        torch.ops.sm80moe.grouped_gemm(**arguments, epilogue=1)


MM_CASES = {
    "dtype": Case(
        put("mat_a", torch.Tensor.float),
        TypeError,
        "mat_a must be float16 or bfloat16, got float32",
    ),
    "weights-differ": Case(
        put("mat_b", torch.Tensor.bfloat16), TypeError, "mat_b must be float16, got bfloat16"
    ),
    "ends-int64": Case(put("offs", torch.Tensor.long), TypeError, "offs must be int32, got int64"),
    "form-3d-3d": Case(
        put("mat_a", lambda t: t[None]),
        ValueError,
        r"mat_a must have shape \[M, K\], got \[1, 6, 64\]",
    ),
    "form-2d-2d": Case(
        put("mat_b", lambda t: t[0]),
        ValueError,
        r"mat_b must have shape \[E, 64, N\], got \[64, 48\]",
    ),
    "depth": Case(
        put("mat_b", lambda t: t[:, :56]),
        ValueError,
        r"mat_b must have shape \[E, 64, N\], got \[2, 56, 48\]",
    ),
    "ends-with-a-first-zero": Case(
        put("offs", lambda t: torch.nn.functional.pad(t, (1, 0))),
        ValueError,
        r"offs must have shape \[2\], got \[3\]",
    ),
    "no-experts": Case(
        lambda arguments: arguments.update(
            mat_b=arguments["mat_b"][:0], offs=arguments["offs"][:0]
        ),
        ValueError,
        "mat_b must have 1 to 1024 experts, got 0",
    ),
    "depth-60": Case(
        lambda arguments: arguments.update(
            mat_a=arguments["mat_a"][:, :60], mat_b=arguments["mat_b"][:, :60]
        ),
        ValueError,
        "mat_a must have a last dimension that is a positive multiple of 8, got 60",
    ),
    "columns-44": Case(
        put("mat_b", lambda t: t[:, :, :44]),
        ValueError,
        "mat_b must have a last dimension that is a positive multiple of 8, got 44",
    ),
    "columns-are-contiguous": Case(
        put("mat_b", torch.Tensor.contiguous),
        ValueError,
        r"mat_b.mT must have a contiguous last dimension, got strides \[3072, 1, 48\]",
    ),
    "weight-stride": Case(
        put("mat_b", lambda t: wider_rows(t.mT).mT),
        ValueError,
        r"mat_b.mT must have strides that are multiples of 8 elements, got strides \[3264, 68, 1\]",
    ),
    "row-stride": Case(
        put("mat_a", wider_rows), ValueError, "mat_a must have strides that are multiples of 8.*"
    ),
    "ends-stride": Case(
        put("offs", lambda t: t.repeat_interleave(2)[::2]),
        ValueError,
        r"offs must be contiguous, got strides \[2\]",
    ),
}


def mm_arguments(device: torch.device) -> Arguments:
    return {
        "mat_a": torch.randn(6, 64, device=device).half(),
        "mat_b": torch.randn(2, 48, 64, device=device).half().mT,
        "offs": torch.tensor([2, 5], device=device).int(),
    }


@pytest.mark.parametrize("case", MM_CASES.values(), ids=MM_CASES.keys())
def test_grouped_mm(case, device):
    arguments = mm_arguments(device)
    case.change(arguments)
    expect("grouped_mm", arguments, case.error, case.sentence)


@pytest.mark.parametrize(
    ("name", "value", "error", "sentence"),
    [
        ("offs", None, TypeError, "offs must be a tensor, got NoneType"),
        ("bias", torch.zeros(48), ValueError, "bias must be None, got Tensor"),
        (
            "out_dtype",
            torch.float32,
            TypeError,
            "out_dtype must be float16 like mat_a, got float32",
        ),
    ],
)
def test_arguments_of_torch_s_grouped_mm(name, value, error, sentence, device):
    with pytest.raises(error, match=f"^grouped_mm: {sentence}"):
        torch_sm80moe.grouped_mm(**{**mm_arguments(device), name: value})


COMBINE_CASES = {
    "dtype": Case(
        put("rows", torch.Tensor.float), TypeError, "rows must be float16 or bfloat16, got float32"
    ),
    "weights-bf16": Case(
        put("topk_weights", torch.Tensor.bfloat16),
        TypeError,
        "topk_weights must be float32, got bfloat16",
    ),
    "position-int64": Case(
        put("row_position", torch.Tensor.long), TypeError, "row_position must be int32, got int64"
    ),
    "position-shape": Case(
        put("row_position", lambda t: t[:2]),
        ValueError,
        r"row_position must have shape \[3, 2\], got \[2, 2\]",
    ),
    "hidden": Case(
        put("rows", lambda t: t[:, :60]),
        ValueError,
        "rows must have a last dimension that is a positive multiple of 8, got 60",
    ),
    "position-columns": Case(
        put("row_position", transposed_memory),
        ValueError,
        r"row_position must be contiguous, got strides \[1, 3\]",
    ),
    "stride": Case(
        put("rows", wider_rows), ValueError, "rows must have strides that are multiples of 8.*"
    ),
}


def combine_arguments(device: torch.device) -> Arguments:
    return {
        "rows": torch.randn(6, 64, device=device).half(),
        "topk_weights": torch.rand(3, 2, device=device),
        "row_position": torch.zeros(3, 2, device=device).int(),
    }


@pytest.mark.parametrize("case", COMBINE_CASES.values(), ids=COMBINE_CASES.keys())
def test_combine(case, device):
    arguments = combine_arguments(device)
    case.change(arguments)
    expect("combine", arguments, case.error, case.sentence)


@pytest.mark.parametrize("tactic", [-2, 1000])
def test_unknown_tactic(tactic, device):
    for name in ("tactic_w13", "tactic_w2"):
        arguments = {**moe_arguments(device), name: tactic}
        with pytest.raises(ValueError, match=f"^fused_moe: {name} must be .*, got {tactic}"):
            torch_sm80moe.fused_moe(**arguments)
    with pytest.raises(ValueError, match=f"^grouped_gemm: tactic must be .*, got {tactic}"):
        torch_sm80moe.grouped_gemm(**gemm_arguments(device), tactic=tactic)


def test_forced_tactic_on_the_cpu():
    with pytest.raises(
        ValueError, match=r"^fused_moe: tactic_w13 must be -1 for tensors on the CPU, got 0"
    ):
        torch_sm80moe.fused_moe(**moe_arguments("cpu"), tactic_w13=0)


def test_limits():
    with pytest.raises(ValueError, match=r"^configure: shared_memory_limit must be .*, got -1"):
        torch_sm80moe.configure(shared_memory_limit=-1)
    with pytest.raises(ValueError, match=r"^select_tactic: num_rows must be .*, got 0"):
        torch_sm80moe.select_tactic(0, 8, 64, 64)
    with pytest.raises(ValueError, match=r"^select_tactic: epilogue must be .*, got 'gelu'"):
        torch_sm80moe.select_tactic(1, 8, 64, 64, epilogue="gelu")
    with pytest.raises(ValueError, match=r"^select_tactic: device must be a CUDA device, got cpu"):
        torch_sm80moe.select_tactic(1, 8, 64, 64, device="cpu")
    with pytest.raises(TypeError, match=r"^select_tactic: dtype must be .*, got float32"):
        torch_sm80moe.select_tactic(1, 8, 64, 64, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"^decode_limit: device must be a CUDA device, got cpu"):
        torch_sm80moe.decode_limit(8, 64, 64, device="cpu")


def test_tensors_that_are_not_there():
    """Meta tensors are judged by the same rules."""
    arguments = moe_arguments("cpu")
    arguments = {name: tensor.to("meta") for name, tensor in arguments.items()}
    assert torch_sm80moe.fused_moe(**arguments).shape == (5, 64)
    arguments["w2"] = arguments["w2"][:3]
    with pytest.raises(ValueError, match=r"^fused_moe: w2 must have shape"):
        torch_sm80moe.fused_moe(**arguments)


@pytest.mark.parametrize(
    ("op", "leader"),
    [
        ("fused_moe_out", "hidden_states"),
        ("topk_route", "router_logits"),
        ("grouped_gemm", "a"),
        ("combine", "rows"),
    ],
)
def test_mixed_devices_by_the_rules(op, leader):
    """The meta device stands for another device, which a machine may lack; C++ never sees it."""
    make = {
        "fused_moe_out": out_arguments,
        "topk_route": router_arguments,
        "grouped_gemm": gemm_arguments,
        "combine": combine_arguments,
    }
    names = [
        name
        for name, value in make[op](torch.device("cpu")).items()
        if isinstance(value, torch.Tensor) and name != leader
    ]
    for name in names:
        arguments = make[op](torch.device("cpu"))
        arguments[name] = arguments[name].to("meta")
        sentence = f"{name} must be on cpu like {leader}, got meta"
        expect_of_python(op, arguments, ValueError, sentence)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["hidden_states", "w13", "w2", "topk_weights", "topk_ids"])
@pytest.mark.parametrize("leader", ["cuda", "cpu"])
def test_mixed_devices(leader, name, cuda):
    arguments = moe_arguments("cpu")
    arguments = {key: value.to(cuda) for key, value in arguments.items()}
    if leader == "cpu":
        arguments = {key: value.cpu() for key, value in arguments.items()}
    arguments[name] = arguments[name].to("cpu" if leader == "cuda" else cuda)
    with pytest.raises(ValueError, match=r"^fused_moe: \w+ must be on .* like hidden_states, got"):
        torch_sm80moe.fused_moe(**arguments)


def unaligned(tensor: torch.Tensor) -> torch.Tensor:
    """Keep the values, 8 bytes behind a multiple of 16."""
    shifted = torch.empty(tensor.numel() + 4, dtype=tensor.dtype, device=tensor.device)[4:]
    return shifted.view(tensor.shape).copy_(tensor)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["hidden_states", "w13", "w2", "out"])
def test_unaligned_pointer(name, cuda):
    arguments = out_arguments(cuda)
    arguments[name] = unaligned(arguments[name])
    with pytest.raises(
        RuntimeError, match=re.compile(f"fused_moe_out: {name} must be aligned to 16 bytes, got")
    ):
        torch_sm80moe.fused_moe_out(**arguments)
    assert arguments["out"].isnan().all()


@pytest.mark.skipif(not can_speak(), reason="C++ rules can be asked alone only without a GPU")
@pytest.mark.parametrize("name", ["hidden_states", "w13", "w2", "w13_bias", "residual"])
def test_unaligned_pointer_by_the_rules(name):
    arguments = option_arguments("cpu")
    arguments[name] = unaligned(arguments[name])
    sentence = sentence_of_kernels("fused_moe", arguments) or ""
    rule = f"fused_moe: {name} must be aligned to 16 bytes, got address"
    assert re.fullmatch(f"{rule} 0x[0-9a-f]+8", sentence)
