"""The specification: what every operator computes, in readable fp32 or fp64 and without rounding.

Same arguments as `functional.py` (a reference has no tactics, and rounds nothing that a batch could
change), any device, slow. Tests compare the
operators with these functions; the documentation quotes them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn


def fused_moe(
    hidden_states: torch.Tensor,
    w13: torch.Tensor,
    w2: torch.Tensor,
    topk_weights: torch.Tensor,
    topk_ids: torch.Tensor,
    *,
    expert_map: torch.Tensor | None = None,
    w13_bias: torch.Tensor | None = None,
    w2_bias: torch.Tensor | None = None,
    activation: str = "silu",
    gated: bool = True,
    gate_up_order: str = "gate_up",
    swiglu_alpha: torch.Tensor | None = None,
    swiglu_beta: torch.Tensor | None = None,
    swiglu_limit: torch.Tensor | None = None,
    apply_router_weight_on_input: bool = False,
    residual: torch.Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    round_to: torch.dtype | None = None,
    int8: bool = False,
    w13_input: torch.Tensor | None = None,
    w2_input: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return `[T, H]` of `dtype`: the weighted sum of the chosen experts' outputs.

    `round_to` rounds the intermediate and each expert's row to a dtype, as the operator does.
    `int8` stores what both GEMMs multiply as int8 (`w13_input` and `w2_input` are known ranges);
    an intermediate of a known range has no other rounding.
    """
    rounded_to = dtype if round_to is None else round_to
    topk_ids = local_ids(topk_ids, expert_map)
    out = torch.zeros(hidden_states.shape, dtype=dtype, device=hidden_states.device)
    if residual is not None:
        out += residual.to(dtype)
    for expert in range(w13.size(0)):
        tokens, choices = (topk_ids == expert).nonzero(as_tuple=True)
        if tokens.numel() == 0:
            continue
        x, weight = hidden_states[tokens].to(dtype), topk_weights[tokens, choices, None].to(dtype)
        if int8:
            x = as_stored(x, w13_input)
        if apply_router_weight_on_input:
            x, weight = x * weight, torch.ones_like(weight)
        intermediate = activate(
            add_bias(linear(x, w13, expert), w13_bias, expert),
            activation=activation,
            gated=gated,
            gate_up_order=gate_up_order,
            swiglu=swiglu_constants(swiglu_alpha, swiglu_beta, swiglu_limit, expert),
        )
        if w2_input is None:
            intermediate = intermediate.to(rounded_to).to(dtype)
        if int8:
            intermediate = as_stored(intermediate, w2_input)
        y = linear(intermediate, w2, expert)
        y = add_bias(y.to(rounded_to).to(dtype), w2_bias, expert)
        out.index_add_(0, tokens, weight * y)
    return out


_SMALLEST_MAGNITUDE = 2.0**-119  # its scale and the inverse of that are normal numbers


def quantize_activations(
    a: torch.Tensor, input_range: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return int8 `[S, K]` and float32 scales `[S]` that `a` is stored as.

    Every operation is rounded to float32, so that all implementations give the same bits.
    """
    a = a.float()
    if input_range is None:
        largest = a.abs().amax(dim=-1).clamp(min=_SMALLEST_MAGNITUDE)
        scale, zero_point = largest * torch.tensor(1 / 127), a.new_zeros(())
    else:
        scale, zero_point = input_range[0].expand(a.size(0)), input_range[1]
    steps = a * scale.reciprocal()[:, None]
    low, high = -128 - zero_point, 127 - zero_point
    values = steps.where(steps == steps, low).clamp(low, high).round() + zero_point
    return values.to(torch.int8), scale.contiguous()


def as_stored(rows: torch.Tensor, input_range: torch.Tensor | None) -> torch.Tensor:
    """Return the numbers, of the rows' dtype, that their int8 means.

    `rows` is `[M, K]`; `input_range` is scale and zero point, if they are known.
    """
    values, scale = quantize_activations(rows, input_range)
    zero_point = 0 if input_range is None else input_range[1].to(rows.dtype)
    return (values.to(rows.dtype) - zero_point) * scale[:, None].to(rows.dtype)


def linear(x: torch.Tensor, w: torch.Tensor, expert: int) -> torch.Tensor:
    """Return `x @ w[expert].T` in the dtype of `x`."""
    return x @ w[expert].to(x.dtype).T


def add_bias(rows: torch.Tensor, bias: torch.Tensor | None, expert: int) -> torch.Tensor:
    """Return `rows + bias[expert]` in the dtype of `rows`."""
    return rows if bias is None else rows + bias[expert].to(rows.dtype)


ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "silu": nn.functional.silu,
    "gelu": nn.functional.gelu,
    "gelu_tanh": lambda x: nn.functional.gelu(x, approximate="tanh"),
    "relu": torch.relu,
    "relu2": lambda x: torch.relu(x).square(),
    "identity": lambda x: x,
}


class Swiglu(NamedTuple):
    """An expert's constants."""

    alpha: torch.Tensor | float = 1.0
    beta: torch.Tensor | float = 0.0
    limit: torch.Tensor | float = math.inf


def swiglu_constants(
    alpha: torch.Tensor | None,
    beta: torch.Tensor | None,
    limit: torch.Tensor | None,
    expert: int,
) -> Swiglu | None:
    """Return the entries `[expert]` of those that are given; None if none is."""
    optional = {"alpha": alpha, "beta": beta, "limit": limit}
    given = {name: values[expert] for name, values in optional.items() if values is not None}
    return Swiglu(**given) if given else None


def activate(
    columns: torch.Tensor,
    *,
    activation: str = "silu",
    gated: bool = True,
    gate_up_order: str = "gate_up",
    swiglu: Swiglu | None = None,
) -> torch.Tensor:
    """Return `act(columns)`, or `act(gate) * up` of the columns that hold gates and ups."""
    act = ACTIVATIONS[activation]
    if not gated:
        return act(columns)
    gate, up = split_gate_up(columns, gate_up_order)
    if swiglu is None:
        return act(gate) * up
    # Numbers, too, become tensors of this dtype, whatever torch's default is.
    alpha, beta, limit = (torch.as_tensor(c, dtype=gate.dtype, device=gate.device) for c in swiglu)
    gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
    return gate * torch.sigmoid(alpha * gate) * (up + beta)


def split_gate_up(columns: torch.Tensor, gate_up_order: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the columns that are gates, and those that are ups."""
    if gate_up_order == "interleaved":
        return columns[..., ::2], columns[..., 1::2]
    first, second = columns.chunk(2, dim=-1)
    return (first, second) if gate_up_order == "gate_up" else (second, first)


def topk_route(
    router_logits: torch.Tensor,
    top_k: int,
    *,
    renormalize: bool = True,
    scoring: str = "softmax",
    correction_bias: torch.Tensor | None = None,
    n_group: int = 1,
    topk_group: int = 1,
    group_score: str = "top2_sum",
    routed_scaling_factor: float = 1.0,
    expert_map: torch.Tensor | None = None,
    return_tokens_per_expert: bool = False,
    dtype: torch.dtype = torch.float32,
) -> tuple[torch.Tensor, ...]:
    """Return weights `[T, k]` of `dtype` and int32 ids `[T, k]`, best first, and counts `[E]`."""
    logits = _as_finite(router_logits.to(dtype))
    scores = choice = _score(logits, scoring)
    if correction_bias is not None:
        choice = _as_finite(scores + correction_bias)
    elif n_group == 1:
        choice = logits  # in the same order, but scores may be equal after rounding
    if n_group > 1:
        choice = _without_other_groups(choice, n_group, topk_group, group_score)

    ids = choice.argsort(dim=-1, descending=True, stable=True)[:, :top_k]
    weights = scores.gather(-1, ids)
    if renormalize:
        total = weights.sum(dim=-1, keepdim=True)
        weights = weights / total.where(total > 0, 1)
    weights = weights * routed_scaling_factor

    named = ids if expert_map is None else expert_map[ids]
    results = (weights, named.to(torch.int32, memory_format=torch.contiguous_format))
    if not return_tokens_per_expert:
        return results
    return (*results, ids.flatten().bincount(minlength=router_logits.size(1)).int())


def _score(logits: torch.Tensor, scoring: str) -> torch.Tensor:
    if scoring == "softmax":
        return logits.softmax(dim=-1)
    if scoring == "sigmoid":
        return logits.sigmoid()
    softplus: torch.Tensor = nn.functional.softplus(logits)
    return softplus.sqrt()


def _as_finite(values: torch.Tensor) -> torch.Tensor:
    """Replace NaN by the lowest float32, and infinities by the float32 nearest to them."""
    limits = torch.finfo(torch.float32)
    return values.nan_to_num(limits.min).clamp(limits.min, limits.max)


def _without_other_groups(
    choice: torch.Tensor, n_group: int, topk_group: int, group_score: str
) -> torch.Tensor:
    """Put experts outside the best groups below all others."""
    num_tokens, num_experts = choice.shape
    groups = choice.reshape(num_tokens, n_group, num_experts // n_group)
    num_summed = 1 if group_score == "max" else min(2, groups.size(-1))
    group_scores = groups.topk(num_summed, dim=-1).values.sum(dim=-1)
    best = group_scores.argsort(dim=-1, descending=True, stable=True)[:, :topk_group]
    is_best = torch.zeros_like(group_scores, dtype=torch.bool).scatter(-1, best, True)
    return groups.masked_fill(~is_best[..., None], -torch.inf).flatten(1)


def local_ids(topk_ids: torch.Tensor, expert_map: torch.Tensor | None) -> torch.Tensor:
    """Return what the map makes of each id; -1 for an id that it does not have."""
    if expert_map is None:
        return topk_ids
    is_mapped = (topk_ids >= 0) & (topk_ids < expert_map.numel())
    return expert_map[topk_ids.where(is_mapped, 0)].where(is_mapped, -1)


def sort_by_expert(
    topk_ids: torch.Tensor, num_experts: int, *, expert_map: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return `expert_offsets [E + 1]`, `row_index [T * k]` and `row_position [T, k]`, int32."""
    ids = local_ids(topk_ids, expert_map).reshape(-1)
    pairs_of_expert = [(ids == expert).nonzero().squeeze(1) for expert in range(num_experts)]
    offsets, row_index = [0], torch.full_like(ids, -1, dtype=torch.int32)
    row_position = torch.full_like(ids, -1, dtype=torch.int32)
    for pairs in pairs_of_expert:
        begin, end = offsets[-1], offsets[-1] + pairs.numel()
        row_index[begin:end] = pairs.int()
        row_position[pairs] = torch.arange(begin, end, dtype=torch.int32, device=ids.device)
        offsets.append(end)
    expert_offsets = torch.tensor(offsets, dtype=torch.int32, device=ids.device)
    return expert_offsets, row_index, row_position.reshape(topk_ids.shape)


def grouped_gemm(
    a: torch.Tensor,
    w: torch.Tensor,
    expert_offsets: torch.Tensor,
    row_index: torch.Tensor | None = None,
    *,
    top_k: int = 1,
    epilogue: str = "none",
    bias: torch.Tensor | None = None,
    activation: str = "silu",
    gate_up_order: str = "gate_up",
    swiglu_alpha: torch.Tensor | None = None,
    swiglu_beta: torch.Tensor | None = None,
    swiglu_limit: torch.Tensor | None = None,
    row_scale: torch.Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    int8: bool = False,
    w_input: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return `[M, N]`, or `[M, N / 2]` if gated; rows that no expert owns are zero.

    `int8` stores activations as int8, of the range `w_input` if that is known.
    """
    gated = epilogue in ("swiglu", "gated")
    num_rows = a.size(0) if row_index is None else row_index.size(0)
    num_columns = w.size(1) // 2 if gated else w.size(1)
    out = torch.zeros((num_rows, num_columns), dtype=dtype, device=a.device)
    offsets = expert_offsets.tolist()
    for expert in range(w.size(0)):
        rows = torch.arange(offsets[expert], offsets[expert + 1], device=a.device)
        pairs = rows if row_index is None else row_index[rows]
        x = a[pairs if row_index is None else pairs // top_k].to(dtype)
        if int8:
            x = as_stored(x, w_input)
        if row_scale is not None:
            x = x * row_scale[pairs, None].to(dtype)
        out[rows] = activate(
            add_bias(linear(x, w, expert), bias, expert),
            activation="identity" if epilogue == "none" else activation,
            gated=gated,
            gate_up_order=gate_up_order,
            swiglu=swiglu_constants(swiglu_alpha, swiglu_beta, swiglu_limit, expert),
        )
    return out


def grouped_mm(
    mat_a: torch.Tensor,
    mat_b: torch.Tensor,
    *,
    offs: torch.Tensor,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Return `[M, N]` of `dtype`: each group's rows times its matrix; rows past the last, zero."""
    out = torch.zeros((mat_a.size(0), mat_b.size(2)), dtype=dtype, device=mat_a.device)
    begin = 0
    for group, end in enumerate(offs.tolist()):
        out[begin:end] = mat_a[begin:end].to(dtype) @ mat_b[group].to(dtype)
        begin = end
    return out


def combine(
    rows: torch.Tensor,
    topk_weights: torch.Tensor,
    row_position: torch.Tensor,
    *,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Return `[T, H]` of `dtype`: each token's rows, summed by its weights."""
    out = torch.zeros((topk_weights.size(0), rows.size(1)), dtype=dtype, device=rows.device)
    for choice in range(topk_weights.size(1)):
        position = row_position[:, choice]
        (tokens,) = ((position >= 0) & (position < rows.size(0))).nonzero(as_tuple=True)
        weight = topk_weights[tokens, choice, None].to(dtype)
        out[tokens] += weight * rows[position[tokens]].to(dtype)
    return out
