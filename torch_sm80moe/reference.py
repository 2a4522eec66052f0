"""The specification: what every operator computes, in readable fp32 or fp64 and without rounding.

Same arguments as `functional.py` (a reference has no tactics), any device, slow. Tests compare the
operators with these functions; the documentation quotes them.
"""

from __future__ import annotations

import torch


def fused_moe(
    hidden_states: torch.Tensor,
    w13: torch.Tensor,
    w2: torch.Tensor,
    topk_weights: torch.Tensor,
    topk_ids: torch.Tensor,
    *,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Return `[T, H]` of `dtype`: the weighted sum of the chosen experts' outputs."""
    out = torch.zeros(hidden_states.shape, dtype=dtype, device=hidden_states.device)
    for expert in range(w13.size(0)):
        tokens, choices = (topk_ids == expert).nonzero(as_tuple=True)
        if tokens.numel() > 0:
            x = hidden_states[tokens].to(dtype)
            y = swiglu(x @ w13[expert].to(dtype).T) @ w2[expert].to(dtype).T
            out.index_add_(0, tokens, topk_weights[tokens, choices, None].to(dtype) * y)
    return out


def swiglu(gate_up: torch.Tensor) -> torch.Tensor:
    """Return `silu(gate) * up` for columns that hold the gates, then the ups."""
    gate, up = gate_up.chunk(2, dim=-1)
    return gate * torch.sigmoid(gate) * up


def topk_route(
    router_logits: torch.Tensor,
    top_k: int,
    *,
    renormalize: bool = True,
    dtype: torch.dtype = torch.float32,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the weights and int32 ids `[T, k]` of the k most probable experts of each token."""
    limits = torch.finfo(torch.float32)
    logits = router_logits.to(dtype).nan_to_num(limits.min, limits.max, limits.min)
    ids = logits.argsort(dim=-1, descending=True, stable=True)[:, :top_k]
    weights = torch.softmax(logits, dim=-1).gather(-1, ids)
    if renormalize:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return weights, ids.int()


def sort_by_expert(
    topk_ids: torch.Tensor, num_experts: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return `expert_offsets [E + 1]`, `row_index [T * k]` and `row_position [T, k]`, int32."""
    ids = topk_ids.reshape(-1)
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
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Return `[M, N]`, or `[M, N / 2]` for "swiglu"; rows that no expert owns are zero."""
    num_rows = a.size(0) if row_index is None else row_index.size(0)
    product = torch.zeros((num_rows, w.size(1)), dtype=dtype, device=a.device)
    offsets = expert_offsets.tolist()
    for expert in range(w.size(0)):
        rows = torch.arange(offsets[expert], offsets[expert + 1], device=a.device)
        source = rows if row_index is None else row_index[rows] // top_k
        product[rows] = a[source].to(dtype) @ w[expert].to(dtype).T
    return swiglu(product) if epilogue == "swiglu" else product


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
