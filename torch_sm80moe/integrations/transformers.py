"""Runs the experts of Hugging Face models: importing registers the implementation "sm80moe".

`model.set_experts_implementation("sm80moe")` or `from_pretrained(...,
experts_implementation="sm80moe")` selects it. Experts that `fused_moe` cannot run exactly as the
model defines them go through the model's own eager code, with one warning that says why.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers.activations import SiLUActivation
from transformers.integrations.moe import ExpertsInterface, _default_apply_gate

from torch_sm80moe import _ops, _shapes, functional

NAME = "sm80moe"

# Flags that transformers puts on an experts module, the value that fused_moe computes, and what the
# other value means. Older versions lack some; a model cannot use what its version lacks.
_FLAGS = (
    ("has_gate", True, "the experts have no gate"),
    ("has_bias", False, "the experts have biases"),
    ("is_transposed", False, "the weights are transposed"),
    ("is_concatenated", True, "gate and up are interleaved"),
    ("has_post_expert_norm", False, "a norm follows the experts"),
)

_SILU_CLASSES = (nn.SiLU, SiLUActivation)
_MIN_CAPABILITY = 8

_warned: set[tuple[str, str]] = set()


def experts_forward(
    experts: Any,
    hidden_states: torch.Tensor,
    top_k_index: torch.Tensor,
    top_k_weights: torch.Tensor,
) -> torch.Tensor:
    """Run an experts module of transformers through `fused_moe`.

    Args:
        experts: the module; its `gate_up_proj [E, 2I, H]` and `down_proj [E, H, I]` are used as
            they are.
        hidden_states: `[T, H]`.
        top_k_index: `[T, k]`; an id that is not below E contributes nothing.
        top_k_weights: `[T, k]`, any floating dtype; applied in float32.

    Returns:
        `[T, H]`, dtype of `hidden_states`.

    Raises:
        RuntimeError: gradients are on and needed; there is no backward.
    """
    reason = unsupported_reason(experts, hidden_states)
    if reason is not None:
        _warn_once(type(experts).__name__, reason)
        return _eager_forward(experts)(experts, hidden_states, top_k_index, top_k_weights)
    return functional.fused_moe(
        hidden_states.contiguous(),
        experts.gate_up_proj,
        experts.down_proj,
        top_k_weights.float().contiguous(),
        top_k_index.contiguous(),
    )


def unsupported_reason(experts: Any, hidden_states: torch.Tensor) -> str | None:
    """Return why `fused_moe` would not compute what this module defines, or None if it would."""
    for flag, wanted, meaning in _FLAGS:
        if getattr(experts, flag, wanted) != wanted:
            return meaning
    if type(experts)._apply_gate is not _default_apply_gate:
        return "the module has a gate function of its own"
    if not isinstance(experts.act_fn, _SILU_CLASSES):
        return f"the activation is {type(experts.act_fn).__name__}, not SiLU"
    return _unsupported_tensors(hidden_states, experts.gate_up_proj, experts.down_proj)


def _unsupported_tensors(
    hidden_states: torch.Tensor, gate_up: torch.Tensor, down: torch.Tensor
) -> str | None:
    dtypes = {hidden_states.dtype, gate_up.dtype, down.dtype}
    if dtypes not in ({torch.float16}, {torch.bfloat16}):
        names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
        return f"activations and weights are not all float16 or all bfloat16 but {names}"
    num_experts, hidden_size, intermediate_size = down.shape
    if hidden_size % 8 != 0 or intermediate_size % 8 != 0:
        return f"the sizes {hidden_size} and {intermediate_size} are not both multiples of 8"
    if num_experts > _shapes.MAX_EXPERTS:
        return f"there are {num_experts} experts, more than {_shapes.MAX_EXPERTS}"
    return _unsupported_device(hidden_states.device)


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


def _eager_forward(experts: nn.Module) -> Callable[..., torch.Tensor]:
    # transformers wraps the model's own forward with functools.wraps to dispatch to this file.
    own_forward: Callable[..., torch.Tensor] = inspect.unwrap(type(experts).forward)
    return own_forward


def _warn_once(name: str, reason: str) -> None:
    if (name, reason) not in _warned:
        _warned.add((name, reason))
        warnings.warn(
            f"sm80moe: {name} runs through transformers' eager experts, because {reason}.",
            stacklevel=3,
        )


ExpertsInterface.register(NAME, experts_forward)
