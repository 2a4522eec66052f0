"""FlashInfer's arguments, checked, as arguments of `fused_moe`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from torch_sm80moe.compat._words import require_defaults
from torch_sm80moe.compat.flashinfer.formats import WeightFormat

# What neither these kernels nor their GPUs have, and the value that does not ask for it.
_UNAVAILABLE: dict[str, Any] = {
    "input_sf": None,
    "situ_beta": None,
    "situ_linear_beta": None,
    "cluster_size": 1,
    "cluster_rank": 0,
    "enable_alltoall": False,
    "use_deepseek_fp8_block_scale": False,
    "use_w4_group_scaling": False,
    "use_mxfp8_act_scaling": False,
    "use_packed_weights": False,
    "use_wfp4afp8_humming": False,
    "min_latency_mode": False,
    "enable_pdl": False,
}

# fused_moe's names for arguments, and FlashInfer's.
NAMES = {
    "hidden_states": "input",
    "w13": "fc1_expert_weights",
    "w2": "fc2_expert_weights",
    "topk_weights": "token_final_scales",
    "topk_ids": "token_selected_experts",
    "w13_bias": "fc1_expert_biases",
    "w2_bias": "fc2_expert_biases",
    "out": "output",
    "tactic_w13": "the first of profile_ids",
    "tactic_w2": "the second of profile_ids",
}


def require_available(op: str, **given: Any) -> None:
    """Refuse, by name, what there is not."""
    require_defaults(op, _UNAVAILABLE, **given)


def require_no_scales(op: str, quant_scales: Sequence[torch.Tensor] | None) -> None:
    """Refuse scales of quantised weights."""
    if quant_scales is not None and len(quant_scales) > 0:
        raise ValueError(
            f"{op}: quant_scales must be None or empty for 16-bit weights, "
            f"got {len(quant_scales)} of them"
        )


class Parallel(NamedTuple):
    """Which part of the layer this device has."""

    tp_size: int = 1
    tp_rank: int = 0
    ep_size: int = 1
    ep_rank: int = 0

    def check(self, op: str) -> None:
        """Refuse a rank that is not below its size."""
        for kind, size, rank in (
            ("tp", self.tp_size, self.tp_rank),
            ("ep", self.ep_size, self.ep_rank),
        ):
            if size < 1:
                raise ValueError(f"{op}: {kind}_size must be at least 1, got {size}")
            if not 0 <= rank < size:
                raise ValueError(f"{op}: {kind}_rank must be between 0 and {size - 1}, got {rank}")

    def expert_map(self, fc1_expert_weights: torch.Tensor) -> torch.Tensor | None:
        """Return where experts of all devices are here; those of others are outside the range.

        Made by one small kernel at each call: a cache would have to know of streams, and of graphs
        that are being captured.
        """
        if self.ep_size == 1:
            return None
        num_experts = fc1_expert_weights.size(0)
        first = self.ep_rank * num_experts
        return torch.arange(
            -first,
            self.ep_size * num_experts - first,
            dtype=torch.int32,
            device=fc1_expert_weights.device,
        )

    def fc2_bias(self, bias: torch.Tensor | None) -> torch.Tensor | None:
        """Return the bias on the one device of a tensor-parallel group that adds it."""
        return bias if self.tp_rank == 0 else None


def tactics_of(
    op: str, profile_ids: Sequence[int] | None, weights: WeightFormat
) -> tuple[int, int]:
    """Return the tactics of places in one list: those of the first GEMM, then the second's."""
    if profile_ids is None:
        return -1, -1
    if len(profile_ids) != 2:
        raise ValueError(
            f"{op}: profile_ids must name a tactic for each of 2 GEMMs, got {len(profile_ids)}"
        )
    return tactic_of(op, 1, profile_ids[0], weights), tactic_of(op, 2, profile_ids[1], weights)


def tactic_of(op: str, gemm_idx: int, profile_id: int, weights: WeightFormat) -> int:
    """Return the tactic that a place in the list means for GEMM 1 or 2; -1 means the default."""
    first = (gemm_idx - 1) * weights.num_tactics
    if profile_id != -1 and not first <= profile_id < first + weights.num_tactics:
        raise ValueError(
            f"{op}: the tactic of GEMM {gemm_idx} must be -1 or in "
            f"[{first}, {first + weights.num_tactics}), got {profile_id}"
        )
    return -1 if profile_id == -1 else profile_id - first
