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
    """Return microseconds of a call by stage, and under "gaps" what no kernel accounts for.

    Of several replays the one counts whose kernels took the least time: a profile adds to kernels
    what interrupts them.
    """
    for _ in range(math.ceil(loop.warmup_s * 1e6 / (call_us * num_calls))):
        replay()
    profiles = [sum_by_stage(_kernels(replay), num_calls) for _ in range(_REPLAYS)]
    stages = min(profiles, key=lambda profile: sum(profile.values()))
    return {**stages, "gaps": call_us - sum(stages.values())}


def _kernels(replay: Callable[[], object]) -> list[tuple[str, float]]:
    """Return the names and microseconds of what runs on the device, in its order."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        replay()
        torch.cuda.synchronize()
    on_device = [event for event in profile.events() if event.device_type.name == "CUDA"]
    on_device.sort(key=lambda event: event.time_range.start)
    return [(event.name, event.time_range.elapsed_us()) for event in on_device]


def sum_by_stage(kernels: Iterable[tuple[str, float]], num_calls: int) -> dict[str, float]:
    """Add up the microseconds of kernels, which are in order, and average them over calls."""
    stages: dict[str, float] = defaultdict(float)
    num_gemms = 0
    for kernel, us in kernels:
        stage = stage_of(kernel)
        if stage == _GEMM:  # the first of the layer, or the second
            stage = f"gemm {num_gemms % 2 + 1}"
            num_gemms += 1
        stages[stage] += us / num_calls
    return dict(stages)


def stage_of(kernel: str) -> str:
    """Return the stage of a kernel by its demangled name; an unknown one is a stage of its own."""
    function = re.split("[<(]", kernel.replace("(anonymous namespace)::", ""), maxsplit=1)[0]
    return function.split("::")[-1].split()[-1].removesuffix("_kernel")
