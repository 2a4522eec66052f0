"""How tuning files get into use: found when CUDA starts, handed to C++, never an exception."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path

import torch

from torch_sm80moe import _ops, _settings
from torch_sm80moe.tuning.file import Device, Tuning, TuningError, describe_device, read

in_use: dict[int, tuple[Path, ...]] = {}  # by the device's index


def load_tuning(*paths: str | os.PathLike[str]) -> None:
    """Choose tactics by the measurements of these files, and of no others, in this process.

    Args:
        paths: files that `sm80moe tune` wrote. Of sizes in several files the last counts. None
            means that tactics are estimated.

    Returns:
        Nothing.

    Raises:
        ValueError: a file is unreadable, of other kernels, or of a device that is not here. The
            tuning stays as it was.
        RuntimeError: there are no CUDA kernels, or there is no CUDA device.

    Behaviour:
        Holds for every later call in the process, on every device that a file was measured on.
        `SM80MOE_TUNING` names the files that are loaded when CUDA starts.

    Source:
        `kernels/gemm/tuning.cpp`; see `docs/tactics.md`.

    Example:
        >>> load_tuning("NVIDIA-A100-SXM4-80GB.json")  # doctest: +SKIP
    """
    devices = _devices()
    if not devices:
        raise RuntimeError("load_tuning: there must be a CUDA device, got none")
    tunings = []
    for path in map(Path, paths):
        try:
            tuning = read(path)
            _require_device(tuning, devices)
        except TuningError as error:
            raise ValueError(f"load_tuning: {path} {error}") from error
        tunings.append((path, tuning))
    _use(tunings, devices)


def load_when_cuda_starts() -> None:
    """Have `load_found` called by torch once its first CUDA tensor, or the like, is wanted."""
    torch.cuda._lazy_call(load_found)


def load_found() -> None:
    """Load the files of this machine; of one that cannot be used, warn and go on without."""
    devices = _devices()
    tunings = []
    for path in _files(devices):
        try:
            tuning = read(path)
            _require_device(tuning, devices)
        except TuningError as error:
            warnings.warn(f"torch_sm80moe does not use a tuning file: {path} {error}", stacklevel=2)
        else:
            tunings.append((path, tuning))
    _use(tunings, devices)


def user_file(device: Device) -> Path:
    """Return where `sm80moe tune` writes, and where its file is found again."""
    name = re.sub(r"[^A-Za-z0-9.]+", "-", device.name)
    return _settings.CONFIG_HOME / "torch_sm80moe" / "tuning" / f"{name}.json"


def _files(devices: dict[int, Device]) -> list[Path]:
    if _settings.TUNING is not None:
        return [Path(name) for name in _settings.TUNING.split(os.pathsep) if name]
    candidates = {user_file(device): None for device in devices.values()}
    return [path for path in candidates if os.path.exists(path)]


def _devices() -> dict[int, Device]:
    return {index: describe_device(index) for index in range(torch.cuda.device_count())}


def _require_device(tuning: Tuning, devices: dict[int, Device]) -> None:
    """Raise TuningError unless one of the devices is the file's."""
    nearest = tuning.device if tuning.device in devices.values() else next(iter(devices.values()))
    tuning.check(nearest)


def _use(tunings: list[tuple[Path, Tuning]], devices: dict[int, Device]) -> None:
    for index, device in devices.items():
        mine = [(path, tuning) for path, tuning in tunings if tuning.device == device]
        rows = [row for _, tuning in mine for row in tuning.rows()]
        _ops.set_tuning(torch.tensor(rows, dtype=torch.int32).reshape(-1, 7), index)
        in_use[index] = tuple(path for path, _ in mine)
