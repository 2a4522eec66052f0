"""The quantised weights of a layer's experts, and how static schemes store its activations."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from torch_sm80moe.quantization.scheme import QuantScheme
from torch_sm80moe.quantization.weights import QuantizedWeight


@dataclass(frozen=True)
class StaticActivation:
    """How a layer stores activations as int8: `value = (stored - zero_point) * scale`.

    Args:
        scale: finite and positive; rounded to float32.
        zero_point: -128 to 127; 0 is symmetric.

    Raises:
        ValueError: a number is another one.
    """

    scale: float
    zero_point: int = 0

    def __post_init__(self) -> None:
        """Refuse what no int8 activation has; keep of the scale what float32 can hold."""
        object.__setattr__(self, "scale", torch.tensor(self.scale, dtype=torch.float32).item())
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise ValueError(
                f"StaticActivation: scale must be finite and positive, got {self.scale}"
            )
        if not -128 <= self.zero_point <= 127:
            raise ValueError(
                f"StaticActivation: zero_point must be -128 to 127, got {self.zero_point}"
            )

    def quantize(self, values: torch.Tensor) -> torch.Tensor:
        """Return the int8 of values: the nearest, ties to even; outside the range, its end."""
        stored = divide(values.float(), self.scale).round() + self.zero_point
        return stored.clamp(-128, 127).to(torch.int8)

    def dequantize(self, stored: torch.Tensor) -> torch.Tensor:
        """Return the float32 values of int8."""
        return (stored.float() - self.zero_point) * self.scale


def divide(values: torch.Tensor, divisor: float) -> torch.Tensor:
    """Return correctly rounded quotients: torch multiplies by the inverse of a number on CUDA."""
    return values / values.new_full((), divisor)


def store_range(low: float, high: float) -> StaticActivation:
    """Return how to store values of a range that holds zero, in the smallest steps."""
    scale = (high - low) / 255
    return StaticActivation(scale, max(-128, min(127, round(-128 - low / scale))))


@dataclass(frozen=True, eq=False)
class QuantizedExperts:
    """The experts of one layer.

    Args:
        w13: `[E, 2I, H]`, gate rows, then up rows; or `[E, I, H]` of experts without a gate.
        w2: `[E, H, I]`, of the same scheme.
        w13_input: for static schemes how the layer's input is stored, else None.
        w2_input: for static schemes how `silu(gate) * up` is stored, else None.

    Raises:
        ValueError: the parts do not belong together.
    """

    w13: QuantizedWeight
    w2: QuantizedWeight
    w13_input: StaticActivation | None = None
    w2_input: StaticActivation | None = None

    def __post_init__(self) -> None:
        """Refuse parts that are not of one layer."""
        num_experts, hidden_size, intermediate_size = self.w2.shape
        wanted = (num_experts, 2 * intermediate_size, hidden_size)
        if self.w13.shape not in (wanted, (num_experts, intermediate_size, hidden_size)):
            self._refuse("w13", f"have shape {list(wanted)} to suit w2", list(self.w13.shape))
        if self.w13.scheme != self.w2.scheme:
            self._refuse("w13", f"be {self.w2.scheme} like w2", self.w13.scheme)
        if self.w13.device != self.w2.device:
            self._refuse("w13", f"be on {self.w2.device} like w2", self.w13.device)
        is_static = self.scheme.is_static
        for name in ("w13_input", "w2_input"):
            if (getattr(self, name) is not None) != is_static:
                requirement = "be calibrated" if is_static else "be None"
                self._refuse(name, f"{requirement} with {self.scheme}", getattr(self, name))

    def _refuse(self, name: str, requirement: str, value: object) -> None:
        raise ValueError(f"QuantizedExperts: {name} must {requirement}, got {value}")

    @property
    def scheme(self) -> QuantScheme:
        """What both weights are."""
        return self.w2.scheme

    def to(self, device: torch.device | str) -> QuantizedExperts:
        """Return the experts on a device; the same tensors if they are there."""
        return QuantizedExperts(
            self.w13.to(device), self.w2.to(device), self.w13_input, self.w2_input
        )
