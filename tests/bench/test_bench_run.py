"""A whole run: what it prints, writes, leaves out, and refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from tests.bench.conftest import RATE
from torch_sm80moe import cli
from torch_sm80moe.bench import cell as cells
from torch_sm80moe.bench import formats, layer, results, run
from torch_sm80moe.bench.models import parse_shape
from torch_sm80moe.bench.plan import QUICK_LOOP, Plan

SMALL = parse_shape("8,2,64,32")
LARGER = parse_shape("8,2,256,128")  # more numbers to judge a format's error by


@pytest.fixture
def plan(imaginary_gpu, tmp_path):
    return Plan(models=(SMALL,), tokens=(1, 20), loop=QUICK_LOOP, json=tmp_path / "result.json")


def test_every_cell_is_printed_and_written(plan, capsys):
    assert run.run(plan)
    content = results.load(plan.json)
    assert [(row["model"], row["tokens"]) for row in content["cells"]] == [
        (SMALL.name, 1),
        (SMALL.name, 20),
    ]
    row = content["cells"][0]
    assert row["us"]["median"] == pytest.approx(100 / row["calls_per_replay"])
    assert row["floor_us"] == pytest.approx(2 * SMALL.expert_bytes / RATE * 1e6)
    assert row["short_floor_us"] == pytest.approx(row["floor_us"] / 2)
    assert row["times_floor"] == pytest.approx(row["us"]["median"] / row["floor_us"])
    assert 0 < row["relative_error"] < 1e-2
    assert (content["missing"], content["wrong"]) == ([], [])
    assert set(content["ceilings"]["before"]) > set(content["ceilings"]["after"])
    printed = capsys.readouterr().out
    assert printed.count(SMALL.name) == 2
    assert "geometric mean of 2 cells" in printed


def test_a_cell_is_the_same_whatever_else_is_measured(plan):
    def floor_us(*tokens: int) -> float:
        assert run.run(replace(plan, tokens=tokens, routings=("zipf",)))
        return results.load(plan.json)["cells"][-1]["floor_us"]

    assert floor_us(1, 4, 3) == floor_us(3)


def test_a_killed_run_keeps_what_it_measured(plan, monkeypatch):
    whole = cells.measure

    def killed(cell, *arguments):
        if cell.num_tokens == 20:
            raise KeyboardInterrupt
        return whole(cell, *arguments)

    monkeypatch.setattr(cells, "measure", killed)
    with pytest.raises(KeyboardInterrupt):
        run.run(plan)
    assert [row["tokens"] for row in results.load(plan.json)["cells"]] == [1]


def test_a_wrong_result_has_no_time_and_fails_the_run(plan, monkeypatch, capsys):
    monkeypatch.setattr(layer, "fused_moe", lambda x, *others: torch.zeros_like(x))
    assert not run.run(plan)
    content = results.load(plan.json)
    assert len(content["wrong"]) == 2
    assert "us" not in content["cells"][0]
    assert "relative" in content["cells"][0]["error"]
    assert "wrong results: " in capsys.readouterr().out


def test_a_budget_that_is_spent_names_what_is_missing(plan, capsys):
    assert run.run(replace(plan, time_budget_s=0))
    content = results.load(plan.json)
    assert content["cells"] == []
    assert content["missing"] == [f"{SMALL.name} bfloat16 balanced T={t}" for t in (1, 20)]
    printed = capsys.readouterr().out
    assert "not measured: " in printed
    assert "no cell was measured" in printed


def test_too_little_memory_leaves_a_cell_out(plan, monkeypatch):
    def exhausted(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory.\nmore lines")

    monkeypatch.setattr(cells, "measure", exhausted)
    assert run.run(plan)
    content = results.load(plan.json)
    assert [row["error"] for row in content["cells"]] == ["CUDA out of memory."] * 2
    assert len(content["missing"]) == 2


@pytest.mark.parametrize("text", ["", "[]", '{"schema": 0}', "{"])
def test_what_is_no_result_is_refused(text, tmp_path):
    path = tmp_path / "result.json"
    path.write_text(text)
    with pytest.raises(results.ResultError, match=r"result.json must be"):
        results.load(path)


@pytest.mark.parametrize("name", ["w8a16", "w4a16-g32-asym", "fp8-block", "mxfp4", "w8a8"])
def test_formats_are_checked_and_measured(plan, name, capsys):
    assert run.run(replace(plan, models=(LARGER,), formats=(formats.DENSE, name)))
    content = results.load(plan.json)
    dense, packed = (content["cells"][i : i + 2] for i in (0, 2))
    assert [row["format"] for row in content["cells"]] == ["16bit", "16bit", name, name]
    for before, row in zip(dense, packed, strict=True):
        assert 0 < row["relative_error"] < 1e-2
        assert row["memory_bytes"] < 0.8 * before["memory_bytes"]
        assert row["weight_bytes"] < 0.8 * before["weight_bytes"]
    assert packed[0]["weight_bytes"] == 2 * formats.expert_bytes(LARGER, name)
    expected = max(packed[0]["weight_bytes"], LARGER.flops(1)) / RATE * 1e6
    assert packed[0]["floor_us"] == pytest.approx(expected)
    printed = capsys.readouterr().out
    assert f"{name}: geometric mean of 2 cells" in printed


def test_a_wrong_result_of_a_format_fails_the_run(plan, monkeypatch):
    right = layer.fused_moe
    monkeypatch.setattr(layer, "fused_moe", lambda *inputs: right(*inputs) * 1.02)
    assert not run.run(replace(plan, formats=("w8a16",)))
    content = results.load(plan.json)
    assert content["wrong"] == [f"{SMALL.name} bfloat16 w8a16 balanced T={t}" for t in (1, 20)]


def test_sizes_that_do_not_suit_a_format_are_said_to_be_missing(plan, capsys):
    assert run.run(replace(plan, formats=("w4a16-g128",)))
    content = results.load(plan.json)
    assert len(content["missing"]) == 2
    assert content["cells"][0]["error"] == "w4a16-g128: K must be a multiple of 128, got 64"
    assert "not measured: " in capsys.readouterr().out


def test_rivals_run_16_bits_alone(plan, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    assert run.run(replace(plan, formats=(formats.DENSE, "w8a16"), rivals=True, tokens=(1,)))
    dense, packed = results.load(plan.json)["cells"]
    assert "rivals" in dense and "rivals" not in packed


def refusal(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["bench", *arguments])
    assert stopped.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--models", "gpt2"), "argument --models: must be among mixtral-8x7b, "),
        (("--shape", "1,2"), "argument --shape: must be four positive numbers E,k,H,I, got '1,2'"),
        (("--tokens", "4,0"), "argument --tokens: must be a positive number, got '0'"),
        (("--dtype", "int8"), "argument --dtype: must be among bfloat16,float16, got 'int8'"),
        (("--formats", "w8a16,w8"), "argument --formats: must be among bf16, 16bit, w8a16, "),
        (("--routing", "even"), "argument --routing: must be among balanced,zipf,half, got 'even'"),
    ],
)
def test_wrong_options_are_named(arguments, sentence, capsys):
    assert sentence in refusal(capsys, *arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_one_sentence_says_so(capsys):
    assert cli.main(["bench"]) == 1
    expected = "sm80moe bench: a CUDA device must be there to be measured, got none\n"
    assert capsys.readouterr().err == expected


@pytest.mark.gpu
def test_a_real_run(tmp_path):
    path = tmp_path / "result.json"
    options = ("--quick", "--stages", "--tactics", "--rivals", "--json", str(path))
    options = (*options, "--formats", "bf16,w8a16,w4a16-g128,fp8-block,mxfp4,w8a8")
    sizes = ("--shape", "8,2,1024,512", "--tokens", "1,64")
    command = [sys.executable, "-m", "torch_sm80moe", "bench", *options, *sizes]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stdout + done.stderr
    content = json.loads(path.read_text())
    assert content["machine"]["device"]["name"] == torch.cuda.get_device_name()
    assert [row["tokens"] for row in content["cells"]] == 6 * [1, 64]
    for row in content["cells"]:
        assert row["us"]["p10"] <= row["us"]["median"] <= row["us"]["p90"]
        assert row["times_floor"] > 0.9
        assert row["layers"] == row["layers_wanted"]
        kernels_us = sum(us for stage, us in row["stages_us"].items() if stage != "gaps")
        assert 0.3 * row["us"]["median"] < kernels_us < 1.5 * row["us"]["median"]
        for gemm in row["tactics"].values():
            selected, best = gemm["us"][str(gemm["selected"])], gemm["us"][str(gemm["best"])]
            assert gemm["over_best"] == selected / best
            # Of packed weights the selected tactic is timed apart: on a GPU that others use at the
            # same time it may be any faster than itself.
            assert selected >= best or row["format"] != "16bit"
        if row["format"] == "16bit":  # rivals take 16-bit weights
            assert row["rivals"]["cublas loop"]["us"]["median"] > 0
