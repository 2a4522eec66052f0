"""The device's clock and power while something runs, read in a thread."""

from __future__ import annotations

import statistics
import subprocess
import threading
from collections.abc import Callable
from typing import NamedTuple

import torch

_PERIOD_S = 0.01


class Reading(NamedTuple):
    """One look at the device."""

    sm_mhz: float
    power_w: float


class ClockSummary(NamedTuple):
    """The device's state over a while; None where nobody could tell."""

    sm_mhz: float | None  # median
    power_w: float | None  # largest


class Clocks:
    """Reads the clocks for as long as the `with` block runs."""

    def __init__(self) -> None:
        """Find out how to read them."""
        self._read = find_reader()
        self._readings: list[Reading] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Clocks:
        """Start reading."""
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Stop reading."""
        self._done.set()
        self._thread.join()

    def start_over(self) -> None:
        """Forget what was read so far."""
        self._readings = []

    def summary(self) -> ClockSummary:
        """Return the state since the start."""
        if not self._readings:
            return ClockSummary(None, None)
        clocks, powers = zip(*self._readings, strict=True)
        return ClockSummary(statistics.median(clocks), max(powers))

    def _run(self) -> None:
        while self._read is not None and not self._done.wait(_PERIOD_S):
            reading = self._read()
            if reading is not None:
                self._readings.append(reading)


def find_reader() -> Callable[[], Reading | None] | None:
    """Return a function that reads the current device, through NVML or else nvidia-smi."""
    for read in (_read_nvml, _read_nvidia_smi):
        if read() is not None:
            return read
    return None


def _read_nvml() -> Reading | None:
    try:
        import pynvml
    except ImportError:
        return None
    try:
        return Reading(torch.cuda.clock_rate(), torch.cuda.power_draw() / 1e3)
    except (RuntimeError, pynvml.NVMLError):
        return None


def _read_nvidia_smi() -> Reading | None:
    fields = query_nvidia_smi("clocks.sm", "power.draw")
    try:
        return Reading(*(float(field) for field in fields))
    except (TypeError, ValueError):  # fewer fields, or "[N/A]"
        return None


def query_nvidia_smi(*fields: str) -> list[str]:
    """Ask nvidia-smi about the current device; nothing if it is not there or refuses."""
    uuid = str(torch.cuda.get_device_properties().uuid).removeprefix("GPU-")
    command = ["nvidia-smi", f"--id=GPU-{uuid}", f"--query-gpu={','.join(fields)}"]
    try:
        done = subprocess.run(
            [*command, "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    if done.returncode != 0:
        return []
    return [field.strip() for field in done.stdout.split(",")]
