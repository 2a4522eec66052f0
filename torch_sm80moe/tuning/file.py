"""The tuning file: what each tactic took, on one kind of device, by one build of the kernels.

The file is JSON with a line for each measured size, sorted, so that two of them can be compared
line by line. Which tactic a size gets is not written down: it follows from the times.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from torch_sm80moe import _options, _shapes, functional
from torch_sm80moe._build import build_info
from torch_sm80moe._version import __version__

FORMAT = 1
_MAX_INT = 2**31 - 1

_T = TypeVar("_T")


class TuningError(ValueError):
    """A file that cannot be used; the message says what it must, and what it got."""


class Device(NamedTuple):
    """What decides whether measurements hold on another device."""

    name: str
    capability: str
    num_sms: int
    shared_memory: int  # bytes that a thread block may have

    def __str__(self) -> str:
        """Return the line that tells two devices apart."""
        return f"{self.name} ({self.num_sms} SMs of {self.capability}, {self.shared_memory} bytes)"


class Gemm(NamedTuple):
    """A size that was measured."""

    dtype: str
    epilogue: str
    num_experts: int
    n: int
    k: int
    num_rows: int


Times = dict[int, float]  # microseconds of a layer, by the tactic that this GEMM has in it


def gemm_sha256() -> str:
    """Return the hash of the sources that decide how fast a tactic is."""
    return str(build_info().get("gemm_sha256", "unknown"))


@dataclass
class Tuning:
    """The content of a file."""

    device: Device
    times: dict[Gemm, Times] = field(default_factory=dict)
    version: str = __version__
    gemm_sha256: str = field(default_factory=gemm_sha256)

    def check(self, device: Device) -> None:
        """Raise TuningError unless the measurements hold for a device and these kernels."""
        if self.device != device:
            raise TuningError(f"must be measured on {device}, got {self.device}")
        if self.gemm_sha256 != gemm_sha256():
            raise TuningError(
                f"must be measured with these kernels, got others of version {self.version}"
            )
        last = len(functional.tactic_table()) - 1
        worst = max((tactic for times in self.times.values() for tactic in times), default=0)
        if worst > last:
            raise TuningError(f"must name tactics up to {last}, got {worst}")

    def rows(self) -> list[list[int]]:
        """Return what the operator `set_tuning` takes: each size with its fastest tactic."""
        return [
            [
                _shapes.DTYPES.index(gemm.dtype),
                _options.EPILOGUES.index(gemm.epilogue),
                *(gemm.num_experts, gemm.n, gemm.k, gemm.num_rows),
                min(times, key=times.__getitem__),
            ]
            for gemm, times in self.times.items()
        ]

    def text(self) -> str:
        """Return the file's text."""
        head = {
            "format": FORMAT,
            "version": self.version,
            "gemm_sha256": self.gemm_sha256,
            "device": self.device._asdict(),
        }
        lines = [
            json.dumps({**gemm._asdict(), "us": {i: round(us, 2) for i, us in times.items()}})
            for gemm, times in sorted(self.times.items())
        ]
        opening = json.dumps(head, indent=2).removesuffix("\n}")
        measurements = ",\n    ".join(lines)
        return f'{opening},\n  "measurements": [\n    {measurements}\n  ]\n}}\n'

    def write(self, path: Path) -> None:
        """Write the file, or leave the one that is there."""
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f"{path.name}.{os.getpid()}")
        unfinished.write_text(self.text())
        unfinished.replace(path)


def describe_device(index: int) -> Device:
    """Return what torch knows of a CUDA device."""
    properties: Any = torch.cuda.get_device_properties(index)  # torch's types lack attributes
    return Device(
        properties.name,
        f"{properties.major}.{properties.minor}",
        properties.multi_processor_count,
        properties.shared_memory_per_block_optin,
    )


def read(path: Path) -> Tuning:
    """Return the content of a file.

    Raises:
        TuningError: the file cannot be read, or is no tuning file.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise TuningError(f"must be a readable JSON file, got {error}") from error
    if _get(content, "format", int) != FORMAT:
        raise TuningError(f"must have format {FORMAT}, got {content['format']}")
    device = _get(content, "device", dict)
    return Tuning(
        Device(
            _get(device, "name", str),
            _get(device, "capability", str),
            _get(device, "num_sms", int),
            _get(device, "shared_memory", int),
        ),
        dict(_measurement(row) for row in _get(content, "measurements", list)),
        _get(content, "version", str),
        _get(content, "gemm_sha256", str),
    )


def _measurement(row: Any) -> tuple[Gemm, Times]:
    gemm = Gemm(
        _get(row, "dtype", str),
        _get(row, "epilogue", str),
        *(_get(row, name, int) for name in ("num_experts", "n", "k", "num_rows")),
    )
    times = _get(row, "us", dict)
    if (
        gemm.dtype not in _shapes.DTYPES
        or gemm.epilogue not in _options.EPILOGUES
        or not 1 <= gemm.num_experts <= _shapes.MAX_EXPERTS
        or not all(1 <= size <= _MAX_INT for size in (gemm.n, gemm.k, gemm.num_rows))
        or not times
        or not all(tactic.isdecimal() for tactic in times)
        or not all(isinstance(us, int | float) and us > 0 for us in times.values())
    ):
        raise TuningError(f"must hold times of tactics for possible sizes, got {row}")
    return gemm, {int(tactic): float(us) for tactic, us in times.items()}


def _get(table: Any, name: str, kind: type[_T]) -> _T:
    value = table.get(name) if isinstance(table, dict) else None
    if not isinstance(value, kind):
        raise TuningError(f"must have {name!r} as {kind.__name__}, got {value!r}")
    return value
