"""Makes the weights of a layer's experts from those of single projections, without loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from torch_sm80moe.quantization.experts import StaticActivation, store_range
from torch_sm80moe.quantization.scheme import FP8_BLOCK, PER_CHANNEL, PER_TENSOR
from torch_sm80moe.quantization.weights import QuantizedWeight


def join_rows(weights: Sequence[QuantizedWeight]) -> QuantizedWeight:
    """Return the weight that holds the rows of one, then those of the next: of gate and up.

    Scales per tensor become scales per channel, because they may differ.

    Raises:
        ValueError: the schemes differ, or a block would hold rows of both.
    """
    _require_same_scheme(weights)
    for weight in weights[:-1]:
        if weight.scheme.block is not None and weight.shape[1] % FP8_BLOCK[0] != 0:
            raise ValueError(
                f"{weight.scheme}: gate must have a multiple of {FP8_BLOCK[0]} rows, "
                f"got {weight.shape[1]}"
            )
    return _concatenate([per_channel(weight) for weight in weights], dim=1)


def stack(weights: Sequence[QuantizedWeight]) -> QuantizedWeight:
    """Return the weight of all experts of all weights, in their order.

    Raises:
        ValueError: the schemes differ, or there are no weights.
    """
    if not weights:
        raise ValueError("stack: weights must hold one or more, got none")
    _require_same_scheme(weights)
    return _concatenate(weights, dim=0)


def per_channel(weight: QuantizedWeight) -> QuantizedWeight:
    """Return the same numbers with a scale per channel instead of one per tensor."""
    if weight.scheme.block is not None or weight.scheme.group_size != PER_TENSOR:
        return weight
    n = weight.shape[1]
    zero_point = weight.zero_point
    return QuantizedWeight(
        weight.values,
        weight.scale.repeat(1, n, 1),
        None if zero_point is None else zero_point.repeat(1, n, 1),
        replace(weight.scheme, group_size=PER_CHANNEL),
    )


def widest(activations: Sequence[StaticActivation | None]) -> StaticActivation | None:
    """Return what represents the range of each, because experts of a layer share their input.

    Returns:
        None if there are none.

    Raises:
        ValueError: some are there and some are None.
    """
    found = [activation for activation in activations if activation is not None]
    if not found:
        return None
    if len(found) != len(activations):
        raise ValueError("join: all inputs must be calibrated, got some that are not")
    if all(activation.zero_point == 0 for activation in found):
        return StaticActivation(max(activation.scale for activation in found))
    return store_range(
        min((-128 - activation.zero_point) * activation.scale for activation in found),
        max((127 - activation.zero_point) * activation.scale for activation in found),
    )


def _require_same_scheme(weights: Sequence[QuantizedWeight]) -> None:
    first = weights[0].scheme
    for weight in weights:
        if weight.scheme != first:
            raise ValueError(
                f"join: all weights must be {first} like the first, got {weight.scheme}"
            )


def _concatenate(weights: Sequence[QuantizedWeight], dim: int) -> QuantizedWeight:
    first = weights[0]
    zero_points = [weight.zero_point for weight in weights if weight.zero_point is not None]
    # Concatenated as bytes, because float8 has few operators.
    values = torch.cat([weight.values.view(torch.uint8) for weight in weights], dim)
    return QuantizedWeight(
        values.view(first.values.dtype),
        torch.cat([weight.scale for weight in weights], dim),
        torch.cat(zero_points, dim) if zero_points else None,
        first.scheme,
    )
