"""The forward of an experts module: one call of `fused_moe`, its parts, or the model's own code.

Which of them, `limits.py` and `plans.py` decide. What the operators do not run goes through the
model's own eager code, with one warning that says why.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from torch_sm80moe import functional
from torch_sm80moe.integrations.transformers.gates import own_gate
from torch_sm80moe.integrations.transformers.layouts import biases_of, rows_of
from torch_sm80moe.integrations.transformers.limits import unsupported_reason
from torch_sm80moe.integrations.transformers.plans import Plan, plan_of
from torch_sm80moe.integrations.transformers.quantized_experts import QuantizedModelExperts

NAME = "sm80moe"

_warned: set[tuple[str, str]] = set()


def experts_forward(
    experts: Any,
    hidden_states: torch.Tensor,
    top_k_index: torch.Tensor,
    top_k_weights: torch.Tensor,
) -> torch.Tensor:
    """Run an experts module of transformers through `fused_moe`.

    Its first call finds out what the module computes and packs transposed weights, so that K runs
    fastest in memory; their shapes and values stay.

    Args:
        experts: the module: gated or not, with or without biases, transposed or not. `fused_moe`
            reads its parameters where they are.
        hidden_states: `[T, H]`.
        top_k_index: `[T, k]`; an id that is not below E contributes nothing.
        top_k_weights: `[T, k]`, any floating dtype; applied in float32.

    Returns:
        `[T, H]`, dtype of `hidden_states`.

    Raises:
        RuntimeError: gradients are on and needed; there is no backward.
    """
    reason = unsupported_reason(experts, hidden_states)
    if reason is not None:
        _warn_once(type(experts).__name__, reason)
        return _eager_forward(experts)(experts, hidden_states, top_k_index, top_k_weights)
    plan = plan_of(experts)
    run = _run_in_parts if _runs_in_parts(experts, plan) else _run_fused
    return run(
        experts,
        plan,
        hidden_states.contiguous(),
        top_k_weights.float().contiguous(),
        top_k_index.contiguous(),
    )


def use_sm80moe(model: PreTrainedModel) -> PreTrainedModel:
    """Select the implementation, and prepare all experts now instead of in their first call.

    Needed before `torch.compile(fullgraph=True)` or an export, if the model was not called yet.

    Args:
        model: a model of transformers, on its device and in its dtype.

    Returns:
        The model itself.
    """
    model.set_experts_implementation(NAME)
    describe(model)
    return model


def describe(model: nn.Module) -> dict[str, str]:
    """Return how each experts module of a model runs, by its name.

    Example: `{"model.layers.0.mlp.experts": "fused_moe: silu", ...}`.
    """
    described = {}
    for name, module in model.named_modules():
        if isinstance(module, QuantizedModelExperts):
            described[name] = f"fused_moe_quantized: {module.scheme}"
        elif hasattr(module, "_apply_gate"):  # what transformers' decorator gives an experts class
            described[name] = _describe(module)
    return described


def _run_fused(
    experts: Any, plan: Plan, x: torch.Tensor, topk_weights: torch.Tensor, topk_ids: torch.Tensor
) -> torch.Tensor:
    w13, w2 = rows_of(experts)
    w13_bias, w2_bias = biases_of(experts)
    return functional.fused_moe(
        x,
        w13,
        w2,
        topk_weights,
        topk_ids,
        w13_bias=w13_bias,
        w2_bias=w2_bias,
        gated=experts.has_gate,
        **plan.activation,
    )


def _run_in_parts(
    experts: Any, plan: Plan, x: torch.Tensor, topk_weights: torch.Tensor, topk_ids: torch.Tensor
) -> torch.Tensor:
    """Run the layer operator by operator, with what is the module's own between them."""
    w13, w2 = rows_of(experts)
    w13_bias, w2_bias = biases_of(experts)
    offsets, row_index, row_position = functional.sort_by_expert(topk_ids, w13.size(0))

    gated = experts.has_gate and plan.gate is not None
    rows = functional.grouped_gemm(
        x,
        w13,
        offsets,
        row_index,
        top_k=topk_ids.size(1),
        epilogue="gated" if gated else "ungated",
        bias=w13_bias,
        **plan.activation,
    )
    if plan.gate is None:
        rows = own_gate(experts, rows).to(x.dtype).contiguous()

    rows = functional.grouped_gemm(
        rows, w2, offsets, epilogue="ungated", bias=w2_bias, activation="identity"
    )
    if _has_norm(experts):
        rows = experts.post_expert_norm(rows).to(x.dtype).contiguous()
    return functional.combine(rows, topk_weights, row_position)


def _runs_in_parts(experts: Any, plan: Plan) -> bool:
    return plan.gate is None or _has_norm(experts)


def _has_norm(experts: Any) -> bool:
    # Only newer versions know this flag.
    return getattr(experts, "has_post_expert_norm", False)


def _describe(experts: Any) -> str:
    reason = unsupported_reason(experts, experts.down_proj)
    if reason is not None:
        return f"eager: {reason}"
    plan = plan_of(experts)
    words = ["a gate of its own" if plan.gate is None else str(plan.gate)]
    words += ["biases"] * experts.has_bias + ["transposed"] * experts.is_transposed
    words += ["a norm of each expert's output"] * _has_norm(experts)
    operators = "in parts" if _runs_in_parts(experts, plan) else "fused_moe"
    return f"{operators}: {', '.join(words)}"


def _eager_forward(experts: nn.Module) -> Callable[..., torch.Tensor]:
    # transformers wraps the model's own forward with functools.wraps to dispatch to this file.
    own_forward: Callable[..., torch.Tensor] = inspect.unwrap(type(experts).forward)
    return own_forward


def _warn_once(name: str, reason: str) -> None:
    if (name, reason) not in _warned:
        _warned.add((name, reason))
        warnings.warn(
            f"sm80moe: {name} runs through transformers' eager experts, because {reason}.",
            stacklevel=3,
        )
