"""The operators for CPU tensors, in plain PyTorch: same arguments, same rounding points, no GPU.

The layer is composed from its parts here as it is on the GPU: sort, two grouped GEMMs, combine.
Formulas are those of `reference.py` in fp32, and what the GPU rounds to 16 bits is rounded here.
Loops run over experts or over the k choices of a token, never over rows, and nothing depends on
the order in which threads finish.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import nn

from torch_sm80moe import _ops, _shapes, reference
from torch_sm80moe._options import (
    ACTIVATIONS,
    EPILOGUES,
    GATE_UP_ORDERS,
    GATED_EPILOGUES,
    EpilogueOptions,
    LayerOptions,
    PackedTensors,
)

_NO_TACTIC = -1

_Implementation = TypeVar("_Implementation", bound=Callable[..., Any])


def _cpu(operator: str) -> Callable[[_Implementation], _Implementation]:
    def register(implementation: _Implementation) -> _Implementation:
        _ops.LIBRARY.impl(operator, implementation, "CPU")
        return implementation

    return register


@_cpu("fused_moe")
def fused_moe(
    hidden_states: torch.Tensor,
    w13: torch.Tensor,
    w2: torch.Tensor,
    topk_weights: torch.Tensor,
    topk_ids: torch.Tensor,
    *,
    tactic_w13: int = _NO_TACTIC,
    tactic_w2: int = _NO_TACTIC,
    **options: Any,
) -> torch.Tensor:
    chosen = LayerOptions(**options)
    _shapes.fused_moe(hidden_states, w13, w2, topk_weights, topk_ids, chosen)
    _require_no_tactic("fused_moe", tactic_w13=tactic_w13, tactic_w2=tactic_w2)
    return _layer(hidden_states, _dense(w13), _dense(w2), topk_weights, topk_ids, chosen)


@_cpu("fused_moe_out")
def fused_moe_out(
    hidden_states: torch.Tensor,
    w13: torch.Tensor,
    w2: torch.Tensor,
    topk_weights: torch.Tensor,
    topk_ids: torch.Tensor,
    out: torch.Tensor,
    *,
    tactic_w13: int = _NO_TACTIC,
    tactic_w2: int = _NO_TACTIC,
    **options: Any,
) -> None:
    chosen = LayerOptions(**options)
    _shapes.fused_moe_out(hidden_states, w13, w2, topk_weights, topk_ids, out, chosen)
    _require_no_tactic("fused_moe_out", tactic_w13=tactic_w13, tactic_w2=tactic_w2)
    out.copy_(_layer(hidden_states, _dense(w13), _dense(w2), topk_weights, topk_ids, chosen))


@_cpu("fused_moe_quantized")
def fused_moe_quantized(
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
    tactic_w13: int = _NO_TACTIC,
    tactic_w2: int = _NO_TACTIC,
    **options: Any,
) -> torch.Tensor:
    chosen = LayerOptions(**options)
    first = PackedTensors(w13, w13_scale, w13_codes, weight_format, group_size, w13_input)
    second = PackedTensors(w2, w2_scale, w2_codes, weight_format, group_size, w2_input)
    _shapes.fused_moe_quantized(hidden_states, first, second, topk_weights, topk_ids, chosen)
    _require_no_tactic("fused_moe_quantized", tactic_w13=tactic_w13, tactic_w2=tactic_w2)
    return _packed_layer(hidden_states, first, second, topk_weights, topk_ids, chosen)


@_cpu("fused_moe_quantized_out")
def fused_moe_quantized_out(
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
    tactic_w13: int = _NO_TACTIC,
    tactic_w2: int = _NO_TACTIC,
    **options: Any,
) -> None:
    chosen = LayerOptions(**options)
    first = PackedTensors(w13, w13_scale, w13_codes, weight_format, group_size, w13_input)
    second = PackedTensors(w2, w2_scale, w2_codes, weight_format, group_size, w2_input)
    _shapes.fused_moe_quantized_out(
        hidden_states, first, second, topk_weights, topk_ids, out, chosen
    )
    _require_no_tactic("fused_moe_quantized_out", tactic_w13=tactic_w13, tactic_w2=tactic_w2)
    out.copy_(_packed_layer(hidden_states, first, second, topk_weights, topk_ids, chosen))


@_cpu("topk_route")
def topk_route(
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
    _shapes.topk_route(
        router_logits, top_k, scoring, correction_bias, n_group, topk_group, group_score, expert_map
    )
    # The specification in fp32 is already what a CPU should compute.
    weights, ids, tokens_per_expert = reference.topk_route(
        router_logits,
        top_k,
        renormalize=renormalize,
        scoring=_shapes.SCORINGS[scoring],
        correction_bias=correction_bias,
        n_group=n_group,
        topk_group=topk_group,
        group_score=_shapes.GROUP_SCORES[group_score],
        routed_scaling_factor=routed_scaling_factor,
        expert_map=expert_map,
        return_tokens_per_expert=True,
    )
    return weights, ids, tokens_per_expert if return_tokens_per_expert else ids.new_empty(0)


@_cpu("sort_by_expert")
def sort_by_expert(
    topk_ids: torch.Tensor, num_experts: int, *, expert_map: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    _shapes.sort_by_expert(topk_ids, num_experts, expert_map)
    ids = reference.local_ids(topk_ids, expert_map).reshape(-1).long()
    valid = (ids >= 0) & (ids < num_experts)
    pair = torch.arange(ids.numel())
    # Invalid pairs sort behind the last expert, so the valid ones fill the first rows.
    keys = ids.where(valid, torch.tensor(num_experts))
    pair_of_row = keys.argsort(stable=True)
    row_of_pair = torch.empty_like(pair).scatter_(0, pair_of_row, pair)
    offsets = torch.zeros(num_experts + 1, dtype=torch.int32)
    offsets[1:] = keys.bincount(minlength=num_experts + 1)[:num_experts].cumsum(0)
    nothing = torch.tensor(-1)
    row_index = pair_of_row.where(pair < offsets[-1], nothing)
    row_position = row_of_pair.where(valid, nothing).reshape(topk_ids.shape)
    return offsets, row_index.int(), row_position.int()


@_cpu("grouped_gemm")
def grouped_gemm(
    a: torch.Tensor,
    w: torch.Tensor,
    expert_offsets: torch.Tensor,
    row_index: torch.Tensor | None = None,
    *,
    top_k: int = 1,
    epilogue: int = 0,
    tactic: int = _NO_TACTIC,
    **options: Any,
) -> torch.Tensor:
    chosen = EpilogueOptions(**options)
    shape = _shapes.grouped_gemm(a, w, expert_offsets, row_index, top_k, epilogue, chosen)
    _require_no_tactic("grouped_gemm", tactic=tactic)
    return _gemm(a, _dense(w), expert_offsets, row_index, shape[1], top_k, epilogue, chosen)


@_cpu("grouped_gemm_quantized")
def grouped_gemm_quantized(
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
    tactic: int = _NO_TACTIC,
    **options: Any,
) -> torch.Tensor:
    chosen = EpilogueOptions(**options)
    packed = PackedTensors(w, w_scale, w_codes, weight_format, group_size, w_input)
    shape = _shapes.grouped_gemm_quantized(
        a, packed, expert_offsets, row_index, top_k, epilogue, chosen
    )
    _require_no_tactic("grouped_gemm_quantized", tactic=tactic)
    experts = _packed(packed, a.size(1))
    return _gemm(a, experts, expert_offsets, row_index, shape[1], top_k, epilogue, chosen)


@_cpu("quantize_activations")
def quantize_activations(
    a: torch.Tensor, input_range: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    _shapes.quantize_activations(a, input_range)
    # The specification is already what a CPU should compute.
    return reference.quantize_activations(a, input_range)


@dataclass(frozen=True)
class _Experts:
    """Weights `[E, N, K]`, one expert at a time."""

    num_experts: int
    num_rows: int
    product: Callable[[torch.Tensor, int], torch.Tensor]  # rows @ weight.T of an expert, float32
    takes_float32: bool = False  # whether a layer's intermediate is rounded by the product alone


def _dense(w: torch.Tensor) -> _Experts:
    return _Experts(w.size(0), w.size(1), lambda rows, expert: rows.float() @ w[expert].float().T)


def _packed(w: PackedTensors, k: int) -> _Experts:
    """Return the weights as float32: what is stored meets fp32 sums without being rounded.

    Of w8a8 activations become int8.
    """
    from torch_sm80moe.quantization.packing import dequantize_rows

    num_experts, num_rows = w.values.shape[:2]
    if w.format_name == "w8a8":
        has_range = w.input is not None
        return _Experts(num_experts, num_rows, partial(_int8_product, w, k), has_range)

    def weight(expert: int) -> torch.Tensor:
        codes = None if w.codes is None else w.codes[expert]
        return dequantize_rows(
            w.values[expert], w.scale[expert], codes, w.format_name, w.group_size, k
        )

    return _Experts(num_experts, num_rows, lambda rows, expert: rows.float() @ weight(expert).T)


def _int8_product(w: PackedTensors, k: int, rows: torch.Tensor, expert: int) -> torch.Tensor:
    """Multiply stored numbers exactly, in float64; scale the sums in float32."""
    stored = w.values[expert, :, :k].view(torch.int8).double()
    values, scale = reference.quantize_activations(rows, w.input)
    zero = 0 if w.input is None else w.input[1].double()
    sums = (values.double() - zero) @ stored.T
    # Of weight rows in their order: a row has one scale.
    return scale[:, None] * sums.float() * w.scale[expert].flatten()


def _packed_layer(
    hidden_states: torch.Tensor,
    w13: PackedTensors,
    w2: PackedTensors,
    topk_weights: torch.Tensor,
    topk_ids: torch.Tensor,
    chosen: LayerOptions,
) -> torch.Tensor:
    intermediate_size = w13.values.size(1) // (2 if chosen.gated else 1)
    first = _packed(w13, hidden_states.size(1))
    second = _packed(w2, intermediate_size)
    return _layer(hidden_states, first, second, topk_weights, topk_ids, chosen)


def _gemm(
    a: torch.Tensor,
    w: _Experts,
    expert_offsets: torch.Tensor,
    row_index: torch.Tensor | None,
    num_columns: int,
    top_k: int,
    epilogue: int,
    chosen: EpilogueOptions,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    num_rows = a.size(0) if row_index is None else row_index.size(0)
    out = a.new_zeros((num_rows, num_columns), dtype=dtype)
    offsets = expert_offsets.tolist()
    for expert, (begin, end) in enumerate(pairwise(offsets)):
        if begin < end:
            pairs = torch.arange(begin, end) if row_index is None else row_index[begin:end]
            rows = a[begin:end] if row_index is None else a.index_select(0, pairs // top_k)
            product = w.product(rows, expert)
            if chosen.row_scale is not None:
                product *= chosen.row_scale[pairs, None]
            product = reference.add_bias(product, chosen.bias, expert)
            out[begin:end] = _epilogue(product, epilogue, chosen, expert)
    return out


def _epilogue(
    product: torch.Tensor, epilogue: int, options: EpilogueOptions, expert: int
) -> torch.Tensor:
    is_plain = EPILOGUES[epilogue] == "none"
    return reference.activate(
        product,
        activation="identity" if is_plain else ACTIVATIONS[options.activation],
        gated=epilogue in GATED_EPILOGUES,
        gate_up_order=GATE_UP_ORDERS[options.gate_up_order],
        swiglu=reference.swiglu_constants(
            options.swiglu_alpha, options.swiglu_beta, options.swiglu_limit, expert
        ),
    )


@_cpu("grouped_mm")
def grouped_mm(
    mat_a: torch.Tensor, mat_b: torch.Tensor, *, offs: torch.Tensor, tactic: int = _NO_TACTIC
) -> torch.Tensor:
    _shapes.grouped_mm(mat_a, mat_b, offs)
    _require_no_tactic("grouped_mm", tactic=tactic)
    return grouped_gemm(mat_a, mat_b.mT, nn.functional.pad(offs, (1, 0)))


@_cpu("combine")
def combine(
    rows: torch.Tensor, topk_weights: torch.Tensor, row_position: torch.Tensor
) -> torch.Tensor:
    shape = _shapes.combine(rows, topk_weights, row_position)
    total = torch.zeros(shape, dtype=torch.float32)
    _add_rows(total, rows, topk_weights, row_position)
    return total.to(rows.dtype)


def _add_rows(
    total: torch.Tensor,
    rows: torch.Tensor,
    topk_weights: torch.Tensor,
    row_position: torch.Tensor,
) -> None:
    for position, weight in zip(row_position.unbind(1), topk_weights.unbind(1), strict=True):
        (tokens,) = ((position >= 0) & (position < rows.size(0))).nonzero(as_tuple=True)
        chosen = rows.index_select(0, position[tokens]).float()
        total[tokens] += weight[tokens, None] * chosen


def _layer(
    hidden_states: torch.Tensor,
    w13: _Experts,
    w2: _Experts,
    topk_weights: torch.Tensor,
    topk_ids: torch.Tensor,
    options: LayerOptions,
) -> torch.Tensor:
    if not options.batch_invariant or hidden_states.size(0) == 0:
        return _batch(hidden_states, w13, w2, topk_weights, topk_ids, options)
    # A token by itself: how libraries add up depends on how many rows a matrix has.
    return torch.cat(
        [
            _batch(
                hidden_states[t : t + 1],
                w13,
                w2,
                topk_weights[t : t + 1],
                topk_ids[t : t + 1],
                replace(options, residual=_row(options.residual, t)),
            )
            for t in range(hidden_states.size(0))
        ]
    )


def _row(tensor: torch.Tensor | None, index: int) -> torch.Tensor | None:
    return None if tensor is None else tensor[index : index + 1]


def _batch(
    hidden_states: torch.Tensor,
    w13: _Experts,
    w2: _Experts,
    topk_weights: torch.Tensor,
    topk_ids: torch.Tensor,
    options: LayerOptions,
) -> torch.Tensor:
    offsets, row_index, row_position = sort_by_expert(
        topk_ids, w13.num_experts, expert_map=options.expert_map
    )
    scales_input = options.apply_router_weight_on_input
    first = EpilogueOptions(
        bias=options.w13_bias,
        activation=options.activation,
        gate_up_order=options.gate_up_order,
        swiglu_alpha=options.swiglu_alpha,
        swiglu_beta=options.swiglu_beta,
        swiglu_limit=options.swiglu_limit,
        row_scale=topk_weights.reshape(-1) if scales_input else None,
    )
    intermediate = _gemm(
        hidden_states,
        w13,
        offsets,
        row_index,
        num_columns=w13.num_rows // (2 if options.gated else 1),
        top_k=topk_ids.size(1),
        epilogue=EPILOGUES.index("gated" if options.gated else "ungated"),
        chosen=first,
        dtype=torch.float32 if w2.takes_float32 else None,
    )
    no_epilogue = EPILOGUES.index("none")
    rows = _gemm(
        intermediate,
        w2,
        offsets,
        None,
        num_columns=w2.num_rows,
        top_k=1,
        epilogue=no_epilogue,
        chosen=EpilogueOptions(),
        dtype=hidden_states.dtype,
    ).float()
    if options.w2_bias is not None:
        rows[: offsets[-1]] += options.w2_bias.float().repeat_interleave(offsets.diff(), dim=0)

    total = torch.zeros(hidden_states.shape, dtype=torch.float32)
    if options.residual is not None:
        total += options.residual
    weights = torch.ones_like(topk_weights) if scales_input else topk_weights
    _add_rows(total, rows, weights, row_position)
    return total.to(hidden_states.dtype)


def _require_no_tactic(op: str, **tactics: int) -> None:
    for name, tactic in tactics.items():
        if tactic != _NO_TACTIC:
            raise ValueError(
                f"{op}: {name} must be {_NO_TACTIC} for tensors on the CPU, got {tactic}"
            )
