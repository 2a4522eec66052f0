"""`cutlass_fused_moe`: FlashInfer's arguments, checked and passed to the layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from torch_sm80moe.compat._words import (
    require_same_dtype,
    require_tensors,
    reworded,
    router_weights,
)
from torch_sm80moe.compat.flashinfer.activation import ActivationType, activation_of
from torch_sm80moe.compat.flashinfer.arguments import (
    NAMES,
    Parallel,
    require_available,
    require_no_scales,
    tactics_of,
)
from torch_sm80moe.compat.flashinfer.formats import format_of
from torch_sm80moe.compat.flashinfer.workspace import check_workspace_buffer

_OP = "cutlass_fused_moe"


def cutlass_fused_moe(
    input: torch.Tensor,
    token_selected_experts: torch.Tensor,
    token_final_scales: torch.Tensor | None,
    fc1_expert_weights: torch.Tensor,
    fc2_expert_weights: torch.Tensor,
    output_dtype: torch.dtype,
    quant_scales: Sequence[torch.Tensor] | None,
    fc1_expert_biases: torch.Tensor | None = None,
    fc2_expert_biases: torch.Tensor | None = None,
    input_sf: torch.Tensor | None = None,
    swiglu_alpha: torch.Tensor | None = None,
    swiglu_beta: torch.Tensor | None = None,
    swiglu_limit: torch.Tensor | None = None,
    tp_size: int = 1,
    tp_rank: int = 0,
    ep_size: int = 1,
    ep_rank: int = 0,
    cluster_size: int = 1,
    cluster_rank: int = 0,
    output: torch.Tensor | None = None,
    enable_alltoall: bool = False,
    use_deepseek_fp8_block_scale: bool = False,
    use_w4_group_scaling: bool = False,
    use_mxfp8_act_scaling: bool = False,
    min_latency_mode: bool = False,
    use_packed_weights: bool = False,
    use_wfp4afp8_humming: bool = False,
    tune_max_num_tokens: int = 8192,
    enable_pdl: bool | None = None,
    activation_type: int = ActivationType.Swiglu,
    swizzled_input_sf: bool = True,
    use_fused_finalize: bool = True,
    profile_ids: Sequence[int] | None = None,
    workspace_buffer: torch.Tensor | None = None,
    *,
    situ_beta: torch.Tensor | None = None,
    situ_linear_beta: torch.Tensor | None = None,
    gate_up_order: str = "up_gate",
) -> list[torch.Tensor]:
    """Run the experts that the router chose, with FlashInfer's arguments in FlashInfer's order.

    `output[t] = sum_j token_final_scales[t, j] * (act(x @ gate_e.T) * (x @ up_e.T)) @
    fc2_expert_weights[e].T` with `x = input[t]`, `e = token_selected_experts[t, j]`. An expert's
    rows in `fc1_expert_weights` are the I ups, then the I gates, which is the reverse of
    `fused_moe`; nothing is copied for it.

    Args:
        input: activations `[T, H]`, float16 or bfloat16, with the layout rules of `fused_moe`.
        token_selected_experts: ids of all devices' experts `[T, k]`, int32 or int64. One that is
            not on this device contributes nothing.
        token_final_scales: router weights `[T, k]` of any floating dtype, applied in float32. None
            means 1.
        fc1_expert_weights: `[E, 2I, H]`, or `[E, I, H]` for an activation without gate; E experts
            on this device, dtype of `input`.
        fc2_expert_weights: `[E, H, I]`.
        output_dtype: the dtype of `input`.
        quant_scales: None or empty.
        fc1_expert_biases: `[E, 2I]` or `[E, I]`, in the order of the rows they are added to.
        fc2_expert_biases: `[E, H]`; added where `tp_rank` is 0, so that a sum over devices has them
            once.
        input_sf: None; quantised activations are not taken.
        swiglu_alpha: `[E]`, float32, for Swiglu: `gate * sigmoid(alpha * gate) * (up + beta)`.
            None means 1.
        swiglu_beta: the same. None means 0.
        swiglu_limit: the same; first gate is clamped to at most limit, up to `[-limit, limit]`.
            None does not clamp.
        tp_size: devices that share each expert; the caller cuts I and reduces.
        tp_rank: this device among them.
        ep_size: devices that share the experts; the caller reduces.
        ep_rank: this device among them; it has the experts from `ep_rank * E` on.
        cluster_size: 1.
        cluster_rank: 0.
        output: `[T, H]` of `output_dtype`, which is written; None makes one.
        enable_alltoall: False.
        use_deepseek_fp8_block_scale: False.
        use_w4_group_scaling: False.
        use_mxfp8_act_scaling: False.
        min_latency_mode: False.
        use_packed_weights: False.
        use_wfp4afp8_humming: False.
        tune_max_num_tokens: any; no call tunes (`sm80moe tune` does, once).
        enable_pdl: None or False; Ampere has no dependent launch.
        activation_type: an `ActivationType`, this package's or FlashInfer's: any but SwigluStep and
            Situ.
        swizzled_input_sf: either; there is no `input_sf`.
        use_fused_finalize: either; the result is bit-identical from run to run in any case.
        profile_ids: a tactic for each GEMM, as `FusedMoeRunner` counts them. None selects.
        workspace_buffer: one dimension of uint8 or int8 with as many bytes as
            `cutlass_fused_moe_workspace_size` says. It is checked and stays as it is: the workspace
            is torch's allocator's.
        situ_beta: None.
        situ_linear_beta: None.
        gate_up_order: not FlashInfer's. "gate_up" for weights whose gates come first, as those of
            Hugging Face and vLLM, or "interleaved".

    Returns:
        A list, as FlashInfer does: its only element is `output`.

    Raises:
        ValueError: a shape, stride, device or range is wrong, or something is asked for that there
            is not.
        TypeError: a dtype is wrong.
        RuntimeError: as in `fused_moe`.

    Numerics:
        As in `fused_moe`.

    Behaviour:
        As `fused_moe`; one small kernel more with `ep_size` above 1, and with scales that are None
        or not float32. No graph breaks.

    Source:
        `torch_sm80moe/compat/flashinfer/`; the specification is `reference.fused_moe`.

    Example:
        >>> x, fc1, fc2 = (torch.ones(*s).half() for s in ((3, 64), (4, 64, 64), (4, 64, 32)))
        >>> ids, scales = torch.zeros(3, 2, dtype=torch.int64), torch.ones(3, 2)
        >>> cutlass_fused_moe(x, ids, scales, fc1, fc2, torch.float16, None)[0].shape
        torch.Size([3, 64])
    """
    require_available(
        _OP,
        input_sf=input_sf,
        situ_beta=situ_beta,
        situ_linear_beta=situ_linear_beta,
        cluster_size=cluster_size,
        cluster_rank=cluster_rank,
        enable_alltoall=enable_alltoall,
        use_deepseek_fp8_block_scale=use_deepseek_fp8_block_scale,
        use_w4_group_scaling=use_w4_group_scaling,
        use_mxfp8_act_scaling=use_mxfp8_act_scaling,
        use_packed_weights=use_packed_weights,
        use_wfp4afp8_humming=use_wfp4afp8_humming,
        min_latency_mode=min_latency_mode,
        enable_pdl=bool(enable_pdl),
    )
    require_tensors(
        _OP,
        input=input,
        token_selected_experts=token_selected_experts,
        fc1_expert_weights=fc1_expert_weights,
        fc2_expert_weights=fc2_expert_weights,
    )
    require_no_scales(_OP, quant_scales)
    require_same_dtype(_OP, "output_dtype", output_dtype, "input", input.dtype)
    weights = format_of(_OP, "fc1_expert_weights", fc1_expert_weights.dtype)
    activation = activation_of(_OP, activation_type)
    parallel = Parallel(tp_size, tp_rank, ep_size, ep_rank)
    parallel.check(_OP)
    tactic_w13, tactic_w2 = tactics_of(_OP, profile_ids, weights)
    check_workspace_buffer(_OP, workspace_buffer, input, token_selected_experts, fc2_expert_weights)

    if token_final_scales is None:
        token_final_scales = torch.ones_like(token_selected_experts, dtype=torch.float32)
    options: dict[str, Any] = {
        "expert_map": parallel.expert_map(fc1_expert_weights),
        "w13_bias": fc1_expert_biases,
        "w2_bias": parallel.fc2_bias(fc2_expert_biases),
        "activation": activation.name,
        "gated": activation.gated,
        "gate_up_order": gate_up_order if activation.gated else "gate_up",
        "swiglu_alpha": swiglu_alpha,
        "swiglu_beta": swiglu_beta,
        "swiglu_limit": swiglu_limit,
        "tactic_w13": tactic_w13,
        "tactic_w2": tactic_w2,
    }
    tensors = (
        input,
        fc1_expert_weights,
        fc2_expert_weights,
        router_weights(token_final_scales),
        token_selected_experts,
    )
    try:
        if output is None:
            return [weights.layer(*tensors, **options)]
        return [weights.layer_out(*tensors, output, **options)]
    except (RuntimeError, TypeError, ValueError) as error:
        raise reworded(error, _OP, NAMES) from None
