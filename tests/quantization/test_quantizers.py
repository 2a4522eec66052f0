"""Quantisers: nearest values, scales that saturate nothing or cost least, the ends of the range."""

import math

import pytest
import torch

from torch_sm80moe.quantization import SCHEMES, QuantScheme, quantize
from torch_sm80moe.quantization.weights import E2M1_VALUES, VALUE_RANGES

SHAPE = (2, 160, 256)
INTEGERS = [name for name in SCHEMES if name[0] == "w"]


def relative_error(weight: torch.Tensor, name: str, method: str) -> float:
    again = quantize(weight, QuantScheme.parse(name), method=method).dequantize()
    return float((again - weight.float()).norm() / weight.float().norm())


@pytest.mark.parametrize("name", SCHEMES)
def test_mse_is_at_least_as_good_as_absmax(name):
    weight = torch.randn(SHAPE)
    weight[0, 3, 5] = 20  # an outlier, so that saturation pays
    assert relative_error(weight, name, "mse") <= relative_error(weight, name, "absmax")
    if name.startswith("w4"):
        assert relative_error(weight, name, "mse") < relative_error(weight, name, "absmax")


@pytest.mark.parametrize("name", INTEGERS)
def test_absmax_is_within_half_a_step(name):
    weight = torch.randn(SHAPE).bfloat16()
    scheme = QuantScheme.parse(name)
    quantized = quantize(weight, scheme)
    error = (quantized.dequantize() - weight.float()).abs()
    steps = quantized._spread(quantized.scale[0]), quantized._spread(quantized.scale[1])
    # An asymmetric end may be rounded with its zero point: half a step more.
    allowed = 0.5 if scheme.symmetric else 1.0
    for expert in range(2):
        assert (error[expert] <= steps[expert] * (allowed + 1e-4)).all()


@pytest.mark.parametrize("name", ["w8a16", "w4a16"])
def test_mse_is_near_the_best_of_a_fine_search(name):
    weight = torch.randn(1, 16, 256)
    scheme = QuantScheme.parse(name)
    found = quantize(weight, scheme, method="mse").dequantize()
    low, high = VALUE_RANGES[scheme.weight_format]
    largest = weight.abs().amax(dim=2, keepdim=True)
    fine = [
        ((weight / scale).round().clamp(low, high) * scale - weight).square().sum(dim=2)
        for scale in torch.linspace(0.3, 1, 500)[:, None, None, None] * largest / high
    ]
    best = torch.stack(fine).amin(dim=0).sum()
    assert float((found - weight).square().sum()) <= 1.06 * float(best)


@pytest.mark.parametrize("name", SCHEMES)
def test_zero_weights_are_zero_again(name):
    weight = torch.randn(SHAPE)
    weight[0] = 0
    for method in ("absmax", "mse"):
        quantized = quantize(weight, QuantScheme.parse(name), method=method)
        assert not quantized.dequantize()[0].any()
        one = 127 if name == "mxfp4" else 1
        assert (quantized.scale[0] == one).all()


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_weight_that_is_not_finite_is_refused_and_named(name, value):
    weight = torch.randn(SHAPE)
    weight[1, 7, 9] = value
    with pytest.raises(ValueError, match=rf"weight must be finite, got {value} at \[1, 7, 9\]"):
        quantize(weight, QuantScheme.parse(name))


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("size", [1e-45, 1e-39, 6e-8, 3e38])
def test_the_smallest_and_the_largest_weights(name, size):
    weight = torch.full((1, 128, 128), size)
    again = quantize(weight, QuantScheme.parse(name)).dequantize()
    # Smaller than a scale can be, a weight becomes zero.
    smallest = torch.finfo(torch.float32).tiny * (1 if name == "mxfp4" else 256)
    expected = torch.zeros_like(weight) if size < smallest / 128 else weight
    torch.testing.assert_close(again, expected, rtol=0.26, atol=smallest)


@pytest.mark.parametrize(
    ("name", "low", "high"), [("w8a16", -128, 127), ("w4a16", -8, 7), ("fp8-channel", -448, 448)]
)
@pytest.mark.parametrize("end", [-1, 1])
def test_outliers_saturate_at_the_end_of_the_range(name, low, high, end):
    # One outlier costs less than coarse steps for all the rest.
    weight = torch.linspace(-1, 1, 4096).repeat(1, 1, 1)
    weight[0, 0, 0] = 1.3 * end
    weight[0, 0, 1] = 1.3 * end
    quantized = quantize(weight, QuantScheme.parse(name), method="mse")
    if name == "fp8-channel":  # its steps grow with the numbers: an outlier costs nothing
        quantized = quantize(weight, QuantScheme.parse(name))
    assert quantized.values.float()[0, 0, 0] == (high if end > 0 else low)


def test_e4m3_saturates_instead_of_nan():
    from torch_sm80moe.quantization.quantizers import _Ends, _store

    units = torch.tensor([[1.0, 2.0, -2.0, 0.1]])
    ends = _Ends(torch.tensor([[-1.0]]), torch.tensor([[1.0]]))
    stored = _store(units, ends, QuantScheme.parse("fp8-channel"))
    assert stored.values.float().tolist()[0][:3] == [448.0, 448.0, -448.0]


def test_mxfp4_rounds_to_the_nearest_and_ties_to_even():
    halves = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0]
    expected = [0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0]
    numbers = [6.0, *halves, *(-h for h in halves), 0.26, 0.74, 5.1, -0.26, -0.74, -5.1]
    expected = [6.0, *expected, *(-e for e in expected), 0.5, 0.5, 6.0, -0.5, -0.5, -6.0]
    weight = torch.zeros(1, 1, 32)
    weight[0, 0, : len(numbers)] = torch.tensor(numbers)
    quantized = quantize(weight, QuantScheme.parse("mxfp4"))
    assert quantized.scale.item() == 127
    assert quantized.dequantize()[0, 0, : len(numbers)].tolist() == expected


@pytest.mark.parametrize("power", [-127, -126, -20, 0, 20, 125])
def test_mxfp4_numbers_survive_with_any_scale(power):
    weight = torch.tensor(E2M1_VALUES).repeat(2).reshape(1, 1, 32) * 2.0**power
    again = quantize(weight, QuantScheme.parse("mxfp4")).dequantize()
    assert torch.equal(again, weight)


@pytest.mark.parametrize("name", SCHEMES)
def test_devices_agree(name, device):
    weight = torch.randn(SHAPE).bfloat16()
    scheme = QuantScheme.parse(name)
    here, there = quantize(weight, scheme), quantize(weight.to(device), scheme)
    assert there.device.type == device.type
    assert torch.equal(there.dequantize().cpu(), here.dequantize())


def test_values_do_not_depend_on_the_other_experts():
    weight = torch.randn(3, 32, 64).half()
    scheme = QuantScheme.parse("w4a16-g32-asym")
    whole, last = quantize(weight, scheme), quantize(weight[2:], scheme)
    assert torch.equal(whole.values[2:], last.values)
    assert torch.equal(whole.scale[2:], last.scale)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"method": "best"}, ValueError, "method must be one of"),
        ({"weight": torch.zeros(1, 2, 4, dtype=torch.int8)}, TypeError, "weight must be one of"),
        ({"weight": torch.zeros(2, 4)}, ValueError, r"shape \[E, N, K\], got \[2, 4\]"),
        ({"weight": torch.zeros(0, 2, 4)}, ValueError, r"shape \[E, N, K\], got \[0, 2, 4\]"),
        ({"scheme": QuantScheme.parse("mxfp4")}, ValueError, "K must be a multiple of 32, got 4"),
    ],
)
def test_errors(arguments, error, message):
    good = {"weight": torch.zeros(1, 2, 4), "scheme": QuantScheme.parse("w8a16")}
    with pytest.raises(error, match=message):
        quantize(**(good | arguments))
