"""The layering of kernels/, and what its sources may never contain; no compiler needed."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from build_tools.native import ROOT

# Folder -> folders whose headers it may include.
LAYERS = {
    "common": {"common"},
    "gemm": {"common", "gemm"},
    "decode": {"common", "decode"},
    "routing": {"common", "routing"},
    "quantize": {"common", "quantize"},
    "ceilings": {"common", "ceilings"},
    "plan": {"common", "gemm", "routing", "plan"},
    "ops": {"common", "decode", "gemm", "quantize", "routing", "plan", "ops"},
}
# Policies: only the kernel that is composed of them knows them together.
STRANGERS = {"gemm/mainloop.cuh", "gemm/epilogue.cuh", "gemm/weight_format.cuh"}
# Host tests and selection read these without a CUDA toolkit.
PLAIN_CXX = {"gemm/problem.h", "gemm/tactics.h"}
GENERATED = {"schemas.inc", "weight_formats.inc"}

FORBIDDEN = {
    "dead code": r"^\s*#\s*if\s+0\b",
    "unfinished work": r"\b(TODO|FIXME|XXX)\b",
    "ending the process": r"\b(exit|_Exit|quick_exit|abort|terminate)\s*\(",
    "assert": r"\bassert\s*\(",
    "printing": r"\bf?printf\s*\(|\bstd::c(out|err)\b",
}
INLINE_ASSEMBLY = r"\b(asm|__asm__)\b"
PTX = "common/ptx.cuh"

_INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)
_SYSTEM_HEADER = re.compile(r"[a-z_0-9]+(\.h)?")
_TORCH_HEADER = re.compile(r"(torch|ATen|c10)/")


def violations(kernels: Path) -> list[str]:
    """One line `file: what is wrong` for each break of the rules under `kernels`."""
    files = {
        path.relative_to(kernels).as_posix(): path.read_text()
        for path in sorted(kernels.rglob("*"))
        if path.suffix in (".cu", ".cuh", ".cpp", ".h")
    }
    found: list[str] = []
    for name, text in files.items():
        found += [f"{name}: {what}" for what in _forbidden_in(name, text)]
        for bracket, header in _INCLUDE.findall(text):
            rule = (
                _check_system(name, header) if bracket == "<" else _check_ours(name, header, files)
            )
            found += [f"{name}: includes {header}, {rule}"] if rule else []
    return found + [f"{cycle}: includes itself through others" for cycle in _cycles(files)]


def _forbidden_in(name: str, text: str) -> Iterator[str]:
    for what, pattern in FORBIDDEN.items():
        if re.search(pattern, text, re.MULTILINE):
            yield f"{what} is forbidden in kernels/"
    if name != PTX and re.search(INLINE_ASSEMBLY, text):
        yield f"inline assembly belongs in {PTX}"
    if name.endswith((".h", ".cuh")) and "#pragma once" not in text:
        yield "a header needs #pragma once"


def _check_system(name: str, header: str) -> str | None:
    if _TORCH_HEADER.match(header):
        return None if name.startswith("ops/") else "but torch stops at ops/"
    if name in PLAIN_CXX and header.startswith("cuda"):
        return "but this file is plain C++"
    if not _SYSTEM_HEADER.fullmatch(header):
        return "but only C++, CUDA and (in ops/) torch headers come from outside"
    return None


def _check_ours(name: str, header: str, files: dict[str, str]) -> str | None:
    layer, target = name.split("/")[0], header.split("/")[0]
    if header in GENERATED:
        return None if layer == "ops" else "but only ops/ defines operators"
    if header not in files:
        return "but paths are written from kernels/"
    if header.endswith((".cu", ".cpp")):
        return "but nothing includes a source"
    if target not in LAYERS.get(layer, set()):
        return f"but {layer}/ may only know {', '.join(sorted(LAYERS.get(layer, set())))}"
    if name.endswith((".h", ".cpp")) and header.endswith(".cuh"):
        return "but only nvcc reads .cuh files"
    if {name, header} <= STRANGERS:
        return "but policies do not know each other"
    return None


def _cycles(files: dict[str, str]) -> Iterator[str]:
    includes = {name: set(re.findall(r'#\s*include\s*"([^"]+)"', files[name])) for name in files}
    for name in files:
        reached: set[str] = set()
        waiting = list(includes[name])
        while waiting:
            header = waiting.pop()
            if header not in reached:
                reached.add(header)
                waiting += includes.get(header, ())
        if name in reached:
            yield name


if __name__ == "__main__":
    broken = violations(ROOT / "kernels")
    print("\n".join(broken), end="\n" if broken else "")
    sys.exit(bool(broken))
