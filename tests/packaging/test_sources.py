"""The rules of the source tree, checked as `make lint` checks them, and each on a broken case."""

import subprocess
from pathlib import Path

import pytest

from build_tools import environment, flags
from build_tools.check_files import all_problems, problems
from build_tools.check_headers import check_headers
from build_tools.check_layers import violations
from build_tools.native import ROOT
from build_tools.ninja_file import ninja_file
from build_tools.toolchain import find_toolchain

needs_compiler = pytest.mark.skipif(
    environment.cpu_only(), reason="SM80MOE_CPU_ONLY=1: there may be no compiler"
)


def write(root: Path, **files: str) -> Path:
    """A tree of kernels; `gemm__a_cuh` stands for gemm/a.cuh."""
    for name, text in files.items():
        folder, stem = name.split("__")
        path = root / folder / ".".join(stem.rsplit("_", 1))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_the_tree_keeps_its_layers() -> None:
    assert violations(ROOT / "kernels") == []


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"common__a_cuh": '#pragma once\n#include "gemm/b.cuh"\n'}, "may only know common"),
        ({"gemm__a_cuh": '#pragma once\n#include "routing/b.cuh"\n'}, "may only know common, gemm"),
        ({"routing__a_cuh": '#pragma once\n#include "gemm/b.cuh"\n'}, "may only know common"),
        (
            {"ceilings__a_cuh": '#pragma once\n#include "gemm/b.cuh"\n'},
            "may only know ceilings, common",
        ),
        ({"gemm__a_cuh": '#pragma once\n#include "b.cuh"\n'}, "written from kernels/"),
        ({"gemm__a_h": '#pragma once\n#include "gemm/b.cuh"\n'}, "only nvcc reads .cuh"),
        ({"gemm__a_cu": '#include "gemm/c.cu"\n', "gemm__c_cu": ""}, "nothing includes a source"),
        ({"gemm__a_cu": "#include <torch/csrc/stable/tensor.h>\n"}, "torch stops at ops/"),
        ({"gemm__a_cu": "#include <cub/cub.cuh>\n"}, "come from outside"),
        ({"gemm__problem_h": "#pragma once\n#include <cuda_fp16.h>\n"}, "plain C++"),
        ({"gemm__mainloop_cuh": '#pragma once\n#include "gemm/epilogue.cuh"\n'}, "each other"),
        ({"gemm__a_cuh": '#pragma once\n#include "gemm/a.cuh"\n'}, "includes itself"),
        ({"gemm__a_cuh": "int a;\n"}, "needs #pragma once"),
        ({"gemm__a_cu": '#include "schemas.inc"\n'}, "only ops/ defines operators"),
        ({"gemm__a_cu": 'void a() { asm volatile("bar.sync 0;"); }\n'}, "inline assembly"),
        ({"gemm__a_cu": "#if 0\n#endif\n"}, "dead code"),
        ({"gemm__a_cu": "void a() { exit(1); }\n"}, "ending the process"),
        ({"gemm__a_cu": "void a() { std::abort(); }\n"}, "ending the process"),
        ({"gemm__a_cu": 'void a() { printf("a"); }\n'}, "printing"),
        ({"gemm__a_cu": "void a() { assert(true); }\n"}, "assert"),
        ({"gemm__a_cu": "// TODO\n"}, "unfinished"),
    ],
)
def test_a_broken_layer_is_named(files: dict[str, str], expected: str, tmp_path: Path) -> None:
    neighbours = {f"{folder}__b_cuh": "#pragma once\n" for folder in ("gemm", "routing")}
    neighbours["gemm__epilogue_cuh"] = "#pragma once\n"
    found = violations(write(tmp_path, **neighbours, **files))
    assert len(found) == 1
    assert expected in found[0]


@needs_compiler
@pytest.mark.slow
def test_every_header_compiles_alone() -> None:
    result = check_headers()
    assert result.returncode == 0, result.stdout


@needs_compiler
@pytest.mark.slow
def test_a_header_that_needs_another_one_first_is_named(tmp_path: Path) -> None:
    broken = "#pragma once\ninline std::vector<int>* broken;\n"
    good = "#pragma once\n#include <vector>\ninline std::vector<int>* good;\n"
    write(
        tmp_path / "kernels", gemm__a_h=broken, gemm__b_cuh=broken, gemm__c_h=good, gemm__d_cuh=good
    )
    toolchain = find_toolchain()
    text = ninja_file(toolchain, flags.ARCHITECTURES, tmp_path, "build")
    (tmp_path / "build.ninja").write_text(text)
    command = [str(toolchain.ninja), "-C", str(tmp_path), "-k", "0", "headers"]
    done = subprocess.run(command, capture_output=True, text=True)
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED:")]
    assert done.returncode != 0
    assert len(failed) == 2
    assert "gemm/a.h" in failed[0] + failed[1]
    assert "gemm/b.cuh" in failed[0] + failed[1]


def test_every_text_file_is_tidy() -> None:
    assert all_problems(ROOT) == []


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"no end", ["f: must end with one newline"]),
        (b"two ends\n\n", ["f: must end with one newline"]),
        (b"blank \nnone\n", ["f:1: must not end in blanks"]),
        (b"\0" * ((1 << 20) + 1), ["f: must be at most 1048576 bytes, got 1048577"]),
        (b"", []),
        (b"good\n", []),
    ],
)
def test_an_untidy_file_is_named(data: bytes, expected: list[str], tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(data)
    assert problems(path, "f") == expected
