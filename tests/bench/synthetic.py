"""Results that nobody measured: numbers follow from formulas, so that a page can be checked."""

from __future__ import annotations

from typing import Any

from torch_sm80moe.bench import formats
from torch_sm80moe.bench.models import MODELS, Model
from torch_sm80moe.bench.plan import TOKENS

LIMITS = {"dram_read": 3e12, "mma_float16": 6e14, "mma_bfloat16": 6e14, "mma_int8": 1.2e15}


def ceiling(rate: float) -> dict[str, Any]:
    spread = {"median": rate, "p10": 0.99 * rate, "p90": 1.01 * rate, "num_samples": 100}
    clocks = {"sm_mhz": 1500.0, "power_w": None}
    return {"short": 1.1 * rate, "sustained": spread, "clocks": clocks}


def cell(
    model: Model,
    tokens: int,
    times_floor: float,
    dtype: str = "bfloat16",
    routing: str = "balanced",
    weights: str = formats.DENSE,
) -> dict[str, Any]:
    active = min(model.num_experts, tokens * model.top_k)
    expert_bytes, flops = formats.expert_bytes(model, weights), model.flops(tokens)
    num_bytes, mma = active * expert_bytes, LIMITS[formats.mma_ceiling(dtype, weights)]
    floor_us = 1e6 * max(num_bytes / LIMITS["dram_read"], flops / mma)
    us = times_floor * floor_us
    return {
        "model": model.name,
        "shape": list(model[1:]),
        "dtype": dtype,
        "format": weights,
        "routing": routing,
        "tokens": tokens,
        "us": {"median": us, "p10": 0.98 * us, "p90": 1.03 * us, "num_samples": 100},
        "floor_us": floor_us,
        "times_floor": times_floor,
        "short_floor_us": floor_us / 1.1,
        "tflops": flops / us / 1e6,
        "gbps": num_bytes / us / 1e3,
        "weight_bytes": num_bytes,
        "memory_bytes": model.num_experts * expert_bytes,
        "relative_error": 3e-3,
        "calls_per_replay": 16,
        "routings": 8,
        "layers": 2,
        "layers_wanted": 2,
        "clocks": {"sm_mhz": 1500.0, "power_w": 650.0},
    }


def result(cells: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    if cells is None:
        cells = [cell(model, tokens, 1.04) for model in MODELS for tokens in TOKENS]
    return {
        "schema": 1,
        "machine": {
            "date": "2026-11-22T10:00:00+00:00",
            "device": {"name": "Imaginary 80GB", "sms": 108, "driver": "580.1"},
            "versions": {"torch": "2.11.0", "torch_sm80moe": "0.1.0"},
            "build": {"commit": "0123456789abcdef"},
            "shared_memory_limit": 0,
            "workspace_limit": 0,
        },
        "options": {},
        "ceilings": {
            "before": {name: ceiling(rate) for name, rate in LIMITS.items()},
            "after": {"dram_read": ceiling(2.9e12)},
        },
        "cells": cells,
        "missing": [],
        "wrong": [],
        "seconds": 90.0,
    }
