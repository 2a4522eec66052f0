"""What all readers share: the linear layer that they return, and how they complain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import torch

from torch_sm80moe.quantization.experts import StaticActivation
from torch_sm80moe.quantization.weights import QuantizedWeight

Tensors = Mapping[str, torch.Tensor]


class Linear(NamedTuple):
    """One linear layer: its weight `[1, N, K]`, and how its input is stored if that is static."""

    weight: QuantizedWeight
    input: StaticActivation | None = None


class Reader(Protocol):
    """What reads linear layers of one checkpoint."""

    @property
    def marker(self) -> str:
        """The name of a tensor that every quantised layer has, and no other layer."""

    def read(self, tensors: Tensors, module: str) -> Linear:
        """Return a layer of the tensors that its module has, by the last part of their names.

        Raises:
            ValueError: a tensor is missing, or is not what the checkpoint's settings say.
        """


def require(tensors: Tensors, name: str, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Return a tensor, or say that it is missing or of another dtype."""
    if name not in tensors:
        raise ValueError(f"import: {name} must be among the tensors, got {sorted(tensors)}")
    tensor = tensors[name]
    if dtype is not None and tensor.dtype != dtype:
        raise TypeError(f"import: {name} must be {dtype}, got {tensor.dtype}")
    return tensor


def require_in_order(g_idx: torch.Tensor | None, group_size: int) -> None:
    """Refuse groups that are not neighbours along K, as act-order makes them."""
    if g_idx is None or g_idx.numel() == 0:
        return
    in_order = torch.arange(g_idx.numel(), device=g_idx.device) // group_size
    # compressed-tensors stores -1 throughout where there is no order.
    if not (torch.equal(g_idx.long(), in_order) or bool((g_idx == -1).all())):
        raise ValueError(
            "import: g_idx must put neighbours into a group, got groups in activation order"
        )


def unpack_int32(packed: torch.Tensor, bits: int, dim: int) -> torch.Tensor:
    """Return the unsigned numbers, as uint8, of words that hold 32 / bits each, lowest bits first.

    Args:
        packed: int32.
        bits: 4 or 8.
        dim: the dimension that grows by 32 / bits.
    """
    moved = packed.movedim(dim, -1)
    shifts = torch.arange(0, 32, bits, dtype=torch.int32, device=packed.device)
    numbers = (moved[..., None] >> shifts) & (2**bits - 1)
    unpacked: torch.Tensor = numbers.flatten(-2).to(torch.uint8).movedim(-1, dim)
    return unpacked


def to_signed(numbers: torch.Tensor, bits: int) -> torch.Tensor:
    """Return unsigned numbers as int8 around zero: 0 becomes the least one."""
    around_zero: torch.Tensor = numbers.short() - 2 ** (bits - 1)
    return around_zero.to(torch.int8)
