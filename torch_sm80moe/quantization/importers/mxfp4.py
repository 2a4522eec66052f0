"""MXFP4 experts of gpt-oss: `*_blocks [E, N, K / 32, 16]` and `*_scales [E, N, K / 32]`, uint8.

A byte holds two neighbours along K, the even one in its low half. The rows of `gate_up_proj`
alternate: gate, up, gate, up. Its experts also have biases and a clamped activation, which
`fused_moe` does not compute: this reads the weights alone.
"""

from __future__ import annotations

import torch

from torch_sm80moe.quantization import state
from torch_sm80moe.quantization.scheme import MXFP4_GROUP_SIZE, QuantScheme
from torch_sm80moe.quantization.weights import QuantizedWeight


def read_mxfp4(
    blocks: torch.Tensor, scales: torch.Tensor, *, is_gate_up: bool = False
) -> QuantizedWeight:
    """Return the weight `[E, N, K]` of blocks and scales.

    Args:
        blocks: uint8 `[E, N, K / 32, 16]`.
        scales: uint8 `[E, N, K / 32]`, e8m0.
        is_gate_up: whether rows alternate between gate and up; then the result has the gate rows
            first, then the up rows.

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
    if is_gate_up:
        blocks, scales = (
            torch.cat((rows[:, 0::2], rows[:, 1::2]), dim=1) for rows in (blocks, scales)
        )
    values = state.from_nibbles(blocks.flatten(2), torch.uint8)
    scheme = QuantScheme("mxfp4", group_size=MXFP4_GROUP_SIZE)
    return QuantizedWeight(values, scales.contiguous(), None, scheme)
