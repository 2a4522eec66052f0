"""`fused_experts` with vLLM's arguments.

Versions of vLLM differ in the order of what follows `apply_router_weight_on_input`; it is taken by
name here, whichever version has it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from torch_sm80moe import functional, functional_quantized
from torch_sm80moe.compat._words import require_defaults, require_tensors, reworded, router_weights
from torch_sm80moe.quantization.packing import PackedWeight

_OP = "fused_experts"

# fused_moe's names for arguments, and vLLM's.
_NAMES = {"w13": "w1", "w13_bias": "w1_bias"}

# vLLM's layouts of quantised weights are not those of the kernels; a packed weight says by itself
# what it is.
_QUANTISED: dict[str, Any] = {
    "quant_config": None,
    "use_fp8_w8a8": False,
    "use_int8_w8a8": False,
    "use_int8_w8a16": False,
    "use_int4_w4a16": False,
    "per_channel_quant": False,
    "w1_scale": None,
    "w2_scale": None,
    "w1_zp": None,
    "w2_zp": None,
    "a1_scale": None,
    "a2_scale": None,
    "block_shape": None,
}


_Constants = tuple[float | None, float | None, float | None]
_GPT_OSS: _Constants = (1.702, 1.0, 7.0)  # alpha, beta, limit


class _Activation(NamedTuple):
    """Options of `fused_moe`; the constants are those of SwiGLU."""

    name: str
    gated: bool = True
    gate_up_order: str = "gate_up"
    constants: _Constants = (None, None, None)


_ACTIVATIONS = {
    "silu": _Activation("silu"),
    "gelu": _Activation("gelu"),
    "gelu_tanh": _Activation("gelu_tanh"),
    "swigluoai": _Activation("silu", gate_up_order="interleaved", constants=_GPT_OSS),
    "swigluoai_uninterleave": _Activation("silu", constants=_GPT_OSS),
    "silu_no_mul": _Activation("silu", gated=False),
    "gelu_no_mul": _Activation("gelu", gated=False),
    "gelu_tanh_no_mul": _Activation("gelu_tanh", gated=False),
    "relu2_no_mul": _Activation("relu2", gated=False),
}


def fused_experts(
    hidden_states: torch.Tensor,
    w1: torch.Tensor | PackedWeight,
    w2: torch.Tensor | PackedWeight,
    topk_weights: torch.Tensor,
    topk_ids: torch.Tensor,
    inplace: bool = False,
    activation: Any = "silu",
    apply_router_weight_on_input: bool = False,
    *,
    global_num_experts: int = -1,
    expert_map: torch.Tensor | None = None,
    w1_bias: torch.Tensor | None = None,
    w2_bias: torch.Tensor | None = None,
    gemm1_alpha: float | None = None,
    gemm1_beta: float | None = None,
    gemm1_clamp_limit: float | None = None,
    quant_config: object | None = None,
    use_fp8_w8a8: bool = False,
    use_int8_w8a8: bool = False,
    use_int8_w8a16: bool = False,
    use_int4_w4a16: bool = False,
    per_channel_quant: bool = False,
    w1_scale: torch.Tensor | None = None,
    w2_scale: torch.Tensor | None = None,
    w1_zp: torch.Tensor | None = None,
    w2_zp: torch.Tensor | None = None,
    a1_scale: torch.Tensor | None = None,
    a2_scale: torch.Tensor | None = None,
    block_shape: list[int] | None = None,
) -> torch.Tensor:
    """Run the experts that the router chose, with vLLM's arguments.

    `out[t] = sum_j topk_weights[t, j] * (act(x @ gate_e.T) * (x @ up_e.T)) @ w2[e].T` with
    `x = hidden_states[t]`, `e = topk_ids[t, j]` and `gate_e, up_e = w1[e, :I], w1[e, I:]`.

    Args:
        hidden_states: activations `[T, H]`, float16 or bfloat16, with the rules of `fused_moe`.
        w1: `[E, 2I, H]`, or `[E, I, H]` for an activation without gate. Not vLLM's: a
            `quantization.PackedWeight` of this shape, which runs `fused_moe_quantized`.
        w2: `[E, H, I]`, packed if `w1` is.
        topk_weights: router weights `[T, k]` of any floating dtype, applied in float32.
        topk_ids: expert ids `[T, k]`, int32 or int64.
        inplace: whether the result goes to `hidden_states`; a copy at the end, since rows are read
            until then.
        activation: a name, or an enumeration's member whose value is one: "silu", "gelu",
            "gelu_tanh", "swigluoai" (gpt-oss: gates and ups in turn), "swigluoai_uninterleave",
            or without gate "silu_no_mul", "gelu_no_mul", "gelu_tanh_no_mul", "relu2_no_mul".
        apply_router_weight_on_input: whether the router weight multiplies the input. Not with
            `w1_bias`, which vLLM would multiply, too.
        global_num_experts: experts of all devices: the length of `expert_map`, or E without one.
            -1 leaves it open.
        expert_map: `[G]`, int32: the index on this device of each of all devices' experts, or -1.
        w1_bias: `[E, 2I]` or `[E, I]`, dtype of `w1`.
        w2_bias: `[E, H]`.
        gemm1_alpha: in place of the activation's constant: silu becomes
            `gate * sigmoid(alpha * gate) * (up + beta)`. None keeps it.
        gemm1_beta: the same.
        gemm1_clamp_limit: the same; gate is clamped to at most limit, up to `[-limit, limit]`.
        quant_config: None, as all that follow: weights are 16-bit, or packed.
        use_fp8_w8a8: False.
        use_int8_w8a8: False.
        use_int8_w8a16: False.
        use_int4_w4a16: False.
        per_channel_quant: False.
        w1_scale: None.
        w2_scale: None.
        w1_zp: None.
        w2_zp: None.
        a1_scale: None.
        a2_scale: None.
        block_shape: None.

    Returns:
        `[T, H]`, freshly allocated, or `hidden_states` if `inplace`.

    Raises:
        ValueError: a shape, stride, device or range is wrong, a name is unknown, or something is
            asked for that there is not.
        TypeError: a dtype is wrong.
        RuntimeError: as in `fused_moe`.

    Numerics:
        As in `fused_moe`, or `fused_moe_quantized`.

    Behaviour:
        As these; one elementwise kernel more for each constant of an activation, for weights
        that are not float32, and for `inplace`. No graph breaks.

    Source:
        `torch_sm80moe/compat/vllm/experts.py`; the specification is `reference.fused_moe`.

    Example:
        >>> x, w1, w2 = (torch.ones(*s).half() for s in ((3, 64), (4, 64, 64), (4, 64, 32)))
        >>> weights, ids = torch.ones(3, 2), torch.zeros(3, 2, dtype=torch.int32)
        >>> fused_experts(x, w1, w2, weights, ids, activation="silu").shape
        torch.Size([3, 64])
    """
    require_defaults(
        _OP,
        _QUANTISED,
        quant_config=quant_config,
        use_fp8_w8a8=use_fp8_w8a8,
        use_int8_w8a8=use_int8_w8a8,
        use_int8_w8a16=use_int8_w8a16,
        use_int4_w4a16=use_int4_w4a16,
        per_channel_quant=per_channel_quant,
        w1_scale=w1_scale,
        w2_scale=w2_scale,
        w1_zp=w1_zp,
        w2_zp=w2_zp,
        a1_scale=a1_scale,
        a2_scale=a2_scale,
        block_shape=block_shape,
    )
    is_packed = isinstance(w1, PackedWeight)
    require_tensors(_OP, hidden_states=hidden_states, **({} if is_packed else {"w1": w1}))
    if apply_router_weight_on_input and w1_bias is not None:
        raise ValueError(
            f"{_OP}: w1_bias must be None with apply_router_weight_on_input, got a tensor"
        )
    num_experts = w1.shape[0]
    _check_num_experts(global_num_experts, num_experts, expert_map)
    chosen = _activation(activation)
    alpha, beta, limit = (
        _for_each_expert(default if given is None else given, hidden_states, num_experts)
        for given, default in zip(
            (gemm1_alpha, gemm1_beta, gemm1_clamp_limit), chosen.constants, strict=True
        )
    )
    run: Any = functional_quantized.fused_moe_quantized if is_packed else functional.fused_moe
    try:
        out: torch.Tensor = run(
            hidden_states,
            w1,
            w2,
            router_weights(topk_weights),
            topk_ids,
            expert_map=expert_map,
            w13_bias=w1_bias,
            w2_bias=w2_bias,
            activation=chosen.name,
            gated=chosen.gated,
            gate_up_order=chosen.gate_up_order,
            swiglu_alpha=alpha,
            swiglu_beta=beta,
            swiglu_limit=limit,
            apply_router_weight_on_input=apply_router_weight_on_input,
        )
    except (RuntimeError, TypeError, ValueError) as error:
        raise reworded(error, _OP, _NAMES) from None
    return hidden_states.copy_(out) if inplace else out


def _activation(activation: Any) -> _Activation:
    name = getattr(activation, "value", activation)
    if name not in _ACTIVATIONS:
        known = ", ".join(_ACTIVATIONS)
        raise ValueError(f"{_OP}: activation must be one of {known}, got {name}")
    return _ACTIVATIONS[name]


def _for_each_expert(
    value: float | None, leader: torch.Tensor, num_experts: int
) -> torch.Tensor | None:
    if value is None:
        return None
    return leader.new_full((1,), value, dtype=torch.float32).expand(num_experts)


def _check_num_experts(
    global_num_experts: int, num_local_experts: int, expert_map: torch.Tensor | None
) -> None:
    known = num_local_experts if expert_map is None else expert_map.numel()
    if global_num_experts not in (-1, known):
        source = "the experts of w1" if expert_map is None else "the length of expert_map"
        raise ValueError(
            f"{_OP}: global_num_experts must be -1 or {known} ({source}), got {global_num_experts}"
        )
