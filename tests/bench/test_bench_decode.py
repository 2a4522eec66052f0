"""Decoding a whole model: the text is transformers' own, and every implementation is measured."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch

pytest.importorskip("transformers")

from torch_sm80moe.bench import decode, results, run, timing
from torch_sm80moe.bench.plan import QUICK_LOOP, Plan
from torch_sm80moe.integrations.transformers import quantize_experts

SMALL = {
    "vocab_size": 128,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "intermediate_size": 64,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}


def elapsed_us(work):
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1e6


@pytest.fixture
def small(imaginary_gpu, monkeypatch):
    """A small model, few tokens, and no compiler."""
    monkeypatch.setattr(decode, "RANDOM_MODEL", SMALL)
    monkeypatch.setattr(decode, "_NEW_TOKENS", 12)
    monkeypatch.setattr(decode, "_RUNS", 2)
    monkeypatch.setattr(timing, "elapsed_us", elapsed_us)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(torch, "compile", lambda function, fullgraph: function)


@pytest.fixture
def plan(small, tmp_path):
    return Plan(decode=True, loop=QUICK_LOOP, json=tmp_path / "result.json")


def test_the_text_is_that_of_generate(small):
    model = decode.load_model(None)
    model.set_experts_implementation("eager")
    prompt = torch.randint(128, (1, 9))
    with torch.no_grad():
        expected = model.generate(prompt, max_new_tokens=12, do_sample=False)[0, 9:]
        decoder = decode.Decoder(model, prompt, 12)
        for _ in range(2):
            decoder.prefill()
            for _ in range(11):
                decoder.step()
            assert torch.equal(decoder.text[0, 8:20], expected)


def test_a_token_reads_its_experts_and_no_other_word(small):
    model = decode.load_model(None)
    total = sum(parameter.nbytes for parameter in model.parameters())
    experts = 2 * 8 * 3 * 64 * 32 * 2
    assert decode.bytes_per_token(model) == total - 128 * 64 * 2 - experts * 6 // 8


def test_a_run_measures_every_implementation(plan, capsys):
    assert run.run(plan)
    content = results.load(plan.json)
    rows = content["decode"]["rows"]
    assert [row["experts"] for row in rows] == ["sm80moe", "grouped_mm", "batched_mm", "eager"]
    assert rows[0]["same_tokens"] == 13
    assert [row["in_graph"] for row in rows] == [True, True, True, False]
    assert all(row["us_per_token"]["median"] > 0 and row["repeatable"] for row in rows)
    assert all(row["floor_us"] > 0 and row["format"] == "16bit" for row in rows)
    assert content["cells"] == []
    assert capsys.readouterr().out.count("16bit") == 4


def test_packed_weights_are_decoded_by_ours_alone(plan, capsys):
    assert run.run(replace(plan, formats=("16bit", "w8a16", "w4a16-g128")))
    content = results.load(plan.json)
    rows = content["decode"]["rows"]
    assert [row["format"] for row in rows] == 4 * ["16bit"] + ["w8a16"]
    assert rows[4]["experts"] == "sm80moe"
    assert rows[4]["in_graph"] and rows[4]["repeatable"]
    assert rows[4]["floor_us"] < 0.9 * rows[0]["floor_us"]
    assert content["missing"] == ["decode w4a16-g128"]
    assert "not decoded: w4a16-g128: K must be a multiple of 128" in capsys.readouterr().out


def test_a_checkpoint_that_was_quantised_is_decoded_as_it_is(plan, tmp_path):
    model = quantize_experts(decode.load_model(None), "w4a16-g32")
    model.save_pretrained(tmp_path / "model")
    assert run.run(replace(plan, checkpoint=tmp_path / "model"))
    (row,) = results.load(plan.json)["decode"]["rows"]
    assert row["format"] == "w4a16-g32"


def test_a_token_reads_packed_experts_with_their_scales(small):
    model = decode.load_model(None)
    total = sum(parameter.nbytes for parameter in model.parameters())
    experts = 2 * 8 * 3 * 64 * 32 * 2
    packed = 2 * 8 * (3 * 64 * 32 + (64 + 64) * 4)  # a byte a weight, a float32 a row
    model = quantize_experts(model, "w8a16")
    expected = total - experts - 128 * 64 * 2 + packed * 2 // 8
    assert decode.bytes_per_token(model) == expected


def test_a_budget_leaves_implementations_out(plan):
    assert run.run(replace(plan, time_budget_s=0))
    content = results.load(plan.json)
    assert content["missing"] == [f"decode {i.name} 16bit" for i in decode.IMPLEMENTATIONS]


def test_texts_of_ours_that_differ_fail_the_run(plan, monkeypatch):
    prefill = decode.Decoder.prefill

    def restless(decoder):
        decoder.prompt = torch.randint(128, decoder.prompt.shape)
        prefill(decoder)

    monkeypatch.setattr(decode.Decoder, "prefill", restless)
    assert not run.run(plan)
    content = results.load(plan.json)
    assert content["wrong"] == ["decode sm80moe 16bit"]
    assert content["decode"]["rows"][0]["error"].startswith("AssertionError: decode: every run")
    assert not content["decode"]["rows"][1]["repeatable"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"checkpoint": "folder"}, "--decode must be a folder with a config.json, got"),
        ({"json": "none/result.json"}, "--json must be a file in a folder that exists, got"),
    ],
)
def test_wrong_paths_are_refused_at_once(plan, change, sentence, tmp_path):
    paths = {name: tmp_path / value for name, value in change.items()}
    with pytest.raises(run.BenchError, match=sentence):
        run.run(replace(plan, **paths))


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.compile
def test_a_real_model_decodes(monkeypatch, tmp_path):
    monkeypatch.setattr(decode, "RANDOM_MODEL", SMALL)
    monkeypatch.setattr(decode, "_NEW_TOKENS", 12)
    path = tmp_path / "result.json"
    formats = ("16bit", "w8a16", "mxfp4")
    assert run.run(Plan(decode=True, loop=QUICK_LOOP, json=path, formats=formats))
    found = results.load(path)["decode"]["rows"]
    packed = [row for row in found if row["format"] != "16bit"]
    assert [row["format"] for row in packed] == ["w8a16", "mxfp4"]
    assert all(row["in_graph"] and row["repeatable"] for row in packed)
    rows = {row["experts"]: row for row in found if row["format"] == "16bit"}
    assert rows["sm80moe"]["in_graph"]
    assert rows["sm80moe"]["repeatable"]
    assert "error" not in rows["eager"]
