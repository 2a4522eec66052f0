"""`sm80moe info`: what is installed, on what it runs, and what is missing."""

from __future__ import annotations

import ctypes
import platform
from importlib import metadata
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from torch_sm80moe import _ops, functional
from torch_sm80moe._build import build_info
from torch_sm80moe._version import __version__
from torch_sm80moe.tuning import loading

_MIN_MAJOR = 8
# The CUDA that compiled the kernels -> the oldest driver that loads them, whatever CUDA torch has.
OLDEST_DRIVER = {12: "R525", 13: "R580"}


def print_info() -> None:
    """Print everything, most important first."""
    console = Console(highlight=False)
    build = build_info()
    facts = Table.grid(padding=(0, 3))
    facts.add_column()
    facts.add_column(overflow="fold")  # a long path is a word that must not be cut
    for name, value in (
        ("torch_sm80moe", _version(build)),
        ("kernels", _kernels(build)),
        ("device", "\n".join(_devices(build)) or "no CUDA device"),
        ("tuning", "\n".join(_tuning()) or "none, tactics are estimated"),
        ("driver", _driver(build)),
        ("torch", f"{torch.__version__}, built for {_torch_target()}"),
        ("transformers", _transformers()),
        ("Python", platform.python_version()),
    ):
        facts.add_row(f"[bold]{name}", value)
    console.print(facts)
    console.print(_operators())
    for sentence in missing(build):
        console.print(f"[yellow]missing:[/] {sentence}", soft_wrap=True)


def missing(build: dict[str, Any]) -> list[str]:
    """Return a sentence for each thing that keeps the kernels from running, or the demo."""
    sentences = []
    if not _ops.HAS_KERNELS:
        sentences.append(
            "the CUDA kernels: operators run for tensors on the CPU only. "
            "Install a wheel with kernels, or build one with `pip install .`."
        )
    if torch.version.cuda is None:
        sentences.append(
            "a torch that is built for CUDA: this one cannot use a GPU. "
            "Install another from pytorch.org; torch_sm80moe stays as it is."
        )
    elif not torch.cuda.is_available():
        sentences.append(
            "a usable CUDA device: torch finds no GPU, or a driver that is too old for "
            f"CUDA {torch.version.cuda}. Operators run for tensors on the CPU."
        )
    needed, offered = _needed_cuda(build), driver_cuda_version()
    if needed is not None and offered is not None and offered[0] < needed:
        sentences.append(
            f"a driver for CUDA {needed} ({OLDEST_DRIVER[needed]} or newer): the kernels were "
            f"compiled with it, and this driver supports CUDA {offered[0]}.{offered[1]}."
        )
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        if major < _MIN_MAJOR:
            sentences.append(
                f"support for cuda:{index}: its compute capability is {major}.{minor}, and the "
                f"kernels need {_MIN_MAJOR}.0 (Ampere) or newer."
            )
    if _installed("transformers") is None:
        sentences.append(
            "transformers: the demo and the integration need it "
            "(pip install torch_sm80moe\\[transformers])."
        )
    return sentences


def driver_cuda_version() -> tuple[int, int] | None:
    """Ask the driver's library which CUDA it supports; no device is touched."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    version = ctypes.c_int()
    if library.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return None
    return version.value // 1000, version.value % 1000 // 10


def _version(build: dict[str, Any]) -> str:
    commit = build.get("commit")
    return f"{__version__} (commit {commit[:12]})" if commit else __version__


def _kernels(build: dict[str, Any]) -> str:
    if not _ops.HAS_KERNELS:
        return "none (CPU only)"
    tactics = f"{len(functional.tactic_table())} tactics"
    if not build:
        return f"built, {tactics}"
    architectures = [*build["architectures"], f"{build['ptx']} PTX" if build.get("ptx") else ""]
    names = ", ".join(name for name in architectures if name)
    return f"{names}; nvcc {build['nvcc']}; {tactics}"


def _devices(build: dict[str, Any]) -> list[str]:
    lines = []
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        name = torch.cuda.get_device_name(index)
        lines.append(f"cuda:{index} {name}, SM {major}.{minor}, {_code_for(major, minor, build)}")
    return lines


def _code_for(major: int, minor: int, build: dict[str, Any]) -> str:
    """Say which of the wheel's code a device runs: the newest machine code of its generation."""
    if not _ops.HAS_KERNELS:
        return "not used: there are no kernels"
    if major < _MIN_MAJOR:
        return "not supported"
    binaries = [int(name.removeprefix("sm_")) for name in build.get("architectures", ())]
    usable = [sm for sm in binaries if sm // 10 == major and sm % 10 <= minor]
    if usable:
        return f"runs sm_{max(usable)} code"
    return f"compiles {build['ptx']} PTX at first use" if build.get("ptx") else "no code for it"


def _tuning() -> list[str]:
    """Say which files the devices' tactics come from; they were read when CUDA started."""
    return [f"cuda:{index} {path}" for index, paths in loading.in_use.items() for path in paths]


def _needed_cuda(build: dict[str, Any]) -> int | None:
    nvcc = build.get("nvcc")
    return int(nvcc.partition(".")[0]) if nvcc else None


def _driver(build: dict[str, Any]) -> str:
    version, needed = driver_cuda_version(), _needed_cuda(build)
    offer = f"supports CUDA {version[0]}.{version[1]}" if version else "none"
    return f"{offer}; the kernels need {OLDEST_DRIVER[needed]} or newer" if needed else offer


def _torch_target() -> str:
    return f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU"


def _transformers() -> str:
    version = _installed("transformers")
    if version is None:
        return "not installed"
    return f'{version}, experts_implementation="sm80moe"'


def _installed(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _operators() -> Table:
    table = Table("operator", "CPU", "CUDA", box=None, padding=(0, 3, 0, 0))
    for operator in _ops.OPERATOR_NAMES:
        runs_on = [_ops.runs_on(operator, key) for key in ("CPU", "CUDA")]
        table.add_row(_ops.qualified_name(operator), *("yes" if runs else "no" for runs in runs_on))
    return table
