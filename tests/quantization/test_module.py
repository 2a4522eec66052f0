"""Quantised experts as a module, alone and in FusedMoE."""

import copy
from unittest import mock

import pytest
import torch

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

INPUTS = testing.Problem(num_tokens=24, hidden_size=128, intermediate_size=128)
# Of a layer with random weights, whose group is what all schemes have in common.
LARGEST_ERRORS = {"w8a16": 0.03, "w8a8": 0.03, "w4a16": 0.3, "fp8": 0.06, "mxfp4": 0.25}


def layer(device: torch.device | str = "cpu") -> FusedMoE:
    return FusedMoE(128, 128, num_experts=4, top_k=2, dtype=torch.bfloat16, device=device)


def experts(name: str, inputs: testing.Inputs) -> QuantizedExperts:
    scheme = QuantScheme.parse(name)
    return QuantizedExperts(quantize(inputs.w13, scheme), quantize(inputs.w2, scheme))


def specified(experts: QuantizedExperts, x, topk_weights, topk_ids, **options) -> torch.Tensor:
    """Compute a layer with quantised experts by the specification."""
    inputs = {
        f"{name}_input": torch.tensor([stored.scale, float(stored.zero_point)], device=x.device)
        for name in ("w13", "w2")
        if (stored := getattr(experts, f"{name}_input")) is not None
    }
    means = experts.w13.dequantize(), experts.w2.dequantize()
    int8 = experts.scheme.activation != "16bit"
    options["round_to"] = x.dtype if int8 else None
    return reference.fused_moe(x, *means, topk_weights, topk_ids, int8=int8, **inputs, **options)


def batches_for(name: str, device: torch.device | str = "cpu") -> list[torch.Tensor] | None:
    return [torch.randn(50, 128, device=device).bfloat16()] if "static" in name else None


@pytest.mark.parametrize("name", SCHEMES)
def test_a_layer_is_quantised_in_place(name, device):
    moe, x = layer(device), torch.randn(3, 7, 128, device=device).bfloat16()
    expected, memory = moe(x), sum(p.nbytes for p in moe.experts.parameters())
    batches = batches_for(name, device)
    assert moe.quantize_(name, calibration=batches) is moe
    error = testing.measure_error(moe(x), expected.float()).relative
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


@pytest.mark.parametrize(
    "name", ["w8a16", "w4a16-g32-asym", "fp8-block", "mxfp4", "w8a8", "w8a8-static"]
)
def test_state_dict_and_casts_keep_the_stored_numbers(name):
    moe = layer().quantize_(name, calibration=batches_for(name))
    other = layer()
    other.experts = QuantizedFusedExperts(QuantScheme.parse(name), 4, 128, 128, device="cpu")
    other.load_state_dict(moe.state_dict())
    x = torch.randn(5, 128).bfloat16()
    assert torch.equal(moe(x), other(x))
    packed = layer().quantize_(name, calibration=batches_for(name))
    packed.load_state_dict(moe.state_dict())
    assert torch.equal(moe(x), packed(x))
    before = moe.experts.quantized()
    after = moe.half().to(torch.bfloat16).experts.quantized()
    assert torch.equal(after.w13.dequantize(), before.w13.dequantize())


@pytest.mark.parametrize("name", SCHEMES)
def test_every_scheme_runs_packed(name, device):
    moe, x = layer(device), torch.randn(5, 128, device=device).bfloat16()
    with_zero_points = Calibration("max", symmetric=False)
    moe.quantize_(name, calibration=batches_for(name, device), settings=with_zero_points)
    with mock.patch.object(module, "fused_moe_quantized", wraps=module.fused_moe_quantized) as spy:
        out = moe(x)
    assert spy.call_count == moe.experts.is_packed == 1
    expected = specified(moe.experts.quantized(), x, *moe._route(x))
    has_ties = name.startswith("w8a8")
    assert_close = testing.assert_close_but_for_ties if has_ties else testing.assert_close
    assert_close(out, expected, testing.ROUNDINGS_FUSED_MOE, name)


@pytest.mark.parametrize("name", [name for name in SCHEMES if "static" not in name])
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
    expected = other(x, residual)
    other.quantize_("w8a8-static", calibration=batches_for("w8a8-static"))
    assert testing.measure_error(other(x, residual), expected.float()).relative < 0.1


def test_broken_state_dicts_are_refused():
    broken = QuantizedFusedExperts.from_experts(experts("w8a16", INPUTS.make()))
    broken.load_state_dict(broken.state_dict() | {"w13.scale": torch.zeros(8, 256, 1)})
    with pytest.raises(ValueError, match="scale must be finite and positive"):
        broken.pack_()
