"""What a cell is compared with: stages, tactics, rivals."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from torch_sm80moe import functional, functional_quantized
from torch_sm80moe.bench import layer, results, rivals, run, stages, tactics
from torch_sm80moe.bench.models import parse_shape
from torch_sm80moe.bench.plan import QUICK_LOOP, Plan
from torch_sm80moe.bench.rivals import RIVALS, Rival
from torch_sm80moe.bench.table import cell_lines, summary_lines

SMALL = parse_shape("8,2,64,32")


@pytest.fixture
def case(imaginary_gpu, monkeypatch) -> layer.Case:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    return layer.Case(layer.Layers(SMALL, torch.bfloat16), "half", 20)


@pytest.mark.parametrize(
    ("kernel", "stage"),
    [
        ("void sm80moe::gemm::grouped_gemm_kernel<A<16, 32>, SwigluEpilogue>(B)", "grouped_gemm"),
        ("sm80moe::routing::(anonymous namespace)::sort_kernel(SortArgs)", "sort"),
        ("void sm80moe::routing::(anonymous namespace)::combine_kernel<__half>(C)", "combine"),
        ("void sm80moe::decode::(anonymous namespace)::down_combine_kernel<T>(C)", "down_combine"),
        ("Memset (Device)", "Memset"),
    ],
)
def test_a_stage_goes_by_the_name_of_its_kernel(kernel, stage):
    assert stages.stage_of(kernel) == stage


def test_stages_are_averages_of_calls():
    kernels = [("sort_kernel(A)", 8.0), ("sort_kernel(B)", 4.0)]
    assert stages.sum_by_stage(kernels, 4) == {"sort": 3.0}


def test_gemms_of_a_layer_take_turns():
    """One kernel may be both."""
    gemm = "void sm80moe::gemm::grouped_gemm_kernel<A, B>(C)"
    kernels = 2 * [("sort_kernel()", 1.0), (gemm, 4.0), (gemm, 2.0)]
    expected = {"sort": 1.0, "gemm 1": 4.0, "gemm 2": 2.0}
    assert stages.sum_by_stage(kernels, 2) == expected


@pytest.mark.parametrize("rival", RIVALS, ids=lambda rival: rival.name)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("num_tokens", [1, 20])
def test_rivals_compute_the_same_layer(case, rival, dtype, num_tokens):
    if not rival.is_installed:
        pytest.skip(f"{rival.package} is not installed")
    case = layer.Case(layer.Layers(SMALL, dtype), "half", num_tokens)
    with torch.no_grad():
        row = rivals.measure(rival, case, 8, QUICK_LOOP)
    assert "error" not in row, row
    assert 0 < row["relative_error"] < 2e-2
    assert row["us"]["median"] == pytest.approx(100 / 8)


def refuse(case, num_calls):
    raise TypeError("no such type\nand more")


def forget_experts(case, num_calls):
    return case.calls(lambda x, *others: x, num_calls)


@pytest.mark.parametrize(
    ("make_calls", "error"),
    [(refuse, "TypeError: no such type"), (forget_experts, "AssertionError: bad, call 0")],
)
def test_a_rival_that_fails_is_told_of(case, make_calls, error):
    row = rivals.measure(Rival("bad", make_calls, lambda case: True), case, 8, QUICK_LOOP)
    assert set(row) == {"error"}
    assert row["error"].startswith(error)


def test_a_rival_that_needs_too_much_memory_is_not_run(case):
    rival = Rival("big", refuse, lambda case: True, workspace_bytes=lambda case: 10**12)
    row = rivals.measure(rival, case, 8, QUICK_LOOP)
    assert row == {"error": "needs 1000 GB of workspace"}


@pytest.fixture
def two_tactics(monkeypatch):
    """A table of three tactics, of which one does not fit and one takes twice the other's time."""
    table = [functional.Tactic(i, 16, 64, 64, 1, 2, 1, 4, 40000) for i in range(3)]
    monkeypatch.setattr(functional, "tactic_table", lambda weights="16bit": table)
    monkeypatch.setattr(
        functional, "select_tactic", lambda *sizes, epilogue, dtype: int(epilogue == "none")
    )
    grouped_gemm = functional.grouped_gemm

    def forced(*arguments, tactic=-1, **others):
        if tactic == 2:
            raise RuntimeError("tactic must fit")
        return grouped_gemm(*arguments, **others)

    monkeypatch.setattr(functional, "grouped_gemm", forced)
    timed = tactics._time

    def time(gemms, tactic, loop):
        us = timed(gemms, tactic, loop)
        return us if us is None else us * (1 + tactic)

    monkeypatch.setattr(tactics, "_time", time)


def test_selected_tactics_are_compared_with_the_best(case, two_tactics):
    first, second = tactics.measure(case, 8, QUICK_LOOP).values()
    assert first == {"selected": 0, "best": 0, "over_best": 1.0, "us": {0: 12.5, 1: 25.0}}
    assert (second["selected"], second["best"], second["over_best"]) == (1, 0, 2.0)


def test_packed_weights_are_timed_without_a_forced_tactic_too(
    imaginary_gpu, two_tactics, monkeypatch
):
    quantized = functional_quantized.grouped_gemm_quantized

    def forced(*arguments, tactic=-1, **others):
        if tactic in (0, 2):
            raise RuntimeError("tactic must have a kernel for the format")
        return quantized(*arguments, **others)

    monkeypatch.setattr(functional_quantized, "grouped_gemm_quantized", forced)
    monkeypatch.setattr(tactics, "_UNFORCED", 3)
    case = layer.Case(layer.Layers(SMALL, torch.bfloat16, "w4a16-g32"), "half", 20)
    for row in tactics.measure(case, 8, QUICK_LOOP).values():
        assert row == {"selected": 3, "best": 1, "over_best": 2.0, "us": {1: 25.0, 3: 50.0}}


def test_everything_is_printed_and_written(imaginary_gpu, two_tactics, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    monkeypatch.setattr(stages, "measure", lambda *arguments: {"sort": 1.5, "gaps": 0.5})
    monkeypatch.setattr(rivals, "RIVALS", RIVALS[:1])
    path = tmp_path / "result.json"
    plan = Plan(models=(SMALL,), tokens=(20,), loop=QUICK_LOOP, json=path)
    assert run.run(replace(plan, stages=True, tactics=True, rivals=True))
    (row,) = results.load(path)["cells"]
    assert not row["rivals"]["cublas loop"]["in_graph"]
    lines = [line.strip() for line in cell_lines(row)][1:]
    assert lines == [
        "sort 1.5, gaps 0.5",
        "gemm 1: tactic 0, 1.000 times the best (0)",
        "gemm 2: tactic 1, 2.000 times the best (0)",
        f"cublas loop: 12.5 us, {12.5 / row['us']['median']:.2f} times ours",
    ]
    assert "selected tactics: 1.500 times the best on average, 2.000 at worst" in list(
        summary_lines([row])
    )
