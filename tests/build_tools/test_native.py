"""The build itself: what is compiled, what is generated, and what a broken source does."""

import dataclasses
import os
import subprocess
from pathlib import Path

import pytest

from build_tools import environment, flags, native
from build_tools.check_symbols import unresolved_symbols
from build_tools.compile_commands import compile_commands
from build_tools.native import GENERATED, ROOT
from build_tools.ninja_file import ninja_file
from build_tools.toolchain import find_toolchain
from torch_sm80moe._formats import WEIGHT_FORMATS
from torch_sm80moe._schemas import SCHEMAS

pytestmark = pytest.mark.skipif(
    environment.cpu_only(), reason="SM80MOE_CPU_ONLY=1: there may be no compiler"
)


def test_every_operator_is_defined_by_the_generated_file() -> None:
    native.ninja_command()
    lines = (GENERATED / "schemas.inc").read_text().splitlines()
    assert lines == [f'm.def("{schema}");' for schema in SCHEMAS]


def test_rules_of_weight_formats_are_those_of_the_generated_file() -> None:
    native.ninja_command()
    lines = (GENERATED / "weight_formats.inc").read_text().splitlines()
    assert [line.split('"')[1] for line in lines] == list(WEIGHT_FORMATS)
    assert lines[WEIGHT_FORMATS.index("fp8")] == '{"fp8", 8, {0, 128}, "0 or 128"},'


def test_clangd_learns_every_source_and_nothing_of_the_shell() -> None:
    entries = {entry["file"]: entry["command"] for entry in compile_commands()}
    sources = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("kernels/**/*.c[pu]*")}
    assert entries.keys() == {name for name in sources if not name.endswith(".cuh")}
    assert [command for command in entries.values() if ">" in command or "|" in command] == []


def test_one_front_end_pass_feeds_every_architecture() -> None:
    assert flags.gencode(("80", "90")) == (
        *("-gencode", "arch=compute_80,code=sm_80"),
        *("-gencode", "arch=compute_80,code=sm_90"),
        *("-gencode", "arch=compute_80,code=compute_80"),
    )


def test_nothing_is_compiled_twice() -> None:
    native.build_library()
    done = subprocess.run(native.ninja_command(), capture_output=True, text=True)
    assert "no work to do" in done.stdout


def test_a_changed_epilogue_compiles_no_more_than_the_gemms() -> None:
    native.build_library()
    listing = subprocess.run(native.ninja_command("-t", "deps"), capture_output=True, text=True)
    users = {
        block.partition(":")[0].partition("/objects/")[2]
        for block in listing.stdout.split("\n\n")
        if "    kernels/gemm/epilogue.cuh\n" in f"{block}\n"
    } - {""}
    assert users
    assert {name for name in users if not name.startswith("kernels/gemm/inst/")} == set()


@pytest.mark.slow
def test_every_compiler_is_called_through_ccache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compilers only: ccache is no help with linking, and with headers there is no output."""
    calls = tmp_path / "calls"
    ccache = tmp_path / "bin" / "ccache"
    ccache.parent.mkdir()
    ccache.write_text(f'#!/bin/sh\necho "$@" >> {calls}\nexec "$@"\n')
    ccache.chmod(0o755)
    kernels = tmp_path / "kernels"
    kernels.mkdir()
    (kernels / "a.cu").write_text("__global__ void __launch_bounds__(32) a() {}\n")
    (kernels / "b.cpp").write_text("int b() { return 0; }\n")
    monkeypatch.setenv("PATH", str(ccache.parent), prepend=os.pathsep)
    toolchain = find_toolchain()
    (tmp_path / "build.ninja").write_text(ninja_file(toolchain, ("80",), tmp_path, "build"))
    objects = [f"build/objects/kernels/{name}.o" for name in ("a.cu", "b.cpp")]
    command = [str(toolchain.ninja), "-C", str(tmp_path), *objects]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    compilers = {line.split()[0] for line in calls.read_text().splitlines()}
    assert compilers == {str(toolchain.cuda.nvcc), str(toolchain.cxx)}
    assert len(calls.read_text().splitlines()) == len(objects)


def test_a_compilation_that_does_not_say_what_it_read_is_a_failure(tmp_path: Path) -> None:
    """Its object would never be compiled again, whatever changed."""
    toolchain = find_toolchain()
    forgetful = tmp_path / "g++"
    forgetful.write_text(f'#!/bin/sh\n"{toolchain.cxx}" "$@" && rm -f build/objects/kernels/*.d\n')
    forgetful.chmod(0o755)
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "b.cpp").write_text("int b() { return 0; }\n")
    for cxx, works in ((toolchain.cxx, True), (forgetful, False)):
        text = ninja_file(dataclasses.replace(toolchain, cxx=cxx), ("80",), tmp_path, "build")
        (tmp_path / "build.ninja").write_text(text)
        command = [str(toolchain.ninja), "-C", str(tmp_path), "build/objects/kernels/b.cpp.o"]
        assert (subprocess.run(command).returncode == 0) is works


def test_a_symbol_that_nobody_defines_is_found(tmp_path: Path) -> None:
    source = tmp_path / "a.cpp"
    source.write_text(
        "void nobody_defines_this();\n"
        'extern "C" void aoti_torch_anything();\n'
        'extern "C" __attribute__((weak)) void only_in_cuda_builds();\n'
        "void a() {\n"
        "  nobody_defines_this();\n"
        "  aoti_torch_anything();\n"
        "  if (only_in_cuda_builds) only_in_cuda_builds();\n"
        "}\n"
    )
    library = tmp_path / "a.so"
    subprocess.run(["g++", "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    assert unresolved_symbols(library) == ["_Z19nobody_defines_thisv"]


@pytest.mark.slow
def test_the_log_is_hidden_from_the_screen_unless_something_is_wrong(tmp_path: Path) -> None:
    kernels = tmp_path / "kernels"
    kernels.mkdir()
    (kernels / "good.cu").write_text("__global__ void __launch_bounds__(32) good() {}\n")
    (kernels / "bad.cu").write_text("__global__ void bad() { not_a_name; }\n")
    toolchain = find_toolchain()
    (tmp_path / "build.ninja").write_text(ninja_file(toolchain, ("80",), tmp_path, "build"))
    command = [str(toolchain.ninja), "-C", str(tmp_path), "-k", "0"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    assert 'identifier "not_a_name" is undefined' in done.stdout
    assert not any(line.startswith("ptxas info") for line in done.stdout.splitlines())
    log = tmp_path / "build" / "objects" / "kernels" / "good.cu.o.log"
    assert "Used" in log.read_text()
