"""The specification of a layer with quantised experts: readable, in fp32 or fp64, slow.

Weights are what `dequantize` says. Int8 activations are rounded as the schemes say, and multiplied
exactly; nothing else is rounded.
"""

from __future__ import annotations

import torch

from torch_sm80moe.quantization.experts import QuantizedExperts, StaticActivation


def fused_moe_quantized(
    hidden_states: torch.Tensor,
    experts: QuantizedExperts,
    topk_weights: torch.Tensor,
    topk_ids: torch.Tensor,
    *,
    w2_input_group: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Return `[T, H]` of `dtype`: the weighted sum of the chosen experts' outputs.

    Args:
        hidden_states: `[T, H]`.
        experts: of the layer.
        topk_weights: `[T, k]`.
        topk_ids: `[T, k]`; an id outside `[0, E)` contributes nothing.
        w2_input_group: with dynamic activations, how many neighbours of `silu(gate) * up` share a
            scale; None for one scale a row.
        dtype: float32 or float64.
    """
    out = torch.zeros(hidden_states.shape, dtype=dtype, device=hidden_states.device)
    kind = experts.scheme.activation
    x = as_stored(hidden_states.to(dtype), kind, experts.w13_input)
    for expert in range(experts.w2.shape[0]):
        tokens, choices = (topk_ids == expert).nonzero(as_tuple=True)
        if tokens.numel() > 0:
            w13, w2 = (w.dequantize_expert(expert).to(dtype) for w in (experts.w13, experts.w2))
            h = swiglu(x[tokens] @ w13.T)
            y = as_stored(h, kind, experts.w2_input, w2_input_group) @ w2.T
            out.index_add_(0, tokens, topk_weights[tokens, choices, None].to(dtype) * y)
    return out


def swiglu(gate_up: torch.Tensor) -> torch.Tensor:
    """Return `silu(gate) * up` for columns that hold the gates, then the ups."""
    gate, up = gate_up.chunk(2, dim=-1)
    return torch.nn.functional.silu(gate) * up


def as_stored(
    rows: torch.Tensor, kind: str, static: StaticActivation | None, group: int | None = None
) -> torch.Tensor:
    """Return what a GEMM multiplies: the rows, or the numbers that their int8 means.

    Args:
        rows: `[M, K]`.
        kind: the `activation` of a scheme.
        static: how rows are stored, with "int8_static".
        group: with "int8_dynamic" how many neighbours share a scale; None for all of a row.
    """
    if kind == "16bit":
        return rows
    if static is not None:
        return static.dequantize(static.quantize(rows)).to(rows.dtype)
    groups = rows.reshape(rows.size(0), -1, group or rows.size(1))
    largest = groups.abs().amax(dim=-1, keepdim=True)
    scale = torch.where(largest > 0, largest / 127, 1)
    return ((groups / scale).round() * scale).reshape(rows.shape)
