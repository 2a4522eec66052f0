"""One GEMM of the layer by itself, on rows that tokens in turn would give it."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from torch_sm80moe import functional
from torch_sm80moe.compat.flashinfer.activation import Activation
from torch_sm80moe.compat.flashinfer.arguments import Parallel
from torch_sm80moe.compat.flashinfer.formats import WeightFormat


class FirstGemm(NamedTuple):
    """GEMM 1 (gate and up): reads tokens' rows, and activates what it makes of them."""

    x: torch.Tensor
    weights: torch.Tensor
    bias: torch.Tensor | None
    top_k: int
    activation: Activation
    gate_up_order: str

    def run(self, weights: WeightFormat, rows: SortedRows, tactic: int) -> torch.Tensor:
        """Run it on the tokens' rows; return the rows of GEMM 2."""
        return weights.gemm(
            self.x,
            self.weights,
            rows.offsets,
            rows.row_index,
            top_k=self.top_k,
            tactic=tactic,
            **self._epilogue(),
        )

    def _epilogue(self) -> dict[str, Any]:
        name, gated = self.activation
        order = {"gate_up_order": self.gate_up_order} if gated else {}
        if gated and name == "silu" and self.bias is None:
            return {"epilogue": "swiglu", **order}
        epilogue = "gated" if gated else "ungated"
        return {"epilogue": epilogue, "activation": name, "bias": self.bias, **order}


class SortedRows(NamedTuple):
    """Tokens' choices in the order of experts."""

    offsets: torch.Tensor
    row_index: torch.Tensor

    @classmethod
    def of_tokens_in_turn(cls, first: FirstGemm, parallel: Parallel) -> SortedRows:
        """Let choices take the experts of all devices in turn, of which this one has some."""
        x, num_experts = first.x, first.weights.size(0)
        pairs = torch.arange(x.size(0) * first.top_k, dtype=torch.int32, device=x.device)
        ids = (pairs % (num_experts * parallel.ep_size)).reshape(-1, first.top_k)
        expert_map = parallel.expert_map(first.weights)
        offsets, row_index, _ = functional.sort_by_expert(ids, num_experts, expert_map=expert_map)
        return cls(offsets, row_index)


class Preparation(NamedTuple):
    """What the timed calls of a GEMM find made."""

    sizes: tuple[Any, ...]  # what it holds for
    rows: SortedRows
    intermediate: torch.Tensor | None  # the rows of GEMM 2
