"""`topk_route` with the arguments of vLLM's routers."""

from __future__ import annotations

from typing import Any

import torch

from torch_sm80moe import functional
from torch_sm80moe.compat._words import reworded

# topk_route's names, and vLLM's.
_NAMES = {
    "router_logits": "gating_output",
    "top_k": "topk",
    "scoring": "scoring_func",
    "correction_bias": "e_score_correction_bias",
    "n_group": "num_expert_group",
}


def fused_topk(
    hidden_states: torch.Tensor,
    gating_output: torch.Tensor,
    topk: int,
    renormalize: bool,
    indices_type: torch.dtype | None = None,
    scoring_func: str = "softmax",
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Choose the k best experts of each token: `topk_route` with vLLM's arguments.

    Args:
        hidden_states: `[T, H]`; only T counts.
        gating_output: logits `[T, E]`.
        topk: k.
        renormalize: whether the weights of a token sum to one.
        indices_type: int32 or int64; None means int32.
        scoring_func: as `scoring` of `topk_route`.

    Returns:
        `topk_weights [T, k]` float32, `topk_ids [T, k]`, and `token_expert_indices [T, k]` int32,
        where choice j of token t is number `j * T + t`.

    Raises:
        ValueError: as in `topk_route`, or T differs.
        TypeError: as in `topk_route`.

    Behaviour:
        As `topk_route`, and an elementwise kernel or two.

    Example:
        >>> fused_topk(torch.zeros(1, 8), torch.tensor([[0.0, 2.0, 1.0]]), 2, True)[1]
        tensor([[1, 2]], dtype=torch.int32)
    """
    weights, ids = _route(
        "fused_topk", hidden_states, gating_output, topk, renormalize, scoring=scoring_func
    )
    num_tokens = gating_output.size(0)
    numbers = torch.arange(num_tokens * topk, dtype=torch.int32, device=ids.device)
    if indices_type is not None:
        ids = ids.to(indices_type)
    return weights, ids, numbers.reshape(topk, num_tokens).T.contiguous()


def grouped_topk(
    hidden_states: torch.Tensor,
    gating_output: torch.Tensor,
    topk: int,
    renormalize: bool,
    num_expert_group: int = 0,
    topk_group: int = 0,
    scoring_func: str = "softmax",
    routed_scaling_factor: float = 1.0,
    e_score_correction_bias: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose the k best experts of each token from its best groups: `topk_route` again.

    A group is as good as its best expert, or with a bias as its two best together.

    Args:
        hidden_states: `[T, H]`; only T counts.
        gating_output: logits `[T, E]`.
        topk: k.
        renormalize: whether the weights of a token sum to one before they are scaled.
        num_expert_group: how many groups E is cut into.
        topk_group: how many groups a token may take experts of.
        scoring_func: as `scoring` of `topk_route`.
        routed_scaling_factor: multiplies all weights.
        e_score_correction_bias: `[E]`, float32, added for the choice only.

    Returns:
        `topk_weights [T, k]` float32 and `topk_ids [T, k]` int32.

    Raises:
        ValueError: as in `topk_route`, or T differs.
        TypeError: as in `topk_route`.

    Behaviour:
        As `topk_route`.

    Example:
        >>> logits = torch.tensor([[0.0, 2.0, 1.0, 1.5]])
        >>> grouped_topk(torch.zeros(1, 8), logits, 2, True, num_expert_group=2, topk_group=1)[1]
        tensor([[1, 0]], dtype=torch.int32)
    """
    return _route(
        "grouped_topk",
        hidden_states,
        gating_output,
        topk,
        renormalize,
        scoring=scoring_func,
        correction_bias=e_score_correction_bias,
        n_group=num_expert_group,
        topk_group=topk_group,
        group_score="max" if e_score_correction_bias is None else "top2_sum",
        routed_scaling_factor=routed_scaling_factor,
    )


def _route(
    op: str,
    hidden_states: torch.Tensor,
    gating_output: torch.Tensor,
    topk: int,
    renormalize: bool,
    **options: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    if hidden_states.size(0) != gating_output.size(0):
        raise ValueError(
            f"{op}: gating_output must have {hidden_states.size(0)} rows like hidden_states, "
            f"got {gating_output.size(0)}"
        )
    try:
        weights, ids = functional.topk_route(
            gating_output, topk, renormalize=renormalize, **options
        )
    except (RuntimeError, TypeError, ValueError) as error:
        raise reworded(error, op, _NAMES) from None
    return weights, ids
