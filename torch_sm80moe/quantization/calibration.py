"""Finds how static schemes store a layer's activations, from what the layer sees in use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from torch_sm80moe import reference
from torch_sm80moe.quantization.experts import StaticActivation, store_range
from torch_sm80moe.quantization.histogram import Histogram

METHODS = ("max", "percentile", "mse")

# The shares of the whole range that "mse" tries.
_SHARES = tuple(step / 200 for step in range(1, 201))


@dataclass(frozen=True)
class Calibration:
    """How a range is chosen among the values that were seen; what lies outside saturates.

    Args:
        method: "max" takes the whole range; "percentile" leaves out a share of the values, half of
            it on each side; "mse" takes the range with the least sum of squared errors.
        percentile: how many per cent of the values "percentile" keeps.
        symmetric: whether the zero point is 0. Without, ranges that are not symmetric are stored
            with smaller steps.

    Raises:
        ValueError: the method is another one, or the percentile is not above 0 and at most 100.
    """

    method: str = "mse"
    percentile: float = 99.99
    symmetric: bool = True

    def __post_init__(self) -> None:
        """Refuse methods that there are not."""
        if self.method not in METHODS:
            raise ValueError(f"calibration: method must be one of {METHODS}, got {self.method}")
        if not 0 < self.percentile <= 100:
            raise ValueError(
                f"calibration: percentile must be above 0, up to 100, got {self.percentile}"
            )

    def choose(self, seen: Histogram) -> StaticActivation:
        """Return how to store such values.

        Raises:
            ValueError: there were none.
        """
        if not seen.least <= seen.most:
            raise ValueError("calibration: batches must reach every layer, got none for a layer")
        low, high = self._extend(seen.least, seen.most)
        if self.method == "percentile":
            low, high = self._extend(*self._quantiles(seen))
        if self.method != "mse":
            return self._store(low, high)
        candidates = [self._store(low * share, high * share) for share in _SHARES]
        return min(candidates, key=lambda candidate: _squared_error(seen, candidate))

    def _extend(self, low: float, high: float) -> tuple[float, float]:
        """Return a range that holds zero, and as much of both signs if it is to be symmetric."""
        low, high = min(low, 0.0), max(high, 0.0)
        return (-max(-low, high), max(-low, high)) if self.symmetric else (low, high)

    def _quantiles(self, seen: Histogram) -> tuple[float, float]:
        values, counts = seen.used_bins()
        if self.symmetric:
            order = values.abs().argsort()
            values, counts = values.abs()[order], counts[order]
            high = _quantile(values, counts, self.percentile / 100)
            return -high, high
        outside = (1 - self.percentile / 100) / 2
        return _quantile(values, counts, outside), _quantile(values, counts, 1 - outside)

    def _store(self, low: float, high: float) -> StaticActivation:
        if high == low:  # zeros throughout
            return StaticActivation(1.0)
        if self.symmetric:
            return StaticActivation(high / 127)
        return store_range(low, high)


def _quantile(values: torch.Tensor, counts: torch.Tensor, share: float) -> float:
    """Return the least of the sorted values that has this share of all at or below it."""
    cumulated = counts.cumsum(0)
    index = int(torch.searchsorted(cumulated, share * cumulated[-1]))
    return float(values[min(index, values.numel() - 1)])


def _squared_error(seen: Histogram, activation: StaticActivation) -> float:
    values, counts = seen.used_bins()
    again = activation.dequantize(activation.quantize(values))
    return float(((again - values).square() * counts).sum())


class LayerActivations:
    """What the two GEMMs of a layer's experts have multiplied with their weights so far."""

    def __init__(self) -> None:
        """Start without values."""
        self.w13_input = Histogram()
        self.w2_input = Histogram()

    def add(
        self,
        hidden_states: torch.Tensor,
        w13: torch.Tensor,
        topk_weights: torch.Tensor,
        topk_ids: torch.Tensor,
        *,
        expert_map: torch.Tensor | None = None,
        w13_bias: torch.Tensor | None = None,
        activation: str = "silu",
        gated: bool = True,
        gate_up_order: str = "gate_up",
        swiglu_alpha: torch.Tensor | None = None,
        swiglu_beta: torch.Tensor | None = None,
        swiglu_limit: torch.Tensor | None = None,
        apply_router_weight_on_input: bool = False,
        **_: Any,
    ) -> None:
        """Count what a call of the layer multiplies; arguments as in `fused_moe`.

        Weights are in 16 bits; the intermediate is computed with them in float32. Tokens without an
        expert of this layer do not count.
        """
        ids = reference.local_ids(topk_ids, expert_map)
        is_routed = ((ids >= 0) & (ids < w13.size(0))).any(dim=1)
        self.w13_input.add(hidden_states[is_routed])
        for expert in range(w13.size(0)):
            tokens, choices = (ids == expert).nonzero(as_tuple=True)
            if tokens.numel() == 0:
                continue
            columns = reference.linear(hidden_states[tokens].float(), w13, expert)
            if apply_router_weight_on_input:
                columns = columns * topk_weights[tokens, choices, None]
            intermediate = reference.activate(
                reference.add_bias(columns, w13_bias, expert),
                activation=activation,
                gated=gated,
                gate_up_order=gate_up_order,
                swiglu=reference.swiglu_constants(swiglu_alpha, swiglu_beta, swiglu_limit, expert),
            )
            self.w2_input.add(intermediate)

    def choose(self, calibration: Calibration) -> tuple[StaticActivation, StaticActivation]:
        """Return how to store the inputs of both GEMMs."""
        return calibration.choose(self.w13_input), calibration.choose(self.w2_input)
