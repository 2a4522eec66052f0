"""FlashInfer's fused mixture-of-experts layer, on the GPUs that it refuses.

`from torch_sm80moe.compat.flashinfer import cutlass_fused_moe` replaces `from flashinfer.fused_moe
import cutlass_fused_moe`; no argument changes. What differs is in `docs/interfaces.md`.
"""

from torch_sm80moe.compat.flashinfer.activation import ActivationType
from torch_sm80moe.compat.flashinfer.layer import cutlass_fused_moe
from torch_sm80moe.compat.flashinfer.runner import FusedMoeRunner
from torch_sm80moe.compat.flashinfer.workspace import cutlass_fused_moe_workspace_size

__all__ = [
    "ActivationType",
    "FusedMoeRunner",
    "cutlass_fused_moe",
    "cutlass_fused_moe_workspace_size",
]
