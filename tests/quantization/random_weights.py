"""Quantised weights of any scheme, made of random stored numbers."""

from __future__ import annotations

import math

import torch

from torch_sm80moe.quantization import SCHEMES, PackedWeight, QuantizedWeight, QuantScheme, pack
from torch_sm80moe.quantization.weights import VALUE_RANGES

# Those that meet 16-bit activations.
SCHEMES_16BIT = [name for name in SCHEMES if QuantScheme.parse(name).activation == "16bit"]
_E4M3_LARGEST = 0x7E  # 448; the next code is NaN


def random_weight(
    name: str, num_experts: int, n: int, k: int, device: torch.device | str = "cpu"
) -> QuantizedWeight:
    """Make a weight whose rows have about unit length; scales differ by up to 4, or 2 ** 3."""
    scheme = QuantScheme.parse(name)
    scale_shape = scheme.scale_shape((num_experts, n, k))
    values = random_values(scheme.weight_format, (num_experts, n, k), device)
    zero_point = None
    if not scheme.symmetric:
        zero_point = random_values(scheme.weight_format, scale_shape, device)
    if scheme.weight_format == "mxfp4":
        scale = torch.randint(114, 118, scale_shape, dtype=torch.uint8, device=device)
    else:
        largest = {"int8": 128, "int4": 8, "fp8": 448}[scheme.weight_format]
        spread = 1 + 3 * torch.rand(scale_shape, device=device)
        scale = spread / (largest * math.sqrt(k))
    return QuantizedWeight(values, scale, zero_point, scheme)


def random_values(
    weight_format: str, shape: tuple[int, ...], device: torch.device | str
) -> torch.Tensor:
    """Return any of the numbers that a format stores."""
    if weight_format == "fp8":
        codes = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
        return codes.where((codes & 0x7F) <= _E4M3_LARGEST, 0).view(torch.float8_e4m3fn)
    low, high = VALUE_RANGES[weight_format]
    dtype = torch.uint8 if weight_format == "mxfp4" else torch.int8
    return torch.randint(low, high + 1, shape, dtype=dtype, device=device)


def random_packed(
    name: str, num_experts: int, n: int, k: int, device: torch.device | str = "cpu"
) -> tuple[PackedWeight, torch.Tensor]:
    """Make a packed weight, and what it means in float32."""
    weight = random_weight(name, num_experts, n, k, device)
    return pack(weight), weight.dequantize()
