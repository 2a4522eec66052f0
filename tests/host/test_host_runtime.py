"""The host execution itself: it computes what the hardware would, and sees each mistake."""

from pathlib import Path

import pytest

from tests.host.running import run, run_ok

pytestmark = pytest.mark.host

# A kernel of selftest.cu, the check that must end it, and words of its report.
MISTAKES = {
    "read_past_the_end": ("out-of-bounds", "byte 256 of in (256 bytes)"),
    "blocks_overlap": ("race", "byte 0 of out"),
    "warps_overlap": ("race", "thread 32 (warp 1, lane 0)"),
    "write_after_read": ("race", "smem"),
    "thread_waits_forever": ("deadlock", "waits for __syncwarp at tests/host/selftest/selftest.cu"),
    "barriers_differ": ("divergence", "__syncthreads at tests/host/selftest/selftest.cu"),
    "read_before_write": ("uninitialised", "byte 4 of smem"),
    "write_past_shared": ("shared-out-of-bounds", "byte 252 of dynamic shared memory (252 bytes)"),
    "misaligned_copy": ("misaligned", "must be a multiple of 16"),
    "misaligned_vector": ("undefined-behaviour", "misaligned address"),
    "copy_never_awaited": ("unfinished-copy", ""),
    "read_in_flight": ("in-flight", "a copy issued by thread 0"),
    "barrier_before_wait": ("race|in-flight", "by thread 0 (warp 0, lane 0)"),
    "shift_too_far": ("undefined-behaviour", "shift exponent 32 is too large"),
}


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
