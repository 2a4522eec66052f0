"""The page from a result that nobody measured: every number on it, and the same bytes each time."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

from tests.bench.synthetic import cell, result
from torch_sm80moe import cli
from torch_sm80moe.bench.models import MODELS
from torch_sm80moe.bench.plan import TOKENS
from torch_sm80moe.bench.report import formats, page
from torch_sm80moe.bench.report.measured import Measured, Place
from torch_sm80moe.bench.report.targets import load as load_targets
from torch_sm80moe.bench.report.targets import verdicts
from torch_sm80moe.bench.results import ResultError

MIXTRAL, QWEN = MODELS[:2]
TARGETS = Path(__file__).parents[2] / "benchmarks" / "targets.json"


@pytest.fixture
def write(tmp_path):
    """Write result files and then the page; return its text."""

    def write(*contents, compare=None, targets=TARGETS, out="page"):
        paths = [tmp_path / f"{i}.json" for i in range(len(contents))]
        for path, content in zip(paths, contents, strict=True):
            path.write_text(json.dumps(content))
        before = None
        if compare:
            before = tmp_path / "before.json"
            before.write_text(json.dumps(compare))
        return page.write(paths, tmp_path / out, before, targets).read_text()

    return write


def table(text: str, title: str) -> list[str]:
    """Return the lines of the table below a title."""
    lines = text[text.index(title) :].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|"))
    rows = lines[start:]
    return rows[: next((i for i, line in enumerate(rows) if not line), len(rows))]


def test_every_cell_is_on_the_page(write):
    text = write(result())
    rows = table(text, "### Times the floor")
    assert rows[0] == "| model | " + " | ".join(f"T={t}" for t in TOKENS) + " |"
    assert rows[2:] == [f"| {model.name} | " + " | ".join(["1.04"] * 7) + " |" for model in MODELS]
    assert "Geometric mean of 42 cells: 1.040." in text
    assert "Geometric mean of 42 cells: 1.144." in text, "by the short limits"
    assert "| dram_read | 3.00 | 2.90 | 3.30 | 1500 MHz |" in text


def test_a_cell_over_its_target_stands_out(write):
    text = write(result([cell(MIXTRAL, 1, 1.06), cell(MIXTRAL, 4, 1.06)]))
    assert table(text, "### Times the floor")[2] == "| mixtral-8x7b | **1.06** (1.05) | 1.06 |"
    assert "| times the floor, cell by cell | 1 of 2 cells within their targets | **no** |" in text
    assert "times the floor: at most 1.12 | 1.060 | yes |" in text


def test_without_targets_nothing_is_judged(write, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    text = write(result(), targets=None)
    assert "## Targets" not in text
    assert "rival" not in text


def test_the_same_result_makes_the_same_bytes(write, tmp_path):
    for out in ("first", "second"):
        write(result(), compare=result(), out=out)
    files = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert files == [
        "report.md",
        "roofline-bfloat16-balanced.svg",
        "table.md",
        "time-bfloat16-balanced.svg",
    ]
    for name in files:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_the_readme_s_table(write, tmp_path):
    write(result([cell(QWEN, 1, 1.25), cell(QWEN, 4096, 1.5)]))
    lines = (tmp_path / "page" / "table.md").read_text().splitlines()
    assert lines[0].startswith("Imaginary 80GB, bfloat16, balanced routing, 2026-11-22")
    floors = 8 * QWEN.expert_bytes / 3e6, QWEN.flops(4096) / 6e8
    expected = f"{1.25 * floors[0]:.1f} (1.25) | {1.5 * floors[1]:.0f} (1.50)"
    assert lines[-1] == f"| qwen3-30b-a3b | {expected} |"


def test_before_and_after(write):
    before = result([cell(MIXTRAL, 1, 1.2), cell(MIXTRAL, 4, 1.2)])
    text = write(result([cell(MIXTRAL, 1, 1.0), cell(QWEN, 1, 1.0)]), compare=before)
    assert table(text, "## Against 2026-11-22")[2:] == ["| mixtral-8x7b | 1.20 |"]


def test_files_are_joined_and_later_ones_win(write):
    first = result([cell(MIXTRAL, 1, 1.01), cell(MIXTRAL, 4, 1.02)])
    text = write(first, result([cell(MIXTRAL, 4, 1.03)]))
    assert table(text, "### Times the floor")[2] == "| mixtral-8x7b | 1.01 | 1.03 |"


def test_rivals_and_stages(write):
    one, two = cell(MIXTRAL, 1, 1.0), cell(MIXTRAL, 4, 1.0)
    for row in (one, two):
        us = {**row["us"], "median": 3 * row["us"]["median"]}
        row["rivals"] = {"loop": {"us": us}, "absent": {"error": "needs 90 GB of workspace"}}
    one["stages_us"] = {"gate_up": 20.0, "gaps": 1.0}
    two["stages_us"] = {"sort": 2.0, "gaps": 1.5}
    text = write(result([one, two]))
    assert table(text, "### Time of loop over ours")[2] == "| mixtral-8x7b | 3.00 | 3.00 |"
    assert "absent" not in text
    assert table(text, "### Stages")[2:] == [
        "| mixtral-8x7b | 1 | 20.0 | 1.0 |  |",
        "| mixtral-8x7b | 4 |  | 1.5 | 2.0 |",
    ]


def test_decoding(write):
    us = {"median": 500.0, "p10": 499.0, "p90": 501.0, "num_samples": 5}
    row = {"experts": "sm80moe", "us_per_token": us, "tokens_per_second": 2000.0}
    packed = {**row, "format": "w8a16", "floor_us": 250.0}
    failed = {"experts": "batched_mm", "error": "RuntimeError: no memory"}
    decoded = {**result([]), "decode": {"floor_us": 400.0, "rows": [row, packed, failed]}}
    text = write(result([cell(MIXTRAL, 1, 1.0)]), decoded)
    assert table(text, "## Decoding")[2:] == [
        "| sm80moe | 16bit | 2000 | 500 | 400 | 1.25 |  |",
        "| sm80moe | w8a16 | 2000 | 500 | 250 | 2.00 |  |",
    ]


def found(*cells, limit=0) -> dict[str, tuple[str, bool]]:
    content = result(list(cells))
    content["machine"]["shared_memory_limit"] = limit
    targets = load_targets(TARGETS)
    measured = Measured([content])
    judged = [*verdicts(targets, measured), *formats.verdicts(targets, measured)]
    return {v.target: (v.found, v.met) for v in judged}


def test_published_rivals_are_scaled_by_the_short_limits():
    us = cell(MIXTRAL, 4096, 1.3)["us"]["median"]
    ampere = 8403 / 4655 * MIXTRAL.flops(4096) / (1.1 * 6e8) / us
    judged = found(cell(MIXTRAL, 4096, 1.3))
    text, met = judged["as fast as the ampere rival, or as much faster as is wanted"]
    assert text.endswith(f"T=4096, {ampere:.2f} of 1.35")
    assert met == (ampere >= 1.35)
    assert not judged["as fast as the hopper rival, or as much faster as is wanted"][1]


def test_other_dtypes_and_routings_are_compared_with_the_same_cells():
    half = cell(MIXTRAL, 64, 1.19, dtype="float16"), cell(MIXTRAL, 64, 1.19, routing="half")
    judged = found(cell(MIXTRAL, 64, 1.04), *half, cell(QWEN, 64, 9.0, routing="zipf"))
    worst = {target.partition(":")[0]: verdict for target, verdict in judged.items()}
    assert worst["float16, balanced"] == ("1.144", False)
    assert worst["bfloat16, half"] == ("1.144", True)
    assert "bfloat16, zipf" not in worst


def packed(model, tokens, times_floor, weights):
    return cell(model, tokens, times_floor, weights=weights)


def test_formats_are_compared_with_16_bits(write):
    cells = [cell(MIXTRAL, t, 1.0) for t in (1, 4)]
    cells += [packed(MIXTRAL, t, 1.2, "w8a16") for t in (1, 4)] + [packed(QWEN, 1, 1.3, "mxfp4")]
    text = write(result(cells))
    rows = table(text, "## Formats, bfloat16, balanced routing")
    memory = {row["format"]: row["memory_bytes"] / 1e6 for row in cells}
    assert rows[2:] == [
        f"| 16bit | 2 | 1.000 | mixtral-8x7b {memory['16bit']:.0f} |",
        f"| w8a16 | 2 | 1.200 | mixtral-8x7b {memory['w8a16']:.0f} |",
        f"| mxfp4 | 1 | 1.300 | qwen3-30b-a3b {memory['mxfp4']:.0f} |",
    ]
    speedups = table(text, "### Time of 16-bit weights over that of w8a16")[2]
    assert speedups == "| mixtral-8x7b | 1.67 | 1.67 |"
    assert "over that of mxfp4" not in text
    assert "## bfloat16 with w8a16 weights, balanced routing" in text
    assert "**1.20**" not in text, "formats have targets of their own"


def test_16_bits_alone_have_no_section_of_formats(write):
    assert "## Formats" not in write(result())


def test_results_of_before_there_were_formats_are_of_16_bits(write):
    rows = [cell(MIXTRAL, 1, 1.0), packed(MIXTRAL, 1, 1.2, "w8a16")]
    for name in ("format", "memory_bytes"):
        del rows[0][name]
    assert "### Time of 16-bit weights over that of w8a16" in write(result([rows[0]]), result(rows))


def test_formats_have_targets_of_their_own():
    judged = found(
        *(cell(model, 1, 1.0) for model in (MIXTRAL, QWEN)),
        packed(MIXTRAL, 1, 1.3, "w8a16"),
        packed(QWEN, 1, 1.38, "w8a16"),
        packed(MIXTRAL, 1, 1.3 * 1.12, "fp8-block"),
        packed(MIXTRAL, 1, 1.5, "w4a16-g128"),
    )
    assert judged["w8a16: geometric mean of 2 cells, times the floor: at most 1.35"] == (
        "1.339",
        True,
    )
    speed = "speed at T=1 over that of 16 bits: at least"
    assert judged[f"w8a16: {speed} 1.6"] == ("1.54 (mixtral-8x7b)", False)
    assert judged[f"w4a16-g128: {speed} 2.3"] == ("2.59 (mixtral-8x7b)", True)
    ours, theirs = 1.1 * 1.3, 1.28
    text, met = judged["w8a16: as fast as vLLM's Marlin MoE, W8A16 per channel"]
    assert text == f"1 of 2 cells; the last is mixtral-8x7b at T=1, {theirs / ours:.2f}"
    assert not met
    over = judged["fp8-block: time over that of w8a16, geometric mean: at most 1.1"]
    assert over == ("1.120", False)


def test_the_average_of_selected_tactics_is_judged():
    row = cell(MIXTRAL, 64, 1.0)
    row["tactics"] = {"gemm 1": {"over_best": 1.0}, "gemm 2": {"over_best": 1.2}}
    judged = found(row)
    name = "selected tactics over the best, on average: at most 1.05"
    assert judged[name] == ("1.100", False)


@pytest.mark.parametrize(("limit", "wanted"), [(0, 1.1), (101376, 1.188), (200000, 1.1)])
def test_a_smaller_shared_memory_has_larger_targets(limit, wanted):
    targets = load_targets(TARGETS)
    assert targets.times_floor(Place("mixtral-8x7b", 256), limit) == pytest.approx(wanted)
    many = targets.times_floor(Place("mixtral-8x7b", 4096), limit)
    assert many == pytest.approx(1.3 * 1.15 if wanted > 1.1 else 1.3)


def test_there_is_a_target_for_every_cell_of_the_default_run():
    targets = load_targets(TARGETS)
    places = [Place(model.name, tokens) for model in MODELS for tokens in TOKENS]
    assert all(targets.times_floor(place, 0) for place in places)
    assert all(targets.rival_times_floor(r, p) for p in places for r in ("ampere", "hopper"))
    assert targets.times_floor(Place("mixtral-8x7b", 2), 0) is None


def test_results_of_two_devices_are_not_joined(write):
    other = result()
    other["machine"]["device"]["name"] = "Other"
    with pytest.raises(ResultError, match="must be of one device, got Imaginary 80GB, Other"):
        write(result(), other)


def test_a_result_without_cells_is_refused(write):
    with pytest.raises(ResultError, match="must hold a cell that was measured, got none"):
        write(result([]))


def test_what_is_missing_is_said(write):
    content = result([cell(MIXTRAL, 1, 1.0), {**cell(MIXTRAL, 4, 1.0), "error": "too large"}])
    content["missing"] = ["mixtral-8x7b bfloat16 balanced T=4"]
    text = write(content)
    assert "Missing: mixtral-8x7b bfloat16 balanced T=4." in text
    assert table(text, "### Times the floor")[2] == "| mixtral-8x7b | 1.00 |"


def test_without_matplotlib_one_sentence_says_so(monkeypatch, capsys, tmp_path):
    for module in ("page", "plots"):
        monkeypatch.delitem(sys.modules, f"torch_sm80moe.bench.report.{module}")
        monkeypatch.delattr(f"torch_sm80moe.bench.report.{module}")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert cli.main(["report", "any.json", "--out", str(tmp_path)]) == 1
    expected = "matplotlib must be installed: pip install torch_sm80moe[bench]"
    assert capsys.readouterr().err == f"sm80moe report: {expected}\n"


def test_the_command(tmp_path, capsys):
    path = tmp_path / "result.json"
    path.write_text(json.dumps(result()))
    out = tmp_path / "page"
    assert cli.main(["report", str(path), "--out", str(out), "--targets", str(TARGETS)]) == 0
    assert capsys.readouterr().out == f"{out / 'report.md'}\n"
    assert cli.main(["report", str(tmp_path / "none"), "--out", str(out)]) == 1
    assert capsys.readouterr().err.startswith(f"sm80moe report: {tmp_path / 'none'} must be a JSON")


def test_documents_hold_the_tables_of_the_measured_page(tmp_path):
    root = TARGETS.parents[1]
    if not (root / "README.md").is_file():
        pytest.skip("the documents are not here")
    measured = root / "benchmarks" / "results" / "h100-2026-11-23.json"
    text = page.write([measured], tmp_path, None, TARGETS).read_text()
    times_floor = text.partition("### Times the floor (bold")[2].partition("\n\n")[2]
    readme = (tmp_path / "table.md").read_text().partition("\n\n")[2]
    assert readme.strip() in (root / "README.md").read_text()
    assert times_floor.partition("\n\n")[0] in (root / "docs" / "performance.md").read_text()
