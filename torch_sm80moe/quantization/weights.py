"""A quantised weight in its canonical form, one value an element: the specification of the numbers.

Quantisers, importers and files make it, packing turns it into what the kernels read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from torch_sm80moe.quantization.scheme import QuantScheme

VALUE_DTYPES = {
    "int8": torch.int8,
    "int4": torch.int8,
    "fp8": torch.float8_e4m3fn,
    "mxfp4": torch.uint8,
}
VALUE_RANGES = {"int8": (-128, 127), "int4": (-8, 7), "mxfp4": (0, 15)}
# What the codes 0 to 15 of e2m1 mean: a sign, two bits of exponent, one of mantissa.
E2M1_VALUES = (
    0.0,
    0.5,
    1.0,
    1.5,
    2.0,
    3.0,
    4.0,
    6.0,
    -0.0,
    -0.5,
    -1.0,
    -1.5,
    -2.0,
    -3.0,
    -4.0,
    -6.0,
)
E8M0_BIAS = 127
E8M0_NAN = 255
_E4M3_NAN = 0x7F  # with either sign


@dataclass(frozen=True, eq=False)
class QuantizedWeight:
    """One weight of all experts, `[E, N, K]`, as stored numbers and their scales.

    Args:
        values: `[E, N, K]`, contiguous. int8: -128 to 127 for int8, -8 to 7 for int4 (one a byte);
            float8_e4m3fn for fp8; uint8 codes 0 to 15 of e2m1 for mxfp4.
        scale: `scheme.scale_shape((E, N, K))`, contiguous; float32, finite and positive. For mxfp4
            uint8, e8m0: a code c means 2 ** (c - 127), 255 is NaN and not allowed.
        zero_point: None if the scheme is symmetric, else int8 of the scale's shape, in the range of
            the values.
        scheme: what all this means.

    The weight is `(values - zero_point) * scale`; scales repeat along the N and K that share them.

    Raises:
        TypeError: a dtype is another one.
        ValueError: a shape, a value or a device is another one.

    Example:
        >>> values = torch.tensor([[[1, -8]]], dtype=torch.int8)
        >>> scheme = QuantScheme.parse("w4a16")
        >>> QuantizedWeight(values, torch.full((1, 1, 1), 0.5), None, scheme).dequantize()
        tensor([[[ 0.5000, -4.0000]]])
    """

    values: torch.Tensor
    scale: torch.Tensor
    zero_point: torch.Tensor | None
    scheme: QuantScheme

    def __post_init__(self) -> None:
        """Refuse tensors that the scheme does not describe."""
        value_dtype = VALUE_DTYPES[self.scheme.weight_format]
        scale_dtype = torch.uint8 if self.scheme.weight_format == "mxfp4" else torch.float32
        self._require_tensor("values", self.values, value_dtype, ("E", "N", "K"))
        scale_shape = self.scheme.scale_shape(self.shape)
        self._require_tensor("scale", self.scale, scale_dtype, scale_shape)
        if (self.zero_point is None) != self.scheme.symmetric:
            requirement = "None" if self.scheme.symmetric else "a tensor"
            given = "None" if self.zero_point is None else "a tensor"
            self._refuse("zero_point", f"be {requirement}", given)
        if self.zero_point is not None:
            self._require_tensor("zero_point", self.zero_point, torch.int8, scale_shape)
        self._require_good_scales()
        self._require_range("values", self.values)
        if self.zero_point is not None:
            self._require_range("zero_point", self.zero_point)

    @property
    def shape(self) -> tuple[int, int, int]:
        """E, N and K."""
        num_experts, n, k = self.values.shape
        return num_experts, n, k

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.values.device

    def to(self, device: torch.device | str) -> QuantizedWeight:
        """Return the weight on a device; the same tensors if they are there."""
        zero_point = None if self.zero_point is None else self.zero_point.to(device)
        moved = self.values.to(device), self.scale.to(device), zero_point
        return replace(self, values=moved[0], scale=moved[1], zero_point=moved[2])

    def dequantize(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Return the weight `[E, N, K]`, computed in float32 and rounded once, to `dtype`."""
        out = torch.empty(self.shape, dtype=dtype, device=self.device)
        for expert in range(self.shape[0]):  # float32 copies of one expert at a time
            out[expert] = self.dequantize_expert(expert)
        return out

    def dequantize_expert(self, expert: int) -> torch.Tensor:
        """Return the weight `[N, K]` of one expert, float32."""
        values, scale = self.values[expert], self.scale[expert]
        if self.scheme.weight_format == "mxfp4":
            return e2m1_to_float(values) * self._spread(e8m0_to_float(scale))
        stored = values.float()
        if self.zero_point is not None:
            stored = stored - self._spread(self.zero_point[expert].float())
        return stored * self._spread(scale)

    def _spread(self, shared: torch.Tensor) -> torch.Tensor:
        """Repeat what is shared, until it is as large as a weight or broadcasts to it."""
        _, n, k = self.shape
        if self.scheme.block is not None:
            rows, columns = self.scheme.block
            return shared.repeat_interleave(rows, 0)[:n].repeat_interleave(columns, 1)[:, :k]
        if self.scheme.group_size > 0:
            return shared.repeat_interleave(self.scheme.group_size, 1)
        return shared

    def _refuse(self, name: str, requirement: str, value: object) -> None:
        raise ValueError(f"QuantizedWeight {self.scheme}: {name} must {requirement}, got {value}")

    def _require_tensor(
        self, name: str, tensor: torch.Tensor, dtype: torch.dtype, shape: Sequence[int | str]
    ) -> None:
        if tensor.dtype != dtype:
            raise TypeError(
                f"QuantizedWeight {self.scheme}: {name} must be {dtype}, got {tensor.dtype}"
            )
        if tensor.dim() != len(shape) or any(
            wanted != size
            for wanted, size in zip(shape, tensor.shape, strict=True)
            if isinstance(wanted, int)
        ):
            wanted = f"[{', '.join(map(str, shape))}]"
            self._refuse(name, f"have shape {wanted}", list(tensor.shape))
        if not tensor.is_contiguous():
            self._refuse(name, "be contiguous", f"strides {list(tensor.stride())}")
        if tensor.device != self.values.device:
            self._refuse(name, f"be on {self.values.device} like values", tensor.device)

    def _require_good_scales(self) -> None:
        if self.scheme.weight_format == "mxfp4":
            wrong, requirement = self.scale == E8M0_NAN, f"not be NaN (code {E8M0_NAN})"
        else:
            wrong = ~((self.scale > 0) & self.scale.isfinite())
            requirement = "be finite and positive"
        if wrong.any():
            index = wrong.nonzero()[0].tolist()
            self._refuse("scale", requirement, f"{self.scale[tuple(index)].item()} at {index}")

    def _require_range(self, name: str, tensor: torch.Tensor) -> None:
        """Look at the values of an expert at a time: they may be gigabytes."""
        for expert, values in enumerate(tensor):
            if values.dtype == torch.float8_e4m3fn:
                if bool(((values.view(torch.uint8) & _E4M3_NAN) == _E4M3_NAN).any()):
                    self._refuse(name, "be finite", f"NaN in expert {expert}")
                continue
            if values.numel() == 0:
                continue
            low, high = VALUE_RANGES[self.scheme.weight_format]
            extremes = [int(extreme) for extreme in values.aminmax()]
            for extreme in extremes:
                if not low <= extreme <= high:
                    self._refuse(name, f"be {low} to {high}", f"{extreme} in expert {expert}")


def e2m1_to_float(codes: torch.Tensor) -> torch.Tensor:
    """Return the float32 values of e2m1 codes 0 to 15."""
    return torch.tensor(E2M1_VALUES, device=codes.device)[codes.int()]


def e8m0_to_float(codes: torch.Tensor) -> torch.Tensor:
    """Return the float32 values of e8m0 codes: exact powers of two, NaN for 255."""
    powers = [math.ldexp(1.0, code - E8M0_BIAS) for code in range(E8M0_NAN)]
    return torch.tensor([*powers, math.nan], device=codes.device)[codes.int()]
