"""Every kernel that kernels/ can launch is one that the tests here launch."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.host.build import INT8_TABLES, instances_of_tables, kernel_names
from tests.host.hazards import HAZARDS, Tactic
from tests.host.running import run_ok

pytestmark = pytest.mark.host

# What decode kernels are compiled for, beside 16-bit weights.
PACKED_ROWS = [
    {"format": "int8"},
    {"format": "int8", "group": 64},
    {"format": "int8", "group": 64, "zero_points": 1},
    {"format": "int4"},
    {"format": "int4", "zero_points": 1},
    {"format": "fp8"},
    {"format": "mxfp4", "group": 32},
    {"format": "w8a8"},
]
# Rows and columns that each have a kernel of their own.
QUANTIZED = [(1, 8), (1, 1032), (1, 4104), (1, 16392), (1024, 8), (1024, 1032), (1024, 2056)]


def test_tests_name_every_instance_of_the_launch_tables(
    tactics: dict[tuple[str, int], Tactic],
) -> None:
    named = set(instances_of_tables())
    # The general epilogue leaves out the tiles that take all registers.
    left_out = named - set(tactics)
    assert set(tactics) <= named
    assert {table for table, _ in left_out} == {"kBf16General", "kFp16General"}
    assert all(tactics["kBf16Store", tactic]["cta_m"] > 128 for _, tactic in left_out)
    assert all(columns["reachable"] for columns in tactics.values())


def test_every_compiled_kernel_runs(
    program: Path, tactics: dict[tuple[str, int], Tactic], seed: int
) -> None:
    launched: set[int] = set()
    for (table, tactic), columns in tactics.items():
        shape = HAZARDS["one_row"](columns)
        command = "int8_gemm" if table in INT8_TABLES else "gemm"
        launched |= run_ok(program, command, table=table, tactic=tactic, **shape).kernels()
    for scoring in ("softmax", "sigmoid", "sqrtsoftplus"):
        for experts in (1, 33, 65, 129, 257, 513):
            launched |= run_ok(program, "topk", scoring=scoring, experts=experts, top_k=1).kernels()
    for type_ in ("fp16", "bf16"):
        for rows, columns in QUANTIZED:
            shape = {"rows": rows, "columns": columns}
            launched |= run_ok(program, "quantize", type=type_, **shape).kernels()
        for option in ("unweighted", "residual"):
            launched |= run_ok(
                program, "combine", type=type_, **{option: option == "residual"}
            ).kernels()
        for options in ({}, {"residual": 1}, {"bias": 1}, {"gated": 0}):
            launched |= run_ok(program, "decode", type=type_, **options).kernels()
        for weights in PACKED_ROWS:
            for options in ({}, {"bias": 1}, {"gated": 0}):
                launched |= run_ok(program, "decode", type=type_, **weights, **options).kernels()
    for tokens in (1, 10000):
        launched |= run_ok(program, "sort", tokens=tokens, top_k=2).kernels()
    launched |= run_ok(program, "ends", rows=[1]).kernels()
    launched |= run_ok(program, "read").kernels()
    for operand in range(3):
        launched |= run_ok(program, "mma", operand=operand, sms=1).kernels()
    assert compiled_kernels(program) == launched


def compiled_kernels(program: Path) -> set[int]:
    """The addresses of all instances of the __global__ functions of kernels/."""
    command = ["nm", "--demangle", "--defined-only", str(program)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    kernel = re.compile(rf"^([0-9a-f]+) \w .*\bsm80moe::.*\b({'|'.join(kernel_names())})[<(]")
    lines = [line for line in listing.splitlines() if not re.search(r"\[clone|\{lambda", line)]
    found = [kernel.match(line) for line in lines]
    return {int(match[1], 16) for match in found if match}
