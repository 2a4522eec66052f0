"""What interfaces share: errors in the caller's words, and arguments that must stay as they are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from torch_sm80moe import _ops, _shapes


def reworded(error: Exception, op: str, names: Mapping[str, str]) -> Exception:
    """Return an operator's error as one of `op`, which has other names for its arguments.

    An error that no operator of this package made comes back as it is.
    """
    who, _, sentence = str(error).partition(": ")
    if who not in _ops.OPERATOR_NAMES:
        return error
    known = re.compile(rf"\b({'|'.join(names)})\b")
    return type(error)(f"{op}: " + known.sub(lambda word: names[word[0]], sentence))


def require_defaults(op: str, defaults: Mapping[str, Any], **given: Any) -> None:
    """Refuse, by name, an argument that asks for what there is not."""
    for name, value in given.items():
        if value is defaults[name]:  # the rule, and quickly found
            continue
        if isinstance(value, torch.Tensor) or value != defaults[name]:
            got = value if isinstance(value, (bool, int, str)) else type(value).__name__
            raise ValueError(f"{op}: {name} must be {defaults[name]}, got {got}")


def require_tensors(op: str, **given: Any) -> None:
    """Refuse what has neither a dtype nor a size."""
    for name, value in given.items():
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"{op}: {name} must be a tensor, got {type(value).__name__}")


def router_weights(topk_weights: torch.Tensor) -> torch.Tensor:
    """Return the weights in float32, whatever floating type they have."""
    if isinstance(topk_weights, torch.Tensor) and topk_weights.is_floating_point():
        return topk_weights.float()
    return topk_weights


def require_same_dtype(op: str, name: str, dtype: torch.dtype, like: str, wanted: Any) -> None:
    """Refuse a dtype that is not that of the activations."""
    if dtype != wanted:
        raise TypeError(
            f"{op}: {name} must be {_shapes.dtype_name(wanted)} like {like}, "
            f"got {_shapes.dtype_name(dtype)}"
        )
