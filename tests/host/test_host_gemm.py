"""Every GEMM kernel on the CPU, on every shape of hazards.py, against fp64."""

import re
from pathlib import Path

import pytest

from tests.host.build import instances_of_tables, launch_tables, num_tactics
from tests.host.hazards import EPILOGUE_OPTIONS, HAZARDS, Options
from tests.host.running import run_ok

pytestmark = pytest.mark.host


@pytest.mark.parametrize("hazard", HAZARDS)
@pytest.mark.parametrize(("table", "tactic"), instances_of_tables())
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
    return {"group": [0, 32, 64, 128][number % 4], "zero_points": number // 4 % 2}


@pytest.mark.parametrize("number", range(8))
@pytest.mark.parametrize(
    ("table", "tactic"),
    [
        (table, tactic)
        for table, tactic in instances_of_tables()
        if packed_options(launch_tables()[table], 0)
    ],
)
def test_groups(program: Path, seed: int, table: str, tactic: int, number: int) -> None:
    """Rows of many groups, the last of them short."""
    options = packed_options(launch_tables()[table], number)
    shape = {"rows": [5, 0, 17], "n": 272, "k": 584, "gated": number % 2, "activation": 5}
    run_ok(program, "gemm", table=table, tactic=tactic, seed=seed, **shape, **options)


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
@pytest.mark.parametrize("tactic", range(num_tactics()))
@pytest.mark.parametrize("table", ["kBf16Swiglu", "kFp16Swiglu"])
def test_orders_of_gates_and_ups(
    program: Path, seed: int, table: str, tactic: int, order: int
) -> None:
    shape = {"rows": [9, 0, 20], "n": 272, "k": 72, "pad": 8, "order": order}
    run_ok(program, "gemm", table=table, tactic=tactic, seed=seed, **shape)
