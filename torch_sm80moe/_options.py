"""The options of the layer and of a GEMM's epilogue, as the operators take them; no rules.

An operator takes a number where its function takes a name: the index in the names below. Defaults
are those of the schemas, and so stand here for every implementation in Python.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from torch_sm80moe._formats import WEIGHT_FORMATS

ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "relu", "relu2", "identity")
SILU = ACTIVATIONS.index("silu")

# Which rows of a gated w13 are gates: the first half, the second half, or every other one.
GATE_UP_ORDERS = ("gate_up", "up_gate", "interleaved")

# What becomes of a GEMM's sums. The first two take no options but the order, and cost nothing.
EPILOGUES = ("none", "swiglu", "gated", "ungated")
GATED_EPILOGUES = (EPILOGUES.index("swiglu"), EPILOGUES.index("gated"))
PLAIN_EPILOGUES = (EPILOGUES.index("none"), EPILOGUES.index("swiglu"))


@dataclass(frozen=True, eq=False)
class LayerOptions:
    """The keyword arguments of `fused_moe`, but for the tactics."""

    expert_map: torch.Tensor | None = None
    w13_bias: torch.Tensor | None = None
    w2_bias: torch.Tensor | None = None
    activation: int = SILU
    gated: bool = True
    gate_up_order: int = 0
    swiglu_alpha: torch.Tensor | None = None
    swiglu_beta: torch.Tensor | None = None
    swiglu_limit: torch.Tensor | None = None
    apply_router_weight_on_input: bool = False
    residual: torch.Tensor | None = None
    batch_invariant: bool = False


@dataclass(frozen=True, eq=False)
class EpilogueOptions:
    """What the epilogues "gated" and "ungated" of `grouped_gemm` are told."""

    bias: torch.Tensor | None = None
    activation: int = SILU
    gate_up_order: int = 0
    swiglu_alpha: torch.Tensor | None = None
    swiglu_beta: torch.Tensor | None = None
    swiglu_limit: torch.Tensor | None = None
    row_scale: torch.Tensor | None = None


@dataclass(frozen=True, eq=False)
class PackedTensors:
    """A packed weight as the operators take it; `quantization/packing.py` tells what it holds."""

    values: torch.Tensor
    scale: torch.Tensor
    codes: torch.Tensor | None
    weight_format: int
    group_size: int
    input: torch.Tensor | None = None  # of w8a8: scale and zero point of its activations, if known

    @property
    def format_name(self) -> str:
        """The name that the number stands for."""
        return WEIGHT_FORMATS[self.weight_format]
