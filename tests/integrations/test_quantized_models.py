"""Quantised Hugging Face models: in place, from checkpoints, and what the commands write."""

from __future__ import annotations

import json
import types

import pytest
import torch
from safetensors.torch import load_file, save_file

from torch_sm80moe import cli, testing
from torch_sm80moe.quantization import Calibration, QuantScheme

transformers = pytest.importorskip("transformers")

from transformers import AutoModelForCausalLM  # noqa: E402
from transformers.quantizers.base import HfQuantizer  # noqa: E402

from tests.integrations import families  # noqa: E402
from torch_sm80moe.integrations.transformers import (  # noqa: E402
    describe,
    quantize_experts,
    use_sm80moe,
)
from torch_sm80moe.integrations.transformers.quantization import calibrate_experts  # noqa: E402
from torch_sm80moe.integrations.transformers.quantized_experts import (  # noqa: E402
    QuantizedModelExperts,
)
from torch_sm80moe.quantization.convert import convert  # noqa: E402
from torch_sm80moe.quantization.text import read_windows  # noqa: E402

# What tiny_moe's logits lose.
LARGEST_ERRORS = {
    "w8a16": 0.02, "w8a8": 0.03, "w8a8-static": 0.06, "w4a16-g32": 0.12, "fp8-block": 0.04,
    "mxfp4": 0.15,
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def load(path):
    return AutoModelForCausalLM.from_pretrained(path).eval()


def prompt(text: str = "def main(argv):\n    import sys\n    return len(argv)") -> torch.Tensor:
    return torch.tensor([list(text.encode())])


@pytest.mark.parametrize("name", LARGEST_ERRORS)
def test_a_model_in_place_and_its_checkpoint_are_the_same(name, tmp_path, tiny_moe):
    model = load(tiny_moe)
    expected = model(prompt()).logits.float()
    batches, inputs = None, None
    if "static" in name:
        batches = [prompt("for i in range(10):\n    print(i)\n" * 20)]
        inputs = calibrate_experts(model, batches)
    assert quantize_experts(model, name, calibration=batches) is model
    logits = model(prompt()).logits
    assert 0 < testing.measure_error(logits, expected).relative < LARGEST_ERRORS[name]

    convert(tiny_moe, tmp_path / "out", QuantScheme.parse(name), inputs=inputs)
    loaded = load(tmp_path / "out")
    assert loaded.dtype == torch.bfloat16
    assert torch.equal(loaded(prompt()).logits, logits)
    assert sum(isinstance(m, QuantizedModelExperts) for m in loaded.modules()) == 3


def write_fp8(folder, source):
    """Quantise all projections of a checkpoint as transformers does; return what they mean."""
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize, Fp8Quantize

    config = transformers.FineGrainedFP8Config()
    quantizer = types.SimpleNamespace(quantization_config=config)
    stored, meant = {}, {}
    for name, tensor in load_file(source / "model.safetensors").items():
        parts = {name: tensor}
        if name.endswith("_proj.weight"):
            parts = Fp8Quantize(quantizer).convert(parts)
            (tensor,) = Fp8Dequantize(quantizer).convert(dict(parts))[name]
        stored |= parts
        meant[name] = tensor
    folder.mkdir()
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    settings = json.loads((source / "config.json").read_text())
    settings["quantization_config"] = config.to_dict()
    (folder / "config.json").write_text(json.dumps(settings))
    return meant


def test_an_fp8_checkpoint_is_what_transformers_makes_of_it(tmp_path, tiny_moe):
    meant = write_fp8(tmp_path / "fp8", tiny_moe)
    convert(tmp_path / "fp8", tmp_path / "out")
    loaded = load(tmp_path / "out")
    for number, layer in enumerate(loaded.model.layers):
        experts = layer.mlp.experts.quantized()
        assert str(experts.scheme) == "fp8-block"
        gate, up, down = (
            [meant[f"model.layers.{number}.mlp.experts.{e}.{part}_proj.weight"] for e in range(16)]
            for part in ("gate", "up", "down")
        )
        w13 = torch.cat((torch.stack(gate), torch.stack(up)), dim=1)
        assert torch.equal(experts.w13.dequantize(), w13)
        assert torch.equal(experts.w2.dequantize(), torch.stack(down))
    expected = load(tiny_moe)(prompt()).logits
    assert testing.measure_error(loaded(prompt()).logits, expected).relative < 0.05


def test_a_model_quantised_in_place_can_be_saved(tmp_path, tiny_moe):
    model = quantize_experts(load(tiny_moe), "w4a16-g64-asym")
    model.save_pretrained(tmp_path / "out")
    again = load(tmp_path / "out")
    assert torch.equal(again(prompt()).logits, model(prompt()).logits)


def test_what_runs_is_described(tiny_moe):
    model = quantize_experts(load(tiny_moe), "w4a16-g128")
    wanted = {f"model.layers.{i}.mlp.experts": "fused_moe_quantized: w4a16-g128" for i in range(3)}
    assert describe(model) == wanted
    assert describe(use_sm80moe(model)) == wanted


@pytest.mark.skipif(
    not hasattr(HfQuantizer, "get_new_dtype"),
    reason="this transformers keeps the type of what a quantised checkpoint names otherwise",
)
@pytest.mark.parametrize("family", ["mixtral", "gpt_oss"])
def test_a_checkpoint_may_be_loaded_in_another_type(family, tmp_path):
    model = quantize_experts(families.random_model(family), "w8a16-g32")
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, dtype=torch.float16).eval()
    ids = torch.arange(20)[None]
    expected = model(input_ids=ids, use_cache=False)[0]
    logits = loaded(input_ids=ids, use_cache=False)[0]
    assert logits.dtype == torch.float16
    assert testing.measure_error(logits, expected.float()).relative < 0.05


@pytest.mark.compile
def test_a_quantised_model_is_one_graph(tiny_moe):
    model = quantize_experts(load(tiny_moe), "w4a16-g32")
    expected = model(prompt(), use_cache=False).logits
    compiled = torch.compile(model, fullgraph=True)
    logits = compiled(prompt(), use_cache=False).logits
    assert testing.measure_error(logits, expected.float()).relative < 0.02


def test_generate(tiny_moe):
    model = quantize_experts(load(tiny_moe), "w8a16")
    out = model.generate(prompt(), max_new_tokens=8, do_sample=False)
    assert out.shape == (1, prompt().size(1) + 8)


@pytest.mark.parametrize(
    "family", ["mixtral", "nemotron_h", "minimax_m3_vl", "openai_privacy_filter", "gpt_oss"]
)
def test_checkpoints_of_other_families(family, tmp_path):
    """Of other names, without a gate, with biases, transposed, interleaved."""
    if family not in families.families_of_transformers():
        pytest.skip(f"this transformers has no {family}")
    model = families.random_model(family)
    model.save_pretrained(tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "out", QuantScheme.parse("w8a16-g32"))
    ids = torch.arange(20)[None]
    expected = quantize_experts(model, "w8a16-g32")(input_ids=ids, use_cache=False)[0]
    loaded = type(model).from_pretrained(tmp_path / "out").eval()
    assert torch.equal(loaded(input_ids=ids, use_cache=False)[0], expected)


def test_names_in_a_converted_checkpoint_are_those_of_its_source(tmp_path):
    families.random_model("mixtral").save_pretrained(tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "out", QuantScheme.parse("w8a16-g32"))
    names = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert "model.layers.1.block_sparse_moe.experts.w2.scale" in names["weight_map"]


def write_gpt_oss(folder):
    """Write experts as gpt-oss is published; return the model, in what transformers makes of it."""
    mxfp4 = pytest.importorskip("transformers.integrations.mxfp4")
    model = families.random_model("gpt_oss")
    tensors = dict(model.state_dict())
    for name in [name for name in tensors if name.endswith(("gate_up_proj", "down_proj"))]:
        num_experts, k, n = tensors.pop(name).shape
        blocks = torch.randint(0, 256, (num_experts, n, k // 32, 16), dtype=torch.uint8)
        scales = torch.randint(120, 126, (num_experts, n, k // 32), dtype=torch.uint8)
        tensors |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
        weight = mxfp4.convert_moe_packed_tensors(blocks, scales, dtype=torch.bfloat16)
        model.get_parameter(name).data = weight
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    model.config.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    settings = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]}
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": settings}))
    return model


def test_gpt_oss_is_what_transformers_dequantises(tmp_path):
    model = write_gpt_oss(tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    layers = zip(model.model.layers, loaded.model.layers, strict=True)
    for theirs, ours in ((theirs.mlp.experts, ours.mlp.experts) for theirs, ours in layers):
        assert str(ours.scheme) == "mxfp4" and ours.is_packed
        assert torch.equal(ours.quantized().w13.dequantize(torch.bfloat16).mT, theirs.gate_up_proj)
        assert torch.equal(ours.quantized().w2.dequantize(torch.bfloat16).mT, theirs.down_proj)
    ids = torch.arange(20)[None]
    model.set_experts_implementation("sm80moe")
    expected = model(ids, use_cache=False).logits
    assert testing.measure_error(loaded(ids, use_cache=False).logits, expected).relative < 0.01


def test_calibration_takes_arguments_of_the_model(tiny_moe):
    model = load(tiny_moe)
    by_name = calibrate_experts(model, [{"input_ids": prompt()}], Calibration("max"))
    assert by_name == calibrate_experts(model, [prompt()], Calibration("max"))
    assert list(by_name) == [f"model.layers.{i}.mlp.experts" for i in range(3)]


def test_windows_count_the_bytes_that_are_predicted(tmp_path, monkeypatch):
    config = types.SimpleNamespace(vocab_size=256)
    windows = read_windows("ab" * 1300, tmp_path, config, 12)
    assert windows.ids.shape == (2, 1024)
    assert windows.num_bytes == 2 * 1023
    with pytest.raises(ValueError, match="text must have 1024 tokens or more, got 3"):
        read_windows("abc", tmp_path, config, 12)

    class Tokenizer:  # two bytes a token
        def __call__(self, text):
            return {"input_ids": [ord(c) for c in text[::2]]}

        def decode(self, ids):
            return "".join(2 * chr(i) for i in ids)

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda path: Tokenizer())
    windows = read_windows("aabb" * 1024, tmp_path, types.SimpleNamespace(vocab_size=999), 1)
    assert windows.ids[0, :3].tolist() == list(b"aba")
    assert windows.num_bytes == 2 * 1023


def test_models_that_cannot_be_quantised(tiny_moe):
    model = load(tiny_moe)
    with pytest.raises(ValueError, match="name must be one of w8a16"):
        quantize_experts(model, "w2a16")
    model.model.layers[1].mlp.experts.act_fn = torch.nn.Softsign()
    sentence = r"model.layers.1.mlp.experts must be what fused_moe runs, but it has a gate function"
    with pytest.raises(ValueError, match=sentence):
        quantize_experts(model, "w8a16")
    with pytest.raises(ValueError, match="model must have experts in 16 bits, got one without"):
        quantize_experts(torch.nn.Linear(8, 8), "w8a16")


def test_broken_checkpoints_are_refused(tmp_path, tiny_moe):
    convert(tiny_moe, tmp_path / "out", QuantScheme.parse("w8a16"))
    path = tmp_path / "out" / "model.layers.1.mlp.experts.safetensors"
    tensors = load_file(path)
    scale = tensors["model.layers.1.mlp.experts.w13.scale"]
    save_file(tensors | {"model.layers.1.mlp.experts.w13.scale": scale * 0}, path, {"format": "pt"})
    with pytest.raises(ValueError, match=r"layers.1.mlp.experts: must be .* positive, got 0.0"):
        load(tmp_path / "out")
    del tensors["model.layers.1.mlp.experts.w13.scale"]
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(ValueError, match=r"must hold w13.scale of 3 layers, got 2"):
        load(tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    for change, message in (({"version": 2}, "version must be 1"), ({"scheme": "x"}, "name must")):
        broken = {**config, "quantization_config": config["quantization_config"] | change}
        (tmp_path / "out" / "config.json").write_text(json.dumps(broken))
        with pytest.raises(ValueError, match=message):
            load(tmp_path / "out")


def test_commands(tmp_path, tiny_moe, capsys):
    text = tmp_path / "text.txt"
    text.write_text("import this\n" * 200)
    out = str(tmp_path / "out")
    arguments = ["quantize", str(tiny_moe), out, "--scheme", "w8a8-static"]
    assert cli.main(arguments) == 1
    assert "w8a8-static: calibration must be given, got None" in capsys.readouterr().err
    assert cli.main([*arguments, "--calibration", str(text), "--windows", "1"]) == 0
    load(out)
    assert cli.main(["quantize", str(tiny_moe), out, "--scheme", "w8a16"]) == 1
    assert "must be empty or not there" in capsys.readouterr().err

    table = tmp_path / "table.md"
    arguments = ["accuracy", "--model", str(tiny_moe), "--windows", "1", "--out", str(table)]
    assert cli.main([*arguments, "--scheme", "w8a16", "mxfp4"]) == 0
    rows = [line.split("|") for line in table.read_text().splitlines()]
    assert [row[1].strip() for row in rows] == ["scheme", "---", "bf16", "w8a16", "mxfp4"]
    bf16, w8a16, mxfp4 = (float(row[3]) for row in rows[2:])
    assert bf16 == pytest.approx(w8a16, rel=0.01)
    assert bf16 < mxfp4 < 1.1 * bf16
    # What the documentation promises of INT8: less than one per cent.
    assert float(rows[3][5].split()[-1].rstrip("%")) < 1
