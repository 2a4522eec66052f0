"""The rules of `_shapes.py` and those of C++ are the same, sentence by sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.python.option_tensors import option_tensors
from tests.python.rules_of_kernels import can_speak, sentence_of_kernels
from tests.quantization.random_weights import random_packed
from torch_sm80moe._formats import GROUP_SIZES
from torch_sm80moe._ops import overload
from torch_sm80moe.testing import Problem

hypothesis = pytest.importorskip("hypothesis")
st = pytest.importorskip("hypothesis.strategies")

pytestmark = pytest.mark.skipif(
    not can_speak(), reason="C++ rules can be asked alone only with kernels, and without a GPU"
)

META = torch._C.DispatchKeySet(torch._C.DispatchKey.Meta)
Arguments = dict[str, Any]

SCHEMES = ("w8a16", "w8a16-g32-asym", "w4a16-g64", "fp8-block", "mxfp4", "w8a8", "w8a8-static")


def sentence_of_python(op: str, arguments: Arguments) -> str | None:
    """Return what Python objects to, None if there would be a result: a fake obeys rules alone."""
    try:
        overload(op).redispatch(META, **arguments)
    except (TypeError, ValueError) as error:
        return str(error)
    return None


def layer(scheme: str) -> Arguments:
    return Problem(5, 4, 2).make("cpu")._asdict()


def layer_with_options(scheme: str) -> Arguments:
    inputs = Problem(5, 4, 2).make("cpu")
    expert_map = torch.arange(4, dtype=torch.int32)
    return {**inputs._asdict(), **option_tensors(inputs), "expert_map": expert_map}


def layer_out(scheme: str) -> Arguments:
    arguments = layer_with_options(scheme)
    return {**arguments, "out": torch.empty_like(arguments["hidden_states"])}


def quantized_layer(scheme: str) -> Arguments:
    inputs = Problem(5, 4, 2, 128, 128).make("cpu")
    w13, w2 = random_packed(scheme, 4, 256, 128)[0], random_packed(scheme, 4, 128, 128)[0]
    arguments = inputs._asdict() | {
        "w13": w13.values,
        "w13_scale": w13.scale,
        "w13_codes": w13.codes,
        "w2": w2.values,
        "w2_scale": w2.scale,
        "w2_codes": w2.codes,
        "weight_format": w13.weight_format,
        "group_size": w13.group_size,
        "w13_input": None,
        "w2_input": None,
    }
    if scheme == "w8a8-static":
        arguments |= {"w13_input": torch.tensor([0.1, 0]), "w2_input": torch.tensor([0.1, 3])}
    return arguments


def quantized_layer_out(scheme: str) -> Arguments:
    arguments = quantized_layer(scheme)
    return {**arguments, "out": torch.empty_like(arguments["hidden_states"])}


def router(scheme: str) -> Arguments:
    return {
        "router_logits": torch.randn(5, 4),
        "top_k": 2,
        "correction_bias": torch.randn(4),
        "n_group": 2,
        "topk_group": 1,
        "scoring": 1,
        "group_score": 0,
        "expert_map": torch.arange(4, dtype=torch.int32),
    }


def choices(scheme: str) -> Arguments:
    expert_map = torch.arange(4, dtype=torch.int32)
    return {"topk_ids": torch.randint(4, (5, 2)), "num_experts": 4, "expert_map": expert_map}


def gemm(scheme: str) -> Arguments:
    return {
        "a": torch.randn(6, 64).bfloat16(),
        "w": torch.randn(3, 48, 64).bfloat16(),
        "expert_offsets": torch.tensor([0, 1, 3, 6], dtype=torch.int32),
        "row_index": torch.arange(6, dtype=torch.int32),
        "top_k": 1,
        "epilogue": 0,
    }


def gemm_with_options(scheme: str) -> Arguments:
    return gemm(scheme) | {
        "epilogue": 2,
        "bias": torch.randn(3, 48).bfloat16(),
        "swiglu_limit": torch.ones(3),
        "row_scale": torch.ones(6),
        "activation": 0,
        "gate_up_order": 0,
    }


def quantized_gemm(scheme: str) -> Arguments:
    w = random_packed(scheme, 3, 48, 128)[0]
    return gemm(scheme) | {
        "a": torch.randn(6, 128).bfloat16(),
        "w": w.values,
        "w_scale": w.scale,
        "w_codes": w.codes,
        "weight_format": w.weight_format,
        "group_size": w.group_size,
        "w_input": torch.tensor([0.1, 0]) if scheme == "w8a8-static" else None,
    }


def matrices(scheme: str) -> Arguments:
    return {
        "mat_a": torch.randn(6, 64).bfloat16(),
        "mat_b": torch.randn(3, 48, 64).bfloat16().mT,
        "offs": torch.tensor([1, 3, 6], dtype=torch.int32),
    }


def activations(scheme: str) -> Arguments:
    return {"a": torch.randn(6, 64).bfloat16(), "input_range": torch.tensor([0.1, 3])}


def rows(scheme: str) -> Arguments:
    return {
        "rows": torch.randn(10, 64).bfloat16(),
        "topk_weights": torch.rand(5, 2),
        "row_position": torch.randint(10, (5, 2), dtype=torch.int32),
    }


CALLS: list[tuple[str, Callable[[str], Arguments]]] = [
    ("fused_moe", layer),
    ("fused_moe", layer_with_options),
    ("fused_moe_out", layer_out),
    ("fused_moe_quantized", quantized_layer),
    ("fused_moe_quantized_out", quantized_layer_out),
    ("topk_route", router),
    ("sort_by_expert", choices),
    ("grouped_gemm", gemm),
    ("grouped_gemm", gemm_with_options),
    ("grouped_gemm_quantized", quantized_gemm),
    ("grouped_mm", matrices),
    ("quantize_activations", activations),
    ("combine", rows),
]


def wider_rows(tensor: torch.Tensor) -> torch.Tensor:
    """Keep the values, in rows 4 elements further apart."""
    frame = tensor.new_zeros((*tensor.shape[:-1], tensor.shape[-1] + 4))
    return frame[..., : tensor.shape[-1]].copy_(tensor)


TENSOR_CHANGES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    **{
        str(dtype).removeprefix("torch."): lambda t, dtype=dtype: t.to(dtype)
        for dtype in (
            torch.float32,
            torch.float16,
            torch.bfloat16,
            torch.int32,
            torch.int64,
            torch.int8,
            torch.uint8,
            torch.bool,
        )
    },
    "one dimension more": lambda t: t[None],
    "one dimension less": lambda t: t[0],
    "no dimension": lambda t: t.flatten()[0],
    "flat": lambda t: t.flatten(),
    "one row less": lambda t: t[:-1],
    "no row": lambda t: t[:0],
    "twice the rows": lambda t: torch.cat([t, t]),
    "one column less": lambda t: t[..., :-1],
    "no column": lambda t: t[..., :0],
    "half of the columns": lambda t: t[..., : t.size(-1) // 2],
    "twice the columns": lambda t: torch.cat([t, t], dim=-1),
    "the same row": lambda t: t[:1].expand(t.shape),
    "every other row": lambda t: t.repeat_interleave(2, dim=0)[::2],
    "every other column": lambda t: t.repeat_interleave(2, dim=-1)[..., ::2],
    "transposed": lambda t: t.transpose(0, -1).contiguous().transpose(0, -1),
    "wider rows": wider_rows,
}
NUMBERS = sorted({-1, 0, 1, 2, 3, 4, 5, 33, 1025, 2**31, *sum(GROUP_SIZES.values(), ())})
CHANGES = (*TENSOR_CHANGES, *NUMBERS)


def changed(value: Any, change: str | int) -> Any:
    """Return something else in the place of an argument, or the same if the change is for others.

    A number in the place of a tensor stands for None.
    """
    if isinstance(value, torch.Tensor) and isinstance(change, str):
        return TENSOR_CHANGES[change](value) if value.numel() > 0 and value.dim() > 0 else value
    if isinstance(value, int) and isinstance(change, int):
        return change
    if value is None and isinstance(change, str):
        return torch.ones(4, 8).to(getattr(torch, change, torch.float32))
    return value


@pytest.mark.parametrize(("op", "make"), CALLS)
@hypothesis.given(data=st.data())
@hypothesis.settings(deadline=None, max_examples=200)
def test_python_and_kernels_say_the_same(
    op: str, make: Callable[[str], Arguments], data: Any
) -> None:
    torch.manual_seed(0)
    arguments = make(data.draw(st.sampled_from(SCHEMES)))
    a_change = st.tuples(st.sampled_from(sorted(arguments)), st.sampled_from(CHANGES))
    for name, change in data.draw(st.lists(a_change, max_size=3)):
        arguments[name] = changed(arguments[name], change)
    assert sentence_of_kernels(op, arguments) == sentence_of_python(op, arguments)
