"""The memory that a call takes beside its result, and a caller's buffer for it."""

from __future__ import annotations

import torch

from torch_sm80moe import functional
from torch_sm80moe._shapes import dtype_name
from torch_sm80moe.compat._words import require_tensors
from torch_sm80moe.compat.flashinfer.activation import ActivationType, activation_of
from torch_sm80moe.compat.flashinfer.arguments import Parallel, require_available
from torch_sm80moe.compat.flashinfer.formats import format_of

_BYTES = (torch.uint8, torch.int8)


def cutlass_fused_moe_workspace_size(
    max_num_tokens: int,
    hidden_size: int,
    intermediate_size: int,
    num_experts_total: int,
    top_k: int,
    *,
    x_dtype: torch.dtype,
    weight_dtype: torch.dtype,
    output_dtype: torch.dtype = torch.bfloat16,
    activation_type: int = ActivationType.Swiglu,
    tp_size: int = 1,
    tp_rank: int = 0,
    ep_size: int = 1,
    ep_rank: int = 0,
    min_latency_mode: bool = False,
    use_deepseek_fp8_block_scale: bool = False,
    use_w4_group_scaling: bool = False,
    use_mxfp8_act_scaling: bool = False,
    use_fused_finalize: bool = True,
    use_packed_weights: bool = False,
    use_wfp4afp8_humming: bool = False,
    device: torch.device | None = None,
) -> int:
    """Return how many bytes a call of `cutlass_fused_moe` takes beside its result.

    A call takes them from torch's allocator whether or not it is given a `workspace_buffer`, so
    nobody has to ask; callers of FlashInfer do.

    Args:
        max_num_tokens: T of the longest call; a shorter one takes no more.
        hidden_size: H.
        intermediate_size: I on this device.
        num_experts_total: experts of all devices.
        top_k: k.
        x_dtype: of the activations.
        weight_dtype: of the weights.
        output_dtype: of the result.
        activation_type: as in `cutlass_fused_moe`; changes nothing, like ranks and `device`.
        tp_size: as in `cutlass_fused_moe`.
        tp_rank: as in `cutlass_fused_moe`.
        ep_size: as in `cutlass_fused_moe`; divides `num_experts_total`.
        ep_rank: as in `cutlass_fused_moe`.
        min_latency_mode: as in `cutlass_fused_moe`, and so are the other flags.
        use_deepseek_fp8_block_scale: must be False.
        use_w4_group_scaling: must be False.
        use_mxfp8_act_scaling: must be False.
        use_fused_finalize: either.
        use_packed_weights: must be False.
        use_wfp4afp8_humming: must be False.
        device: any.

    Returns:
        The bytes, as `torch_sm80moe.workspace_size` has them.

    Raises:
        ValueError: a size is out of range, or something is asked for that there is not.
        TypeError: a dtype is not float16 or bfloat16.
        RuntimeError: there are no CUDA kernels.

    Behaviour:
        Arithmetic on the host.
    """
    op = "cutlass_fused_moe_workspace_size"
    require_available(
        op,
        min_latency_mode=min_latency_mode,
        use_deepseek_fp8_block_scale=use_deepseek_fp8_block_scale,
        use_w4_group_scaling=use_w4_group_scaling,
        use_mxfp8_act_scaling=use_mxfp8_act_scaling,
        use_packed_weights=use_packed_weights,
        use_wfp4afp8_humming=use_wfp4afp8_humming,
    )
    for name, dtype in (("x", x_dtype), ("weight", weight_dtype), ("output", output_dtype)):
        format_of(op, f"{name}_dtype", dtype)
    activation_of(op, activation_type)
    Parallel(tp_size, tp_rank, ep_size, ep_rank).check(op)
    if num_experts_total % ep_size != 0:
        raise ValueError(
            f"{op}: num_experts_total must be a multiple of ep_size, {ep_size}, "
            f"got {num_experts_total}"
        )
    return functional.workspace_size(
        max_num_tokens, num_experts_total // ep_size, top_k, hidden_size, intermediate_size
    )


def check_workspace_buffer(
    op: str,
    buffer: torch.Tensor | None,
    activations: torch.Tensor,
    ids: torch.Tensor,
    fc2_expert_weights: torch.Tensor,
) -> None:
    """Refuse a buffer that would not hold the workspace; nothing here writes to it."""
    if buffer is None:
        return
    require_tensors(op, workspace_buffer=buffer)
    if buffer.dtype not in _BYTES or buffer.dim() != 1:
        raise ValueError(
            f"{op}: workspace_buffer must be one dimension of uint8 or int8, got "
            f"{list(buffer.shape)} of {dtype_name(buffer.dtype)}"
        )
    if buffer.device != activations.device:
        raise ValueError(
            f"{op}: workspace_buffer must be on {activations.device} like input, "
            f"got {buffer.device}"
        )
    # CPU tensors take no workspace, and in a graph that is compiled T is no number. Of wrong
    # dimensions the layer tells.
    if not activations.is_cuda or torch.compiler.is_compiling():
        return
    if fc2_expert_weights.dim() != 3 or ids.dim() != 2:
        return
    num_experts, hidden_size, intermediate_size = fc2_expert_weights.shape
    num_tokens, top_k = ids.shape
    num_bytes = functional.workspace_size(
        num_tokens, num_experts, top_k, hidden_size, intermediate_size
    )
    if buffer.numel() < num_bytes:
        raise ValueError(
            f"{op}: workspace_buffer must have at least {num_bytes} bytes, got {buffer.numel()}"
        )
