"""A fast mixture-of-experts layer for Ampere GPUs, as ordinary PyTorch operators.

Importing registers the operators and touches no GPU.
"""

from torch_sm80moe import _autograd as _autograd  # makes the operators refuse gradients
from torch_sm80moe import _cpu as _cpu  # registers the CPU implementations
from torch_sm80moe import _fake as _fake  # registers the fakes
from torch_sm80moe import _ops, reference
from torch_sm80moe._version import __version__
from torch_sm80moe.functional import (
    Tactic,
    combine,
    configure,
    decode_limit,
    fused_moe,
    fused_moe_out,
    grouped_gemm,
    grouped_mm,
    select_tactic,
    sort_by_expert,
    tactic_table,
    topk_route,
    workspace_size,
)
from torch_sm80moe.functional_quantized import (
    fused_moe_quantized,
    fused_moe_quantized_out,
    grouped_gemm_quantized,
    quantize_activations,
)
from torch_sm80moe.layers import FusedExperts, FusedMoE
from torch_sm80moe.tuning.loading import load_tuning, load_when_cuda_starts

__all__ = [
    "FusedExperts",
    "FusedMoE",
    "Tactic",
    "__version__",
    "combine",
    "configure",
    "decode_limit",
    "fused_moe",
    "fused_moe_out",
    "fused_moe_quantized",
    "fused_moe_quantized_out",
    "grouped_gemm",
    "grouped_gemm_quantized",
    "grouped_mm",
    "load_tuning",
    "quantize_activations",
    "reference",
    "select_tactic",
    "sort_by_expert",
    "tactic_table",
    "topk_route",
    "workspace_size",
]

if _ops.HAS_KERNELS:
    load_when_cuda_starts()
