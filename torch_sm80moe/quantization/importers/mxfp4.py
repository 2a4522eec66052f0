"""MXFP4 experts of gpt-oss: `*_blocks [E, N, K / 32, 16]` and `*_scales [E, N, K / 32]`, uint8.

A byte holds two neighbours along K, the even one in its low half. Rows stay as they are: those of
`gate_up_proj` alternate, and `fused_moe_quantized` takes them with `gate_up_order="interleaved"`.
"""

from __future__ import annotations

import torch

from torch_sm80moe.quantization import state
from torch_sm80moe.quantization.scheme import MXFP4_GROUP_SIZE, QuantScheme
from torch_sm80moe.quantization.weights import QuantizedWeight


def read_mxfp4(blocks: torch.Tensor, scales: torch.Tensor) -> QuantizedWeight:
    """Return the weight `[E, N, K]` of blocks and scales.

    Args:
        blocks: uint8 `[E, N, K / 32, 16]`.
        scales: uint8 `[E, N, K / 32]`, e8m0.

    Raises:
        TypeError: a dtype is not uint8.
        ValueError: the shapes do not belong together, or a scale is NaN.
    """
    for name, tensor in (("blocks", blocks), ("scales", scales)):
        if tensor.dtype != torch.uint8:
            raise TypeError(f"import: {name} must be torch.uint8, got {tensor.dtype}")
    if blocks.dim() != 4 or blocks.size(3) != MXFP4_GROUP_SIZE // 2:
        raise ValueError(
            f"import: blocks must have shape [E, N, K / 32, 16], got {list(blocks.shape)}"
        )
    values = state.from_nibbles(blocks.flatten(2), torch.uint8)
    scheme = QuantScheme("mxfp4", group_size=MXFP4_GROUP_SIZE)
    return QuantizedWeight(values, scales.contiguous(), None, scheme)
