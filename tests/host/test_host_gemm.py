"""Every GEMM kernel on the CPU, on every shape of hazards.py, against fp64."""

from pathlib import Path

import pytest

from tests.host.build import launch_tables, num_tactics
from tests.host.hazards import HAZARDS
from tests.host.running import run_ok

pytestmark = pytest.mark.host


@pytest.mark.parametrize("hazard", HAZARDS)
@pytest.mark.parametrize("tactic", range(num_tactics()))
@pytest.mark.parametrize("table", launch_tables())
def test_grouped_gemm(
    program: Path,
    tactics: dict[tuple[str, int], dict[str, int]],
    seed: int,
    table: str,
    tactic: int,
    hazard: str,
) -> None:
    shape = HAZARDS[hazard](tactics[table, tactic])
    outcome = run_ok(program, "gemm", table=table, tactic=tactic, seed=seed, **shape)
    conflicts = outcome.bank_conflicts()
    assert conflicts["ldmatrix"] == 0 and conflicts["cp.async"] == 0, str(outcome)
