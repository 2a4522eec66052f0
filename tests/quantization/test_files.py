"""Saving and loading: exact, complete or not there, and only what was written here."""

import json
import os

import pytest
import torch

from torch_sm80moe.quantization import (
    SCHEMES,
    QuantizedExperts,
    QuantScheme,
    StaticActivation,
    quantize,
    state,
)

pytest.importorskip("safetensors")

from safetensors.torch import save_file

from torch_sm80moe.quantization import files

SIZES = (2, 128, 64)  # E, H, I


def random_experts(name: str) -> QuantizedExperts:
    num_experts, hidden_size, intermediate_size = SIZES
    scheme = QuantScheme.parse(name)
    w13 = quantize(torch.randn(num_experts, 2 * intermediate_size, hidden_size), scheme)
    w2 = quantize(torch.randn(num_experts, hidden_size, intermediate_size), scheme)
    if scheme.activation != "int8_static":
        return QuantizedExperts(w13, w2)
    return QuantizedExperts(w13, w2, StaticActivation(0.1, 3), StaticActivation(0.25))


def fitting(name: str) -> bool:
    return "g128" not in name  # 128 does not divide I


FITTING = list(filter(fitting, SCHEMES))


def assert_equal(first: QuantizedExperts, second: QuantizedExperts) -> None:
    assert first.scheme == second.scheme
    one, two = state.to_tensors(first), state.to_tensors(second)
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert tensor.dtype == two[name].dtype
        assert torch.equal(tensor.float(), two[name].float()), name


def test_layers_come_back_as_they_were(tmp_path):
    layers = {f"mlp{'.mlp' * i}": random_experts(name) for i, name in enumerate(FITTING)}
    files.save(tmp_path / "experts.safetensors", layers)
    again = files.load(tmp_path / "experts.safetensors")
    assert again.keys() == layers.keys()
    for name, experts in layers.items():
        assert_equal(again[name], experts)
    assert os.listdir(tmp_path) == ["experts.safetensors"]


@pytest.mark.parametrize("name", FITTING)
def test_specs_describe_the_tensors(name):
    tensors = state.to_tensors(random_experts(name))
    found = {key: (tuple(tensor.shape), tensor.dtype) for key, tensor in tensors.items()}
    assert found == state.tensor_specs(QuantScheme.parse(name), *SIZES)


def test_half_bytes_have_an_exact_inverse():
    signed = torch.arange(-8, 8, dtype=torch.int8).repeat(3, 1)
    assert torch.equal(state.from_nibbles(state.to_nibbles(signed), torch.int8), signed)
    codes = torch.arange(16, dtype=torch.uint8)
    stored = state.to_nibbles(codes)
    assert stored.tolist()[:2] == [0x10, 0x32]
    assert torch.equal(state.from_nibbles(stored, torch.uint8), codes)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "experts.safetensors"
    files.save(path, {"a": random_experts("w8a16")})
    before = path.read_bytes()

    def fail_half_way(tensors, target, metadata):
        target.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(files, "save_file", fail_half_way)
    with pytest.raises(OSError, match="no space"):
        files.save(path, {"a": random_experts("w4a16")})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["experts.safetensors"]


def test_truncated_and_missing_files(tmp_path):
    path = tmp_path / "experts.safetensors"
    with pytest.raises(files.FileError, match="must be a readable safetensors file"):
        files.load(path)
    files.save(path, {"a": random_experts("w8a16")})
    whole = path.read_bytes()
    for length in (0, 4, 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(files.FileError, match="must be a readable safetensors file"):
            files.load(path)


GOOD = {"format": "sm80moe", "version": "1", "schemes": json.dumps({"a": "w8a16"})}


@pytest.mark.parametrize(
    ("metadata", "change", "message"),
    [
        (None, {}, "metadata must have the format sm80moe, got None"),
        ({"format": "pt"}, {}, "metadata must have the format sm80moe, got pt"),
        (GOOD | {"version": "2"}, {}, "version must be 1, got 2"),
        (GOOD | {"schemes": "[1]"}, {}, "metadata must name layers' schemes"),
        (GOOD | {"schemes": '{"a": "w3a16"}'}, {}, "name must be one of w8a16"),
        (GOOD | {"schemes": '{"a": "w8a16-g32"}'}, {}, r"a must be what .* scale must have shape"),
        (GOOD | {"schemes": '{"a": "w4a16"}'}, {}, "values must be torch.uint8, got torch.int8"),
        (GOOD | {"schemes": '{"a": "w8a16-asym"}'}, {}, "zero_point must be a tensor, got None"),
        (GOOD | {"schemes": '{"a": "w8a8-static"}'}, {}, "w13_input must be calibrated"),
        (GOOD | {"schemes": '{"b": "w8a16"}'}, {}, "values must be among the tensors, got none"),
        (GOOD, {"b.w13.values": torch.zeros(1)}, "of layers in the metadata, got b.w13.values"),
        (GOOD, {"a.w3.values": torch.zeros(1)}, "those of the scheme, got w3.values too"),
        (GOOD, {"a.w2.scale": torch.zeros(2, 128, 1)}, "scale must be finite and positive"),
    ],
)  # fmt: skip
def test_foreign_and_inconsistent_files(tmp_path, metadata, change, message):
    path = tmp_path / "experts.safetensors"
    tensors = {f"a.{key}": t for key, t in state.to_tensors(random_experts("w8a16")).items()}
    save_file(tensors | change, path, metadata)
    with pytest.raises(files.FileError, match=message):
        files.load(path)


def test_parts_must_belong_together():
    w8, w4 = random_experts("w8a16"), random_experts("w4a16")
    with pytest.raises(ValueError, match="w13 must be w4a16 like w2, got w8a16"):
        QuantizedExperts(w8.w13, w4.w2)
    with pytest.raises(ValueError, match=r"w13 must have shape \[2, 128, 128\] to suit w2"):
        QuantizedExperts(w8.w2, w8.w2)
    with pytest.raises(ValueError, match="w13_input must be None with w8a16"):
        QuantizedExperts(w8.w13, w8.w2, StaticActivation(1.0), None)
    for scale, zero_point in ((0.0, 0), (-1.0, 0), (float("nan"), 0), (1.0, 128), (1.0, -129)):
        with pytest.raises(ValueError, match=r"StaticActivation: .* must be"):
            StaticActivation(scale, zero_point)


def test_static_activations_saturate_at_both_ends():
    activation = StaticActivation(0.5, -3)
    stored = activation.quantize(torch.tensor([-1e9, -62.5, 0.0, 0.24, 65.0, 1e9]))
    assert stored.tolist() == [-128, -128, -3, -3, 127, 127]
    assert activation.dequantize(stored).tolist()[1:3] == [-62.5, 0.0]
