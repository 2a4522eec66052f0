"""The public functions for quantised weights; otherwise as `functional.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from torch_sm80moe import _ops, _settings, _shapes
from torch_sm80moe._options import (
    ACTIVATIONS,
    EPILOGUES,
    GATE_UP_ORDERS,
    EpilogueOptions,
    LayerOptions,
    PackedTensors,
)
from torch_sm80moe.functional import _check_ids, _number, _require_kernels, _require_tactics

if TYPE_CHECKING:
    from torch_sm80moe.quantization.packing import PackedWeight


def fused_moe_quantized(
    hidden_states: torch.Tensor,
    w13: PackedWeight,
    w2: PackedWeight,
    topk_weights: torch.Tensor,
    topk_ids: torch.Tensor,
    *,
    w13_input: torch.Tensor | None = None,
    w2_input: torch.Tensor | None = None,
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
    """Run `fused_moe` with quantised weights, which stay as they are stored.

    The result is that of `fused_moe` with `w13.dequantize()` and `w2.dequantize()`, had these no
    rounding to 16 bits. With a scheme of int8 activations (`w8a8`) both GEMMs multiply int8, and
    `hidden_states` and the intermediate are rounded to it.

    Args:
        hidden_states: as in `fused_moe`.
        w13: `[E, 2I, H]`, or `[E, I, H]` if not `gated`, packed by `quantization.pack`, on the
            device of `hidden_states`; E * 2I at most 2 ** 31 - 1.
        w2: `[E, H, I]`, packed, of the same scheme.
        topk_weights: as in `fused_moe`.
        topk_ids: as in `fused_moe`.
        w13_input: for static int8 activations how `hidden_states` are stored: float32 `[2]`, a
            scale and a zero point, an integer of -128 to 127. None for other schemes.
        w2_input: the same of the intermediate, `activation(gate) * up`.
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
        batch_invariant: as in `fused_moe`; here it costs few rows the kernels made for them, and
            weights with scales of groups tiles of at most 32 rows.
        tactic_w13: as in `fused_moe`; only some tactics have kernels for packed weights. Tiles of 8
            rows, and of at most 32 with scales of groups, round otherwise than the others, and
            are refused with `batch_invariant`.
        tactic_w2: the same.

    Returns:
        As `fused_moe`.

    Raises:
        ValueError: as in `fused_moe`, or the schemes of the weights differ, or ranges of
            activations are missing where the scheme is static, or given where it is not.
        TypeError: as in `fused_moe`, or a weight is not packed.
        RuntimeError: as in `fused_moe`.

    Numerics:
        As `fused_moe`. Stored numbers less their zero points are exact in 16 bits and meet the
        tensor cores so; scales multiply fp32 sums, at the end or where a group ends. In float16 an
        mxfp4 group counts as zero whose scale is 2 ** 30 times smaller than the row's largest.

        w8a8: `quantize_activations` stores each token, once. The sums of stored products, less what
        the zero point adds to them, are exact; scales multiply them in fp32. The intermediate is
        rounded to 16 bits and then like a token; one of a known range to int8 alone, from fp32. A
        token or row with NaN or infinity gives NaN or infinity with dynamic scales; with static
        ones infinity saturates and NaN counts as the lowest number.

    Behaviour:
        As `fused_moe`.

    Source:
        `kernels/gemm/weight_format.cuh`, `kernels/decode/packed_rows.cuh`, for w8a8
        `int8_epilogue.cuh` and `kernels/decode/int8_rows.cuh`; the specification is
        `reference.fused_moe` of `QuantizedWeight.dequantize`, for w8a8 with `int8`.

    Example:
        >>> from torch_sm80moe.quantization import QuantizedWeight, QuantScheme, pack
        >>> def ones(*shape):
        ...     values, scale = torch.ones(shape, dtype=torch.int8), torch.ones(*shape[:2], 1)
        ...     return pack(QuantizedWeight(values, scale, None, QuantScheme.parse("w4a16")))
        >>> routing = torch.ones(3, 1), torch.tensor([[0], [3], [1]])
        >>> x = torch.ones(3, 64).bfloat16()
        >>> fused_moe_quantized(x, ones(4, 64, 64), ones(4, 64, 32), *routing).shape
        torch.Size([3, 64])
    """
    op = "fused_moe_quantized"
    first, second = _layer_tensors(op, w13, w2, w13_input, w2_input)
    if _settings.CHECK_IDS:
        _check_ids(op, topk_ids, first.values.size(0), expert_map)
    options: dict[str, Any] = {
        "expert_map": expert_map,
        "w13_bias": w13_bias,
        "w2_bias": w2_bias,
        "activation": _number(op, "activation", activation, ACTIVATIONS),
        "gated": gated,
        "gate_up_order": _number(op, "gate_up_order", gate_up_order, GATE_UP_ORDERS),
        "swiglu_alpha": swiglu_alpha,
        "swiglu_beta": swiglu_beta,
        "swiglu_limit": swiglu_limit,
        "apply_router_weight_on_input": apply_router_weight_on_input,
        "residual": residual,
        "batch_invariant": batch_invariant,
    }
    try:
        return _ops.fused_moe_quantized(
            hidden_states,
            *_layer_arguments(first, second, topk_weights, topk_ids),
            w13_input=w13_input,
            w2_input=w2_input,
            **options,
            tactic_w13=tactic_w13,
            tactic_w2=tactic_w2,
        )
    except RuntimeError:
        chosen = LayerOptions(**options)
        _shapes.fused_moe_quantized(hidden_states, first, second, topk_weights, topk_ids, chosen)
        _require_tactics(op, tactic_w13=tactic_w13, tactic_w2=tactic_w2)
        _require_kernels(op, "hidden_states", hidden_states)
        raise


def fused_moe_quantized_out(
    hidden_states: torch.Tensor,
    w13: PackedWeight,
    w2: PackedWeight,
    topk_weights: torch.Tensor,
    topk_ids: torch.Tensor,
    out: torch.Tensor,
    *,
    w13_input: torch.Tensor | None = None,
    w2_input: torch.Tensor | None = None,
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
    """Run `fused_moe_quantized` into the caller's tensor: `out[t]` as there.

    Args:
        hidden_states: as in `fused_moe`.
        w13: as in `fused_moe_quantized`.
        w2: as in `fused_moe_quantized`.
        topk_weights: as in `fused_moe`.
        topk_ids: as in `fused_moe`.
        out: as in `fused_moe_out`.
        w13_input: as in `fused_moe_quantized`.
        w2_input: as in `fused_moe_quantized`.
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
        residual: as in `fused_moe_out`: may be `out` itself.
        batch_invariant: as in `fused_moe`.
        tactic_w13: as in `fused_moe_quantized`.
        tactic_w2: the same.

    Returns:
        `out` itself.

    Raises:
        ValueError: as in `fused_moe_quantized`; nothing was written.
        TypeError: as in `fused_moe_quantized`; nothing was written.
        RuntimeError: as in `fused_moe`.

    Numerics:
        Bit-identical to `fused_moe_quantized`.

    Behaviour:
        As `fused_moe`.

    Source:
        `kernels/ops/`; the specification is `reference.fused_moe` of `QuantizedWeight.dequantize`.

    Example:
        >>> from torch_sm80moe.quantization import QuantizedWeight, QuantScheme, pack
        >>> def ones(*shape):
        ...     values, scale = torch.ones(shape, dtype=torch.int8), torch.ones(*shape[:2], 1)
        ...     return pack(QuantizedWeight(values, scale, None, QuantScheme.parse("w8a16")))
        >>> routing = torch.ones(3, 1), torch.tensor([[0], [3], [1]])
        >>> x = torch.ones(3, 64).bfloat16()
        >>> out = torch.empty_like(x)
        >>> fused_moe_quantized_out(x, ones(4, 64, 64), ones(4, 64, 32), *routing, out) is out
        True
    """
    op = "fused_moe_quantized_out"
    first, second = _layer_tensors(op, w13, w2, w13_input, w2_input)
    if _settings.CHECK_IDS:
        _check_ids(op, topk_ids, first.values.size(0), expert_map)
    options: dict[str, Any] = {
        "expert_map": expert_map,
        "w13_bias": w13_bias,
        "w2_bias": w2_bias,
        "activation": _number(op, "activation", activation, ACTIVATIONS),
        "gated": gated,
        "gate_up_order": _number(op, "gate_up_order", gate_up_order, GATE_UP_ORDERS),
        "swiglu_alpha": swiglu_alpha,
        "swiglu_beta": swiglu_beta,
        "swiglu_limit": swiglu_limit,
        "apply_router_weight_on_input": apply_router_weight_on_input,
        "residual": residual,
        "batch_invariant": batch_invariant,
    }
    try:
        _ops.fused_moe_quantized_out(
            hidden_states,
            *_layer_arguments(first, second, topk_weights, topk_ids),
            out,
            w13_input=w13_input,
            w2_input=w2_input,
            **options,
            tactic_w13=tactic_w13,
            tactic_w2=tactic_w2,
        )
    except RuntimeError:
        chosen = LayerOptions(**options)
        _shapes.fused_moe_quantized_out(
            hidden_states, first, second, topk_weights, topk_ids, out, chosen
        )
        _require_tactics(op, tactic_w13=tactic_w13, tactic_w2=tactic_w2)
        _require_kernels(op, "hidden_states", hidden_states)
        raise
    return out


def grouped_gemm_quantized(
    a: torch.Tensor,
    w: PackedWeight,
    expert_offsets: torch.Tensor,
    row_index: torch.Tensor | None = None,
    *,
    w_input: torch.Tensor | None = None,
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
    """Run `grouped_gemm` with quantised weights, which stay as they are stored.

    The result is that of `grouped_gemm` with `w.dequantize()`, had it no rounding to 16 bits.

    Args:
        a: as in `grouped_gemm`.
        w: `[E, N, K]`, packed by `quantization.pack`, on the device of `a`; N as in `grouped_gemm`,
            E * N at most 2 ** 31 - 1.
        expert_offsets: as in `grouped_gemm`.
        row_index: as in `grouped_gemm`.
        w_input: for static int8 activations how `a` is stored, as in `fused_moe_quantized`.
        top_k: as in `grouped_gemm`.
        epilogue: as in `grouped_gemm`.
        bias: as in `grouped_gemm`.
        activation: as in `grouped_gemm`.
        gate_up_order: as in `grouped_gemm`.
        swiglu_alpha: as in `grouped_gemm`.
        swiglu_beta: as in `grouped_gemm`.
        swiglu_limit: as in `grouped_gemm`.
        row_scale: as in `grouped_gemm`.
        tactic: as in `grouped_gemm`; only some tactics have kernels for packed weights.

    Returns:
        As `grouped_gemm`.

    Raises:
        ValueError: as in `grouped_gemm`, or the range of activations is missing where the scheme is
            static, or given where it is not.
        TypeError: as in `grouped_gemm`, or the weight is not packed.
        RuntimeError: as in `grouped_gemm`.

    Numerics:
        As `fused_moe_quantized`; one rounding, of w8a8 after that of `a` to int8 by the row. A
        row's bits are the same by every tactic.

    Behaviour:
        As `grouped_gemm`.

    Source:
        `kernels/gemm/weight_format.cuh`; the specification is `reference.grouped_gemm` of
        `QuantizedWeight.dequantize`, for w8a8 with `int8`.

    Example:
        >>> from torch_sm80moe.quantization import QuantizedWeight, QuantScheme, pack
        >>> values, scale = torch.ones(1, 8, 16, dtype=torch.int8), torch.full((1, 8, 1), 0.5)
        >>> w = pack(QuantizedWeight(values, scale, None, QuantScheme.parse("w8a16")))
        >>> offsets = torch.tensor([0, 2], dtype=torch.int32)
        >>> grouped_gemm_quantized(torch.ones(2, 16).half(), w, offsets).sum(1).tolist()
        [64.0, 64.0]
    """
    op = "grouped_gemm_quantized"
    packed = _tensors(op, "w", w, w_input)
    number = _number(op, "epilogue", epilogue, EPILOGUES)
    options: dict[str, Any] = {
        "bias": bias,
        "activation": _number(op, "activation", activation, ACTIVATIONS),
        "gate_up_order": _number(op, "gate_up_order", gate_up_order, GATE_UP_ORDERS),
        "swiglu_alpha": swiglu_alpha,
        "swiglu_beta": swiglu_beta,
        "swiglu_limit": swiglu_limit,
        "row_scale": row_scale,
    }
    try:
        return _ops.grouped_gemm_quantized(
            a,
            packed.values,
            packed.scale,
            packed.codes,
            expert_offsets,
            row_index,
            packed.weight_format,
            packed.group_size,
            w_input=w_input,
            top_k=top_k,
            epilogue=number,
            **options,
            tactic=tactic,
        )
    except RuntimeError:
        chosen = EpilogueOptions(**options)
        _shapes.grouped_gemm_quantized(a, packed, expert_offsets, row_index, top_k, number, chosen)
        _require_tactics(op, tactic=tactic)
        _require_kernels(op, "a", a)
        raise


def _layer_tensors(
    op: str,
    w13: PackedWeight,
    w2: PackedWeight,
    w13_input: torch.Tensor | None,
    w2_input: torch.Tensor | None,
) -> tuple[PackedTensors, PackedTensors]:
    tensors = _tensors(op, "w13", w13, w13_input), _tensors(op, "w2", w2, w2_input)
    if w13.scheme != w2.scheme:
        raise ValueError(f"{op}: w2 must be {w13.scheme} like w13, got {w2.scheme}")
    return tensors


def _layer_arguments(
    w13: PackedTensors, w2: PackedTensors, topk_weights: torch.Tensor, topk_ids: torch.Tensor
) -> tuple[Any, ...]:
    """What the operators take after the activations."""
    parts = (w13.values, w13.scale, w13.codes, w2.values, w2.scale, w2.codes)
    return (*parts, topk_weights, topk_ids, w13.weight_format, w13.group_size)


def quantize_activations(
    a: torch.Tensor, input_range: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Store rows as int8: `a[s, k] = (values[s, k] - zero_point) * scale[s]`, rounded.

    Without a range the zero point is 0, and a row's largest magnitude becomes 127.

    Args:
        a: `[S, K]`, float16 or bfloat16; K a multiple of 8, 65536 at most, strides multiples of 8.
        input_range: `[2]`, float32, on the device of `a`: a scale, finite and positive, and a zero
            point, an integer of -128 to 127, of all rows; or None.

    Returns:
        values: `[S, K]`, int8, contiguous.
        scale: `[S]`, float32: `max(abs(a[s])) * (1 / 127)`, or the range's.

    Raises:
        ValueError: a shape, stride or device is another one.
        TypeError: a dtype is another one.
        RuntimeError: as in `grouped_gemm`.

    Numerics:
        `round(a * (1 / scale)) + zero_point` within -128 to 127, each operation rounded to float32,
        ties to even: the same bits on every device. Rows of zeros have a tiny scale, and so do
        rows below 2 ** -119. NaN or infinity in a row makes its scale NaN or infinity; with a
        range infinity saturates and NaN becomes the lowest number.

    Behaviour:
        One kernel on the current stream; nothing else is allocated, nothing waits.

    Source:
        `kernels/quantize/quantize.cu`; the specification is `reference.quantize_activations`.

    Example:
        >>> values, scale = quantize_activations(torch.arange(8).half()[None])
        >>> values.tolist()
        [[0, 18, 36, 54, 73, 91, 109, 127]]
    """
    try:
        return _ops.quantize_activations(a, input_range)  # type: ignore[return-value]
    except RuntimeError:
        _shapes.quantize_activations(a, input_range)
        _require_kernels("quantize_activations", "a", a)
        raise


def _tensors(
    op: str, name: str, weight: PackedWeight, input_range: torch.Tensor | None
) -> PackedTensors:
    # Who has a packed weight has imported the module that it is of.
    from torch_sm80moe.quantization.packing import PackedWeight

    if not isinstance(weight, PackedWeight):
        raise TypeError(
            f"{op}: {name} must be a PackedWeight (quantization.pack makes one), "
            f"got {type(weight).__name__}"
        )
    is_static = weight.scheme.activation == "int8_static"
    if is_static != (input_range is not None):
        wanted, given = ("a tensor", "None") if is_static else ("None", "a tensor")
        raise ValueError(
            f"{op}: {name}_input must be {wanted} with {weight.scheme} weights, got {given}"
        )
    return weight.tensors(input_range)
