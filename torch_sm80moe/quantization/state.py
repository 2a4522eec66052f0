"""The tensors that a layer's quantised experts are on disk and in state dicts, and back.

Names follow the attributes of `QuantizedExperts`: `w13.values`, `w13.scale`, `w13.zero_point`, the
same of `w2`, and `w13_input.scale`, `w13_input.zero_point`, the same of `w2_input`. Formats of four
bits are stored two in a byte: that of the even k in the low half.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from torch_sm80moe.quantization.experts import QuantizedExperts, StaticActivation
from torch_sm80moe.quantization.scheme import QuantScheme
from torch_sm80moe.quantization.weights import VALUE_DTYPES, QuantizedWeight

_WEIGHTS = ("w13", "w2")
_INPUTS = ("w13_input", "w2_input")


def to_tensors(experts: QuantizedExperts) -> dict[str, torch.Tensor]:
    """Return the tensors of a layer by name."""
    tensors = {}
    for name in _WEIGHTS:
        weight: QuantizedWeight = getattr(experts, name)
        is_half_byte = weight.scheme.bits == 4
        tensors[f"{name}.values"] = to_nibbles(weight.values) if is_half_byte else weight.values
        tensors[f"{name}.scale"] = weight.scale
        if weight.zero_point is not None:
            tensors[f"{name}.zero_point"] = weight.zero_point
    for name in _INPUTS:
        activation: StaticActivation | None = getattr(experts, name)
        if activation is not None:
            tensors[f"{name}.scale"] = torch.tensor(activation.scale)
            tensors[f"{name}.zero_point"] = torch.tensor(activation.zero_point, dtype=torch.int8)
    return tensors


def tensor_specs(
    scheme: QuantScheme,
    num_experts: int,
    hidden_size: int,
    intermediate_size: int,
    *,
    gated: bool = True,
) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Return shape and dtype of each tensor that `to_tensors` makes of such a layer."""
    specs: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
    shapes = {
        "w13": (num_experts, (2 if gated else 1) * intermediate_size, hidden_size),
        "w2": (num_experts, hidden_size, intermediate_size),
    }
    is_half_byte = scheme.bits == 4
    for name, (_, n, k) in shapes.items():
        stored = (num_experts, n, k // 2 if is_half_byte else k)
        dtype = torch.uint8 if is_half_byte else VALUE_DTYPES[scheme.weight_format]
        scale_shape = scheme.scale_shape((num_experts, n, k))
        scale_dtype = torch.uint8 if scheme.weight_format == "mxfp4" else torch.float32
        specs[f"{name}.values"] = (stored, dtype)
        specs[f"{name}.scale"] = (scale_shape, scale_dtype)
        if not scheme.symmetric:
            specs[f"{name}.zero_point"] = (scale_shape, torch.int8)
    if scheme.activation == "int8_static":
        for name in _INPUTS:
            specs[f"{name}.scale"] = ((), torch.float32)
            specs[f"{name}.zero_point"] = ((), torch.int8)
    return specs


def from_tensors(tensors: Mapping[str, torch.Tensor], scheme: QuantScheme) -> QuantizedExperts:
    """Return the layer whose tensors these are: the inverse of `to_tensors`.

    Raises:
        TypeError: a dtype does not fit the scheme.
        ValueError: a tensor is missing, is of another scheme, or does not fit it.
    """
    w13, w2 = (_weight(tensors, name, scheme) for name in _WEIGHTS)
    inputs = [_activation(tensors, name) for name in _INPUTS]
    experts = QuantizedExperts(w13, w2, *inputs)
    unknown = sorted(tensors.keys() - tensor_specs(scheme, *w2.shape).keys())
    if unknown:
        raise ValueError(f"{scheme}: tensors must be those of the scheme, got {unknown[0]} too")
    return experts


def _weight(tensors: Mapping[str, torch.Tensor], name: str, scheme: QuantScheme) -> QuantizedWeight:
    for part in ("values", "scale"):
        if f"{name}.{part}" not in tensors:
            raise ValueError(f"{scheme}: {name}.{part} must be among the tensors, got none")
    values = tensors[f"{name}.values"]
    if scheme.bits == 4:
        if values.dtype != torch.uint8:
            raise TypeError(f"{scheme}: {name}.values must be torch.uint8, got {values.dtype}")
        values = from_nibbles(values, VALUE_DTYPES[scheme.weight_format])
    zero_point = tensors.get(f"{name}.zero_point")
    return QuantizedWeight(values, tensors[f"{name}.scale"], zero_point, scheme)


def _activation(tensors: Mapping[str, torch.Tensor], name: str) -> StaticActivation | None:
    scale, zero_point = tensors.get(f"{name}.scale"), tensors.get(f"{name}.zero_point")
    if scale is None or zero_point is None:
        return None
    return StaticActivation(float(scale), int(zero_point))


def to_nibbles(values: torch.Tensor) -> torch.Tensor:
    """Store the low four bits of int8 or uint8 `[..., K]` two in a byte: uint8 `[..., K / 2]`."""
    codes = values.view(torch.uint8) & 0xF
    return codes[..., 0::2] | (codes[..., 1::2] << 4)


def from_nibbles(stored: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return `[..., K]` of what `to_nibbles` stored; for int8 with the sign of four bits."""
    codes = torch.stack((stored & 0xF, stored >> 4), dim=-1).flatten(-2)
    if dtype == torch.int8:
        return (codes.view(torch.int8) ^ 8) - 8
    return codes
