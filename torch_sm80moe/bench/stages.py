"""Where a call's time goes, by the names of its kernels."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable

import torch

from torch_sm80moe.bench import timing

_GEMM = "grouped_gemm"
_REPLAYS = 3


def measure(
    replay: Callable[[], object], num_calls: int, call_us: float, loop: timing.Loop
) -> dict[str, float]:
    """Return microseconds of a call by stage, and under "gaps" what no kernel accounts for."""
    for _ in range(math.ceil(loop.warmup_s * 1e6 / (call_us * num_calls))):
        replay()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(_REPLAYS):
            replay()
        torch.cuda.synchronize()
    kernels = ((event.key, event.device_time_total) for event in profile.key_averages())
    stages = sum_by_stage(kernels, _REPLAYS * num_calls)
    return {**stages, "gaps": call_us - sum(stages.values())}


def sum_by_stage(kernels: Iterable[tuple[str, float]], num_calls: int) -> dict[str, float]:
    """Add up the microseconds of kernels and average them over calls."""
    stages: dict[str, float] = defaultdict(float)
    for kernel, us in kernels:
        if us > 0:
            stages[stage_of(kernel)] += us / num_calls
    return dict(stages)


def stage_of(kernel: str) -> str:
    """Return the stage of a kernel by its demangled name; an unknown one is a stage of its own."""
    function = re.split("[<(]", kernel.replace("(anonymous namespace)::", ""), maxsplit=1)[0]
    name = function.split("::")[-1].split()[-1].removesuffix("_kernel")
    if name == _GEMM:
        is_second = "StoreEpilogue" in kernel or "RowGroupsEpilogue" in kernel
        return "gemm 2" if is_second else "gemm 1"
    return name
