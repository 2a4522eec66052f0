"""Which tactic a size gets on several devices, by estimate and by measurements; needs no GPU."""

import itertools
import re
from pathlib import Path

import pytest

from tests.host.running import run_ok

pytestmark = pytest.mark.host

SMEM_OF_SM = {"a100": 164 * 1024, "a6000": 100 * 1024, "h100": 228 * 1024}
DEVICES = tuple(SMEM_OF_SM)
SMEM_OF_SM86 = 99 * 1024
MODELS = {  # experts, n, k of both GEMMs
    "few_large_experts": ((8, 28672, 4096), (8, 4096, 14336)),
    "many_small_experts": ((128, 1536, 2048), (128, 2048, 768)),
    "one_expert": ((1, 8192, 1024), (1, 1024, 4096)),
    "tiny": ((16, 256, 256), (16, 256, 128)),
}
GEMMS = {
    f"{model}_{number}": gemm
    for model, gemms in MODELS.items()
    for number, gemm in enumerate(gemms, 1)
}


def select(program: Path, gemm: tuple[int, int, int], rows: int, **options: object) -> list[int]:
    """The tactic, its rows, shared memory, warps along k, warps; [-1] if there is none."""
    experts, n, k = gemm
    out = run_ok(program, "select", rows=rows, experts=experts, n=n, k=k, **options).output
    found = re.search(
        r"^selected (-?\d+)(?:\ncta_m (\d+) smem (\d+) warps_k (\d+) warps (\d+))?$",
        out,
        re.MULTILINE,
    )
    assert found is not None, out
    return [int(word) for word in found.groups() if word is not None]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("gemm", GEMMS.values(), ids=GEMMS)
def test_few_rows_get_short_tiles_and_many_get_tall_ones(
    program: Path, gemm: tuple[int, int, int], device: str
) -> None:
    _, short, *_ = select(program, gemm, 1, device=device)
    _, tall, *_ = select(program, gemm, 2048 * gemm[0], device=device)
    assert short <= 32
    assert tall >= 128


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("gemm", list(GEMMS.values())[:4], ids=list(GEMMS)[:4])
def test_many_rows_get_warps_that_hide_latency(
    program: Path, gemm: tuple[int, int, int], device: str
) -> None:
    """A CTA of four warps must find room for a second one on its SM."""
    _, _, smem, _, warps = select(program, gemm, 2048 * gemm[0], device=device)
    assert warps == 8 or (2 * (smem + 1024) <= SMEM_OF_SM[device])


@pytest.mark.parametrize("device", DEVICES)
def test_what_is_selected_fits(program: Path, device: str) -> None:
    for gemm, rows in itertools.product(GEMMS.values(), (1, 100, 10000)):
        _, _, smem, *_ = select(program, gemm, rows, device=device, smem=SMEM_OF_SM86)
        assert smem <= SMEM_OF_SM86


def test_the_limit_of_sm86_changes_the_choice(program: Path) -> None:
    gemm = GEMMS["few_large_experts_1"]
    free = select(program, gemm, 32768, device="h100")
    limited = select(program, gemm, 32768, device="h100", smem=SMEM_OF_SM86)
    assert free[2] > SMEM_OF_SM86 >= limited[2]


def test_a_device_that_holds_no_tactic_gets_none(program: Path) -> None:
    assert select(program, GEMMS["tiny_1"], 1, smem=16 * 1024) == [-1]


def test_the_most_experts_and_rows(program: Path) -> None:
    assert select(program, (1024, 8192, 8192), 2**31 - 1)[0] >= 0


GEMM = GEMMS["many_small_experts_1"]
FIRST, LAST = 4, 5  # tactics that neither 100 nor 3000 rows get by estimate
MEASURED = [100, FIRST, 3000, LAST]
MIDDLE = 547  # of 100 and 3000, by ratio


def test_what_was_measured_is_not_what_is_estimated(program: Path) -> None:
    for rows in (1, 99, 100, 300, MIDDLE, 1000, 3000):
        assert select(program, GEMM, rows)[0] not in (FIRST, LAST)


@pytest.mark.parametrize(
    ("rows", "tactic"),
    [(100, FIRST), (101, FIRST), (MIDDLE, FIRST), (MIDDLE + 1, LAST), (2999, LAST), (3000, LAST)],
)
def test_the_nearest_measurement_decides(program: Path, rows: int, tactic: int) -> None:
    assert select(program, GEMM, rows, measured=MEASURED)[0] == tactic


@pytest.mark.parametrize("rows", [1, 99, 3001, 10**6, 2**31 - 1])
def test_beyond_the_measurements_the_estimate_decides(program: Path, rows: int) -> None:
    assert select(program, GEMM, rows, measured=MEASURED) == select(program, GEMM, rows)


def test_one_measurement_covers_one_size(program: Path) -> None:
    assert select(program, GEMM, 100, measured=[100, FIRST])[0] == FIRST
    for rows in (99, 101):
        assert select(program, GEMM, rows, measured=[100, FIRST]) == select(program, GEMM, rows)


def test_the_last_of_equal_measurements_counts(program: Path) -> None:
    assert select(program, GEMM, 100, measured=[100, LAST, 100, FIRST])[0] == FIRST


def test_rows_near_the_largest_int(program: Path) -> None:
    measured = [2**31 - 3, FIRST, 2**31 - 1, LAST]
    assert select(program, GEMM, 2**31 - 2, measured=measured)[0] == LAST


@pytest.mark.parametrize("other", ["device", "experts", "n", "k", "swiglu", "fp16"])
def test_measurements_of_another_gemm_do_not_count(program: Path, other: str) -> None:
    options = {f"measured_{other}": 16, "measured": MEASURED}
    assert select(program, GEMM, 100, **options) == select(program, GEMM, 100)


def test_a_measured_tactic_that_does_not_fit_is_not_taken(program: Path) -> None:
    needed = select(program, GEMM, 100, measured=MEASURED)[2]
    for smem, taken in ((needed, True), (needed - 1, False)):
        chosen = select(program, GEMM, 100, measured=MEASURED, smem=smem)
        assert (chosen[0] == FIRST) == taken
        assert chosen[2] <= smem


@pytest.mark.parametrize("device", DEVICES)
def test_one_order_of_addition(program: Path, device: str) -> None:
    for gemm, rows in itertools.product(GEMMS.values(), (1, 100, 10000)):
        *_, warps_k, _ = select(program, gemm, rows, device=device, batch_invariant=True)
        assert warps_k == 1
    assert select(program, GEMM, 1, device=device)[3] > 1, "the restriction restricts nothing"


def test_a_measured_tactic_of_another_order_is_not_taken(program: Path) -> None:
    split, whole = 0, FIRST
    for tactic, taken in ((split, False), (whole, True)):
        measured = {"measured": [100, tactic]}
        assert select(program, GEMM, 100, **measured)[0] == tactic
        chosen = select(program, GEMM, 100, batch_invariant=True, **measured)
        assert (chosen[0] == tactic) == taken
        assert chosen[3] == 1


@pytest.mark.parametrize(("plain", "general"), [(0, 3), (1, 2)])
def test_general_epilogues_choose_like_the_plain_ones(
    program: Path, plain: int, general: int
) -> None:
    for gemm, rows in itertools.product(GEMMS.values(), (1, 100, 10000)):
        chosen = select(program, gemm, rows, epilogue=plain)
        with_options = select(program, gemm, rows, epilogue=general)
        assert with_options == chosen if chosen[1] <= 128 else with_options[1] == 128
    measured = {"measured": MEASURED, "measured_swiglu": plain}
    assert select(program, GEMM, 100, epilogue=general, **measured)[0] == FIRST
