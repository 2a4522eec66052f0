"""The kernels that measure the device's ceilings do all the work that is counted for them."""

from pathlib import Path

import pytest

from tests.host.running import run_ok

pytestmark = pytest.mark.host


# Fewer steps than CTAs, a remainder, several rounds; then fewer checksums than warps.
@pytest.mark.parametrize(("steps", "checksums"), [(1, 1024), (4, 1024), (7, 1024), (9, 8), (9, 17)])
def test_read(program: Path, seed: int, steps: int, checksums: int) -> None:
    run_ok(program, "read", steps=steps, checksums=checksums, seed=seed)


@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.parametrize("operand", [0, 1, 2])
def test_mma(program: Path, seed: int, operand: int, rounds: int) -> None:
    outcome = run_ok(program, "mma", operand=operand, rounds=rounds, sms=2, seed=seed)
    assert outcome.bank_conflicts()["ldmatrix"] == 0
