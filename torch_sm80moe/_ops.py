"""The operators, loaded from the extension or defined here; the only file that knows the namespace.

With `_C.so` beside this file, C++ defines every schema and implements it for CUDA. Without it (a
CPU-only wheel, or a clone that was not built) the same schemas are defined here, so that a program
sees the same operators either way.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from torch_sm80moe import _settings
from torch_sm80moe._formats import WEIGHT_FORMATS
from torch_sm80moe._schemas import NAMESPACE, SCHEMAS

EXTENSION = Path(__file__).with_name("_C.so")

# A tactic's sizes, then for each kind of weights the shared memory it takes: 0 if it has no kernel.
TACTIC_SIZES = (
    "cta_m",
    "cta_n",
    "cta_k",
    "warps_m",
    "warps_n",
    "warps_k",
    "stages",
)
TACTIC_COLUMNS = (*TACTIC_SIZES, "16bit", *WEIGHT_FORMATS)

# Whether this installation holds the CUDA kernels. It says nothing about the machine's GPU.
HAS_KERNELS = EXTENSION.exists()


def _load_extension() -> None:
    try:
        torch.ops.load_library(str(EXTENSION))
    except OSError as error:
        raise ImportError(
            f"torch_sm80moe: torch must be 2.10 or newer to load {EXTENSION.name}, "
            f"got torch {torch.__version__} ({error})"
        ) from error


def _no_tactics() -> torch.Tensor:
    return torch.empty((0, len(TACTIC_COLUMNS)), dtype=torch.int32)


def _no_selection(
    num_rows: int,
    num_experts: int,
    n: int,
    k: int,
    epilogue: int,
    dtype: int,
    device_index: int,
    *,
    batch_invariant: bool = False,
) -> int:
    raise RuntimeError(
        "select_tactic: the installation must contain CUDA kernels, got a CPU-only one"
    )


def _no_tuning(measurements: torch.Tensor, device_index: int) -> None:
    raise RuntimeError("set_tuning: the installation must contain CUDA kernels, got a CPU-only one")


def _no_decode_limit(
    num_experts: int, hidden_size: int, intermediate_size: int, device_index: int
) -> int:
    raise RuntimeError(
        "decode_limit: the installation must contain CUDA kernels, got a CPU-only one"
    )


def _no_workspace(
    num_tokens: int, num_experts: int, top_k: int, hidden_size: int, intermediate_size: int
) -> int:
    raise RuntimeError(
        "workspace_size: the installation must contain CUDA kernels, got a CPU-only one"
    )


def _no_configuration(
    shared_memory_limit: int | None = None, workspace_limit: int | None = None
) -> None:
    """There is no kernel that could use memory, so every limit holds already."""


def _define_in_python(library: torch.library.Library) -> None:
    for schema in SCHEMAS:
        library.define(schema)
    library.impl("tactic_table", _no_tactics, "CompositeExplicitAutograd")
    library.impl("select_tactic", _no_selection, "CompositeExplicitAutograd")
    library.impl("set_tuning", _no_tuning, "CompositeExplicitAutograd")
    library.impl("decode_limit", _no_decode_limit, "CompositeExplicitAutograd")
    library.impl("workspace_size", _no_workspace, "CompositeExplicitAutograd")
    library.impl("configure", _no_configuration, "CompositeExplicitAutograd")


# Torch drops a library's registrations when the object dies, so it lives as long as the module.
if HAS_KERNELS:
    _load_extension()
    LIBRARY = torch.library.Library(NAMESPACE, "FRAGMENT")
else:
    LIBRARY = torch.library.Library(NAMESPACE, "DEF")
    _define_in_python(LIBRARY)

OPERATOR_NAMES = tuple(schema.partition("(")[0] for schema in SCHEMAS)


def qualified_name(operator: str) -> str:
    """Return `namespace::operator`, the form that torch.library takes."""
    return f"{NAMESPACE}::{operator}"


def runs_on(operator: str, dispatch_key: str) -> bool:
    """Return whether the operator has an implementation for the device of this key."""
    return torch._C._dispatch_has_computed_kernel_for_dispatch_key(
        qualified_name(operator), dispatch_key
    )


def overload(operator: str) -> Any:
    """Return the operator's only overload; calling it skips the lookup that a packet makes."""
    return getattr(getattr(torch.ops, NAMESPACE), operator).default


Tensors = tuple[torch.Tensor, ...]

fused_moe: Callable[..., torch.Tensor] = overload("fused_moe")
fused_moe_out: Callable[..., None] = overload("fused_moe_out")
fused_moe_quantized: Callable[..., torch.Tensor] = overload("fused_moe_quantized")
fused_moe_quantized_out: Callable[..., None] = overload("fused_moe_quantized_out")
topk_route: Callable[..., Tensors] = overload("topk_route")
sort_by_expert: Callable[..., Tensors] = overload("sort_by_expert")
grouped_gemm: Callable[..., torch.Tensor] = overload("grouped_gemm")
grouped_mm: Callable[..., torch.Tensor] = overload("grouped_mm")
grouped_gemm_quantized: Callable[..., torch.Tensor] = overload("grouped_gemm_quantized")
quantize_activations: Callable[..., Tensors] = overload("quantize_activations")
combine: Callable[..., torch.Tensor] = overload("combine")
tactic_table: Callable[[], torch.Tensor] = overload("tactic_table")
select_tactic: Callable[..., int] = overload("select_tactic")
set_tuning: Callable[[torch.Tensor, int], None] = overload("set_tuning")
decode_limit: Callable[[int, int, int, int], int] = overload("decode_limit")
workspace_size: Callable[..., int] = overload("workspace_size")
configure: Callable[..., None] = overload("configure")

configure(_settings.SHARED_MEMORY_LIMIT, _settings.WORKSPACE_LIMIT)
