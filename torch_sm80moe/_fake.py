"""What the operators return without computing it: the fakes that compile and export run.

A fake applies the same rules as the operator (`_shapes.py`), so that a wrong argument is reported
while the graph is captured. Sizes may be symbolic here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from torch_sm80moe import _ops, _shapes
from torch_sm80moe._options import EpilogueOptions, LayerOptions, PackedTensors

_NUM_TACTICS = _ops.tactic_table().size(0)


def _fake(operator: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    name = _ops.qualified_name(operator)
    return lambda function: torch.library.register_fake(name, function, lib=_ops.LIBRARY)


@_fake("fused_moe")
def _fused_moe(
    hidden_states: torch.Tensor,
    w13: torch.Tensor,
    w2: torch.Tensor,
    topk_weights: torch.Tensor,
    topk_ids: torch.Tensor,
    *,
    tactic_w13: int = -1,
    tactic_w2: int = -1,
    **options: Any,
) -> torch.Tensor:
    chosen = LayerOptions(**options)
    shape = _shapes.fused_moe(hidden_states, w13, w2, topk_weights, topk_ids, chosen)
    return hidden_states.new_empty(shape)


@_fake("fused_moe_out")
def _fused_moe_out(
    hidden_states: torch.Tensor,
    w13: torch.Tensor,
    w2: torch.Tensor,
    topk_weights: torch.Tensor,
    topk_ids: torch.Tensor,
    out: torch.Tensor,
    *,
    tactic_w13: int = -1,
    tactic_w2: int = -1,
    **options: Any,
) -> None:
    chosen = LayerOptions(**options)
    _shapes.fused_moe_out(hidden_states, w13, w2, topk_weights, topk_ids, out, chosen)


@_fake("fused_moe_quantized")
def _fused_moe_quantized(
    hidden_states: torch.Tensor,
    w13: torch.Tensor,
    w13_scale: torch.Tensor,
    w13_codes: torch.Tensor | None,
    w2: torch.Tensor,
    w2_scale: torch.Tensor,
    w2_codes: torch.Tensor | None,
    topk_weights: torch.Tensor,
    topk_ids: torch.Tensor,
    weight_format: int,
    group_size: int,
    *,
    w13_input: torch.Tensor | None = None,
    w2_input: torch.Tensor | None = None,
    tactic_w13: int = -1,
    tactic_w2: int = -1,
    **options: Any,
) -> torch.Tensor:
    shape = _shapes.fused_moe_quantized(
        hidden_states,
        PackedTensors(w13, w13_scale, w13_codes, weight_format, group_size, w13_input),
        PackedTensors(w2, w2_scale, w2_codes, weight_format, group_size, w2_input),
        topk_weights,
        topk_ids,
        LayerOptions(**options),
    )
    return hidden_states.new_empty(shape)


@_fake("fused_moe_quantized_out")
def _fused_moe_quantized_out(
    hidden_states: torch.Tensor,
    w13: torch.Tensor,
    w13_scale: torch.Tensor,
    w13_codes: torch.Tensor | None,
    w2: torch.Tensor,
    w2_scale: torch.Tensor,
    w2_codes: torch.Tensor | None,
    topk_weights: torch.Tensor,
    topk_ids: torch.Tensor,
    weight_format: int,
    group_size: int,
    out: torch.Tensor,
    *,
    w13_input: torch.Tensor | None = None,
    w2_input: torch.Tensor | None = None,
    tactic_w13: int = -1,
    tactic_w2: int = -1,
    **options: Any,
) -> None:
    first = PackedTensors(w13, w13_scale, w13_codes, weight_format, group_size, w13_input)
    second = PackedTensors(w2, w2_scale, w2_codes, weight_format, group_size, w2_input)
    chosen = LayerOptions(**options)
    _shapes.fused_moe_quantized_out(
        hidden_states, first, second, topk_weights, topk_ids, out, chosen
    )


@_fake("topk_route")
def _topk_route(
    router_logits: torch.Tensor,
    top_k: int,
    renormalize: bool = True,
    *,
    scoring: int = 0,
    correction_bias: torch.Tensor | None = None,
    n_group: int = 1,
    topk_group: int = 1,
    group_score: int = 1,
    routed_scaling_factor: float = 1.0,
    expert_map: torch.Tensor | None = None,
    return_tokens_per_expert: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    shape = _shapes.topk_route(
        router_logits, top_k, scoring, correction_bias, n_group, topk_group, group_score, expert_map
    )
    num_counts = router_logits.size(1) if return_tokens_per_expert else 0
    return (
        router_logits.new_empty(shape, dtype=torch.float32),
        router_logits.new_empty(shape, dtype=torch.int32),
        router_logits.new_empty((num_counts,), dtype=torch.int32),
    )


@_fake("sort_by_expert")
def _sort_by_expert(
    topk_ids: torch.Tensor, num_experts: int, *, expert_map: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    num_tokens, top_k = _shapes.sort_by_expert(topk_ids, num_experts, expert_map)
    return (
        topk_ids.new_empty((num_experts + 1,), dtype=torch.int32),
        topk_ids.new_empty((num_tokens * top_k,), dtype=torch.int32),
        topk_ids.new_empty((num_tokens, top_k), dtype=torch.int32),
    )


@_fake("grouped_gemm")
def _grouped_gemm(
    a: torch.Tensor,
    w: torch.Tensor,
    expert_offsets: torch.Tensor,
    row_index: torch.Tensor | None = None,
    *,
    top_k: int = 1,
    epilogue: int = 0,
    tactic: int = -1,
    **options: Any,
) -> torch.Tensor:
    chosen = EpilogueOptions(**options)
    return a.new_empty(
        _shapes.grouped_gemm(a, w, expert_offsets, row_index, top_k, epilogue, chosen)
    )


@_fake("grouped_mm")
def _grouped_mm(
    mat_a: torch.Tensor, mat_b: torch.Tensor, *, offs: torch.Tensor, tactic: int = -1
) -> torch.Tensor:
    return mat_a.new_empty(_shapes.grouped_mm(mat_a, mat_b, offs))


@_fake("grouped_gemm_quantized")
def _grouped_gemm_quantized(
    a: torch.Tensor,
    w: torch.Tensor,
    w_scale: torch.Tensor,
    w_codes: torch.Tensor | None,
    expert_offsets: torch.Tensor,
    row_index: torch.Tensor | None,
    weight_format: int,
    group_size: int,
    *,
    w_input: torch.Tensor | None = None,
    top_k: int = 1,
    epilogue: int = 0,
    tactic: int = -1,
    **options: Any,
) -> torch.Tensor:
    packed = PackedTensors(w, w_scale, w_codes, weight_format, group_size, w_input)
    chosen = EpilogueOptions(**options)
    return a.new_empty(
        _shapes.grouped_gemm_quantized(
            a, packed, expert_offsets, row_index, top_k, epilogue, chosen
        )
    )


@_fake("quantize_activations")
def _quantize_activations(
    a: torch.Tensor, input_range: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    values, scale = _shapes.quantize_activations(a, input_range)
    return a.new_empty(values, dtype=torch.int8), a.new_empty(scale, dtype=torch.float32)


@_fake("combine")
def _combine(
    rows: torch.Tensor, topk_weights: torch.Tensor, row_position: torch.Tensor
) -> torch.Tensor:
    return rows.new_empty(_shapes.combine(rows, topk_weights, row_position))


@_fake("set_tuning")
def _set_tuning(measurements: torch.Tensor, device_index: int) -> None:
    _shapes.set_tuning(measurements, device_index)


@_fake("tactic_table")
def _tactic_table() -> torch.Tensor:
    return torch.empty((_NUM_TACTICS, len(_ops.TACTIC_COLUMNS)), dtype=torch.int32)
