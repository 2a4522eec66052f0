"""Quantised experts as a module, alone and in FusedMoE."""

import copy
from unittest import mock

import pytest
import torch

from tests.quantization.random_weights import SCHEMES_16BIT
from torch_sm80moe import FusedMoE, reference, testing
from torch_sm80moe.quantization import (
    SCHEMES,
    Calibration,
    QuantizedExperts,
    QuantScheme,
    module,
    quantize,
    state,
)
from torch_sm80moe.quantization.module import QuantizedFusedExperts
from torch_sm80moe.quantization.reference import as_stored, fused_moe_quantized

INPUTS = testing.Problem(num_tokens=24, hidden_size=128, intermediate_size=128)
# Of a layer with random weights, whose group is what all schemes have in common.
LARGEST_ERRORS = {"w8a16": 0.03, "w8a8": 0.03, "w4a16": 0.3, "fp8": 0.06, "mxfp4": 0.25}


def layer(device: torch.device | str = "cpu") -> FusedMoE:
    return FusedMoE(128, 128, num_experts=4, top_k=2, dtype=torch.bfloat16, device=device)


def experts(name: str, inputs: testing.Inputs) -> QuantizedExperts:
    scheme = QuantScheme.parse(name)
    return QuantizedExperts(quantize(inputs.w13, scheme), quantize(inputs.w2, scheme))


@pytest.mark.parametrize("name", [name for name in SCHEMES if "a8" not in name])
def test_reference_multiplies_what_the_weights_mean(name):
    x, w13, w2, topk_weights, topk_ids = INPUTS.make()
    quantized = experts(name, testing.Inputs(x, w13, w2, topk_weights, topk_ids))
    out = fused_moe_quantized(x, quantized, topk_weights, topk_ids)
    means = quantized.w13.dequantize(), quantized.w2.dequantize()
    assert torch.equal(out, reference.fused_moe(x, *means, topk_weights, topk_ids))


def test_dynamic_activations_are_rounded_row_by_row():
    rows = torch.tensor([[1.27, -0.634, 0.0, 0.016], [0.0, 0.0, 0.0, 0.0]])
    stored = as_stored(rows, "int8_dynamic", None)
    torch.testing.assert_close(stored, torch.tensor([[1.27, -0.63, 0.0, 0.02], [0.0] * 4]))
    in_groups = as_stored(rows, "int8_dynamic", None, 2)
    assert in_groups[0, 3] == rows[0, 3]
    assert torch.equal(as_stored(rows, "16bit", None), rows)


@pytest.mark.parametrize("name", SCHEMES)
def test_a_layer_is_quantised_in_place(name, device):
    moe, x = layer(device), torch.randn(3, 7, 128, device=device).bfloat16()
    expected, memory = moe(x), sum(p.nbytes for p in moe.experts.parameters())
    batches = [torch.randn(50, 128, device=device).bfloat16()] if "static" in name else None
    assert moe.quantize_(name, calibration=batches) is moe
    flat = x.flatten(0, 1)
    specified = fused_moe_quantized(flat, moe.experts.quantized(), *moe._route(flat))
    error = testing.measure_error(specified, expected.flatten(0, 1).float()).relative
    assert 0 < error < (0.15 if batches else LARGEST_ERRORS[name.split("-")[0]])
    assert sum(b.nbytes for b in moe.experts.buffers()) < 0.7 * memory
    assert not list(moe.experts.parameters())
    with pytest.raises(ValueError, match="experts must be in 16 bits, got quantised ones"):
        moe.quantize_(name)


@pytest.mark.parametrize("method", ["max", "percentile", "mse"])
def test_static_ranges_follow_the_settings(method):
    moe = layer()
    batches = [torch.randn(5, 50, 128).bfloat16() for _ in range(2)]
    moe.quantize_("w8a8-static", calibration=iter(batches), settings=Calibration(method))
    found = moe.experts.quantized().w13_input
    assert found == Calibration(method).choose(histogram(batches))


def histogram(batches):
    from torch_sm80moe.quantization.histogram import Histogram

    seen = Histogram()
    for batch in batches:
        seen.add(batch)
    return seen


def test_batches_are_for_static_schemes_alone():
    with pytest.raises(ValueError, match="w8a8-static: calibration must be given, got None"):
        layer().quantize_("w8a8-static")
    with pytest.raises(ValueError, match="w4a16: calibration must be None, got batches"):
        layer().quantize_("w4a16", calibration=[torch.randn(5, 128).bfloat16()])
    with pytest.raises(ValueError, match="batches must reach every layer"):
        layer().quantize_("w8a8-static", calibration=[])


@pytest.mark.parametrize("name", ["w8a16", "w4a16-g32-asym", "fp8-block", "mxfp4"])
def test_state_dict_and_casts_keep_the_stored_numbers(name):
    moe = layer().quantize_(name)
    other = layer()
    other.experts = QuantizedFusedExperts(QuantScheme.parse(name), 4, 128, 128, device="cpu")
    other.load_state_dict(moe.state_dict())
    x = torch.randn(5, 128).bfloat16()
    assert torch.equal(moe(x), other(x))
    packed = layer().quantize_(name)
    packed.load_state_dict(moe.state_dict())
    assert torch.equal(moe(x), packed(x))
    before = moe.experts.quantized()
    after = moe.half().to(torch.bfloat16).experts.quantized()
    assert torch.equal(after.w13.dequantize(), before.w13.dequantize())


@pytest.mark.parametrize("name", SCHEMES_16BIT)
def test_schemes_of_16_bit_activations_run_packed(name, device):
    moe, x = layer(device).quantize_(name), torch.randn(5, 128, device=device).bfloat16()
    with mock.patch.object(module, "fused_moe_quantized", wraps=module.fused_moe_quantized) as spy:
        out = moe(x)
    assert spy.call_count == moe.experts.is_packed == 1
    expected = fused_moe_quantized(x, moe.experts.quantized(), *moe._route(x))
    testing.assert_close(out, expected, testing.ROUNDINGS_FUSED_MOE, name)


@pytest.mark.parametrize("name", SCHEMES_16BIT)
def test_state_dicts_have_the_tensors_of_files(name, device):
    moe = layer(device)
    expected = state.to_tensors(experts(name, INPUTS.make(device)))
    moe.experts = QuantizedFusedExperts(QuantScheme.parse(name), 8, 128, 128, device=device)
    moe.experts.load_state_dict(expected)
    moe.experts.pack_()
    found = moe.state_dict()
    assert moe.experts.is_packed
    assert found.keys() == {"router_weight", *(f"experts.{part}" for part in expected)}
    for part, tensor in expected.items():
        assert torch.equal(found[f"experts.{part}"].view(torch.uint8), tensor.view(torch.uint8))


def test_loading_fills_the_memory_that_is_in_use(device):
    one, other = (layer(device).quantize_("w4a16-g32-asym") for _ in range(2))
    x = torch.randn(5, 128, device=device).bfloat16()
    before = {name: buffer.data_ptr() for name, buffer in one.experts.named_buffers()}
    one.load_state_dict(other.state_dict())
    assert torch.equal(one(x), other(x))
    assert {name: buffer.data_ptr() for name, buffer in one.experts.named_buffers()} == before


def test_a_layer_can_be_pickled_and_copied(tmp_path):
    moe, x = layer().quantize_("mxfp4"), torch.randn(5, 128).bfloat16()
    torch.save(moe, tmp_path / "layer.pt")
    loaded = torch.load(tmp_path / "layer.pt", weights_only=False)
    for other in (loaded, copy.deepcopy(moe)):
        assert torch.equal(other(x), moe(x))


@pytest.mark.parametrize("name", [name for name in SCHEMES if name not in SCHEMES_16BIT])
def test_schemes_of_int8_activations_do_not_run_yet(name):
    batches = [torch.randn(50, 128).bfloat16()] if "static" in name else None
    moe = layer().quantize_(name, calibration=batches)
    with pytest.raises(
        ValueError, match=f"scheme must have kernels to run, got {name}: there are none"
    ):
        moe(torch.randn(5, 128).bfloat16())


@pytest.mark.compile
def test_a_quantised_layer_compiles_into_one_graph(device):
    moe, x = layer(device).quantize_("w4a16-g32"), torch.randn(5, 128, device=device).bfloat16()
    compiled = torch.compile(moe, fullgraph=True)
    assert testing.measure_error(compiled(x), moe(x).float()).relative < 5e-3


def test_options_stay_with_the_layer():
    options = {"activation": "relu2", "gated": False, "w2_bias": torch.randn(4, 128).bfloat16()}
    moe = FusedMoE(128, 128, num_experts=4, top_k=2, **options)
    x, residual = torch.randn(2, 9, 128).bfloat16()
    expected = moe(x, residual)
    moe.quantize_("w8a16-g32")
    assert testing.measure_error(moe(x, residual), expected.float()).relative < 0.02
    half = moe.half()(x.half(), residual.half())
    assert half.dtype == torch.float16
    assert testing.measure_error(half, expected.float()).relative < 0.02
    other = FusedMoE(128, 128, num_experts=4, top_k=2, **options)
    with pytest.raises(ValueError, match="w8a8: w2_bias must be the default one, got a tensor"):
        other.quantize_("w8a8")


def test_broken_state_dicts_are_refused():
    broken = QuantizedFusedExperts.from_experts(experts("w8a16", INPUTS.make()))
    broken.load_state_dict(broken.state_dict() | {"w13.scale": torch.zeros(8, 256, 1)})
    with pytest.raises(ValueError, match="scale must be finite and positive"):
        broken.pack_()
