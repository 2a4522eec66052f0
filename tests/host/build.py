"""Compiles kernels/ for the CPU, with what checks every access, into build/host.

From the root of the tree: `python3 -m tests.host.build` prints the program's path.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from build_tools import environment
from tests.host.rewriter import rewrite

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
KERNELS = ROOT / "kernels"
BUILD = Path("build/host")  # from ROOT, like every path that the compiler sees
NINJA_FILE = BUILD / "build.ninja"
PROGRAM = BUILD / "program" / "run"
PATCHED = BUILD / "patched"
PATCHED_NINJA_FILE = PATCHED / "build.ninja"
SELFTEST = Path("tests/host/selftest/selftest.cu")
INSTANCES = "instances.cpp"
SELECTION = "tests/host/driver/select.cpp"

_COMMON = (
    "-std=c++17 -gdwarf-4 -Wall -Wextra -Wno-unknown-pragmas -fno-pie "
    f"-fdebug-prefix-map={ROOT}=. -Itests/host/include -Itests/host"
)
# The hooks of -fsanitize=thread are ours (runtime/access_hooks.cpp). Of UBSan those checks are left
# out that the hooks make already.
_CHECKED = (
    "-O1 -fsanitize=thread,undefined --param tsan-instrument-func-entry-exit=0 "
    "-fno-sanitize=null,object-size,pointer-overflow,vptr -include cuda_runtime.h"
)
_RULES = f"""
ninja_required_version = 1.8
builddir = {{builddir}}
rule checked
  command = {{cxx}} {_COMMON} {_CHECKED} -I$kernels -x c++ -MMD -MF $out.d -c $in -o $out
  depfile = $out.d
  deps = gcc
  description = host $out
rule plain
  command = {{cxx}} {_COMMON} -O2 -I$kernels -x c++ -MMD -MF $out.d -c $in -o $out
  depfile = $out.d
  deps = gcc
  description = host $out
rule link
  command = {{cxx}} -no-pie -fsanitize=undefined $in -o $out
  description = host $out
"""


class Variant:
    """One set of kernel sources, rewritten into a folder of its own, and the program from them."""

    def __init__(self, name: str, sources: dict[str, str]) -> None:
        self.folder = BUILD / name
        self.kernels = self.folder / "kernels"
        self.program = self.folder / "run"
        self.sources = sources
        self._edges: list[str] = []
        for source, text in sources.items():
            _write_if_changed(self.kernels / source, rewrite(text, f"kernels/{source}"))
        for path in (ROOT / self.kernels).rglob("*.*"):
            if path.relative_to(ROOT / self.kernels).as_posix() not in sources:
                path.unlink()

    def compile(self, rule: str, source: Path) -> Path:
        """An object file; its rule says whether accesses are checked."""
        target = self.folder / "objects" / f"{source.as_posix().replace('/', '.')}.o"
        self._edges += [f"build {target}: {rule} {source}", f"  kernels = {self.kernels}"]
        return target

    def generate(self, name: str, text: str) -> Path:
        _write_if_changed(self.folder / name, text)
        return self.folder / name

    def ninja_text(self, objects: Iterable[Path]) -> str:
        link = f"build {self.program}: link {' '.join(map(str, objects))}"
        return "\n".join([*self._edges, link, ""])


def kernel_sources() -> dict[str, str]:
    """Everything under kernels/ but the bindings to torch, by path."""
    paths = [path for path in KERNELS.rglob("*") if path.suffix in (".cu", ".cuh", ".cpp", ".h")]
    named = {path.relative_to(KERNELS).as_posix(): path.read_text() for path in sorted(paths)}
    return {name: text for name, text in named.items() if not name.startswith("ops/")}


def launch_tables() -> dict[str, str]:
    """Each launch table of kernels/gemm/inst with the template arguments that define it."""
    tables: dict[str, str] = {}
    for path in sorted((KERNELS / "gemm" / "inst").glob("*.cu")):
        found = re.findall(r"const LaunchTable (\w+) =\s*launch_table<(.*)>\(\);", path.read_text())
        if not found:
            raise ValueError(f"{path}: must define a launch table, got none that build.py can read")
        tables.update(found)
    return tables


# Those of int8 activations have a command of their own.
INT8_TABLES = ("kInt8RowsStore", "kInt8RowsSwiglu", "kInt8RowsGeneral")
# Which tactics have kernels of which weights; the program's own list is compared with them.
DENSE_TACTICS = tuple(range(9))
PACKED_TACTICS = (3, 9, 10, 11, 15, 16)
INT8_TACTICS = (2, 3, 4, 5)


def instances_of_tables() -> list[tuple[str, int]]:
    """Every launch table with each of its tactics."""
    return [
        (table, tactic)
        for table, arguments in launch_tables().items()
        for tactic in _tactics_of(arguments)
    ]


def instances_of_16_bits() -> list[tuple[str, int]]:
    """Those whose activations have 16 bits."""
    return [one for one in instances_of_tables() if one[0] not in INT8_TABLES]


def _tactics_of(arguments: str) -> Iterable[int]:
    if "DenseWeight" in arguments:
        return DENSE_TACTICS
    if "Int8PairWeight" in arguments:
        return INT8_TACTICS
    if re.search("Int4Weight|Mxfp4Weight", arguments):
        return (*PACKED_TACTICS, 14, 17, 18)
    return (*PACKED_TACTICS, 12, 13) if "Int8Weight" in arguments else (*PACKED_TACTICS, 13)


def kernel_names() -> set[str]:
    """The __global__ functions of kernels/, by their names in the sources."""
    names = set()
    for text in kernel_sources().values():
        for declaration in re.findall(r"__global__\s+void\s+(.*?)\{", text, re.DOTALL):
            names.add(re.findall(r"(\w+)\s*\(\s*(?:const|\w+\s+\w+)", declaration)[0])
    return names


def build() -> Path:
    """Bring the program up to date and return its path."""
    variant, objects = _whole_program()
    _write_if_changed(NINJA_FILE, _rules(BUILD) + variant.ninja_text(objects.values()))
    ninja(NINJA_FILE, PROGRAM)
    return ROOT / PROGRAM


@dataclass(frozen=True)
class Patch:
    """A copy of the kernels with other text in places; one object of the program comes from it."""

    name: str
    sources: dict[str, str]
    # What is compiled: one kernel of a launch table, or one source file.
    table_and_tactic: tuple[str, int] | None = None
    source: str | None = None

    @property
    def program(self) -> Path:
        return PATCHED / self.name / "run"


def build_patched(patches: Iterable[Patch]) -> None:
    """Compile what can be compiled; `finish_patched` then tells for each whether it was."""
    text = "".join(map(_patched_edges, patches))
    _write_if_changed(PATCHED_NINJA_FILE, _rules(PATCHED) + text)
    ninja(PATCHED_NINJA_FILE, keep_going=True)


def finish_patched(patch: Patch) -> Path:
    """The program of one patch; the error carries the compiler's output."""
    ninja(PATCHED_NINJA_FILE, patch.program)
    return ROOT / patch.program


def _patched_edges(patch: Patch) -> str:
    """Everything but the patched object is the unpatched program's, which must exist."""
    variant = Variant(f"patched/{patch.name}", patch.sources)
    _, objects = _whole_program()
    if patch.table_and_tactic:
        others = {
            source: path
            for source, path in objects.items()
            if not source.startswith("kernels/gemm/") and source not in (INSTANCES, SELECTION)
        }
        source = variant.generate(INSTANCES, one_instance(*patch.table_and_tactic))
    else:
        others = {k: v for k, v in objects.items() if k != f"kernels/{patch.source}"}
        source = variant.kernels / str(patch.source)
    return variant.ninja_text([variant.compile("checked", source), *others.values()])


def ninja(file: Path, *targets: Path, keep_going: bool = False) -> None:
    """Run ninja in ROOT; the error carries the compiler's output."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    found = shutil.which("ninja", path=path)
    assert found, "the host program needs ninja: pip install ninja"
    command = [found, "-f", str(file), "-j", str(environment.max_jobs())]
    command += ["-k", "0"] if keep_going else []
    result = subprocess.run(
        [*command, *map(str, targets)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if result.returncode != 0 and not keep_going:
        raise AssertionError(f"the host program must compile:\n{result.stdout}")


def _whole_program() -> tuple[Variant, dict[str, Path]]:
    """The unpatched program and its objects, by source."""
    variant = Variant("program", kernel_sources())
    objects = {}
    for name in variant.sources:
        if name.endswith((".cu", ".cpp")):
            objects[f"kernels/{name}"] = variant.compile("checked", variant.kernels / name)
    objects[INSTANCES] = variant.compile("plain", variant.generate(INSTANCES, _all_instances()))
    selftest = rewrite((ROOT / SELFTEST).read_text(), str(SELFTEST))
    objects[str(SELFTEST)] = variant.compile("checked", variant.generate("selftest.cpp", selftest))
    for path in sorted(HERE.glob("runtime/*.cpp")) + sorted(HERE.glob("driver/*.cpp")):
        source = path.relative_to(ROOT)
        objects[str(source)] = variant.compile("plain", source)
    return variant, objects


_INSTANCES = """
#include "driver/instance_kind.h"
{includes}

std::vector<driver::Instance> driver::instances() {{
  using namespace sm80moe::gemm;
  std::vector<Instance> all;
{rows}
  return all;
}}
"""


def _all_instances() -> str:
    rows = []
    for table, arguments in launch_tables().items():
        kind = _kind(arguments)
        reachable = f"&launch_table_for({kind}) == &{table}"
        rows.append(
            f"    if ({table}.launch[id] != nullptr)\n"
            f'      all.push_back({{"{table}", id, {kind}, {table}.launch[id], {reachable}}});'
        )
    loop = "  for (int id = 0; id < kNumTactics; ++id) {\n" + "\n".join(rows) + "\n  }"
    return _INSTANCES.format(
        includes='#include "gemm/launch.h"\n#include "gemm/weight_format.cuh"', rows=loop
    )


def one_instance(table: str, tactic: int) -> str:
    """The source of a program's instances that has one kernel, which compiles in seconds."""
    arguments = launch_tables()[table]
    row = f'"{table}", {tactic}, {_kind(arguments)}, &launch<{tactic}, {arguments}>, true'
    return _INSTANCES.format(
        includes='#include "gemm/launch_table.cuh"', rows=f"  all.push_back({{{row}}});"
    )


def _kind(arguments: str) -> str:
    element, weight, epilogue = (part.strip() for part in arguments.split(","))
    return f"element_type<{element}>(), weight_format<{weight}>(), epilogue_kind<{epilogue}>()"


def _rules(builddir: Path) -> str:
    return _RULES.format(cxx=environment.host_compiler(), builddir=builddir)


def _write_if_changed(path: Path, text: str) -> None:
    # An untouched time stamp keeps ninja from compiling again.
    absolute = ROOT / path
    if absolute.is_file() and absolute.read_text() == text:
        return
    absolute.parent.mkdir(parents=True, exist_ok=True)
    absolute.write_text(text)


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.stdout.write(f"{build().relative_to(ROOT)}\n")
