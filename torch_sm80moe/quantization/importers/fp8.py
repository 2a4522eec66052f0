"""FP8 checkpoints in the manner of DeepSeek and Qwen3: `weight` e4m3 and `weight_scale_inv`.

Despite its name the latter is what the stored numbers are multiplied with: one number per 128 x
128 block, or one per tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from torch_sm80moe.quantization.importers.linear import Linear, Tensors, require
from torch_sm80moe.quantization.scheme import FP8_BLOCK, PER_TENSOR, QuantScheme
from torch_sm80moe.quantization.weights import QuantizedWeight


@dataclass(frozen=True)
class Fp8Reader:
    """Reads checkpoints with scales per block, or per tensor."""

    scheme: QuantScheme
    marker: str = "weight_scale_inv"

    def read(self, tensors: Tensors, module: str) -> Linear:
        """Return one layer; `module` does not matter."""
        values = require(tensors, "weight", torch.float8_e4m3fn)[None].contiguous()
        scale = require(tensors, "weight_scale_inv").float()  # from e8m0 and bfloat16, too
        if self.scheme.block is None:
            scale = scale.reshape(1, 1)
        return Linear(QuantizedWeight(values, scale[None].contiguous(), None, self.scheme))


def reader(config: Mapping[str, Any]) -> Fp8Reader:
    """Return the reader of a checkpoint with this `quantization_config`."""
    block = config.get("weight_block_size")
    if block is None:
        return Fp8Reader(QuantScheme("fp8", group_size=PER_TENSOR))
    if tuple(block) != FP8_BLOCK:
        raise ValueError(f"import: weight_block_size must be [128, 128], got {block}")
    return Fp8Reader(QuantScheme("fp8", block=FP8_BLOCK))
