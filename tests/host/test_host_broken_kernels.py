"""Each deliberate mistake is seen by the check that is there for it."""

import re
from pathlib import Path

import pytest

from tests.host.broken_kernels import BROKEN_KERNELS, BrokenKernel
from tests.host.build import Patch, build_patched, finish_patched
from tests.host.hazards import Tactic
from tests.host.mistakes import MISTAKES
from tests.host.running import Outcome, run

pytestmark = pytest.mark.host

Tactics = dict[tuple[str, int], Tactic]


@pytest.fixture(scope="module")
def patches(tactics: Tactics) -> dict[str, Patch | AssertionError]:
    """Compile them all together; what no longer applies fails the test of its own."""
    applied: dict[str, Patch | AssertionError] = {}
    for broken in BROKEN_KERNELS:
        try:
            applied[broken.name] = broken.patch(tactics)
        except AssertionError as error:
            applied[broken.name] = error
    build_patched([patch for patch in applied.values() if isinstance(patch, Patch)])
    return applied


# Six seeds are every way to pick the next thread, with copies landing early and late.
@pytest.mark.parametrize("broken", BROKEN_KERNELS, ids=lambda broken: broken.name)
def test_broken_kernel_is_caught(
    patches: dict[str, Patch | AssertionError], tactics: Tactics, broken: BrokenKernel
) -> None:
    patch = patches[broken.name]
    if isinstance(patch, AssertionError):
        raise patch
    program = finish_patched(patch)
    for seed in range(6):
        outcome = run(program, broken.command, seed=seed, **broken.run_options(tactics))
        assert failed_check(outcome) in broken.checks, str(outcome)


def failed_check(outcome: Outcome) -> str | None:
    """The check that ended the run, or the one that its counts fail."""
    if outcome.returncode == 0 and outcome.bank_conflicts()["ldmatrix"] > 0:
        return "bank-conflicts"
    return outcome.failed_check


def test_every_check_is_proven() -> None:
    proven = set().union(*(broken.checks for broken in BROKEN_KERNELS))
    proven.update(*(checks.split("|") for checks, _ in MISTAKES.values()))
    readme = (Path(__file__).parent / "README.md").read_text()
    assert proven == set(re.findall(r"^\| `([a-z-]+)` \|", readme, re.MULTILINE))
