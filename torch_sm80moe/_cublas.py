"""The layer by torch's own matrix products, one a GEMM and expert: on a GPU those of cuBLAS.

There to compare with: nothing of it is shared with the kernels, and all of it with no operator. It
is plain PyTorch, which reads on the host how many rows an expert has. So it synchronises, cannot be
captured in a CUDA graph, and breaks the graph of torch.compile.

Numbers are rounded where `fused_moe` rounds them: cuBLAS is asked for sums in fp32, which PyTorch
activates, rounds to the dtype, and hands to the second product. What may differ is the order in
which fp32 sums are added up.
"""

from __future__ import annotations

import torch

from torch_sm80moe import _autograd, _shapes, reference
from torch_sm80moe._options import ACTIVATIONS, GATE_UP_ORDERS, LayerOptions


def fused_moe(
    hidden_states: torch.Tensor,
    w13: torch.Tensor,
    w2: torch.Tensor,
    topk_weights: torch.Tensor,
    topk_ids: torch.Tensor,
    options: LayerOptions,
    *,
    tactic_w13: int,
    tactic_w2: int,
) -> torch.Tensor:
    """Return `[T, H]` as `functional.fused_moe` does."""
    _shapes.fused_moe(hidden_states, w13, w2, topk_weights, topk_ids, options)
    _require_possible(hidden_states, options, tactic_w13, tactic_w2)
    arguments = {
        "hidden_states": hidden_states,
        "w13": w13,
        "w2": w2,
        "topk_weights": topk_weights,
        **vars(options),
    }
    _autograd.refuse_gradients("fused_moe", arguments)

    num_tokens, top_k = topk_ids.shape
    num_experts, hidden_size = w13.size(0), hidden_states.size(1)
    ids = reference.local_ids(topk_ids, options.expert_map).flatten()
    ids = ids.where((ids >= 0) & (ids < num_experts), num_experts)  # behind the last expert
    num_pairs_of_expert = ids.bincount(minlength=num_experts + 1).tolist()
    pairs_of_expert = ids.argsort(stable=True).split(num_pairs_of_expert)

    rows = hidden_states.new_zeros((num_tokens * top_k, hidden_size), dtype=torch.float32)
    weights = topk_weights.flatten()
    for expert, pairs in enumerate(pairs_of_expert[:num_experts]):
        if pairs.numel() > 0:
            x, scale = hidden_states[pairs // top_k], weights[pairs, None]
            rows[pairs] = _run_expert(x, scale, w13, w2, expert, options)

    total = torch.zeros_like(hidden_states, dtype=torch.float32)
    if options.residual is not None:
        total += options.residual
    for choice in rows.view(num_tokens, top_k, hidden_size).unbind(1):
        total += choice
    return total.to(hidden_states.dtype)


def _run_expert(
    x: torch.Tensor,
    scale: torch.Tensor,
    w13: torch.Tensor,
    w2: torch.Tensor,
    expert: int,
    options: LayerOptions,
) -> torch.Tensor:
    """Return the rows of one expert in fp32, weighted by `scale`."""
    product = _linear(x, w13[expert])
    if options.apply_router_weight_on_input:
        product, scale = product * scale, torch.ones_like(scale)
    intermediate = reference.activate(
        reference.add_bias(product, options.w13_bias, expert),
        activation=ACTIVATIONS[options.activation],
        gated=options.gated,
        gate_up_order=GATE_UP_ORDERS[options.gate_up_order],
        swiglu=reference.swiglu_constants(
            options.swiglu_alpha, options.swiglu_beta, options.swiglu_limit, expert
        ),
    )
    y = _linear(intermediate.to(x.dtype), w2[expert]).to(x.dtype).float()
    return scale * reference.add_bias(y, options.w2_bias, expert)


def _linear(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """Return `x @ w.T` in fp32."""
    if x.is_cuda:
        return torch.mm(x, w.T, out_dtype=torch.float32)
    return x.float() @ w.float().T


def _require_possible(
    hidden_states: torch.Tensor, options: LayerOptions, tactic_w13: int, tactic_w2: int
) -> None:
    backend = 'for the backend "cublas"'
    for name, tactic in (("tactic_w13", tactic_w13), ("tactic_w2", tactic_w2)):
        if tactic != -1:
            raise ValueError(f"fused_moe: {name} must be -1 {backend}, got {tactic}")
    if options.batch_invariant:
        raise ValueError(
            f"fused_moe: batch_invariant must be False {backend}, whose algorithms depend on the "
            "number of rows, got True"
        )
    if hidden_states.is_cuda and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            'fused_moe: the backend must be "sm80moe" while a CUDA graph is captured, because '
            '"cublas" reads on the host how many rows an expert has, got "cublas"'
        )
