"""How far the selected tactics are from the best ones, by forcing each in turn."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from torch_sm80moe import functional, functional_quantized
from torch_sm80moe.bench import timing
from torch_sm80moe.bench.formats import DENSE, kernel_weights
from torch_sm80moe.bench.layer import Case, Weights
from torch_sm80moe.bench.routings import Routing

GEMMS = ("gemm 1", "gemm 2")
# What no tactic is forced with. Which one runs for packed weights, only the operator knows.
_UNFORCED = -1

# Runs one GEMM with a tactic.
Gemm = Callable[..., torch.Tensor]


def measure(case: Case, num_calls: int, loop: timing.Loop) -> dict[str, Any]:
    """Return, for each GEMM, what was selected, every tactic's time, and their ratio.

    Packed weights are timed without a forced tactic, too, and that is what counts as selected.
    """
    pairs = [_gemms(case, call) for call in range(num_calls)]
    rows = case.x.size(0) * case.model.top_k
    hidden, intermediate = case.model.hidden_size, case.model.intermediate_size
    sizes = ((2 * intermediate, hidden, "swiglu"), (hidden, intermediate, "none"))
    found = {}
    for name, gemms, (n, k, epilogue) in zip(GEMMS, zip(*pairs, strict=True), sizes, strict=True):
        selected = _UNFORCED
        if case.format == DENSE:
            selected = functional.select_tactic(
                rows, case.model.num_experts, n, k, epilogue=epilogue, dtype=case.x.dtype
            )
        table = functional.tactic_table(kernel_weights(case.format))
        tried = dict.fromkeys((*(tactic.id for tactic in table), selected))
        us = {tactic: us for tactic in tried if (us := _time(gemms, tactic, loop)) is not None}
        best = min(us.keys() - {_UNFORCED}, key=lambda tactic: us[tactic])
        over = us[selected] / us[best]
        found[name] = {"selected": selected, "best": best, "over_best": over, "us": us}
    return found


def _gemms(case: Case, call: int) -> tuple[Gemm, Gemm]:
    """Return both GEMMs of one call, ready to run with any tactic."""
    routing: Routing = case.routings[call % len(case.routings)]
    layer: Weights = case.layers[call % len(case.layers)]
    offsets, row_index, _ = functional.sort_by_expert(routing.topk_ids, case.model.num_experts)
    grouped_gemm: Gemm = functional.grouped_gemm
    if case.format != DENSE:
        grouped_gemm = functional_quantized.grouped_gemm_quantized
    first = functools.partial(
        grouped_gemm,
        *(case.x, layer.w13, offsets, row_index),
        top_k=case.model.top_k,
        epilogue="swiglu",
    )
    return first, functools.partial(grouped_gemm, first(), layer.w2, offsets)


def _time(gemms: tuple[Gemm, ...], tactic: int, loop: timing.Loop) -> float | None:
    """Return the microseconds of a call, or None if the tactic does not fit the device."""
    calls = [functools.partial(gemm, tactic=tactic) for gemm in gemms]
    try:
        calls[0]()
    except RuntimeError:
        return None
    captured = timing.capture(calls)
    return timing.time_replays(captured.graph.replay, loop).us.median / len(calls)
