"""What the operators do not run: such experts keep the model's own code."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from torch_sm80moe import _ops, _shapes
from torch_sm80moe.integrations.transformers.layouts import tensors_of

_MIN_CAPABILITY = 8
_MULTIPLE = 8


def unsupported_reason(experts: Any, hidden_states: torch.Tensor) -> str | None:
    """Return why the operators do not run this module, or None if they do."""
    tensors = (hidden_states, *tensors_of(experts))
    for tensor in tensors:
        if is_traceable_wrapper_subclass(tensor):
            return f"its tensors are of the class {type(tensor).__name__}"
    if {tensor.dtype for tensor in tensors} not in ({torch.float16}, {torch.bfloat16}):
        names = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors})
        return f"its tensors are not all float16 or all bfloat16 but {', '.join(names)}"
    return _unsupported_sizes(experts) or _unsupported_device(hidden_states.device)


def _unsupported_sizes(experts: Any) -> str | None:
    num_experts, *sizes = experts.down_proj.shape
    hidden_size, intermediate_size = sizes[::-1] if experts.is_transposed else sizes
    if hidden_size % _MULTIPLE != 0 or intermediate_size % _MULTIPLE != 0:
        return (
            f"the sizes {hidden_size} and {intermediate_size} are not both multiples of {_MULTIPLE}"
        )
    if num_experts > _shapes.MAX_EXPERTS:
        return f"there are {num_experts} experts, more than {_shapes.MAX_EXPERTS}"
    if num_experts != experts.num_experts:
        return f"there are {experts.num_experts} experts, but weights of {num_experts}"
    return None


def _unsupported_device(device: torch.device) -> str | None:
    if device.type == "cpu":
        return None
    if device.type != "cuda":
        return f"there are no kernels for {device.type}"
    if not _ops.HAS_KERNELS:
        return "this installation of torch_sm80moe has no CUDA kernels"
    if torch.cuda.get_device_properties(device).major < _MIN_CAPABILITY:
        return f"the GPU is older than compute capability {_MIN_CAPABILITY}.0"
    return None
