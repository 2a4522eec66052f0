"""How weights are stored, by their dtype: what runs the layer, and what runs one GEMM.

A further format is a further entry of `_FORMATS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from torch_sm80moe import _shapes, functional


@dataclass(frozen=True)
class WeightFormat:
    """Functions with the arguments of `fused_moe`, `fused_moe_out` and `grouped_gemm`."""

    layer: Callable[..., torch.Tensor]
    layer_out: Callable[..., torch.Tensor]
    gemm: Callable[..., torch.Tensor]
    num_tactics: int  # of each of the two GEMMs


_SIXTEEN_BIT = WeightFormat(
    layer=functional.fused_moe,
    layer_out=functional.fused_moe_out,
    gemm=functional.grouped_gemm,
    num_tactics=len(functional.tactic_table()),
)
_FORMATS = {torch.float16: _SIXTEEN_BIT, torch.bfloat16: _SIXTEEN_BIT}


def format_of(op: str, name: str, weight_dtype: torch.dtype) -> WeightFormat:
    """Return what runs weights of this dtype; `name` is the caller's name of the dtype's source."""
    if weight_dtype not in _FORMATS:
        known = " or ".join(_shapes.dtype_name(dtype) for dtype in _FORMATS)
        raise TypeError(f"{op}: {name} must be {known}, got {_shapes.dtype_name(weight_dtype)}")
    return _FORMATS[weight_dtype]
