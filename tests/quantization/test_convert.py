"""Checkpoint to checkpoint: exact, resumable, nothing half-written, broken sources refused."""

import json
import os

import pytest
import torch

from torch_sm80moe.quantization import (
    QuantizedExperts,
    QuantScheme,
    StaticActivation,
    quantize,
    state,
)

pytest.importorskip("safetensors")

from safetensors import safe_open
from safetensors.torch import save_file

from tests.quantization import checkpoints
from torch_sm80moe.quantization.checkpoint import Checkpoint, CheckpointError
from torch_sm80moe.quantization.convert import convert
from torch_sm80moe.quantization.importers import read_mxfp4

W8A16 = QuantScheme.parse("w8a16")
FIRST = checkpoints.EXPERTS.format(0)


@pytest.fixture
def tensors():
    return checkpoints.weights()


@pytest.fixture
def source(tmp_path, tensors):
    return checkpoints.write(tmp_path / "source", tensors, num_files=3)


def read_layer(folder, name):
    """Return the experts of a layer of a converted checkpoint."""
    checkpoint = Checkpoint(folder)
    parts = {
        key.removeprefix(f"{name}."): checkpoint.read(key)
        for key in checkpoint.file_of
        if key.startswith(f"{name}.")
    }
    scheme = QuantScheme.parse(checkpoint.quantization_config["scheme"])
    return state.from_tensors(parts, scheme)


@pytest.mark.parametrize("name", ["w8a16", "w4a16-g32-asym", "fp8-block", "mxfp4", "w8a8"])
def test_every_layer_is_what_quantize_makes_of_it(tmp_path, tensors, source, name):
    scheme = QuantScheme.parse(name)
    convert(source, tmp_path / "target", scheme, method="absmax")
    for number in range(checkpoints.NUM_LAYERS):
        layer = checkpoints.EXPERTS.format(number)
        experts = read_layer(tmp_path / "target", layer)
        w13, w2 = checkpoints.stacked(tensors, layer)
        assert torch.equal(experts.w13.dequantize(), quantize(w13, scheme).dequantize())
        assert torch.equal(experts.w2.dequantize(), quantize(w2, scheme).dequantize())


def test_everything_else_stays_as_it_was(tmp_path, tensors, source):
    convert(source, tmp_path / "target", W8A16)
    target = Checkpoint(tmp_path / "target")
    others = [name for name in tensors if ".experts." not in name]
    for name in others:
        assert torch.equal(target.read(name), tensors[name])
    assert len(target.file_of) == len(others) + 4 * checkpoints.NUM_LAYERS
    assert (tmp_path / "target" / "tokenizer.json").read_text() == "{}"
    settings = {"quant_method": "sm80moe", "version": 1, "scheme": "w8a16"}
    assert target.config == {"dtype": "bfloat16", "quantization_config": settings}
    index = json.loads((tmp_path / "target" / "model.safetensors.index.json").read_text())
    sizes = [path.stat().st_size for path in (tmp_path / "target").glob("*.safetensors")]
    assert index["metadata"]["total_size"] == sum(sizes)


def test_a_single_file_and_stacked_experts(tmp_path, tensors):
    merged = {name: tensor for name, tensor in tensors.items() if ".experts." not in name}
    for number in range(checkpoints.NUM_LAYERS):
        layer = checkpoints.EXPERTS.format(number)
        w13, w2 = checkpoints.stacked(tensors, layer)
        merged |= {f"{layer}.gate_up_proj": w13.contiguous(), f"{layer}.down_proj": w2}
    one = checkpoints.write(tmp_path / "stacked", merged)
    other = checkpoints.write(tmp_path / "source", tensors)
    convert(one, tmp_path / "one", W8A16)
    convert(other, tmp_path / "other", W8A16)
    assert {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "other").iterdir()
    }


def test_an_interrupted_run_goes_on(tmp_path, source, monkeypatch):
    from torch_sm80moe.quantization import files, output

    convert(source, tmp_path / "whole", W8A16)
    real, written = files.save_file, []

    def save_some(tensors, path, metadata):
        if len(written) == 4:
            path.write_bytes(b"half")
            raise KeyboardInterrupt
        written.append(path)
        real(tensors, path, metadata)

    monkeypatch.setattr(files, "save_file", save_some)
    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "target", W8A16)
    left = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "target").iterdir()}
    assert len(left) == 5 and "config.json" not in left and output._RECORD in left
    assert all(name.endswith((".safetensors", ".json")) for name in left)

    with pytest.raises(CheckpointError, match="left by the same command, got one of another"):
        convert(source, tmp_path / "target", QuantScheme.parse("w4a16"))
    monkeypatch.setattr(files, "save_file", real)
    convert(source, tmp_path / "target", W8A16)
    names = sorted(os.listdir(tmp_path / "whole"))
    assert sorted(os.listdir(tmp_path / "target")) == names
    for name in names:
        first, second = (tmp_path / folder / name for folder in ("whole", "target"))
        assert first.read_bytes() == second.read_bytes()
        if name in left:
            assert second.stat().st_mtime_ns == left[name]


def test_static_schemes_need_inputs_of_every_layer(tmp_path, source):
    scheme = QuantScheme.parse("w8a8-static")
    inputs = {
        checkpoints.EXPERTS.format(n): (StaticActivation(0.5, n), StaticActivation(0.25))
        for n in range(checkpoints.NUM_LAYERS)
    }
    convert(source, tmp_path / "target", scheme, inputs=inputs)
    experts = read_layer(tmp_path / "target", checkpoints.EXPERTS.format(7))
    assert experts.w13_input == StaticActivation(0.5, 7)
    assert experts.w2_input == StaticActivation(0.25)
    del inputs[FIRST]
    with pytest.raises(ValueError, match=f"inputs must be calibrated for {FIRST}, got none"):
        convert(source, tmp_path / "other", scheme, inputs=inputs)


def compressed_checkpoint(folder, tensors):
    """Write what llm-compressor would: every linear layer compressed by the package's own code."""
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams

    weights = QuantizationArgs(num_bits=4, strategy="group", group_size=32, symmetric=False)
    scheme = QuantizationScheme(targets=["Linear"], weights=weights)
    stored, expected = {}, {}
    for name, tensor in tensors.items():
        module = name.removesuffix(".weight")
        if tensor.dim() == 1 or "embed" in name or "mlp.gate." in name:  # as others ignore them
            stored[name] = tensor
            continue
        groups = tensor.float().reshape(tensor.size(0), -1, 32)
        scale, zero_point = calculate_qparams(groups.amin(2), groups.amax(2), weights)
        parts = PackedQuantizationCompressor.compress(
            {"weight": tensor.float(), "weight_scale": scale, "weight_zero_point": zero_point},
            scheme,
        )
        stored |= {f"{module}.{part}": value.contiguous() for part, value in parts.items()}
        expected[name] = PackedQuantizationCompressor.decompress(parts, scheme)["weight"]
    group = json.loads(scheme.model_dump_json())
    config = {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}}
    return checkpoints.write(folder, stored, 3, quantization_config=config), expected


def test_a_quantised_checkpoint_keeps_its_numbers(tmp_path):
    source, expected = compressed_checkpoint(tmp_path / "source", checkpoints.weights(1))
    convert(source, tmp_path / "target")
    experts = read_layer(tmp_path / "target", FIRST)
    assert str(experts.scheme) == "w4a16-g32-asym"
    w13, w2 = checkpoints.stacked(expected, FIRST)
    assert torch.equal(experts.w13.dequantize(), w13.float())
    assert torch.equal(experts.w2.dequantize(), w2.float())
    other = "model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(Checkpoint(tmp_path / "target").read(other), expected[other].bfloat16())
    names = sorted(
        name.removeprefix(f"{FIRST}.") for name in Checkpoint(tmp_path / "target").file_of
    )
    assert names == [
        "model.embed_tokens.weight",
        "model.layers.0.mlp.gate.weight",
        "model.layers.0.self_attn.q_proj.bias",
        "model.layers.0.self_attn.q_proj.weight",
        *(
            f"{weight}.{part}"
            for weight in ("w13", "w2")
            for part in ("scale", "values", "zero_point")
        ),
    ]


def test_a_quantised_checkpoint_may_be_quantised_again(tmp_path):
    source, expected = compressed_checkpoint(tmp_path / "source", checkpoints.weights(1))
    convert(source, tmp_path / "target", W8A16, method="absmax")
    w13, _ = checkpoints.stacked(expected, FIRST)
    found = read_layer(tmp_path / "target", FIRST).w13.dequantize()
    assert torch.equal(found, quantize(w13.float(), W8A16).dequantize())


def mxfp4_layer():
    """Make the experts of a layer as gpt-oss stores them: E 2, H 64, I 128."""
    shapes = {"gate_up_proj": (2, 256, 2), "down_proj": (2, 64, 4)}
    tensors = {}
    for name, shape in shapes.items():
        blocks = torch.randint(0, 256, (*shape, 16), dtype=torch.uint8)
        tensors[f"{FIRST}.{name}_blocks"] = blocks
        tensors[f"{FIRST}.{name}_scales"] = torch.randint(115, 123, shape, dtype=torch.uint8)
    return tensors


def test_blocks_and_scales_keep_their_numbers_and_biases_come_along(tmp_path):
    tensors = mxfp4_layer()
    biases = {f"{FIRST}.gate_up_proj_bias": (2, 256), f"{FIRST}.down_proj_bias": (2, 64)}
    biases = {name: torch.randn(shape) for name, shape in biases.items()}
    settings = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
    source = checkpoints.write(tmp_path / "source", tensors | biases, quantization_config=settings)
    convert(source, tmp_path / "target")
    target = Checkpoint(tmp_path / "target")
    assert target.quantization_config["scheme"] == "mxfp4"
    weights = [
        read_mxfp4(tensors[f"{FIRST}.{name}_blocks"], tensors[f"{FIRST}.{name}_scales"])
        for name in ("gate_up_proj", "down_proj")
    ]
    expected = state.to_tensors(QuantizedExperts(*weights))
    for name, tensor in expected.items():
        assert torch.equal(target.read(f"{FIRST}.{name}"), tensor)
    for name, bias in zip(("w13_bias", "w2_bias"), biases.values(), strict=True):
        assert torch.equal(target.read(f"{FIRST}.{name}"), bias.bfloat16())
    assert len(target.file_of) == len(expected) + 2

    convert(source, tmp_path / "again", W8A16, method="absmax")
    again = Checkpoint(tmp_path / "again").read(f"{FIRST}.w13.values")
    assert torch.equal(again, quantize(weights[0].dequantize(), W8A16).values)


def remove(tensors, name):
    return {key: tensor for key, tensor in tensors.items() if key != name}


@pytest.mark.parametrize(
    ("change", "scheme", "message"),
    [
        (lambda t: {"a.weight": torch.ones(1)}, W8A16, "must hold experts, got a model without"),
        (lambda t: remove(t, f"{FIRST}.1.up_proj.weight"), W8A16, "expert 1 must have up_proj"),
        (
            lambda t: t | {f"{FIRST}.1.up_proj.bias": torch.ones(128)},
            W8A16,
            "gate, up and down projections alone, got another tensor",
        ),
        (lambda t: t | {f"{FIRST}.gate_up_proj_bias": torch.ones(1)}, W8A16, "alone, got another"),
        (
            lambda t: {f"{FIRST}.gate_up_proj": torch.ones(2, 64, 256)},
            W8A16,
            "must hold down_proj, gate_up_proj, got none named down_proj",
        ),
        (
            lambda t: {f"{FIRST}.gate_up_proj_blocks": torch.ones(2, 64, 2, 16).byte()},
            W8A16,
            "must hold down_proj, gate_up_proj, got none named down_proj",
        ),
        (
            lambda t: mxfp4_layer() | {f"{FIRST}.down_proj_scales": torch.ones(2, 64, 3).byte()},
            W8A16,
            r"down_proj: must be what its settings say, .*scale must have shape \[2, 64, 4\]",
        ),
        (
            lambda t: mxfp4_layer() | {f"{FIRST}.down_proj_bias": torch.ones(2, 64)},
            W8A16,
            "got none named gate_up_proj_bias",
        ),
        (
            lambda t: {
                f"{FIRST}.gate_up_proj": torch.ones(2, 64, 256),
                f"{FIRST}.down_proj": torch.ones(2, 64, 128),
            },
            W8A16,
            r"must hold weights \[E, 2I, H\] and \[E, H, I\], or both .*, got \[2, 64, 256\] and",
        ),
        (
            lambda t: t | {f"{FIRST}.0.up_proj.weight": torch.full((128, 64), torch.nan)},
            W8A16,
            "weight must be finite, got nan",
        ),
        (lambda t: t, QuantScheme.parse("w4a16-g128"), "K must be a multiple of 128, got 64"),
        (lambda t: t, None, "must be quantised if no scheme is given, got 16 bits"),
    ],
)
def test_broken_sources_leave_no_target(tmp_path, tensors, change, scheme, message):
    source = checkpoints.write(tmp_path / "source", change(tensors))
    with pytest.raises(ValueError, match=message):
        convert(source, tmp_path / "target", scheme)
    assert not (tmp_path / "target").exists()


def test_truncated_and_missing_files(tmp_path, tensors, source):
    path = source / "model-1.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"model-1.safetensors: must be a readable"):
        convert(source, tmp_path / "target", W8A16)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"model-1.safetensors: must be a readable"):
        convert(source, tmp_path / "target", W8A16)
    with safe_open(source / "model-0.safetensors", "pt") as file:
        save_file({name: file.get_tensor(name) for name in file.keys()}, path)  # noqa: SIM118
    with pytest.raises(CheckpointError, match=r"must hold .* of its index, got none"):
        convert(source, tmp_path / "target", W8A16)
    (source / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config.json: must be a readable JSON file"):
        convert(source, tmp_path / "target", W8A16)


def test_a_folder_of_something_else_is_left_alone(tmp_path, source):
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "thesis.txt").write_text("precious")
    with pytest.raises(CheckpointError, match="must be empty or not there"):
        convert(source, tmp_path / "target", W8A16)
    assert os.listdir(tmp_path / "target") == ["thesis.txt"]
    with pytest.raises(CheckpointError, match="must be empty or not there"):
        convert(source, source, W8A16)
