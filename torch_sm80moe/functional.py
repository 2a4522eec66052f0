"""The public functions. Each calls its operator; the shape rules live in `_shapes.py`.

An operator checks its own arguments (in C++ for CUDA tensors), so the way in costs nothing here.
When it refuses, the rules are asked why: that turns the refusal into a ValueError or a TypeError.
What requires grad is refused by `_autograd.py`, also for callers of the bare operators.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from torch_sm80moe import _cublas, _ops, _settings, _shapes
from torch_sm80moe._options import (
    ACTIVATIONS,
    EPILOGUES,
    GATE_UP_ORDERS,
    EpilogueOptions,
    LayerOptions,
)

_SM80MOE = "sm80moe"  # the backend that calls the operator


class Tactic(NamedTuple):
    """One row of the tactic table: how a GEMM kernel is tiled. Sizes are in elements."""

    id: int
    cta_m: int
    cta_n: int
    cta_k: int
    warps_m: int
    warps_n: int
    warps_k: int
    stages: int
    smem_bytes: int


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
    batch_invariant: bool = False,
    tactic_w13: int = -1,
    tactic_w2: int = -1,
    backend: str = _SM80MOE,
) -> torch.Tensor:
    """Run the experts that the router chose, and sum their outputs by its weights.

    `out[t] = sum_j topk_weights[t, j] * (silu(x[t] @ gate_e.T) * (x[t] @ up_e.T)) @ w2_e.T` with
    `x = hidden_states`, `e = topk_ids[t, j]` and `gate_e, up_e = w13[e, :I], w13[e, I:]`. Options
    change the activation, the order of gates and ups, and what is added; `docs/options.md` tells
    which model takes which.

    Args:
        hidden_states: activations `[T, H]`, float16 or bfloat16, H a multiple of 8. The last
            dimension is contiguous; other strides are multiples of 8 elements. On a GPU the data
            begins at a multiple of 16 bytes.
        w13: gate and up weights `[E, 2I, H]`: the I gate rows of an expert, then its I up rows,
            unless `gate_up_order` names another order; `[E, I, H]` if not `gated`; dtype, device
            and layout rules of `hidden_states`; E up to 1024, I a multiple of 8.
        w2: down weights `[E, H, I]`; the same rules.
        topk_weights: router weights `[T, k]`, float32, last dimension contiguous, same device.
        topk_ids: expert ids `[T, k]`, int32 or int64, last dimension contiguous, same device. An id
            outside `[0, E)` contributes nothing; repeated ids count each time. k may exceed E.
        expert_map: `[G]`, int32, contiguous, same device: ids are those of all G experts, and
            `expert_map[id]` is the expert's index on this device; one outside `[0, E)`, such as -1,
            or an id outside `[0, G)`, contributes nothing. None means that ids are indices.
        w13_bias: `[E, 2I]`, or `[E, I]` if not `gated`, added to the sums of `w13`'s rows, in
            their order; dtype, device and layout rules of `hidden_states`. None adds nothing.
        w2_bias: `[E, H]`, added to each expert's row before the router weighs it; the same rules.
        activation: "silu", "gelu" (with erf), "gelu_tanh", "relu", "relu2" (its square) or
            "identity".
        gated: whether the intermediate is `activation(gate) * up`, or `activation(x @ w13_e.T)`.
        gate_up_order: which of an expert's rows in `w13` are gates: "gate_up" the first half,
            "up_gate" the second, "interleaved" every other from the first on. Nothing is copied.
        swiglu_alpha: `[E]`, float32, same device, any stride (an expanded scalar has 0); only for
            a gated silu, which becomes `gate * sigmoid(alpha * gate) * (up + beta)`. None means 1.
        swiglu_beta: the same. None means 0.
        swiglu_limit: the same; before all else gate is clamped to at most limit, and up to
            `[-limit, limit]`. None does not clamp.
        apply_router_weight_on_input: whether `topk_weights[t, j]` multiplies `x[t]` (in fp32: the
            sums of `w13`, before the bias) and not the expert's output.
        residual: `[T, H]`, dtype, device and layout rules of `hidden_states`, added to the sum in
            fp32. None adds nothing.
        batch_invariant: whether a token's bits must not depend on the other tokens of the call.
            Costs time where tokens are few (`docs/options.md`).
        tactic_w13: id of the tactic of the first GEMM; -1 selects one by the problem's size. If
            neither is forced, few rows (see `decode_limit`) run without tactics. With
            `batch_invariant` it must have `warps_k` 1; with biases of the first GEMM, its
            activations, or weights on the input `cta_m` at most 128.
        tactic_w2: the same for the second GEMM.
        backend: "sm80moe", or "cublas" to compare with: the same numbers by torch's own matrix
            products, without operator. It synchronises, and refuses to be captured, a tactic, and
            `batch_invariant`; see `docs/interfaces.md`.

    Returns:
        `[T, H]`, dtype of `hidden_states`, contiguous, freshly allocated; empty if T is 0.

    Raises:
        ValueError: a shape, stride, device or range is wrong.
        TypeError: a dtype is wrong, or an argument is no tensor.
        RuntimeError: an input requires grad while grad mode is on; the data is not aligned; the
            device or driver cannot run the kernels; one token passes the workspace limit.

    Numerics:
        fp32 accumulation. The intermediate, each expert's row (without bias) and the output are
        rounded once each to the dtype; the sum over k is in fp32, in the order of j, and begins
        with the residual. Activations are in fp32. Bit-identical from run to run. Tolerances
        against `reference.fused_moe` are in `torch_sm80moe.testing`.

    Behaviour:
        Runs on the current stream of the tensors' device, does not synchronise, may be captured
        in a CUDA graph. No autograd. Allocates the result and one workspace of `workspace_size(T,
        E, k, H, I)` bytes from torch's allocator. Above the workspace limit (see `configure`) the
        tokens are processed in chunks; a token's result depends on its chunk only through the
        tactics that the chunk's size selects.

    Source:
        `kernels/ops/`; the specification is `reference.fused_moe`.

    Example:
        >>> x, w13, w2 = (torch.randn(*s).bfloat16() for s in ((3, 64), (4, 64, 64), (4, 64, 32)))
        >>> fused_moe(x, w13, w2, *topk_route(torch.randn(3, 4), top_k=2)).shape
        torch.Size([3, 64])
    """
    if _settings.CHECK_IDS:
        _check_ids("fused_moe", topk_ids, w13.size(0), expert_map)
    options: dict[str, Any] = {
        "expert_map": expert_map,
        "w13_bias": w13_bias,
        "w2_bias": w2_bias,
        "activation": _number("fused_moe", "activation", activation, ACTIVATIONS),
        "gated": gated,
        "gate_up_order": _number("fused_moe", "gate_up_order", gate_up_order, GATE_UP_ORDERS),
        "swiglu_alpha": swiglu_alpha,
        "swiglu_beta": swiglu_beta,
        "swiglu_limit": swiglu_limit,
        "apply_router_weight_on_input": apply_router_weight_on_input,
        "residual": residual,
        "batch_invariant": batch_invariant,
    }
    if backend != _SM80MOE:
        _number("fused_moe", "backend", backend, (_SM80MOE, "cublas"))
        return _cublas.fused_moe(
            hidden_states,
            w13,
            w2,
            topk_weights,
            topk_ids,
            LayerOptions(**options),
            tactic_w13=tactic_w13,
            tactic_w2=tactic_w2,
        )
    try:
        return _ops.fused_moe(
            hidden_states,
            w13,
            w2,
            topk_weights,
            topk_ids,
            **options,
            tactic_w13=tactic_w13,
            tactic_w2=tactic_w2,
        )
    except RuntimeError:
        chosen = LayerOptions(**options)
        _shapes.fused_moe(hidden_states, w13, w2, topk_weights, topk_ids, chosen)
        _require_tactics("fused_moe", tactic_w13=tactic_w13, tactic_w2=tactic_w2)
        _require_kernels("fused_moe", "hidden_states", hidden_states)
        raise


def fused_moe_out(
    hidden_states: torch.Tensor,
    w13: torch.Tensor,
    w2: torch.Tensor,
    topk_weights: torch.Tensor,
    topk_ids: torch.Tensor,
    out: torch.Tensor,
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
    batch_invariant: bool = False,
    tactic_w13: int = -1,
    tactic_w2: int = -1,
) -> torch.Tensor:
    """Run `fused_moe` into the caller's tensor: `out[t]` as in `fused_moe`.

    Args:
        hidden_states: as in `fused_moe`.
        w13: as in `fused_moe`.
        w2: as in `fused_moe`.
        topk_weights: as in `fused_moe`.
        topk_ids: as in `fused_moe`.
        out: `[T, H]`, dtype, device and layout rules of `hidden_states`; rows do not overlap, and
            no memory is shared with an input, but `residual` may be `out` itself. Every element is
            written.
        expert_map: as in `fused_moe`.
        w13_bias: as in `fused_moe`.
        w2_bias: as in `fused_moe`.
        activation: as in `fused_moe`.
        gated: as in `fused_moe`.
        gate_up_order: as in `fused_moe`.
        swiglu_alpha: as in `fused_moe`.
        swiglu_beta: as in `fused_moe`.
        swiglu_limit: as in `fused_moe`.
        apply_router_weight_on_input: as in `fused_moe`.
        residual: as in `fused_moe`.
        batch_invariant: as in `fused_moe`.
        tactic_w13: as in `fused_moe`.
        tactic_w2: as in `fused_moe`.

    Returns:
        `out` itself.

    Raises:
        ValueError: as in `fused_moe`; nothing was written.
        TypeError: as in `fused_moe`; nothing was written.
        RuntimeError: as in `fused_moe`.

    Numerics:
        Bit-identical to `fused_moe`.

    Behaviour:
        As `fused_moe`.

    Source:
        `kernels/ops/`; the specification is `reference.fused_moe`.

    Example:
        >>> x, w13, w2 = (torch.ones(*s).half() for s in ((3, 64), (4, 64, 64), (4, 64, 32)))
        >>> out = torch.empty_like(x)
        >>> fused_moe_out(x, w13, w2, *topk_route(torch.randn(3, 4), top_k=2), out) is out
        True
    """
    if _settings.CHECK_IDS:
        _check_ids("fused_moe_out", topk_ids, w13.size(0), expert_map)
    options: dict[str, Any] = {
        "expert_map": expert_map,
        "w13_bias": w13_bias,
        "w2_bias": w2_bias,
        "activation": _number("fused_moe_out", "activation", activation, ACTIVATIONS),
        "gated": gated,
        "gate_up_order": _number("fused_moe_out", "gate_up_order", gate_up_order, GATE_UP_ORDERS),
        "swiglu_alpha": swiglu_alpha,
        "swiglu_beta": swiglu_beta,
        "swiglu_limit": swiglu_limit,
        "apply_router_weight_on_input": apply_router_weight_on_input,
        "residual": residual,
        "batch_invariant": batch_invariant,
    }
    try:
        _ops.fused_moe_out(
            hidden_states,
            w13,
            w2,
            topk_weights,
            topk_ids,
            out,
            **options,
            tactic_w13=tactic_w13,
            tactic_w2=tactic_w2,
        )
    except RuntimeError:
        chosen = LayerOptions(**options)
        _shapes.fused_moe_out(hidden_states, w13, w2, topk_weights, topk_ids, out, chosen)
        _require_tactics("fused_moe_out", tactic_w13=tactic_w13, tactic_w2=tactic_w2)
        _require_kernels("fused_moe_out", "hidden_states", hidden_states)
        raise
    return out


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
) -> tuple[torch.Tensor, ...]:
    """Choose the k best experts of each token, and their weights.

    With `score = scoring(router_logits[t])`, `topk_ids[t]` = the k largest of
    `score + correction_bias`, in falling order, ties to the lowest index, and `topk_weights[t] =
    score[topk_ids[t]]`, divided by their sum if `renormalize`, times `routed_scaling_factor`. Only
    the experts of the `topk_group` best of `n_group` groups are to be had.

    Choosing first and then taking the softmax of the k logits is the same as the softmax
    of all, renormalised. `docs/routers.md` has the arguments of many models' routers.

    Args:
        router_logits: `[T, E]`, float32, float16 or bfloat16, last dimension contiguous, E up to
            1024. NaN counts as minus infinity, and infinities as the finite float32 nearest to
            them, so that every weight is a number.
        top_k: experts per token; at least 1, at most E or the experts of `topk_group` groups.
        renormalize: whether the k weights of a token sum to one (before they are scaled). Weights
            whose sum is zero stay zero.
        scoring: "softmax", "sigmoid" or "sqrtsoftplus", the root of log(1 + exp(logit)).
        correction_bias: `[E]`, float32, contiguous, same device, added for the choice only. None
            adds nothing: then logits decide if there is one group, which order experts as scores
            do but are not equal where scores are equal by rounding.
        n_group: how many groups of equal size E is cut into; 1 to 32.
        topk_group: how many groups a token may take experts of; 1 to n_group. Ties go to the lowest
            group.
        group_score: what makes a group good: "top2_sum", the sum of its two largest
            `score + correction_bias`, or "max", the largest.
        routed_scaling_factor: multiplies all weights.
        expert_map: `[E]`, int32, contiguous, same device: `topk_ids` names expert e
            `expert_map[e]`, such as its id on this device, or -1. None keeps the index.
        return_tokens_per_expert: whether to count how many tokens chose each expert.

    Returns:
        `topk_weights [T, k]` float32 and `topk_ids [T, k]` int32; with `return_tokens_per_expert`
        also `tokens_per_expert [E]` int32, by index whatever the map. Freshly allocated.

    Raises:
        ValueError: a shape, stride, device or range is wrong, or a name is unknown.
        TypeError: a dtype is wrong.
        RuntimeError: an input requires grad while grad mode is on, or the device or driver cannot
            run the kernels.

    Numerics:
        fp32 throughout. Bit-identical from run to run; a token's result does not depend on other
        tokens.

    Behaviour:
        One kernel, after a memset if tokens are counted. Current stream, no synchronisation,
        CUDA-graph safe, no autograd, no workspace.

    Source:
        `kernels/routing/topk.cu`; the specification is `reference.topk_route`. Groups and bias are
        those of DeepSeek-V3 (arXiv 2412.19437, section 2.1.2).

    Example:
        >>> topk_route(torch.tensor([[0.0, 2.0, 1.0]]), top_k=2)[1]
        tensor([[1, 2]], dtype=torch.int32)
        >>> logits, bias = torch.tensor([[0.0, 2.0, 1.0]]), torch.tensor([1.0, 0.0, 0.0])
        >>> topk_route(logits, top_k=2, scoring="sigmoid", correction_bias=bias)[1]
        tensor([[0, 1]], dtype=torch.int32)
    """
    scoring_number = _number("topk_route", "scoring", scoring, _shapes.SCORINGS)
    group_score_number = _number("topk_route", "group_score", group_score, _shapes.GROUP_SCORES)
    try:
        weights, ids, tokens_per_expert = _ops.topk_route(
            router_logits,
            top_k,
            renormalize,
            scoring=scoring_number,
            correction_bias=correction_bias,
            n_group=n_group,
            topk_group=topk_group,
            group_score=group_score_number,
            routed_scaling_factor=routed_scaling_factor,
            expert_map=expert_map,
            return_tokens_per_expert=return_tokens_per_expert,
        )
    except RuntimeError:
        _shapes.topk_route(
            router_logits,
            top_k,
            scoring_number,
            correction_bias,
            n_group,
            topk_group,
            group_score_number,
            expert_map,
        )
        _require_kernels("topk_route", "router_logits", router_logits)
        raise
    return (weights, ids, tokens_per_expert) if return_tokens_per_expert else (weights, ids)


def sort_by_expert(
    topk_ids: torch.Tensor, num_experts: int, *, expert_map: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Order the pairs (token, choice) by expert, keeping their order within an expert.

    Pair `p = t * k + j`; expert e owns rows `expert_offsets[e]` to `expert_offsets[e + 1]`, row m
    holds pair `row_index[m]`, and pair p lies in row `row_position[t, j]`.

    Args:
        topk_ids: `[T, k]`, int32 or int64, last dimension contiguous. Ids outside
            `[0, num_experts)` get no row.
        num_experts: E, 1 to 1024.
        expert_map: as in `fused_moe`.

    Returns:
        `expert_offsets [E + 1]`, `row_index [T * k]` (-1 in rows that no pair has) and
        `row_position [T, k]` (-1 for an invalid id); int32, freshly allocated.

    Raises:
        ValueError: a shape, stride or range is wrong.
        TypeError: the dtype is wrong.
        RuntimeError: the device or driver cannot run the kernels.

    Numerics:
        Exact; the sort is stable.

    Behaviour:
        Current stream, no synchronisation, CUDA-graph safe; nothing to differentiate.

    Source:
        `kernels/routing/`; the specification is `reference.sort_by_expert`.

    Example:
        >>> sort_by_expert(torch.tensor([[1, 0], [1, 9]]), 2)[0]
        tensor([0, 1, 3], dtype=torch.int32)
    """
    if _settings.CHECK_IDS:
        _check_ids("sort_by_expert", topk_ids, num_experts, expert_map)
    try:
        offsets, row_index, row_position = _ops.sort_by_expert(
            topk_ids, num_experts, expert_map=expert_map
        )
    except RuntimeError:
        _shapes.sort_by_expert(topk_ids, num_experts, expert_map)
        _require_kernels("sort_by_expert", "topk_ids", topk_ids)
        raise
    return offsets, row_index, row_position


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
    tactic: int = -1,
) -> torch.Tensor:
    """Multiply each expert's rows by its weights: a GEMM whose groups are ragged.

    `out[m] = epilogue(a[s] @ w[e].T)` for m in `[expert_offsets[e], expert_offsets[e + 1])`, with
    `s = row_index[m] // top_k` if `row_index` is given and `s = m` otherwise. The epilogue "none"
    leaves the N columns as they are; "swiglu" takes the first N / 2 as gate and the others as up
    and returns `silu(gate) * up`. "ungated" returns `activation(columns * row_scale + bias)`, and
    "gated" `activation(gate) * up` of what is gate and up in these columns.

    Args:
        a: rows `[S, K]`, float16 or bfloat16, K a multiple of 8; last dimension contiguous, other
            strides multiples of 8 elements, and on a GPU data at a multiple of 16 bytes.
        w: weights `[E, N, K]`; dtype, device and layout rules of `a`; N a multiple of 8 (16 for
            "swiglu" and "gated"); E up to 1024.
        expert_offsets: `[E + 1]`, int32, contiguous; rises from 0 to at most M.
        row_index: `[M]`, int32, contiguous, entries of covered rows in `[0, S * top_k)`; None means
            that row m reads `a[m]`, and M = S.
        top_k: how many consecutive pairs share a row of `a`; at least 1.
        epilogue: "none", "swiglu", "gated" or "ungated". The options that follow, but for the
            order, are for the last two.
        bias: `[E, N]`; dtype, device and layout rules of `a`. None adds nothing.
        activation: as in `fused_moe`.
        gate_up_order: as in `fused_moe`; for "swiglu" and "gated".
        swiglu_alpha: as in `fused_moe`; for "gated", as the next two.
        swiglu_beta: as in `fused_moe`.
        swiglu_limit: as in `fused_moe`.
        row_scale: float32, contiguous, same device: `[S * top_k]`, of which row m takes entry
            `row_index[m]`, or `[S]` without `row_index`. None means 1.
        tactic: id of the tactic; -1 selects one by the problem's size.

    Returns:
        `[M, N]`, or `[M, N / 2]` if gated; dtype of `a`, freshly allocated. Rows that the offsets
        do not cover are zero.

    Raises:
        ValueError: a shape, stride, device or range is wrong.
        TypeError: a dtype is wrong.
        RuntimeError: an input requires grad while grad mode is on; the data is not aligned; the
            device or driver cannot run the kernels.

    Numerics:
        fp32 accumulation and epilogue, one rounding. Bit-identical from run to run.

    Behaviour:
        Current stream, no synchronisation, CUDA-graph safe, no autograd, no workspace.

    Source:
        `kernels/gemm/`; the specification is `reference.grouped_gemm`.

    Example:
        >>> a, w = torch.ones(3, 8).half(), torch.ones(2, 8, 8).half()
        >>> grouped_gemm(a, w, torch.tensor([0, 1, 2], dtype=torch.int32)).sum(1).tolist()
        [64.0, 64.0, 0.0]
    """
    number = _number("grouped_gemm", "epilogue", epilogue, EPILOGUES)
    options: dict[str, Any] = {
        "bias": bias,
        "activation": _number("grouped_gemm", "activation", activation, ACTIVATIONS),
        "gate_up_order": _number("grouped_gemm", "gate_up_order", gate_up_order, GATE_UP_ORDERS),
        "swiglu_alpha": swiglu_alpha,
        "swiglu_beta": swiglu_beta,
        "swiglu_limit": swiglu_limit,
        "row_scale": row_scale,
    }
    try:
        return _ops.grouped_gemm(
            a, w, expert_offsets, row_index, top_k=top_k, epilogue=number, **options, tactic=tactic
        )
    except RuntimeError:
        chosen = EpilogueOptions(**options)
        _shapes.grouped_gemm(a, w, expert_offsets, row_index, top_k, number, chosen)
        _require_tactics("grouped_gemm", tactic=tactic)
        _require_kernels("grouped_gemm", "a", a)
        raise


def grouped_mm(
    mat_a: torch.Tensor,
    mat_b: torch.Tensor,
    *,
    offs: torch.Tensor,
    bias: torch.Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    tactic: int = -1,
) -> torch.Tensor:
    """Multiply each group of rows by its matrix, as `torch.nn.functional.grouped_mm` does.

    `out[m] = mat_a[m] @ mat_b[e]` for m in `[offs[e - 1], offs[e])`; the first group begins with
    row 0. The arguments are those of torch's function for a 2D `mat_a` and a 3D `mat_b`, the form
    of experts; its other forms are refused.

    Args:
        mat_a: rows `[M, K]`, float16 or bfloat16, K a multiple of 8; last dimension contiguous, row
            stride a multiple of 8 elements, and on a GPU data at a multiple of 16 bytes.
        mat_b: a matrix for each group, `[E, K, N]`; dtype and device of `mat_a`, N a multiple of 8,
            E up to 1024. `mat_b.mT` obeys the layout rules of `mat_a`: K is contiguous, as in
            `weight.mT` of a `weight [E, N, K]`, which is not copied. Of a tensor whose N is
            contiguous make `mat_b.mT.contiguous().mT` once, when the weights are loaded: a copy in
            every call would cost more than the call, so none is made.
        offs: the groups' ends, `[E]`, int32, contiguous, same device; rises, to at most M. It stays
            on the device.
        bias: None; torch has the argument and refuses others, too.
        out_dtype: None or the dtype of `mat_a`.
        tactic: id of the tactic; -1 selects one by the problem's size.

    Returns:
        `[M, N]`, dtype of `mat_a`, contiguous, freshly allocated. Rows past the last group, from
        `offs[-1]` on, are zero; torch leaves them undefined.

    Raises:
        ValueError: a shape, stride, device or range is wrong, or `bias` is given.
        TypeError: a dtype is wrong, or an argument is no tensor.
        RuntimeError: an input requires grad while grad mode is on; the data is not aligned; the
            device or driver cannot run the kernels.

    Numerics:
        fp32 accumulation, one rounding. Bit-identical from run to run.

    Behaviour:
        Two kernels on the current stream, no synchronisation, CUDA-graph safe, no autograd.
        Allocates `4 * (E + 2)` bytes beside the result.

    Source:
        `kernels/ops/grouped_mm.cpp`; the specification is `reference.grouped_mm`.

    Example:
        >>> x, weight = torch.ones(4, 8).half(), torch.ones(2, 16, 8).half()
        >>> grouped_mm(x, weight.mT, offs=torch.tensor([1, 3]).int())[:, 0].tolist()
        [8.0, 8.0, 8.0, 0.0]
    """
    if bias is not None:
        raise ValueError(f"grouped_mm: bias must be None, got {type(bias).__name__}")
    if out_dtype is not None and out_dtype != mat_a.dtype:
        raise TypeError(
            f"grouped_mm: out_dtype must be {_shapes.dtype_name(mat_a.dtype)} like mat_a, "
            f"got {_shapes.dtype_name(out_dtype)}"
        )
    try:
        return _ops.grouped_mm(mat_a, mat_b, offs=offs, tactic=tactic)
    except RuntimeError:
        _shapes.grouped_mm(mat_a, mat_b, offs)
        _require_tactics("grouped_mm", tactic=tactic)
        _require_kernels("grouped_mm", "mat_a", mat_a)
        raise


def combine(
    rows: torch.Tensor, topk_weights: torch.Tensor, row_position: torch.Tensor
) -> torch.Tensor:
    """Sum each token's rows by the router's weights.

    `out[t] = sum_j topk_weights[t, j] * rows[row_position[t, j]]`.

    Args:
        rows: `[M, H]`, float16 or bfloat16, H a multiple of 8; last dimension contiguous, row
            stride a multiple of 8 elements, and on a GPU data at a multiple of 16 bytes.
        topk_weights: `[T, k]`, float32, last dimension contiguous, same device.
        row_position: `[T, k]`, int32, contiguous, same device. A position outside `[0, M)`
            contributes nothing.

    Returns:
        `[T, H]`, dtype of `rows`, freshly allocated.

    Raises:
        ValueError: a shape, stride or device is wrong.
        TypeError: a dtype is wrong.
        RuntimeError: an input requires grad while grad mode is on; the data is not aligned; the
            device or driver cannot run the kernels.

    Numerics:
        fp32 sum in the order of j, one rounding. Bit-identical from run to run.

    Behaviour:
        Current stream, no synchronisation, CUDA-graph safe, no autograd, no workspace.

    Source:
        `kernels/routing/`; the specification is `reference.combine`.

    Example:
        >>> position = torch.tensor([[1, -1]], dtype=torch.int32)
        >>> combine(torch.eye(2, 8).half(), torch.full((1, 2), 0.5), position)[0, :3].tolist()
        [0.0, 0.5, 0.0]
    """
    try:
        return _ops.combine(rows, topk_weights, row_position)
    except RuntimeError:
        _shapes.combine(rows, topk_weights, row_position)
        _require_kernels("combine", "rows", rows)
        raise


def tactic_table(weights: str = "16bit") -> list[Tactic]:
    """List the tactics that the installed kernels were compiled for.

    Args:
        weights: what the weights are: `"16bit"`, or a packed format, one of `"int8"`, `"int4"`,
            `"fp8"`, `"mxfp4"` and `"w8a8"`. Ids mean the same for all.

    Returns:
        One `Tactic` a row, in the order of the ids; empty without CUDA kernels.

    Raises:
        ValueError: `weights` is none of these.

    Behaviour:
        Reads a table on the host; no device is touched.

    Source:
        `kernels/gemm/tactics.h`.

    Example:
        >>> [tactic.id for tactic in tactic_table()] == list(range(len(tactic_table())))
        True
    """
    sizes = len(_ops.TACTIC_SIZES)
    column = sizes + _number("tactic_table", "weights", weights, _ops.TACTIC_COLUMNS[sizes:])
    rows = enumerate(_ops.tactic_table().tolist())
    return [Tactic._make((i, *row[:sizes], row[column])) for i, row in rows if row[column] > 0]


def select_tactic(
    num_rows: int,
    num_experts: int,
    n: int,
    k: int,
    *,
    epilogue: str = "none",
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str | int | None = None,
    batch_invariant: bool = False,
) -> int:
    """Return the tactic that -1 means for a grouped GEMM of this size.

    Args:
        num_rows: M, the rows of all experts together.
        num_experts: E.
        n: N, rows of an expert's weight (gate and up together where there are gates).
        k: K, the depth of the sum.
        epilogue: as in `grouped_gemm`; "gated" chooses like "swiglu", "ungated" like "none", among
            tiles of up to 128 rows.
        dtype: float16 or bfloat16.
        device: a CUDA device; None means the current one.
        batch_invariant: whether all that add up a sum must do so in one order: only tactics with
            `warps_k` 1 are chosen from.

    Returns:
        The id of a row of `tactic_table`.

    Raises:
        ValueError: a size is out of range, the epilogue is unknown, or the device is no CUDA
            device.
        TypeError: the dtype is another.
        RuntimeError: there are no CUDA kernels, or there is no CUDA device.

    Behaviour:
        Decided on the host, by the measurements of a tuning file where one is in use and covers
        the size, otherwise by an estimate from the device's properties. Nothing is measured.

    Source:
        `kernels/gemm/choose_tactic.cpp`; see `docs/tactics.md`.

    Example:
        >>> select_tactic(8, 64, 2048, 2048)  # doctest: +SKIP
        0
    """
    _shapes.select_tactic(num_rows, num_experts, n, k, dtype)
    number = _number("select_tactic", "epilogue", epilogue, EPILOGUES)
    index = _cuda_index("select_tactic", device)
    dtype_number = _shapes.DTYPES.index(_shapes.dtype_name(dtype))
    return _ops.select_tactic(
        num_rows, num_experts, n, k, number, dtype_number, index, batch_invariant=batch_invariant
    )


def decode_limit(
    num_experts: int,
    hidden_size: int,
    intermediate_size: int,
    *,
    device: torch.device | str | int | None = None,
) -> int:
    """Return up to how many pairs (T * k) `fused_moe` runs the kernel made for few rows.

    Packed weights, read in half the time or a quarter, have the same rule (`docs/decode.md`).

    Up to there one kernel runs the layer, which has no tactics; beyond, and whenever a tactic is
    forced, it is sorted and multiplied by grouped GEMMs.

    Args:
        num_experts: E of the layer.
        hidden_size: H.
        intermediate_size: I.
        device: a CUDA device; None means the current one.

    Returns:
        The largest number of pairs, at most 32: fewer when so many, choosing experts at random,
        would give an expert more than two rows and take more than 200 us to read weights. 0 if the
        device, or `configure`, leaves those kernels too little shared memory.

    Raises:
        ValueError: a size is not positive, there are more than 1024 experts, or the device is no
            CUDA device.
        RuntimeError: there are no CUDA kernels, or there is no CUDA device.

    Behaviour:
        Decided on the host from the device's properties.

    Source:
        `kernels/decode/decode.h`.

    Example:
        >>> decode_limit(128, 2048, 768)  # doctest: +SKIP
        32
    """
    return _ops.decode_limit(
        num_experts, hidden_size, intermediate_size, _cuda_index("decode_limit", device)
    )


def workspace_size(
    num_tokens: int,
    num_experts: int,
    top_k: int,
    hidden_size: int,
    intermediate_size: int,
) -> int:
    """Return the temporary memory that `fused_moe` takes on a GPU, in bytes.

    A call allocates its result and one workspace of this size: `T * k * (I + H)` 16-bit elements
    and the routing lists. A call whose workspace would pass the limit (see `configure`) is
    processed in chunks of tokens, as even as possible, and its workspace is that of the largest.

    Args:
        num_tokens: T.
        num_experts: E, 1 to 1024.
        top_k: k, experts per token.
        hidden_size: H.
        intermediate_size: I.

    Returns:
        The bytes asked of torch's allocator, which rounds them up.

    Raises:
        ValueError: a size is out of range.
        RuntimeError: the limit is less than one token takes, or there are no CUDA kernels (without
            them nothing but plain PyTorch runs, which states no such number).

    Behaviour:
        Arithmetic on the host; no device is touched.

    Source:
        `kernels/plan/`.

    Example:
        >>> workspace_size(4096, 8, 2, 4096, 14336)  # doctest: +SKIP
        302055808
    """
    _shapes.workspace_size(num_tokens, num_experts, top_k, hidden_size, intermediate_size)
    return _ops.workspace_size(num_tokens, num_experts, top_k, hidden_size, intermediate_size)


def configure(
    *, shared_memory_limit: int | None = None, workspace_limit: int | None = None
) -> None:
    """Limit the memory of the kernels in this process.

    Args:
        shared_memory_limit: bytes of shared memory that a thread block may use, as if the GPU had
            less; 0 means what the device has. With `99 * 1024` a larger GPU chooses among the
            tactics of SM86 and SM89. None leaves the limit as it is.
        workspace_limit: bytes that the workspace of `fused_moe` may take; longer calls are
            processed in chunks of tokens. 0 restores the default: 1 GiB, or what 2048 rows an
            expert take if that is more. None leaves the limit as it is.

    Returns:
        Nothing.

    Raises:
        ValueError: a limit is negative or too large.

    Behaviour:
        Holds for every later call in the process; `SM80MOE_SHARED_MEMORY_LIMIT` and
        `SM80MOE_WORKSPACE_LIMIT` set the limits at import. CPU tensors know no limit.

    Source:
        `kernels/ops/settings.cpp`.

    Example:
        >>> configure(shared_memory_limit=0, workspace_limit=0)
    """
    _shapes.configure(shared_memory_limit, workspace_limit)
    _ops.configure(shared_memory_limit, workspace_limit)


def _require_tactics(op: str, **tactics: int) -> None:
    num_tactics = _ops.tactic_table().size(0)
    for name, tactic in tactics.items():
        _shapes.tactic(op, name, tactic, num_tactics)


def _require_kernels(op: str, name: str, tensor: torch.Tensor) -> None:
    if tensor.is_cuda and not _ops.HAS_KERNELS:
        raise RuntimeError(
            f"{op}: {name} must be on the CPU because this installation has no CUDA kernels, "
            f"got {tensor.device}"
        )


def _check_ids(
    op: str, topk_ids: torch.Tensor, num_experts: int, expert_map: torch.Tensor | None
) -> None:
    # The values are unknown while a graph is captured or compiled.
    if torch.compiler.is_compiling() or topk_ids.numel() == 0:
        return
    num_ids = num_experts if expert_map is None else expert_map.numel()
    low, high = (int(bound) for bound in topk_ids.aminmax())
    if low < 0 or high >= num_ids:
        worst = low if low < 0 else high
        raise ValueError(f"{op}: topk_ids must be in [0, {num_ids}), got {worst}")


def _number(op: str, argument: str, name: str, names: tuple[str, ...]) -> int:
    """Return the number that the operator takes for a name."""
    if name not in names:
        allowed = " or ".join(f'"{known}"' for known in names)
        raise ValueError(f"{op}: {argument} must be {allowed}, got {name!r}")
    return names.index(name)


def _cuda_index(op: str, device: torch.device | str | int | None) -> int:
    chosen = torch.device("cuda" if device is None else device)
    if chosen.type != "cuda":
        raise ValueError(f"{op}: device must be a CUDA device, got {chosen}")
    if not _ops.HAS_KERNELS:
        return 0  # The operator refuses by itself.
    if not torch.cuda.is_available():
        raise RuntimeError(f"{op}: device must be a CUDA device, got a machine without one")
    torch.cuda.init()  # With CUDA start tuning files.
    return torch.cuda.current_device() if chosen.index is None else chosen.index
