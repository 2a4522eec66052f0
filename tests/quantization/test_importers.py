"""Importers against tensors that other projects' own packages made and dequantised."""

import json
import types
from pathlib import Path

import pytest
import torch

from torch_sm80moe.quantization import (
    QuantScheme,
    StaticActivation,
    importers,
    join,
    quantize,
    state,
)
from torch_sm80moe.quantization.importers import read_mxfp4

load_file = pytest.importorskip("safetensors.torch").load_file

GOLDEN = Path(__file__).parents[1] / "data" / "quantized_layouts"
SHAPE = (64, 96)  # N, K
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": False}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}


@pytest.mark.parametrize(
    ("name", "config", "scheme"),
    [
        ("gptq_auto_gptq", GPTQ, "w4a16-g32-asym"),
        ("gptq_auto_gptq_sym", GPTQ | {"sym": True}, "w4a16-g32"),
        ("gptq_gptqmodel_4_bits", GPTQ, "w4a16-g32-asym"),
        ("gptq_gptqmodel_8_bits", GPTQ | {"bits": 8}, "w8a16-g32-asym"),
        ("gptq_v2_gptqmodel_4_bits", GPTQ | {"checkpoint_format": "gptq_v2"}, "w4a16-g32-asym"),
        (
            "gptq_v2_gptqmodel_8_bits",
            GPTQ | {"bits": 8, "checkpoint_format": "gptq_v2"},
            "w8a16-g32-asym",
        ),
        ("awq_autoawq", AWQ, "w4a16-g32-asym"),
    ],
)
def test_gptq_and_awq_as_their_packages_dequantize(name, config, scheme):
    tensors = load_file(GOLDEN / f"{name}.safetensors")
    expected = tensors.pop("expected")
    weight = importers.reader_for(config).read(tensors, "experts.0.up_proj").weight
    assert str(weight.scheme) == scheme
    assert torch.equal(weight.dequantize(torch.float16)[0], expected)


def compressed(weights: dict, activations: dict | None, weight: torch.Tensor, **more):
    """Compress with the package's own code; return its tensors, what they mean, the config."""
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.compressors.format import infer_module_format
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams

    scheme = QuantizationScheme(
        targets=["Linear"],
        weights=QuantizationArgs(**weights),
        input_activations=activations and QuantizationArgs(**activations),
    )
    low, high = extremes(weight, scheme.weights)
    scale, zero_point = calculate_qparams(low, high, scheme.weights)
    given = {"weight": weight, "weight_scale": scale, "weight_zero_point": zero_point, **more}
    compressor = BaseCompressor.get_value_from_registry(
        infer_module_format(torch.nn.Linear, scheme).value
    )
    tensors = compressor.compress(given, scheme)
    expected = compressor.decompress(tensors, scheme)["weight"]
    group = json.loads(scheme.model_dump_json())
    config = {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}}
    return tensors, expected, config


def extremes(weight: torch.Tensor, args) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the least and the largest weight of what shares a scale."""
    if args.strategy == "tensor":
        return weight.min().reshape(1), weight.max().reshape(1)
    if args.strategy == "channel":
        return weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)
    if args.strategy == "group":
        groups = weight.reshape(weight.size(0), -1, args.group_size)
        return groups.amin(2), groups.amax(2)
    rows, columns = args.block_structure
    blocks = weight.reshape(weight.size(0) // rows, rows, weight.size(1) // columns, columns)
    return blocks.amin((1, 3)), blocks.amax((1, 3))


INT8 = {"num_bits": 8, "type": "int"}
INT4 = {"num_bits": 4, "type": "int"}
FP8 = {"num_bits": 8, "type": "float"}
DYNAMIC = {**INT8, "strategy": "token", "dynamic": True}
STATIC = {**INT8, "strategy": "tensor", "dynamic": False}
CHANNEL = {**INT8, "strategy": "channel"}
ASYM_G32 = {"strategy": "group", "group_size": 32, "symmetric": False}


@pytest.mark.parametrize(
    ("weights", "activations", "scheme"),
    [
        (CHANNEL, None, "w8a16"),
        ({**INT8, "strategy": "tensor"}, None, "w8a16-tensor"),
        ({**INT8, "strategy": "channel", "symmetric": False}, None, "w8a16-asym"),
        ({**INT8, "strategy": "group", "group_size": 64}, None, "w8a16-g64"),
        ({**INT8, **ASYM_G32}, None, "w8a16-g32-asym"),
        (CHANNEL, DYNAMIC, "w8a8"),
        ({**INT8, "strategy": "tensor"}, DYNAMIC, "w8a8-tensor"),
        ({**INT4, "strategy": "channel"}, None, "w4a16"),
        ({**INT4, "strategy": "group", "group_size": 128}, None, "w4a16-g128"),
        ({**INT4, **ASYM_G32}, None, "w4a16-g32-asym"),
        ({**FP8, "strategy": "channel"}, None, "fp8-channel"),
        ({**FP8, "strategy": "tensor"}, {**DYNAMIC, **FP8}, "fp8-tensor"),
        ({**FP8, "strategy": "block", "block_structure": [128, 128]}, None, "fp8-block"),
        (
            {**INT4, "type": "float", "strategy": "group", "group_size": 32,
             "scale_dtype": "torch.uint8", "zp_dtype": "torch.uint8"},
            None,
            "mxfp4",
        ),
    ],
)  # fmt: skip
def test_compressed_tensors_as_their_package_decompresses(weights, activations, scheme):
    weight = torch.randn(128, 256).bfloat16().float()
    tensors, expected, config = compressed(weights, activations, weight)
    linear = importers.reader_for(config).read(tensors, "model.layers.0.mlp.experts.0.up_proj")
    assert str(linear.weight.scheme) == scheme
    assert linear.input is None
    assert torch.equal(linear.weight.dequantize()[0], expected.float())


@pytest.mark.parametrize("zero_point", [None, 7])
def test_compressed_tensors_with_static_activations(zero_point):
    more = {"input_scale": torch.tensor([0.25])}
    if zero_point is not None:
        more["input_zero_point"] = torch.tensor([zero_point], dtype=torch.int8)
    activations = {**STATIC, "symmetric": zero_point is None}
    weight = torch.randn(64, 64)
    tensors, _, config = compressed(CHANNEL, activations, weight, **more)
    linear = importers.reader_for(config).read(tensors, "mlp.experts.0.up_proj")
    assert str(linear.weight.scheme) == "w8a8-static"
    assert linear.input == StaticActivation(0.25, zero_point or 0)


def test_compressed_tensors_groups_are_chosen_by_name():
    weight = torch.randn(64, 64)
    tensors, _, config = compressed(CHANNEL, None, weight)
    group = config["config_groups"]["group_0"]
    weights = {**group["weights"], "strategy": "tensor"}
    experts = {**group, "targets": ["re:.*experts.*"], "weights": weights}
    config["config_groups"]["group_1"] = experts
    reader = importers.reader_for(config)
    assert str(reader.read(tensors, "self_attn.q_proj").weight.scheme) == "w8a16"
    with pytest.raises(ValueError, match="w8a16-tensor: scale must have shape"):
        reader.read(tensors, "mlp.experts.3.up_proj")


def fp8_quantizer(block: tuple[int, int] | None, scale_fmt: str):
    settings = types.SimpleNamespace(weight_block_size=block, scale_fmt=scale_fmt)
    return types.SimpleNamespace(quantization_config=settings)


@pytest.mark.parametrize(("block", "scheme"), [((128, 128), "fp8-block"), (None, "fp8-tensor")])
@pytest.mark.parametrize("scale_fmt", ["float", "ue8m0"])
def test_fp8_as_transformers_quantizes_and_dequantizes(block, scheme, scale_fmt):
    fp8 = pytest.importorskip("transformers.integrations.finegrained_fp8")

    quantizer = fp8_quantizer(block, scale_fmt)
    tensors = fp8.Fp8Quantize(quantizer).convert({"weight": torch.randn(256, 384)})
    expected = fp8.Fp8Dequantize(quantizer).convert({f"up.{k}": t for k, t in tensors.items()})
    (expected,) = expected["up.weight"]
    config = {"quant_method": "fp8", "weight_block_size": block and list(block)}
    weight = importers.reader_for(config).read(tensors, "experts.0.up_proj").weight
    assert str(weight.scheme) == scheme
    assert torch.equal(weight.dequantize(expected.dtype)[0], expected)


def test_mxfp4_as_transformers_dequantizes():
    mxfp4 = pytest.importorskip("transformers.integrations.mxfp4")
    blocks = torch.randint(0, 256, (2, 96, 4, 16), dtype=torch.uint8)
    scales = torch.randint(100, 150, (2, 96, 4), dtype=torch.uint8)
    expected = mxfp4.convert_moe_packed_tensors(blocks, scales, dtype=torch.float32).mT  # [E, N, K]
    assert torch.equal(read_mxfp4(blocks, scales).dequantize(), expected)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "quant_method must be one of awq, compressed-tensors, fp8, gptq, mxfp4, got None"),
        ({"quant_method": "bitsandbytes"}, "quant_method must be one of .* got bitsandbytes"),
        (GPTQ | {"bits": 3}, "bits must be 4 or 8 with gptq, got 3"),
        (GPTQ | {"checkpoint_format": "marlin"}, "checkpoint_format must be one of"),
        (GPTQ | {"group_size": 16}, "group_size must be one of"),
        (AWQ | {"version": "gemv"}, "version must be gemm with awq, got gemv"),
        (AWQ | {"bits": 8}, "bits must be 4 with awq, got 8"),
        ({"quant_method": "fp8", "weight_block_size": [1, 32]}, r"must be \[128, 128\], got"),
        ({"quant_method": "compressed-tensors"}, "config_groups must describe the layers"),
    ],
)
def test_other_checkpoints_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        importers.reader_for(config)


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ({"targets": ["lm_head"]}, "targets of config_groups must name"),
        ({"weights": {"num_bits": 3}}, "weights must be int8, int4, fp8 or mxfp4"),
        ({"weights": {**INT8, "strategy": "row"}}, "strategy must be one of"),
        ({"weights": {**INT4, "strategy": "tensor"}}, "group_size must be one of"),
        (
            {"weights": {**INT4, "strategy": "channel"}, "input_activations": DYNAMIC},
            "activations must be int8 beside int8 weights",
        ),
    ],
)
def test_other_compressed_tensors_are_refused(group, message):
    group = {"targets": ["Linear"], "weights": CHANNEL} | group
    config = {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}}
    with pytest.raises(ValueError, match=message):
        importers.reader_for(config).read({}, "experts.0.up_proj")


def test_broken_layers_are_refused():
    tensors = load_file(GOLDEN / "gptq_gptqmodel_4_bits.safetensors")
    reader = importers.reader_for(GPTQ)
    for missing in ("qweight", "qzeros", "scales"):
        rest = {name: tensor for name, tensor in tensors.items() if name != missing}
        with pytest.raises(ValueError, match=f"{missing} must be among the tensors"):
            reader.read(rest, "")
    with pytest.raises(TypeError, match=r"qweight must be .*int32, got .*int64"):
        reader.read(tensors | {"qweight": tensors["qweight"].long()}, "")
    with pytest.raises(ValueError, match="g_idx must put neighbours into a group"):
        reader.read(tensors | {"g_idx": tensors["g_idx"].flip(0)}, "")
    with pytest.raises(ValueError, match="qzeros must be 8 throughout with sym"):
        importers.reader_for(GPTQ | {"sym": True}).read(tensors, "")
    with pytest.raises(ValueError, match=r"scale must have shape \[1, 64, 3\]"):
        reader.read(tensors | {"scales": tensors["scales"][:2]}, "")
    with pytest.raises(ValueError, match="scale must be finite and positive, got nan"):
        reader.read(tensors | {"scales": tensors["scales"] * torch.nan}, "")


def test_broken_mxfp4_is_refused():
    blocks = torch.zeros(1, 32, 2, 16, dtype=torch.uint8)
    scales = torch.full((1, 32, 2), 127, dtype=torch.uint8)
    with pytest.raises(TypeError, match=r"blocks must be .*uint8, got .*int8"):
        read_mxfp4(blocks.char(), scales)
    with pytest.raises(ValueError, match=r"blocks must have shape \[E, N, K / 32, 16\]"):
        read_mxfp4(blocks.flatten(2), scales)
    with pytest.raises(ValueError, match=r"scale must have shape \[1, 32, 2\]"):
        read_mxfp4(blocks, scales[:, :31])
    with pytest.raises(ValueError, match=r"not be NaN \(code 255\)"):
        read_mxfp4(blocks, scales + 128)


@pytest.mark.parametrize("name", ["w8a16-tensor", "w8a16-tensor-asym", "fp8-tensor", "w8a8-tensor"])
def test_gate_and_up_with_scales_of_their_own_keep_them(name):
    scheme = QuantScheme.parse(name)
    gate, up = torch.randn(2, 1, 32, 64).mul(torch.tensor([1.0, 5.0])[:, None, None, None])
    parts = quantize(gate, scheme), quantize(up, scheme)
    joined = join.join_rows(parts)
    assert str(joined.scheme) == name.replace("-tensor", "-channel" if name[0] == "f" else "")
    expected = torch.cat([part.dequantize() for part in parts], dim=1)
    assert torch.equal(joined.dequantize(), expected)


def test_a_block_never_holds_gate_and_up():
    scheme = QuantScheme.parse("fp8-block")
    parts = [quantize(torch.randn(1, 192, 256), scheme) for _ in range(2)]
    with pytest.raises(ValueError, match="gate must have a multiple of 128 rows, got 192"):
        join.join_rows(parts)


def test_stacked_experts_keep_their_order():
    parts = [quantize(torch.randn(1, 32, 64), QuantScheme.parse("w4a16-g32")) for _ in range(3)]
    expected = torch.cat([part.dequantize() for part in parts])
    assert torch.equal(join.stack(parts).dequantize(), expected)
    with pytest.raises(ValueError, match="all weights must be w4a16-g32 like the first, got mxfp4"):
        join.stack([*parts, quantize(torch.randn(1, 32, 64), QuantScheme.parse("mxfp4"))])
    with pytest.raises(ValueError, match="weights must hold one or more"):
        join.stack([])


def test_inputs_of_experts_are_widened_to_one():
    assert join.widest([StaticActivation(0.1), StaticActivation(0.3)]) == StaticActivation(0.3)
    one = join.widest([StaticActivation(0.1, 100), StaticActivation(0.1, -100)])
    for value in ((-128 - 100) * 0.1, (127 + 100) * 0.1):
        again = one.dequantize(one.quantize(torch.tensor(value)))
        assert abs(float(again) - value) <= one.scale


def test_half_bytes_of_gpt_oss_are_those_of_our_files():
    values = torch.arange(32, dtype=torch.uint8).reshape(1, 1, 32) % 16
    blocks = state.to_nibbles(values).reshape(1, 1, 1, 16)
    scales = torch.full((1, 1, 1), 127, dtype=torch.uint8)
    assert torch.equal(read_mxfp4(blocks, scales).values, values)
