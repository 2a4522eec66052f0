"""Other ways to compute the same layer: those that are installed, on the same calls."""

from __future__ import annotations

import functools
import importlib.util
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from torch_sm80moe.bench import timing
from torch_sm80moe.bench.layer import Case

# Compute capabilities for which torch has a grouped GEMM of its own; on others it loops over
# experts after a host synchronisation, which no graph can hold.
_NATIVE_GROUPED_MM = (9, 10)
# Rivals round gate, up, silu, their product, each row, the router weight, the weighted row and
# sums, and the error of a single weight does not average out.
_ROUNDINGS = 20


class Rival(NamedTuple):
    """One implementation of the layer."""

    name: str
    make_calls: Callable[[Case, int], list[timing.Call]]
    fits_a_graph: Callable[[Case], bool]
    package: str = "torch"
    workspace_bytes: Callable[[Case], int] = lambda case: 0

    @property
    def is_installed(self) -> bool:
        """Whether its package is there."""
        return importlib.util.find_spec(self.package) is not None


def measure(rival: Rival, case: Case, num_calls: int, loop: timing.Loop) -> dict[str, Any]:
    """Return the rival's row for this cell, or why it has none."""
    free, _ = torch.cuda.mem_get_info()
    if rival.workspace_bytes(case) > free // 2:
        return {"error": f"needs {rival.workspace_bytes(case) / 1e9:.0f} GB of workspace"}
    try:
        return _measure(rival, case, num_calls, loop)
    # A rival that refuses, or is wrong, is told of; it must not end the run.
    except (AssertionError, ImportError, RuntimeError, TypeError, ValueError) as error:
        return {"error": f"{type(error).__name__}: {error}".partition("\n")[0]}


def _measure(rival: Rival, case: Case, num_calls: int, loop: timing.Loop) -> dict[str, Any]:
    in_graph = rival.fits_a_graph(case)
    calls = rival.make_calls(case, num_calls if in_graph else len(case.routings))
    if in_graph:
        captured = timing.capture(calls)
        replay: Callable[[], object] = captured.graph.replay
        replay()
        outputs = captured.outputs
    else:
        replay = functools.partial(_run_all, calls)
        outputs = [call() for call in calls]
    error = case.check(outputs, _ROUNDINGS, rival.name)
    us = timing.time_replays(replay, loop).us.scaled(1 / len(calls))
    return {"us": us._asdict(), "relative_error": error, "in_graph": in_graph}


def _run_all(calls: list[timing.Call]) -> None:
    for call in calls:
        call()


def cublas_loop(
    x: torch.Tensor,
    w13: torch.Tensor,
    w2: torch.Tensor,
    topk_weights: torch.Tensor,
    topk_ids: torch.Tensor,
) -> torch.Tensor:
    """Two matrix products an expert, with a single host synchronisation a call."""
    rows, ends, position = _gather(x, topk_ids, w13.size(0))
    out = torch.empty_like(rows)
    for expert, (begin, end) in enumerate(itertools.pairwise([0, *ends.tolist()])):
        if begin < end:
            hidden = _swiglu(rows[begin:end] @ w13[expert].T)
            torch.mm(hidden, w2[expert].T, out=out[begin:end])
    return _combine(out, position, topk_weights)


def grouped_mm(
    x: torch.Tensor,
    w13: torch.Tensor,
    w2: torch.Tensor,
    topk_weights: torch.Tensor,
    topk_ids: torch.Tensor,
) -> torch.Tensor:
    """`torch.nn.functional.grouped_mm` between a gather and a sum."""
    rows, ends, position = _gather(x, topk_ids, w13.size(0))
    hidden = _swiglu(functional.grouped_mm(rows, w13.transpose(1, 2), offs=ends))
    out = functional.grouped_mm(hidden, w2.transpose(1, 2), offs=ends)
    return _combine(out, position, topk_weights)


def _gather(
    x: torch.Tensor, topk_ids: torch.Tensor, num_experts: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return rows by expert, where each expert's rows end, and the row of each (token, choice)."""
    ids, order = topk_ids.flatten().sort(stable=True)
    experts = torch.arange(num_experts, dtype=ids.dtype, device=ids.device)
    ends = torch.searchsorted(ids, experts, right=True, out_int32=True)
    position = torch.empty_like(order)
    position[order] = torch.arange(order.numel(), device=order.device)
    return x[order // topk_ids.size(1)], ends, position.view(topk_ids.shape)


def _swiglu(gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return functional.silu(gate) * up


def _combine(
    rows: torch.Tensor, position: torch.Tensor, topk_weights: torch.Tensor
) -> torch.Tensor:
    weighted = rows[position] * topk_weights.to(rows.dtype).unsqueeze(-1)
    return weighted.sum(dim=1)


def _transformers_calls(name: str, case: Case, num_calls: int) -> list[timing.Call]:
    """Run an experts module of transformers on the same weights, fed as its own router feeds it."""
    modules = _transformers_modules(case, name)
    routings = [
        (routing.topk_ids.long(), routing.topk_weights.to(case.x.dtype))
        for routing in case.routings
    ]
    return [
        functools.partial(
            modules[call % len(modules)], case.x, *routings[call % len(case.routings)]
        )
        for call in range(num_calls)
    ]


def _transformers_modules(case: Case, name: str) -> list[Any]:
    from transformers import Qwen3MoeConfig
    from transformers.models.qwen3_moe import modeling_qwen3_moe

    config = Qwen3MoeConfig(
        num_experts=case.model.num_experts,
        hidden_size=case.model.hidden_size,
        moe_intermediate_size=case.model.intermediate_size,
    )
    config._experts_implementation = name
    experts_class: Any = modeling_qwen3_moe.Qwen3MoeExperts
    modules = []
    for layer in case.layers:
        with torch.device("meta"):
            module = experts_class(config)
        module.gate_up_proj = torch.nn.Parameter(layer.w13, requires_grad=False)
        module.down_proj = torch.nn.Parameter(layer.w2, requires_grad=False)
        modules.append(module)
    return modules


def _vllm_calls(case: Case, num_calls: int) -> list[timing.Call]:
    from vllm.model_executor.layers.fused_moe import fused_experts

    return case.calls(fused_experts, num_calls)


def _always(case: Case) -> bool:
    return True


def _never(case: Case) -> bool:
    return False


def has_native_grouped_mm(dtype: torch.dtype) -> bool:
    """Whether torch's grouped_mm is a kernel here, and not a loop that waits for the device."""
    major, _ = torch.cuda.get_device_capability()
    return major in _NATIVE_GROUPED_MM and dtype == torch.bfloat16


def _has_native_grouped_mm(case: Case) -> bool:
    return has_native_grouped_mm(case.x.dtype)


def _gathered_weights(case: Case) -> int:
    """Return the bytes of a copy of an expert for every (token, choice)."""
    return case.x.size(0) * case.model.top_k * case.model.expert_bytes


def _transformers(
    name: str, fits_a_graph: Callable[[Case], bool], **others: Callable[[Case], int]
) -> Rival:
    calls = functools.partial(_transformers_calls, name)
    return Rival(f"transformers {name}", calls, fits_a_graph, "transformers", **others)


RIVALS = (
    Rival("cublas loop", lambda case, n: case.calls(cublas_loop, n), _never),
    Rival("grouped_mm", lambda case, n: case.calls(grouped_mm, n), _has_native_grouped_mm),
    _transformers("eager", _never),
    _transformers("batched_mm", _always, workspace_bytes=_gathered_weights),
    _transformers("grouped_mm", _has_native_grouped_mm),
    Rival("vllm", _vllm_calls, _always, "vllm"),
)
