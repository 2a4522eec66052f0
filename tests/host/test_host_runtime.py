"""The host execution itself: it computes what the hardware would, and sees each mistake."""

from pathlib import Path

import pytest

from tests.host.mistakes import MISTAKES
from tests.host.running import run, run_ok

pytestmark = pytest.mark.host


@pytest.mark.parametrize("case", ["mma", "atomics"])
def test_right_kernels_pass(program: Path, seed: int, case: str) -> None:
    run_ok(program, "selftest", case=case, seed=seed)


# Six seeds are every way to pick the next thread, with copies landing early and late.
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_seen(program: Path, case: str, seed: int) -> None:
    check, words = MISTAKES[case]
    outcome = run(program, "selftest", case=case, seed=seed)
    assert outcome.failed_check in check.split("|"), str(outcome)
    assert words in outcome.output, str(outcome)


def test_the_same_seed_is_the_same_run(program: Path) -> None:
    first, second = (run(program, "selftest", case="blocks_overlap", seed=7) for _ in range(2))
    assert first == second
