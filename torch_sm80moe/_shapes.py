"""The rules that arguments obey, and the shapes that results have; no computation.

Each operator has one function here. It raises the error that a broken rule deserves, one sentence
`op: argument must requirement, got value`, and returns the shape of the result. The CPU
implementations, the fakes and the explanations of the public functions all come from it. Only
what a shape cannot know (the alignment of a pointer, the device's ability) is left to C++.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from torch_sm80moe._formats import (
    GROUP_SIZES,
    WEIGHT_BITS,
    WEIGHT_FORMATS,
    group_sizes_in_words,
)
from torch_sm80moe._options import (
    ACTIVATIONS,
    EPILOGUES,
    GATE_UP_ORDERS,
    GATED_EPILOGUES,
    PLAIN_EPILOGUES,
    SILU,
    EpilogueOptions,
    LayerOptions,
    PackedTensors,
)

MAX_EXPERTS = 1024
MAX_GROUPS = 32
# Where an operator takes a number for a name, it is the index.
DTYPES = ("float32", "float16", "bfloat16")
SCORINGS = ("softmax", "sigmoid", "sqrtsoftplus")
GROUP_SCORES = ("max", "top2_sum")
TUNING_COLUMNS = ("dtype", "epilogue", "num_experts", "n", "k", "num_rows", "tactic")

_HALVES = (torch.float16, torch.bfloat16)
_LOGITS = (torch.float32, torch.float16, torch.bfloat16)
_IDS = (torch.int32, torch.int64)
_ROW_MULTIPLE = 8  # 16 bytes of a 16-bit type: the unit in which the kernels copy rows.
_MAX_INT8_DEPTH = 65536  # sums of so many products of int8 less a zero point fit 32 bits
_MAX_INT = 2**31 - 1
_MAX_BYTES = 2**63 - 1

Size = int | str  # A name stands for any size.


def fused_moe(
    hidden_states: torch.Tensor,
    w13: torch.Tensor,
    w2: torch.Tensor,
    topk_weights: torch.Tensor,
    topk_ids: torch.Tensor,
    options: LayerOptions,
    *,
    op: str = "fused_moe",
) -> tuple[int, int]:
    """Check the arguments of `fused_moe`; return the shape [T, H]."""
    _require_routed_tokens(op, hidden_states, topk_weights, topk_ids)
    num_tokens, hidden_size = hidden_states.shape
    gates = 2 if options.gated else 1
    _require_dtype(op, "w13", w13, (hidden_states.dtype,))
    _require_dtype(op, "w2", w2, (hidden_states.dtype,))
    _require_shape(op, "w13", w13, ("E", "2I" if options.gated else "I", hidden_size))
    num_experts, intermediate_size = w13.size(0), w13.size(1) // gates
    _require_shape(op, "w2", w2, (num_experts, hidden_size, intermediate_size))
    _require_num_experts(op, "w13", num_experts)
    _require_shape(op, "topk_ids", topk_ids, (num_tokens, "k"))
    _require_shape(op, "topk_weights", topk_weights, (num_tokens, topk_ids.size(1)))

    _require_multiple(op, "hidden_states", -1, hidden_size, _ROW_MULTIPLE)
    _require_multiple(op, "w13", 1, w13.size(1), gates * _ROW_MULTIPLE)
    _require_choices(op, topk_ids)
    for name, rows in (("hidden_states", hidden_states), ("w13", w13), ("w2", w2)):
        _require_row_strides(op, name, rows)
    _require_device(op, "w13", w13, hidden_states, "hidden_states")
    _require_device(op, "w2", w2, hidden_states, "hidden_states")
    _require_contiguous_last_dimension(op, "topk_weights", topk_weights)
    _require_contiguous_last_dimension(op, "topk_ids", topk_ids)
    _require_device(op, "topk_weights", topk_weights, hidden_states, "hidden_states")
    _require_device(op, "topk_ids", topk_ids, hidden_states, "hidden_states")
    _require_expert_map(op, options.expert_map, topk_ids)
    _require_activation(op, options.gated, options, num_experts, hidden_states, "hidden_states")
    for name, optional, shape in (
        ("w13_bias", options.w13_bias, w13.shape[:2]),
        ("w2_bias", options.w2_bias, w2.shape[:2]),
        ("residual", options.residual, hidden_states.shape),
    ):
        _require_optional_rows(op, name, optional, shape, hidden_states, "hidden_states")
    return num_tokens, hidden_size


def _require_routed_tokens(
    op: str, hidden_states: torch.Tensor, topk_weights: torch.Tensor, topk_ids: torch.Tensor
) -> None:
    """Check what must be right before weights can be looked at."""
    _require_dtype(op, "hidden_states", hidden_states, _HALVES)
    _require_dtype(op, "topk_weights", topk_weights, (torch.float32,))
    _require_dtype(op, "topk_ids", topk_ids, _IDS)
    _require_shape(op, "hidden_states", hidden_states, ("T", "H"))


def fused_moe_out(
    hidden_states: torch.Tensor,
    w13: torch.Tensor,
    w2: torch.Tensor,
    topk_weights: torch.Tensor,
    topk_ids: torch.Tensor,
    out: torch.Tensor,
    options: LayerOptions,
) -> None:
    """Check the arguments of `fused_moe_out`."""
    op = "fused_moe_out"
    shape = fused_moe(hidden_states, w13, w2, topk_weights, topk_ids, options, op=op)
    _require_out(op, out, shape, hidden_states)


def _require_out(
    op: str, out: torch.Tensor, shape: tuple[int, int], hidden_states: torch.Tensor
) -> None:
    _require_dtype(op, "out", out, (hidden_states.dtype,))
    _require_shape(op, "out", out, shape)
    _require_row_strides(op, "out", out)
    if out.stride(0) < shape[1] and out.size(0) > 1:
        raise ValueError(
            f"{op}: out must have rows that do not overlap, got strides {list(out.stride())}"
        )
    _require_device(op, "out", out, hidden_states, "hidden_states")


def fused_moe_quantized(
    hidden_states: torch.Tensor,
    w13: PackedTensors,
    w2: PackedTensors,
    topk_weights: torch.Tensor,
    topk_ids: torch.Tensor,
    options: LayerOptions,
    *,
    op: str = "fused_moe_quantized",
) -> tuple[int, int]:
    """Check the arguments of `fused_moe_quantized`; return the shape [T, H]."""
    _require_routed_tokens(op, hidden_states, topk_weights, topk_ids)
    unpacked_w13 = _unpacked(op, "w13", w13, hidden_states, "hidden_states", hidden_states.size(1))
    intermediate_size = unpacked_w13.size(1) // (2 if options.gated else 1)
    unpacked_w2 = _unpacked(op, "w2", w2, hidden_states, "hidden_states", intermediate_size)
    w2_shape = (w13.values.size(0), hidden_states.size(1), w2.values.size(2))
    _require_shape(op, "w2", w2.values, w2_shape)
    if (w13.input is None) != (w2.input is None):
        wanted, given = ("None", "a tensor") if w13.input is None else ("a tensor", "None")
        raise ValueError(f"{op}: w2_input must be {wanted} like w13_input, got {given}")
    weights = unpacked_w13, unpacked_w2
    return fused_moe(hidden_states, *weights, topk_weights, topk_ids, options, op=op)


def fused_moe_quantized_out(
    hidden_states: torch.Tensor,
    w13: PackedTensors,
    w2: PackedTensors,
    topk_weights: torch.Tensor,
    topk_ids: torch.Tensor,
    out: torch.Tensor,
    options: LayerOptions,
) -> None:
    """Check the arguments of `fused_moe_quantized_out`."""
    op = "fused_moe_quantized_out"
    shape = fused_moe_quantized(hidden_states, w13, w2, topk_weights, topk_ids, options, op=op)
    _require_out(op, out, shape, hidden_states)


def topk_route(
    router_logits: torch.Tensor,
    top_k: int,
    scoring: int,
    correction_bias: torch.Tensor | None,
    n_group: int,
    topk_group: int,
    group_score: int,
    expert_map: torch.Tensor | None,
) -> tuple[int, int]:
    """Check the arguments of `topk_route`; return the shape [T, k] of weights and ids."""
    op = "topk_route"
    _require_dtype(op, "router_logits", router_logits, _LOGITS)
    _require_shape(op, "router_logits", router_logits, ("T", "E"))
    num_tokens, num_experts = router_logits.shape
    _require_num_experts(op, "router_logits", num_experts)
    _require_int(op, "scoring", scoring, 0, len(SCORINGS) - 1)
    _require_int(op, "group_score", group_score, 0, len(GROUP_SCORES) - 1)
    _require_int(op, "n_group", n_group, 1, MAX_GROUPS)
    if num_experts % n_group != 0:
        raise ValueError(
            f"{op}: n_group must divide the number of experts, {num_experts}, got {n_group}"
        )
    _require_int(op, "topk_group", topk_group, 1, n_group, "the number of groups")
    meaning = "the number of experts" if n_group == 1 else "the experts of topk_group groups"
    _require_int(op, "top_k", top_k, 1, num_experts // n_group * topk_group, meaning)
    _require_rows(op, "router_logits", num_tokens * top_k)
    _require_contiguous_last_dimension(op, "router_logits", router_logits)
    for name, tensor, dtype in (
        ("correction_bias", correction_bias, torch.float32),
        ("expert_map", expert_map, torch.int32),
    ):
        if tensor is not None:
            _require_dtype(op, name, tensor, (dtype,))
            _require_shape(op, name, tensor, (num_experts,))
            _require_contiguous(op, name, tensor)
            _require_device(op, name, tensor, router_logits, "router_logits")
    return num_tokens, top_k


def sort_by_expert(
    topk_ids: torch.Tensor, num_experts: int, expert_map: torch.Tensor | None
) -> tuple[int, int]:
    """Check the arguments of `sort_by_expert`; return the shape [T, k] of `row_position`."""
    op = "sort_by_expert"
    _require_dtype(op, "topk_ids", topk_ids, _IDS)
    _require_shape(op, "topk_ids", topk_ids, ("T", "k"))
    _require_choices(op, topk_ids)
    _require_int(op, "num_experts", num_experts, 1, MAX_EXPERTS)
    _require_contiguous_last_dimension(op, "topk_ids", topk_ids)
    _require_expert_map(op, expert_map, topk_ids)
    return topk_ids.size(0), topk_ids.size(1)


def grouped_gemm(
    a: torch.Tensor,
    w: torch.Tensor,
    expert_offsets: torch.Tensor,
    row_index: torch.Tensor | None,
    top_k: int,
    epilogue: int,
    options: EpilogueOptions,
    *,
    op: str = "grouped_gemm",
) -> tuple[int, int]:
    """Check the arguments of `grouped_gemm`; return the shape of the result."""
    _require_gemm_rows(op, a, expert_offsets, row_index)
    _require_dtype(op, "w", w, (a.dtype,))
    _require_shape(op, "w", w, ("E", "N", a.size(1)))
    num_experts, num_columns = w.size(0), w.size(1)
    _require_num_experts(op, "w", num_experts)
    _require_row_strides(op, "w", w)
    _require_device(op, "w", w, a, "a")
    _require_shape(op, "expert_offsets", expert_offsets, (num_experts + 1,))
    if row_index is not None:
        _require_shape(op, "row_index", row_index, ("M",))

    _require_int(op, "epilogue", epilogue, 0, len(EPILOGUES) - 1)
    is_gated = epilogue in GATED_EPILOGUES
    gates = 2 if is_gated else 1
    _require_multiple(op, "w", 1, num_columns, gates * _ROW_MULTIPLE)
    _require_int(op, "top_k", top_k, 1, _MAX_INT)
    num_rows = a.size(0) if row_index is None else row_index.size(0)
    _require_rows(op, "a" if row_index is None else "row_index", num_rows)

    _require_row_strides(op, "a", a)
    _require_contiguous(op, "expert_offsets", expert_offsets)
    _require_device(op, "expert_offsets", expert_offsets, a, "a")
    if row_index is not None:
        _require_contiguous(op, "row_index", row_index)
        _require_device(op, "row_index", row_index, a, "a")
    if epilogue in PLAIN_EPILOGUES:
        _require_no_options(op, epilogue, options)
    _require_activation(op, is_gated, options, num_experts, a, "a")
    _require_optional_rows(op, "bias", options.bias, w.shape[:2], a, "a")
    if options.row_scale is not None:
        num_scales = num_rows if row_index is None else a.size(0) * top_k
        _require_dtype(op, "row_scale", options.row_scale, (torch.float32,))
        _require_shape(op, "row_scale", options.row_scale, (num_scales,))
        _require_contiguous(op, "row_scale", options.row_scale)
        _require_device(op, "row_scale", options.row_scale, a, "a")
    return num_rows, num_columns // gates


def _require_gemm_rows(
    op: str, a: torch.Tensor, expert_offsets: torch.Tensor, row_index: torch.Tensor | None
) -> None:
    """Check what must be right before weights can be looked at."""
    _require_dtype(op, "a", a, _HALVES)
    _require_dtype(op, "expert_offsets", expert_offsets, (torch.int32,))
    if row_index is not None:
        _require_dtype(op, "row_index", row_index, (torch.int32,))
    _require_shape(op, "a", a, ("S", "K"))
    _require_multiple(op, "a", -1, a.size(1), _ROW_MULTIPLE)


def grouped_mm(mat_a: torch.Tensor, mat_b: torch.Tensor, offs: torch.Tensor) -> tuple[int, int]:
    """Check the arguments of `grouped_mm`; return the shape [M, N]."""
    op = "grouped_mm"
    _require_dtype(op, "mat_a", mat_a, _HALVES)
    _require_dtype(op, "mat_b", mat_b, (mat_a.dtype,))
    _require_dtype(op, "offs", offs, (torch.int32,))
    _require_shape(op, "mat_a", mat_a, ("M", "K"))
    _require_shape(op, "mat_b", mat_b, ("E", mat_a.size(1), "N"))
    num_experts, depth, num_columns = mat_b.shape
    _require_shape(op, "offs", offs, (num_experts,))
    _require_num_experts(op, "mat_b", num_experts)
    _require_multiple(op, "mat_a", -1, depth, _ROW_MULTIPLE)
    _require_multiple(op, "mat_b", -1, num_columns, _ROW_MULTIPLE)
    _require_rows(op, "mat_a", mat_a.size(0))
    _require_row_strides(op, "mat_a", mat_a)
    _require_row_strides(op, "mat_b.mT", mat_b.mT)
    _require_contiguous(op, "offs", offs)
    _require_device(op, "mat_b", mat_b, mat_a, "mat_a")
    _require_device(op, "offs", offs, mat_a, "mat_a")
    return mat_a.size(0), num_columns


def grouped_gemm_quantized(
    a: torch.Tensor,
    w: PackedTensors,
    expert_offsets: torch.Tensor,
    row_index: torch.Tensor | None,
    top_k: int,
    epilogue: int,
    options: EpilogueOptions,
) -> tuple[int, int]:
    """Check the arguments of `grouped_gemm_quantized`; return the shape of the result."""
    op = "grouped_gemm_quantized"
    _require_gemm_rows(op, a, expert_offsets, row_index)
    unpacked = _unpacked(op, "w", w, a, "a", a.size(1))
    return grouped_gemm(a, unpacked, expert_offsets, row_index, top_k, epilogue, options, op=op)


def quantize_activations(
    a: torch.Tensor, input_range: torch.Tensor | None
) -> tuple[tuple[int, int], tuple[int]]:
    """Check the arguments of `quantize_activations`; return the shapes [S, K] and [S]."""
    op = "quantize_activations"
    _require_dtype(op, "a", a, _HALVES)
    _require_shape(op, "a", a, ("S", "K"))
    _require_multiple(op, "a", -1, a.size(1), _ROW_MULTIPLE)
    _require_int(op, "a's depth", a.size(1), 1, _MAX_INT8_DEPTH, "the most of w8a8")
    _require_rows(op, "a", a.size(0))
    _require_row_strides(op, "a", a)
    _require_int8_range(op, "input_range", input_range, a, "a")
    return (a.size(0), a.size(1)), (a.size(0),)


def combine(
    rows: torch.Tensor, topk_weights: torch.Tensor, row_position: torch.Tensor
) -> tuple[int, int]:
    """Check the arguments of `combine`; return the shape [T, H]."""
    op = "combine"
    _require_dtype(op, "rows", rows, _HALVES)
    _require_dtype(op, "topk_weights", topk_weights, (torch.float32,))
    _require_dtype(op, "row_position", row_position, (torch.int32,))
    _require_shape(op, "rows", rows, ("M", "H"))
    _require_shape(op, "topk_weights", topk_weights, ("T", "k"))
    _require_shape(op, "row_position", row_position, tuple(topk_weights.shape))
    _require_multiple(op, "rows", -1, rows.size(1), _ROW_MULTIPLE)
    _require_rows(op, "rows", rows.size(0))
    _require_choices(op, row_position, "row_position")
    _require_row_strides(op, "rows", rows)
    _require_contiguous_last_dimension(op, "topk_weights", topk_weights)
    _require_device(op, "topk_weights", topk_weights, rows, "rows")
    _require_contiguous(op, "row_position", row_position)
    _require_device(op, "row_position", row_position, rows, "rows")
    return topk_weights.size(0), rows.size(1)


def select_tactic(num_rows: int, num_experts: int, n: int, k: int, dtype: torch.dtype) -> None:
    """Check the arguments of `select_tactic`."""
    op = "select_tactic"
    if dtype not in _HALVES:
        raise TypeError(f"{op}: dtype must be float16 or bfloat16, got {dtype_name(dtype)}")
    _require_int(op, "num_rows", num_rows, 1, _MAX_INT)
    _require_int(op, "num_experts", num_experts, 1, MAX_EXPERTS)
    _require_int(op, "n", n, 1, _MAX_INT)
    _require_int(op, "k", k, 1, _MAX_INT)


def set_tuning(measurements: torch.Tensor, device_index: int) -> None:
    """Check the arguments of `set_tuning`."""
    op = "set_tuning"
    _require_dtype(op, "measurements", measurements, (torch.int32,))
    _require_shape(op, "measurements", measurements, ("R", len(TUNING_COLUMNS)))
    _require_contiguous(op, "measurements", measurements)
    _require_int(op, "device_index", device_index, 0, _MAX_INT)


def workspace_size(
    num_tokens: int, num_experts: int, top_k: int, hidden_size: int, intermediate_size: int
) -> None:
    """Check the sizes given to `workspace_size`."""
    op = "workspace_size"
    _require_int(op, "num_tokens", num_tokens, 0, _MAX_INT)
    _require_int(op, "num_experts", num_experts, 1, MAX_EXPERTS)
    _require_int(op, "top_k", top_k, 1, _MAX_INT)
    _require_int(op, "hidden_size", hidden_size, 1, _MAX_INT)
    _require_int(op, "intermediate_size", intermediate_size, 1, _MAX_INT)
    _require_rows(op, "num_tokens", num_tokens * top_k)


def configure(shared_memory_limit: int | None, workspace_limit: int | None) -> None:
    """Check the arguments of `configure`."""
    op = "configure"
    if shared_memory_limit is not None:
        _require_int(op, "shared_memory_limit", shared_memory_limit, 0, _MAX_INT)
    if workspace_limit is not None:
        _require_int(op, "workspace_limit", workspace_limit, 0, _MAX_BYTES)


def tactic(op: str, name: str, value: int, num_tactics: int) -> None:
    """Check the id of a tactic; -1 selects one."""
    _require_int(op, name, value, -1, num_tactics - 1, "the last tactic")


def _unpacked(
    op: str, name: str, w: PackedTensors, leader: torch.Tensor, leader_name: str, k: int
) -> torch.Tensor:
    """Check a packed weight; return what the rules of 16-bit weights can be asked of.

    That is a weight of its shape and the activations' dtype, whose rows are all the same memory.
    """
    _require_int(op, "weight_format", w.weight_format, 0, len(WEIGHT_FORMATS) - 1)
    if w.group_size not in GROUP_SIZES[w.format_name]:
        sizes = f"{group_sizes_in_words(w.format_name)} for {w.format_name}"
        raise ValueError(f"{op}: group_size must be {sizes}, got {w.group_size}")
    is_mxfp4 = w.format_name == "mxfp4"
    row_bytes = -(-k * WEIGHT_BITS[w.format_name] // 128) * 16
    _require_dtype(op, name, w.values, (torch.uint8,))
    _require_shape(op, name, w.values, ("E", "N", row_bytes))
    num_experts, n = w.values.size(0), w.values.size(1)
    _require_num_experts(op, name, num_experts)
    _require_contiguous(op, name, w.values)
    _require_device(op, name, w.values, leader, leader_name)
    _require_int(op, f"{name}'s rows of all experts", num_experts * n, 1, _MAX_INT)

    groups = -(-k // w.group_size) if w.group_size else 1
    scale_name, codes_name = f"{name}_scale", f"{name}_codes"
    _require_dtype(op, scale_name, w.scale, (torch.float32,))
    octets = -(-n // 8)  # of rows whose scales, and words of codes, lie side by side
    _require_shape(op, scale_name, w.scale, (num_experts, octets, 1 if is_mxfp4 else groups, 8))
    _require_contiguous(op, scale_name, w.scale)
    _require_device(op, scale_name, w.scale, leader, leader_name)
    if w.format_name == "fp8" and w.codes is not None:
        raise ValueError(f"{op}: {codes_name} must be None for fp8, got a tensor")
    _require_input(op, name, w, k, leader, leader_name)
    if is_mxfp4 and w.codes is None:
        raise ValueError(f"{op}: {codes_name} must be a tensor for mxfp4, got None")
    if w.codes is not None:
        _require_dtype(op, codes_name, w.codes, (torch.uint8,))
        _require_shape(op, codes_name, w.codes, (num_experts, octets, -(-groups // 4), 8, 4))
        _require_contiguous(op, codes_name, w.codes)
        _require_device(op, codes_name, w.codes, leader, leader_name)
    return leader.new_empty(k).expand(num_experts, n, k)


def _require_input(
    op: str, name: str, w: PackedTensors, k: int, leader: torch.Tensor, leader_name: str
) -> None:
    """Check the range of int8 activations; row sums are there for the zero point it may have."""
    input_name, codes_name = f"{name}_input", f"{name}_codes"
    if w.format_name != "w8a8":
        if w.input is not None:
            raise ValueError(f"{op}: {input_name} must be None unless w8a8, got a tensor")
        return
    _require_int(op, f"{name}'s depth", k, 1, _MAX_INT8_DEPTH, "the most of w8a8")
    _require_int8_range(op, input_name, w.input, leader, leader_name)
    if w.input is not None and w.codes is None:
        raise ValueError(f"{op}: {codes_name} must be a tensor beside {input_name}, got None")
    if w.input is None and w.codes is not None:
        raise ValueError(f"{op}: {codes_name} must be None without {input_name}, got a tensor")


def _require_int8_range(
    op: str, name: str, given: torch.Tensor | None, leader: torch.Tensor, leader_name: str
) -> None:
    if given is None:
        return
    _require_dtype(op, name, given, (torch.float32,))
    _require_shape(op, name, given, (2,))
    _require_contiguous(op, name, given)
    _require_device(op, name, given, leader, leader_name)


def _require_dtype(
    op: str, name: str, tensor: torch.Tensor, allowed: Sequence[torch.dtype]
) -> None:
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"{op}: {name} must be a tensor, got {type(tensor).__name__}")
    if tensor.dtype not in allowed:
        names = " or ".join(dtype_name(dtype) for dtype in allowed)
        raise TypeError(f"{op}: {name} must be {names}, got {dtype_name(tensor.dtype)}")


def _require_shape(op: str, name: str, tensor: torch.Tensor, shape: Sequence[Size]) -> None:
    matches = tensor.dim() == len(shape) and all(
        isinstance(wanted, str) or wanted == size
        for wanted, size in zip(shape, tensor.shape, strict=True)
    )
    if not matches:
        wanted_shape = ", ".join(str(size) for size in shape)
        raise ValueError(
            f"{op}: {name} must have shape [{wanted_shape}], got {_list(tensor.shape)}"
        )


def _require_num_experts(op: str, name: str, num_experts: int) -> None:
    if not 1 <= num_experts <= MAX_EXPERTS:
        raise ValueError(f"{op}: {name} must have 1 to {MAX_EXPERTS} experts, got {num_experts}")


def _require_multiple(op: str, name: str, dim: int, size: int, multiple: int) -> None:
    if size < multiple or size % multiple != 0:
        where = "last dimension" if dim == -1 else f"dimension {dim}"
        raise ValueError(
            f"{op}: {name} must have a {where} that is a positive multiple of {multiple}, "
            f"got {size}"
        )


def _require_choices(op: str, ids: torch.Tensor, name: str = "topk_ids") -> None:
    if ids.size(1) < 1:
        raise ValueError(f"{op}: {name} must have at least one column, got {_list(ids.shape)}")
    _require_rows(op, name, ids.numel())


def _require_expert_map(op: str, expert_map: torch.Tensor | None, topk_ids: torch.Tensor) -> None:
    if expert_map is None:
        return
    _require_dtype(op, "expert_map", expert_map, (torch.int32,))
    _require_shape(op, "expert_map", expert_map, ("G",))
    _require_int(op, "the length of expert_map", expert_map.size(0), 1, _MAX_INT)
    _require_contiguous(op, "expert_map", expert_map)
    _require_device(op, "expert_map", expert_map, topk_ids, "topk_ids")


def _require_activation(
    op: str,
    is_gated: bool,
    options: LayerOptions | EpilogueOptions,
    num_experts: int,
    leader: torch.Tensor,
    leader_name: str,
) -> None:
    _require_int(op, "activation", options.activation, 0, len(ACTIVATIONS) - 1)
    _require_int(op, "gate_up_order", options.gate_up_order, 0, len(GATE_UP_ORDERS) - 1)
    if options.gate_up_order != 0 and not is_gated:
        raise ValueError(
            f"{op}: gate_up_order must be {GATE_UP_ORDERS[0]} where nothing is gated, "
            f"got {GATE_UP_ORDERS[options.gate_up_order]}"
        )
    is_swiglu = is_gated and options.activation == SILU
    for name in ("swiglu_alpha", "swiglu_beta", "swiglu_limit"):
        values = getattr(options, name)
        if values is None:
            continue
        _require_dtype(op, name, values, (torch.float32,))
        _require_shape(op, name, values, (num_experts,))
        _require_device(op, name, values, leader, leader_name)
        if not is_swiglu:
            raise ValueError(
                f"{op}: {name} must be None unless the activation is silu and gated, got a tensor"
            )


def _require_no_options(op: str, epilogue: int, options: EpilogueOptions) -> None:
    default = EpilogueOptions()
    for name in ("bias", "activation", "swiglu_alpha", "swiglu_beta", "swiglu_limit", "row_scale"):
        given, wanted = getattr(options, name), getattr(default, name)
        if isinstance(given, torch.Tensor) or given != wanted:
            got = "a tensor" if isinstance(given, torch.Tensor) else given
            raise ValueError(
                f'{op}: {name} must be {wanted} for the epilogue "{EPILOGUES[epilogue]}", got {got}'
            )


def _require_optional_rows(
    op: str,
    name: str,
    rows: torch.Tensor | None,
    shape: Sequence[Size],
    leader: torch.Tensor,
    leader_name: str,
) -> None:
    if rows is None:
        return
    _require_dtype(op, name, rows, (leader.dtype,))
    _require_shape(op, name, rows, shape)
    _require_row_strides(op, name, rows)
    _require_device(op, name, rows, leader, leader_name)


def _require_rows(op: str, name: str, num_rows: int) -> None:
    # A symbolic number of rows is no int: a limit here would become a guard of the caller's graph.
    if isinstance(num_rows, int) and num_rows > _MAX_INT:
        raise ValueError(f"{op}: {name} must make at most {_MAX_INT} rows, got {num_rows}")


def _require_int(
    op: str, name: str, value: int, low: int, high: int, high_meaning: str = ""
) -> None:
    if not low <= value <= high:
        meaning = f" ({high_meaning})" if high_meaning else ""
        raise ValueError(f"{op}: {name} must be between {low} and {high}{meaning}, got {value}")


def _require_contiguous_last_dimension(op: str, name: str, tensor: torch.Tensor) -> None:
    # The stride of a dimension with one element leads nowhere.
    if tensor.stride(-1) != 1 and tensor.size(-1) > 1:
        raise ValueError(
            f"{op}: {name} must have a contiguous last dimension, "
            f"got strides {_list(tensor.stride())}"
        )


def _require_row_strides(op: str, name: str, tensor: torch.Tensor) -> None:
    _require_contiguous_last_dimension(op, name, tensor)
    for dim in range(tensor.dim() - 1):
        if tensor.stride(dim) % _ROW_MULTIPLE != 0 and tensor.size(dim) > 1:
            raise ValueError(
                f"{op}: {name} must have strides that are multiples of {_ROW_MULTIPLE} elements, "
                f"got strides {_list(tensor.stride())}"
            )


def _require_contiguous(op: str, name: str, tensor: torch.Tensor) -> None:
    if not tensor.is_contiguous():
        raise ValueError(f"{op}: {name} must be contiguous, got strides {_list(tensor.stride())}")


def _require_device(
    op: str, name: str, tensor: torch.Tensor, leader: torch.Tensor, leader_name: str
) -> None:
    if tensor.device != leader.device:
        raise ValueError(
            f"{op}: {name} must be on {leader.device} like {leader_name}, got {tensor.device}"
        )


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name without its module."""
    return str(dtype).removeprefix("torch.")


def _list(sizes: Sequence[int]) -> str:
    return "[" + ", ".join(str(size) for size in sizes) + "]"
