"""vLLM's `fused_experts` and routers, by its names and with its arguments."""

from torch_sm80moe.compat.vllm.experts import fused_experts
from torch_sm80moe.compat.vllm.routers import fused_topk, grouped_topk

__all__ = ["fused_experts", "fused_topk", "grouped_topk"]
