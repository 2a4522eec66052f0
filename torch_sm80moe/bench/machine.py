"""What a result depends on besides the code: device, driver, versions, build."""

from __future__ import annotations

import datetime
import platform
from importlib import metadata
from typing import Any

import torch

from torch_sm80moe import _settings, info
from torch_sm80moe._build import build_info
from torch_sm80moe._version import __version__
from torch_sm80moe.bench.clocks import query_nvidia_smi
from torch_sm80moe.tuning import loading

_NVIDIA_SMI = ("driver_version", "power.limit", "clocks.max.sm", "clocks.max.memory")
_DISTRIBUTIONS = ("transformers", "vllm", "triton")


def describe() -> dict[str, Any]:
    """Return the machine's part of a result."""
    device = torch.cuda.get_device_properties()
    driver = dict(zip(_NVIDIA_SMI, query_nvidia_smi(*_NVIDIA_SMI), strict=False))
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "device": {
            "name": device.name,
            "capability": f"{device.major}.{device.minor}",
            "sms": device.multi_processor_count,
            "memory_bytes": device.total_memory,
            "l2_bytes": device.L2_cache_size,
            "driver": driver.get("driver_version"),
            "power_limit_w": driver.get("power.limit"),
            "max_sm_mhz": driver.get("clocks.max.sm"),
            "max_memory_mhz": driver.get("clocks.max.memory"),
        },
        "versions": {
            "torch_sm80moe": __version__,
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "driver_cuda": _dotted(info.driver_cuda_version()),
            "python": platform.python_version(),
            **{name: _version(name) for name in _DISTRIBUTIONS},
        },
        "build": build_info(),
        "shared_memory_limit": _settings.SHARED_MEMORY_LIMIT,
        "workspace_limit": _settings.WORKSPACE_LIMIT,
        "tuning": sorted({path.name for paths in loading.in_use.values() for path in paths}),
    }


def _dotted(version: tuple[int, int] | None) -> str | None:
    return None if version is None else f"{version[0]}.{version[1]}"


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
