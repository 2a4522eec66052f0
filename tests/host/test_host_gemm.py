"""Every GEMM kernel on the CPU, on every shape of hazards.py, against fp64."""

import re
from pathlib import Path

import pytest

from tests.host.build import (
    DENSE_TACTICS,
    INT8_TABLES,
    INT8_TACTICS,
    PACKED_TACTICS,
    instances_of_16_bits,
    launch_tables,
)
from tests.host.hazards import EPILOGUE_OPTIONS, HAZARDS, Options
from tests.host.running import run_ok

pytestmark = pytest.mark.host


def takes_turn(table: str, tactic: int, case: int) -> bool:
    """Whether an instance meets a case: those of packed weights, which are many, share the cases.

    The two types differ in how fragments are made, which every case shows.
    """
    if "DenseWeight" in launch_tables()[table]:
        return True
    return (tactic + case.bit_count()) % 2 == table.startswith("kFp16")


@pytest.mark.parametrize(
    ("table", "tactic", "hazard"),
    [
        (table, tactic, hazard)
        for table, tactic in instances_of_16_bits()
        for case, hazard in enumerate(HAZARDS)
        if takes_turn(table, tactic, case)
    ],
)
def test_grouped_gemm(
    program: Path,
    tactics: dict[tuple[str, int], dict[str, int]],
    seed: int,
    table: str,
    tactic: int,
    hazard: str,
) -> None:
    if (table, tactic) not in tactics:
        pytest.skip("the epilogue has no such tactic")
    options = packed_options(launch_tables()[table], list(HAZARDS).index(hazard))
    if "General" in launch_tables()[table]:
        # Another set of options for each pair of tactic and hazard.
        names = list(EPILOGUE_OPTIONS)
        options |= EPILOGUE_OPTIONS[names[(list(HAZARDS).index(hazard) + tactic) % len(names)]]
    shape = HAZARDS[hazard]({**tactics[table, tactic], **options})
    outcome = run_ok(program, "gemm", table=table, tactic=tactic, seed=seed, **shape, **options)
    conflicts = outcome.bank_conflicts()
    assert conflicts["ldmatrix"] == 0 and conflicts["cp.async"] == 0, str(outcome)


def test_every_code_of_every_format_is_exact(program: Path) -> None:
    run_ok(program, "dequantize")


def packed_options(instance: str, number: int) -> Options:
    """Other groups for each number, where the instance's weights have groups; none elsewhere."""
    if "Mxfp4Weight" in instance:
        return {"group": 32}
    if not re.search("Int8GroupWeight|Int4Weight|Fp8Weight", instance):
        return {}
    sizes = [0, 128] if "Fp8Weight" in instance else [0, 32, 64, 128]
    return {"group": sizes[number % len(sizes)], "zero_points": number // 4 % 2}


@pytest.mark.parametrize(
    ("table", "tactic", "number"),
    [
        (table, tactic, number)
        for table, tactic in instances_of_16_bits()
        if packed_options(launch_tables()[table], 0)
        for number in range(8)
        if takes_turn(table, tactic, number)
    ],
)
def test_groups(program: Path, seed: int, table: str, tactic: int, number: int) -> None:
    """Rows of many groups, the last of them short."""
    options = packed_options(launch_tables()[table], number)
    shape = {"rows": [5, 0, 17], "n": 272, "k": 584, "gated": number % 2, "activation": 5}
    run_ok(program, "gemm", table=table, tactic=tactic, seed=seed, **shape, **options)


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("tactic", PACKED_TACTICS)
@pytest.mark.parametrize("table", ["kBf16Int4", "kFp16Mxfp4"])
def test_words_of_groups_fill_their_sectors(
    program: Path, seed: int, table: str, tactic: int, order: int
) -> None:
    """Scales and codes cost no more of the way to device memory than they take there."""
    shape = {"rows": [5, 17], "n": 512, "k": 1024, "order": order, "group": 32, "zero_points": 1}
    outcome = run_ok(program, "gemm", table=table, tactic=tactic, seed=seed, **shape)
    copied = outcome.copied_bytes()
    assert copied["words_brought"] == copied["words_wanted"] > 0, str(outcome)
    assert copied["chunks_brought"] == copied["chunks_wanted"] > 0, str(outcome)


@pytest.mark.parametrize("options", EPILOGUE_OPTIONS)
@pytest.mark.parametrize("table", ["kBf16General", "kFp16General"])
def test_options_of_the_epilogue(program: Path, seed: int, table: str, options: str) -> None:
    """Every set on one tactic of each kind: sums shared by warps, and not."""
    chosen = EPILOGUE_OPTIONS[options]
    for tactic, rows in ((1, [17, 0, 5]), (4, [130, 3])):
        for top_k in (0, 3):
            shape = {"rows": rows, "n": 272, "k": 72, "top_k": top_k, "pad": 8, **chosen}
            run_ok(program, "gemm", table=table, tactic=tactic, seed=seed, **shape)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("tactic", DENSE_TACTICS)
@pytest.mark.parametrize("table", ["kBf16Swiglu", "kFp16Swiglu"])
def test_orders_of_gates_and_ups(
    program: Path, seed: int, table: str, tactic: int, order: int
) -> None:
    shape = {"rows": [9, 0, 20], "n": 272, "k": 72, "pad": 8, "order": order}
    run_ok(program, "gemm", table=table, tactic=tactic, seed=seed, **shape)


# Epilogues of int8 activations, what they store, and where activations come from.
INT8_OPTIONS: list[Options] = [
    {"output": 1, "fixed": 1},
    {"output": 0, "gated": 0, "activation": 5},
    {"output": 1, "gated": 0, "activation": 1, "bias": 1},
    {"output": 0, "fixed": 1, "bias": 1, "order": 2, "type": "fp16"},
    {"output": 1, "scale": 1, "constants": 1, "order": 1},
    {"output": 1, "gated": 0, "activation": 4, "fixed": 1, "type": "fp16"},
]


@pytest.mark.parametrize("hazard", HAZARDS)
@pytest.mark.parametrize("tactic", INT8_TACTICS)
@pytest.mark.parametrize("table", INT8_TABLES)
def test_int8_gemm(
    program: Path,
    tactics: dict[tuple[str, int], dict[str, int]],
    seed: int,
    table: str,
    tactic: int,
    hazard: str,
) -> None:
    number = list(HAZARDS).index(hazard)
    options: Options = {"type": ["bf16", "fp16"][number % 2]}
    if table == "kInt8RowsGeneral":
        options |= INT8_OPTIONS[(number + tactic) % len(INT8_OPTIONS)]
    shape = HAZARDS[hazard]({**tactics[table, tactic], **_gated(options)})
    shape.pop("pad", None)
    depth = shape["k"]
    assert isinstance(depth, int)
    shape["k"] = max(8, 2 * depth - 8)  # as many stages as of 16 bits, and half a chunk less
    outcome = run_ok(
        program, "int8_gemm", table=table, tactic=tactic, seed=seed, **shape, **options
    )
    conflicts = outcome.bank_conflicts()
    assert conflicts["ldmatrix"] == 0 and conflicts["cp.async"] == 0, str(outcome)


def _gated(options: Options) -> dict[str, int]:
    return {"gated": 0} if options.get("gated") == 0 else {}


@pytest.mark.parametrize("extreme", [0, 1])
@pytest.mark.parametrize("options", INT8_OPTIONS, ids=str)
def test_int8_gemm_of_the_largest_numbers(
    program: Path, seed: int, options: Options, extreme: int
) -> None:
    shape = {"rows": [37, 0, 5], "n": 272, "k": 328, "top_k": 2, "extreme": extreme}
    run_ok(program, "int8_gemm", tactic=3, seed=seed, **shape, **options)


@pytest.mark.parametrize("range_", [0, 1])
@pytest.mark.parametrize("type_", ["bf16", "fp16"])
@pytest.mark.parametrize(
    ("columns", "stride"),
    [(8, 8), (8, 16), (72, 80), (1032, 1040), (4104, 4112), (16392, 16400), (65536, 65536)],
)
def test_quantize(
    program: Path, seed: int, columns: int, stride: int, type_: str, range_: int
) -> None:
    """By every kernel, each of which holds rows of a length; beside the rows and in their place."""
    for in_place in (0, 1):
        shape = {"rows": 5, "columns": columns, "stride": stride, "pad": 8, "in_place": in_place}
        run_ok(program, "quantize", type=type_, range=range_, seed=seed, **shape)


@pytest.mark.parametrize("in_place", [0, 1])
@pytest.mark.parametrize("columns", [72, 1032, 2056])
def test_quantize_many_rows(program: Path, seed: int, columns: int, in_place: int) -> None:
    """By kernels of which a warp holds a row, and the last CTA has fewer rows than warps."""
    shape = {"rows": 1027, "columns": columns, "stride": columns + 8, "in_place": in_place}
    run_ok(program, "quantize", type="bf16", seed=seed, **shape)
