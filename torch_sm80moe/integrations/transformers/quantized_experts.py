"""The module that takes the place of a transformers experts module, and what it is told of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import nn

from torch_sm80moe.integrations.transformers import gates
from torch_sm80moe.integrations.transformers.layouts import biases_of, rows_of
from torch_sm80moe.integrations.transformers.limits import unsupported_reason
from torch_sm80moe.integrations.transformers.plans import arguments
from torch_sm80moe.quantization.module import SWIGLU_OPTIONS, QuantizedFusedExperts


class QuantizedModelExperts(QuantizedFusedExperts):
    """Quantised experts in the place of an experts module of transformers."""

    # The model's class knows the constants of its gate: checkpoints do not hold them.
    _not_in_state_dict: ClassVar[tuple[str, ...]] = SWIGLU_OPTIONS

    def forward(  # type: ignore[override]
        self, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        """Run `[T, H]` with ids and weights `[T, k]`, in the order that transformers has."""
        return super().forward(hidden_states, top_k_weights.float(), top_k_index)


class FusedLayer(NamedTuple):
    """An experts module as `fused_moe` takes it, whatever it computes and however it stores it."""

    w13: torch.Tensor  # [E, 2I, H] or [E, I, H]; the module's own memory, of any strides
    w2: torch.Tensor  # [E, H, I]
    gate: gates.Gate
    biases: Mapping[str, torch.Tensor]

    @property
    def sizes(self) -> tuple[int, int, int]:
        """E, H, I."""
        num_experts, hidden_size, intermediate_size = self.w2.shape
        return num_experts, hidden_size, intermediate_size

    def options(self, device: torch.device | str) -> dict[str, Any]:
        """Return the keyword arguments of `fused_moe`; biases are where they are."""
        options = {**arguments(self.gate, self.w2.size(0), device), "gated": self.gate.gated}
        return {**options, **self.biases}


def fused_layer(experts: Any) -> FusedLayer:
    """Return what `fused_moe` is told of a module; the module stays as it is.

    Raises:
        ValueError: it computes something else; the message is the second half of a sentence.
    """
    # On the CPU everything runs: what the device can do matters when the model does.
    nowhere = torch.empty(0, dtype=experts.down_proj.dtype, device="cpu")
    reason = unsupported_reason(experts, nowhere)
    if reason is not None:
        raise ValueError(reason)
    if getattr(experts, "has_post_expert_norm", False):  # only newer versions know this flag
        raise ValueError("a norm follows each expert")
    gate = gates.gate_of(experts)
    if gate is None:
        raise ValueError("it has a gate function of its own")
    biases = zip(("w13_bias", "w2_bias"), biases_of(experts), strict=True)
    return FusedLayer(
        *rows_of(experts), gate, {name: bias.detach() for name, bias in biases if bias is not None}
    )


def find_experts(model: nn.Module) -> dict[str, Any]:
    """Return the experts modules of a model, by name.

    Raises:
        ValueError: there are none.
    """
    found = {
        name: module
        for name, module in model.named_modules()
        if hasattr(module, "_apply_gate")  # what transformers' decorator gives an experts class
    }
    if not found:
        raise ValueError("quantize_experts: model must have experts in 16 bits, got one without")
    return found


def require_layer(name: str, experts: Any) -> FusedLayer:
    """Return a module as `fused_moe` takes it.

    Raises:
        ValueError: no kernel runs the module.
    """
    try:
        return fused_layer(experts)
    except ValueError as error:
        raise ValueError(
            f"quantize_experts: {name} must be what fused_moe runs, but {error}"
        ) from error
