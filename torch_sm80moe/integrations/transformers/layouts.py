"""The weights of an experts module as the operators take them, however the module stores them."""

from __future__ import annotations

from typing import Any

import torch


def weights_of(experts: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the weights of the two GEMMs as the module holds them."""
    return getattr(experts, _first(experts)), experts.down_proj


def biases_of(experts: Any) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Return the biases of the two GEMMs, `[E, 2I]` or `[E, I]`, and `[E, H]`."""
    if not experts.has_bias:
        return None, None
    return getattr(experts, f"{_first(experts)}_bias"), experts.down_proj_bias


def tensors_of(experts: Any) -> list[torch.Tensor]:
    """Return all of them."""
    tensors = (*weights_of(experts), *biases_of(experts))
    return [tensor for tensor in tensors if tensor is not None]


def rows_of(experts: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `w13 [E, 2I, H]` or `[E, I, H]` and `w2 [E, H, I]`, without a copy."""
    w13, w2 = weights_of(experts)
    return (w13.transpose(1, 2), w2.transpose(1, 2)) if experts.is_transposed else (w13, w2)


def pack(experts: Any) -> None:
    """Store transposed weights `[E, K, N]` so that K runs fastest; shape and values stay.

    The values move to new memory, one weight at a time, and not within the old, which others may
    share: a state_dict that was taken before, or the copy that offloaded weights come from.
    """
    if experts.is_transposed:
        for weight in weights_of(experts):
            weight.data = weight.data.transpose(1, 2).contiguous().transpose(1, 2)


def are_packed(experts: Any) -> bool:
    """Return whether there is nothing to pack."""
    return not experts.is_transposed or all(w.stride(1) == 1 for w in weights_of(experts))


def _first(experts: Any) -> str:
    return "gate_up_proj" if experts.has_gate else "up_proj"
