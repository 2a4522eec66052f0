"""Measures one cell: correctness first, then time, against the floor of the same run."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from torch_sm80moe import testing
from torch_sm80moe.bench import formats, layer, rivals, stages, tactics, timing
from torch_sm80moe.bench.ceilings import Ceiling
from torch_sm80moe.bench.floor import Limits, mean_floor_us
from torch_sm80moe.bench.plan import Cell, Plan
from torch_sm80moe.bench.summary import Summary

# Every run measures the same routings of a cell, whichever other cells it measures.
_SEED = 0


class DeviceLimits(NamedTuple):
    """The ceilings in the loop that times the cells, and just after a rest."""

    sustained: Limits
    short: Limits


def limits_for(cell: Cell, ceilings: dict[str, Ceiling]) -> DeviceLimits:
    """Return the ceilings that bound a cell."""
    mma = ceilings[formats.mma_ceiling(cell.dtype, cell.format)]
    dram = ceilings["dram_read"]
    return DeviceLimits(
        Limits(dram.sustained.median, mma.sustained.median), Limits(dram.short, mma.short)
    )


def measure(cell: Cell, layers: layer.Layers, limits: DeviceLimits, plan: Plan) -> dict[str, Any]:
    """Return the cell's row.

    Raises:
        AssertionError: an output is wrong.
    """
    torch.manual_seed(_SEED)
    case = layer.Case(layers, cell.routing, cell.num_tokens)
    floor_us = mean_floor_us(case.works, limits.sustained)
    num_calls = case.num_calls(floor_us)
    roundings = testing.ROUNDINGS_FUSED_MOE
    replay, error = layer.checked_replay(case, layer.fused_moe, num_calls, roundings, cell)
    timed = timing.time_replays(replay, plan.loop)
    us = timed.us.scaled(1 / num_calls)
    num_bytes = sum(work.weight_bytes for work in case.works) / len(case.works)
    row = {
        **identity(cell),
        "us": us._asdict(),
        "floor_us": floor_us,
        "times_floor": us.median / floor_us,
        "short_floor_us": mean_floor_us(case.works, limits.short),
        **rates(us, num_bytes, cell.model.flops(cell.num_tokens)),
        "weight_bytes": num_bytes,
        "memory_bytes": layers.num_bytes,
        "relative_error": error,
        "calls_per_replay": num_calls,
        "routings": len(case.routings),
        "layers": len(case.layers),
        "layers_wanted": case.copies_wanted,
        "clocks": timed.clocks._asdict(),
    }
    if plan.stages:
        row["stages_us"] = stages.measure(replay, num_calls, us.median, plan.loop)
    if plan.tactics:
        row["tactics"] = tactics.measure(case, num_calls, plan.short_loop)
    if plan.rivals and cell.format == formats.DENSE:
        row["rivals"] = {
            rival.name: rivals.measure(rival, case, num_calls, plan.loop)
            for rival in rivals.RIVALS
            if rival.is_installed
        }
    return row


def identity(cell: Cell) -> dict[str, Any]:
    """Return what names the cell."""
    return {
        "model": cell.model.name,
        "shape": list(cell.model[1:]),
        "dtype": cell.dtype,
        "format": cell.format,
        "routing": cell.routing,
        "tokens": cell.num_tokens,
    }


def rates(us: Summary, num_bytes: float, flops: int) -> dict[str, float]:
    """Return the rates of the necessary work."""
    return {"tflops": flops / us.median / 1e6, "gbps": num_bytes / us.median / 1e3}


def make_layers(cell: Cell) -> layer.Layers:
    """Make the weights that this cell, and others of its group, take."""
    torch.manual_seed(_SEED)
    return layer.Layers(cell.model, getattr(torch, cell.dtype), cell.format)
