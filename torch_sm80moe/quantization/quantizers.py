"""Quantises a 16-bit weight, expert by expert.

What shares a scale is called a unit. An expert's weight becomes a matrix with a unit in each row,
and everything here treats rows alike, whatever the scheme says a unit is.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from torch_sm80moe.quantization.experts import QuantizedExperts, StaticActivation, divide
from torch_sm80moe.quantization.scheme import PER_TENSOR, QuantScheme
from torch_sm80moe.quantization.weights import (
    E2M1_VALUES,
    E8M0_BIAS,
    VALUE_DTYPES,
    VALUE_RANGES,
    QuantizedWeight,
    e2m1_to_float,
    e8m0_to_float,
)

METHODS = ("absmax", "mse")
E4M3_MAX = 448.0
E2M1_MAX = 6.0

_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
# The share of a unit's range that "mse" tries to represent; what lies outside saturates.
_SHARES = tuple(1 - step / 50 for step in range(1, 35))
_POWERS = (0.5, 0.25)  # of scales that are powers of two
_LARGEST_EXPONENT = 125  # 6 times its power is finite in float32
_SMALLEST_SCALE = torch.finfo(torch.float32).tiny


class _Ends(NamedTuple):
    """The ends of the range of each unit, `[U, 1]`."""

    least: torch.Tensor
    most: torch.Tensor

    @property
    def largest(self) -> torch.Tensor:
        """How far the range reaches from zero."""
        return torch.maximum(-self.least, self.most)


class _Stored(NamedTuple):
    """Units as they are stored: values `[U, S]`, the rest `[U, 1]`."""

    values: torch.Tensor
    scale: torch.Tensor
    zero_point: torch.Tensor | None


def quantize(
    weight: torch.Tensor, scheme: QuantScheme, *, method: str = "absmax"
) -> QuantizedWeight:
    """Quantise a weight, with float32 copies of one expert at a time.

    Args:
        weight: `[E, N, K]`, float16, bfloat16 or float32, finite.
        scheme: how; only what it says about weights matters here.
        method: "absmax" chooses the smallest scales at which nothing saturates. "mse" chooses
            among those and smaller ones the scales with the least sum of squared errors; what
            lies outside takes the end of the range: -128, 127, -8, 7, 448 or 6 (times the scale).

    Returns:
        The weight on the same device. Values are rounded to the nearest, ties to even. Where all
        that shares a scale is zero, the scale is 1.

    Raises:
        TypeError: the dtype is another one.
        ValueError: a shape does not fit the scheme, or a weight is NaN or infinite.

    Example:
        >>> weight = torch.tensor([[[0.6, -1.0]]])
        >>> quantize(weight, QuantScheme.parse("w4a16")).values
        tensor([[[ 4, -7]]], dtype=torch.int8)
    """
    if method not in METHODS:
        raise ValueError(f"quantize: method must be one of {METHODS}, got {method}")
    if weight.dtype not in _DTYPES:
        raise TypeError(f"quantize: weight must be one of {_DTYPES}, got {weight.dtype}")
    if weight.dim() != 3 or 0 in weight.shape:
        raise ValueError(f"quantize: weight must have shape [E, N, K], got {list(weight.shape)}")
    num_experts, n, k = weight.shape
    scale_shape = scheme.scale_shape((num_experts, n, k))
    is_mxfp4 = scheme.weight_format == "mxfp4"
    device = weight.device
    values = torch.empty(weight.shape, dtype=VALUE_DTYPES[scheme.weight_format], device=device)
    scale = torch.empty(
        scale_shape, dtype=torch.uint8 if is_mxfp4 else torch.float32, device=device
    )
    zero_point = None
    if not scheme.symmetric:
        zero_point = torch.empty(scale_shape, dtype=torch.int8, device=device)
    for expert in range(num_experts):
        stored = _quantize_units(_units(_finite(weight, expert), scheme), scheme, method)
        values[expert] = _matrix(stored.values, scheme, (n, k))
        scale[expert] = stored.scale.reshape(scale_shape[1:])
        if zero_point is not None and stored.zero_point is not None:
            zero_point[expert] = stored.zero_point.reshape(scale_shape[1:])
    return QuantizedWeight(values, scale, zero_point, scheme)


def quantize_experts(
    w13: torch.Tensor,
    w2: torch.Tensor,
    scheme: QuantScheme,
    *,
    method: str = "absmax",
    inputs: tuple[StaticActivation, StaticActivation] | None = None,
) -> QuantizedExperts:
    """Quantise both weights of a layer, `[E, 2I, H]` and `[E, H, I]`; see `quantize`.

    Args:
        w13: gate rows, then up rows.
        w2: the down weight.
        scheme: how.
        method: how scales are chosen.
        inputs: for static schemes how the inputs of both GEMMs are stored.
    """
    return QuantizedExperts(
        quantize(w13.detach(), scheme, method=method),
        quantize(w2.detach(), scheme, method=method),
        *(inputs or (None, None)),
    )


def _finite(weight: torch.Tensor, expert: int) -> torch.Tensor:
    matrix = weight[expert].float()
    wrong = ~matrix.isfinite()
    if wrong.any():
        n, k = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"quantize: weight must be finite, got {matrix[n, k].item()} at {[expert, n, k]}"
        )
    return matrix


def _units(matrix: torch.Tensor, scheme: QuantScheme) -> torch.Tensor:
    """Return the units `[U, S]` of a matrix `[N, K]`, in the order of their scales."""
    n, k = matrix.shape
    if scheme.block is not None:
        rows, columns = scheme.block
        padded = torch.nn.functional.pad(matrix, (0, -k % columns, 0, -n % rows))
        blocks = padded.reshape(-(-n // rows), rows, -(-k // columns), columns)
        return blocks.transpose(1, 2).reshape(-1, rows * columns)
    if scheme.group_size > 0:
        return matrix.reshape(-1, scheme.group_size)
    return matrix.reshape(1, -1) if scheme.group_size == PER_TENSOR else matrix


def _matrix(units: torch.Tensor, scheme: QuantScheme, shape: tuple[int, int]) -> torch.Tensor:
    """Return the matrix `[N, K]` of units: the inverse of `_units`."""
    n, k = shape
    if scheme.block is None:
        return units.reshape(shape)
    rows, columns = scheme.block
    blocks = units.reshape(-(-n // rows), -(-k // columns), rows, columns)
    return blocks.transpose(1, 2).reshape(-(-n // rows) * rows, -1)[:n, :k]


def _quantize_units(units: torch.Tensor, scheme: QuantScheme, method: str) -> _Stored:
    ends = _Ends(*units.aminmax(dim=1, keepdim=True))
    if method == "mse":
        share = _best_share(units, ends, scheme)
        ends = _Ends(ends.least * share, ends.most * share)
    return _store(units, ends, scheme)


def _best_share(units: torch.Tensor, ends: _Ends, scheme: QuantScheme) -> torch.Tensor:
    """Return how much of its range each unit should represent, `[U, 1]`."""
    best = torch.ones_like(ends.most)
    smallest = _squared_error(units, _store(units, ends, scheme), scheme)
    for share in _POWERS if scheme.weight_format == "mxfp4" else _SHARES:
        stored = _store(units, _Ends(ends.least * share, ends.most * share), scheme)
        error = _squared_error(units, stored, scheme)
        best = torch.where(error < smallest, share, best)
        smallest = torch.minimum(error, smallest)
    return best


def _squared_error(units: torch.Tensor, stored: _Stored, scheme: QuantScheme) -> torch.Tensor:
    if scheme.weight_format == "mxfp4":
        meant = e2m1_to_float(stored.values).mul_(e8m0_to_float(stored.scale))
    else:
        meant = stored.values.float()
        if stored.zero_point is not None:
            meant -= stored.zero_point
        meant *= stored.scale
    return meant.sub_(units).square_().sum(dim=1, keepdim=True)


def _store(units: torch.Tensor, ends: _Ends, scheme: QuantScheme) -> _Stored:
    """Round units with scales at which nothing between the ends saturates."""
    if scheme.weight_format == "mxfp4":
        return _store_mxfp4(units, ends)
    if scheme.weight_format == "fp8":
        scale = _scale(ends.largest, E4M3_MAX)
        # Before torch 2.13 what does not fit becomes NaN in a cast.
        values = (units / scale).clamp_(-E4M3_MAX, E4M3_MAX)
        return _Stored(values.to(torch.float8_e4m3fn), scale, None)
    low, high = VALUE_RANGES[scheme.weight_format]
    if scheme.symmetric:
        scale = _scale(ends.largest, high)
        return _Stored((units / scale).round_().clamp_(low, high).char(), scale, None)
    # Zero is in the range, and so are zero points.
    least, most = ends.least.clamp(max=0), ends.most.clamp(min=0)
    scale = _scale(most - least, high - low)
    zero_point = (low - least / scale).round().clamp(low, high)
    values = (units / scale).round_().add_(zero_point).clamp_(low, high)
    return _Stored(values.char(), scale, zero_point.char())


def _scale(extent: torch.Tensor, steps: float) -> torch.Tensor:
    return torch.where(extent > 0, divide(extent, steps).clamp(min=_SMALLEST_SCALE), 1.0)


def _store_mxfp4(units: torch.Tensor, ends: _Ends) -> _Stored:
    largest = ends.largest
    # largest / 6 is mantissa * 2 ** exponent with a mantissa from 0.5 up to 1, not included.
    mantissa, exponent = torch.frexp(divide(largest, E2M1_MAX))
    exponent = torch.where(mantissa == 0.5, exponent - 1, exponent)
    exponent = torch.where(largest > 0, exponent, 0)
    scale = (exponent.clamp(-E8M0_BIAS, _LARGEST_EXPONENT) + E8M0_BIAS).to(torch.uint8)
    return _Stored(_to_e2m1(units / e8m0_to_float(scale)), scale, None)


def _to_e2m1(values: torch.Tensor) -> torch.Tensor:
    """Return the codes of the nearest numbers, ties to even, saturated."""
    size = values.abs().clamp(max=E2M1_MAX)
    step = torch.where(size < 2, 0.5, torch.where(size < 4, 1.0, 2.0))
    sizes = torch.tensor(E2M1_VALUES[:8], device=values.device)
    codes = torch.searchsorted(sizes, (size / step).round() * step)
    return (codes + 8 * values.signbit()).to(torch.uint8)
