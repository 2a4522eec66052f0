"""Calibration: what was counted, and the range that each method makes of it."""

import math

import pytest
import torch

from torch_sm80moe import reference
from torch_sm80moe.quantization.calibration import Calibration, LayerActivations
from torch_sm80moe.quantization.histogram import Histogram


def histogram(*batches: torch.Tensor) -> Histogram:
    seen = Histogram()
    for batch in batches:
        seen.add(batch)
    return seen


def error(values: torch.Tensor, activation) -> float:
    again = activation.dequantize(activation.quantize(values))
    return float((again - values).double().square().sum())


def test_counts_do_not_depend_on_the_order_of_batches():
    batches = [torch.zeros(3), torch.randn(100) * 1e-3, torch.randn(50) * 1e4, torch.randn(7)]
    one, other = histogram(*batches), histogram(*reversed(batches))
    assert torch.equal(one.counts, other.counts)
    assert (one.least, one.most) == (other.least, other.most)
    assert one.counts.sum() == 160


def test_bins_hold_what_they_say():
    values = torch.randn(1000) * 3
    middles, counts = histogram(values).used_bins()
    width = 2.0 ** math.ceil(math.log2(float(values.abs().max()))) / (1 << 15)
    assert counts.sum() == 1000
    again = middles.repeat_interleave(counts.long())
    assert (again - values.sort().values.double()).abs().max() <= width / 2 + 1e-12


@pytest.mark.parametrize("symmetric", [True, False])
def test_max_saturates_nothing(symmetric):
    values = torch.randn(1000) + 0.5
    activation = Calibration("max", symmetric=symmetric).choose(histogram(values))
    again = activation.dequantize(activation.quantize(values))
    assert (again - values).abs().max() <= activation.scale * (0.5 if symmetric else 1.0) + 1e-6
    assert (activation.zero_point == 0) == symmetric
    if symmetric:
        assert activation.scale == pytest.approx(float(values.abs().max()) / 127)
    else:
        assert activation.scale == pytest.approx(float(values.max() - values.min()) / 255)


def test_percentile_leaves_out_the_largest():
    values = torch.arange(-5000, 5001).float()
    for percentile, bound in ((100, 5000), (99, 4950), (50, 2500)):
        activation = Calibration("percentile", percentile).choose(histogram(values))
        assert activation.scale * 127 == pytest.approx(bound, abs=1)
    one_sided = Calibration("percentile", 98, symmetric=False).choose(histogram(values + 5000))
    assert (127 - one_sided.zero_point) * one_sided.scale == pytest.approx(9900, abs=40)
    assert (-128 - one_sided.zero_point) * one_sided.scale == pytest.approx(0, abs=40)


@pytest.mark.parametrize("symmetric", [True, False])
def test_mse_is_the_best_of_a_fine_search(symmetric):
    values = torch.cat([torch.randn(100000), torch.tensor([-12.0, 12.0])])
    seen = histogram(values)
    best = Calibration("mse", symmetric=symmetric).choose(seen)
    assert error(values, best) < 0.9 * error(
        values, Calibration("max", symmetric=symmetric).choose(seen)
    )
    high = float(values.abs().max())
    for share in torch.linspace(0.01, 1, 1000).tolist() if symmetric else ():
        candidate = type(best)(high * share / 127)
        assert error(values, best) <= 1.01 * error(values, candidate)


def test_one_sign_gains_from_a_zero_point():
    values = torch.rand(1000)
    symmetric, other = (
        error(values, Calibration(symmetric=s).choose(histogram(values))) for s in (True, False)
    )
    assert other < 0.3 * symmetric


@pytest.mark.parametrize("method", ["max", "percentile", "mse"])
def test_zeros_are_zeros(method):
    activation = Calibration(method).choose(histogram(torch.zeros(10)))
    assert not activation.dequantize(activation.quantize(torch.zeros(3))).any()


def test_errors():
    with pytest.raises(ValueError, match="method must be one of"):
        Calibration("median")
    for percentile in (0, -1, 100.5):
        with pytest.raises(ValueError, match="percentile must be above 0, up to 100"):
            Calibration("percentile", percentile)
    with pytest.raises(ValueError, match="batches must reach every layer"):
        Calibration().choose(Histogram())
    for value in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match="activations must be finite"):
            histogram(torch.tensor([1.0, value]))


def test_a_layer_counts_what_its_experts_multiply():
    hidden_states, w13 = torch.randn(6, 8), torch.randn(3, 8, 8)
    topk_ids = torch.tensor([[0, 2], [2, -1], [-1, 3], [2, 2], [0, 2], [7, 1]])
    layer = LayerActivations()
    layer.add(hidden_states, w13, torch.ones(6, 2), topk_ids)
    routed = hidden_states[[0, 1, 3, 4, 5]]  # the third has no expert here
    assert torch.equal(layer.w13_input.counts, histogram(routed).counts)
    pairs = [(0, 0), (4, 0), (5, 1), (0, 2), (1, 2), (3, 2), (3, 2), (4, 2)]
    rows = [reference.activate(hidden_states[t] @ w13[e].T) for t, e in pairs]
    assert layer.w2_input.counts.sum() == 4 * len(pairs)
    assert layer.w2_input.most == pytest.approx(float(torch.stack(rows).max()), rel=1e-5)


def test_a_layer_counts_what_its_options_make_of_it():
    hidden_states, w13, bias = torch.randn(6, 8), torch.randn(3, 8, 8), torch.randn(3, 8)
    weights, ids = torch.rand(6, 1), torch.tensor([[0], [1], [2], [0], [5], [1]])
    options = {
        "gate_up_order": "interleaved",
        "swiglu_limit": torch.full((3,), 0.5),
        "w13_bias": bias,
        "apply_router_weight_on_input": True,
    }
    layer = LayerActivations()
    layer.add(hidden_states, w13, weights, ids, **options, w2_bias=None, batch_invariant=False)
    identity = torch.eye(4).expand(3, 4, 4)  # instead of w2: the rows of the intermediate
    padded = torch.nn.functional.pad(identity, (0, 0, 0, 4))
    rows = reference.fused_moe(hidden_states, w13, padded, weights, ids, **options)
    routed = rows[[0, 1, 2, 3, 5], :4]
    assert layer.w2_input.counts.sum() == routed.numel()
    assert layer.w2_input.most == pytest.approx(float(routed.max()), rel=1e-5)
    assert layer.w2_input.least == pytest.approx(float(routed.min()), rel=1e-5)
