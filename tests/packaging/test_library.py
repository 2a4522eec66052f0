"""The library loads into every torch >= 2.10 and every Python: what it needs, by name."""

import re
import subprocess
from pathlib import Path

import pytest
import torch

from build_tools.check_symbols import undefined_symbols, unresolved_symbols
from build_tools.native import ROOT

TORCH = Path(torch.__file__).parent

# Part of every glibc or gcc installation.
SYSTEM = {"libstdc++.so.6", "libgcc_s.so.1", "libc.so.6", "libm.so.6", "libdl.so.2", "librt.so.1"}
SYSTEM |= {"libpthread.so.0", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}


def readelf(option: str, library: Path) -> str:
    command = ["readelf", "--wide", option, str(library)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def defined_symbols(library: Path) -> set[str]:
    command = ["nm", "-D", "--defined-only", str(library)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {line.split()[-1].split("@")[0] for line in text.splitlines()}


def test_it_needs_libtorch_and_the_system_only(library: Path) -> None:
    needed = set(re.findall(r"NEEDED.*\[(.+)\]", readelf("--dynamic", library)))
    # Without libtorch.so by name, torch's symbols are not found: Python loads torch privately.
    assert "libtorch.so" in needed
    assert needed - SYSTEM == {"libtorch.so"}


def test_it_asks_for_no_python_and_no_cxx_symbol_of_torch(library: Path) -> None:
    assert unresolved_symbols(library) == []
    names = undefined_symbols(library)
    assert [name for name in names if name.startswith(("Py", "_Py"))] == []


def test_what_only_cuda_builds_of_torch_define_is_weak(library: Path) -> None:
    # Every build of torch has libtorch_cpu.so; CUDA builds define the rest elsewhere.
    everywhere = defined_symbols(TORCH / "lib" / "libtorch_cpu.so")
    torchs = {name: kind for name, kind in undefined_symbols(library).items() if "torch_" in name}
    assert torchs
    assert [name for name, kind in torchs.items() if kind == "U" and name not in everywhere] == []


def test_it_shows_what_ctypes_calls_and_no_other_symbol(library: Path) -> None:
    assert defined_symbols(library) == {"sm80moe_read_ceiling", "sm80moe_mma_ceiling"}


def test_it_keeps_to_the_stable_abi(library: Path) -> None:
    audit = pytest.importorskip("torch_abi_audit.cli")
    assert audit.main(["--check", "torch", str(library)]) == 0


def test_it_records_no_path_of_the_machine_that_built_it(library: Path) -> None:
    paths = re.findall(rb"/[\w.-]+/[\w./-]+\.(?:cuh?|cpp|h)\b", library.read_bytes())
    assert [path for path in paths if path.startswith((bytes(ROOT), bytes(TORCH)))] == []
