"""The backend of plain matrix products: another way to the same numbers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from tests.python.option_tensors import option_tensors
from torch_sm80moe import fused_moe, reference, testing
from torch_sm80moe._options import ACTIVATIONS, GATE_UP_ORDERS
from torch_sm80moe.testing import HAZARDS, Inputs, Problem

DTYPES = [torch.float16, torch.bfloat16]


def check(inputs: Inputs, what: object, **options: Any) -> torch.Tensor:
    out = fused_moe(*inputs, **options, backend="cublas")
    assert out.dtype == inputs.hidden_states.dtype
    assert out.is_contiguous()
    expected = reference.fused_moe(*inputs, **options)
    testing.assert_close(out, expected, testing.ROUNDINGS_FUSED_MOE, what)
    testing.assert_rounds_as_documented(out, inputs, what, **options)
    return out


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("hazard", HAZARDS)
def test_hazard(hazard, dtype, device):
    for num_tokens in (1, 40):
        problem = Problem(num_tokens, 8, 4, 72, 104, dtype, hazard)
        inputs = problem.make(device)
        out = check(inputs, problem)
        assert torch.equal(fused_moe(*inputs, backend="cublas"), out)


def test_no_tokens(device):
    assert check(Problem(0, 4, 2).make(device), "no tokens").shape == (0, 64)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("order", GATE_UP_ORDERS)
@pytest.mark.parametrize("on_input", [False, True])
def test_all_options(on_input, order, dtype, device):
    inputs = Problem(40, 8, 4, 136, 72, dtype, "out_of_range").make(device)
    options = option_tensors(inputs)
    options |= {"gate_up_order": order, "apply_router_weight_on_input": on_input}
    check(inputs, (order, on_input), **options)


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation(activation, gated, device):
    inputs = Problem(40, 8, 4, 72, 40).make(device)
    if not gated:
        inputs = inputs._replace(w13=inputs.w13[:, :40])
    check(inputs, activation, activation=activation, gated=gated)


def test_expert_map(device):
    inputs = Problem(40, 4, 2).make(device)
    expert_map = torch.tensor([2, -1, 0, 5], device=device).int()
    check(inputs, "map", expert_map=expert_map)


def test_a_weight_that_no_one_uses_is_not_looked_at(device):
    inputs = Problem(40, 8, 4, hazard="out_of_range").make(device)
    clean = fused_moe(*inputs, backend="cublas")
    is_wrong = (inputs.topk_ids < 0) | (inputs.topk_ids >= 8)
    inputs.topk_weights[is_wrong] = math.nan
    assert torch.equal(fused_moe(*inputs, backend="cublas"), clean)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("num_tokens", [1, 8, 500])
def test_kernels_and_cublas_agree(num_tokens, dtype, device):
    """Both round at the same places: they differ only where a sum lies next to a middle."""
    inputs = Problem(num_tokens, 16, 4, 512, 256, dtype).make(device)
    options = option_tensors(inputs)
    theirs = check(inputs, "cublas", **options)
    ours = fused_moe(*inputs, **options)
    exact = reference.fused_moe(*inputs, **options)
    one_rounding = testing.measure_error(exact.to(dtype), exact).relative
    assert testing.measure_error(ours, theirs).relative < one_rounding / 2


@pytest.mark.gpu
def test_capture_is_refused(cuda):
    inputs = Problem(8, 4, 2).make(cuda)
    torch.cuda.synchronize()
    with (
        pytest.raises(RuntimeError, match=r'^fused_moe: the backend must be "sm80moe" while'),
        torch.cuda.graph(torch.cuda.CUDAGraph()),
    ):
        fused_moe(*inputs, backend="cublas")
    torch.cuda.synchronize()
    check(inputs, "after a refusal")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"backend": "triton"}, r'backend must be "sm80moe" or "cublas", got .triton.'),
        ({"backend": "cublas", "tactic_w13": 2}, "tactic_w13 must be -1 for the .*, got 2"),
        ({"backend": "cublas", "tactic_w2": 0}, "tactic_w2 must be -1 for the .*, got 0"),
        ({"backend": "cublas", "batch_invariant": True}, "batch_invariant must be False for"),
    ],
)
def test_what_it_cannot_do(options, sentence, device):
    with pytest.raises(ValueError, match=f"^fused_moe: {sentence}"):
        fused_moe(*Problem(8, 4, 2).make(device), **options)


def test_wrong_arguments(device):
    inputs = Problem(8, 4, 2).make(device)
    with pytest.raises(ValueError, match=r"^fused_moe: w2 must have shape \[4, 64, 72\], got"):
        fused_moe(*inputs._replace(w2=inputs.w2[:3]), backend="cublas")
    with pytest.raises(TypeError, match=r"^fused_moe: w13 must be bfloat16, got float16"):
        fused_moe(*inputs._replace(w13=inputs.w13.half()), backend="cublas")


@pytest.mark.parametrize("name", ["hidden_states", "w2", "topk_weights", "w2_bias"])
def test_input_that_requires_grad(name, device):
    inputs = Problem(8, 4, 2).make(device)
    arguments = {**inputs._asdict(), **option_tensors(inputs)}
    arguments[name].requires_grad_()
    with pytest.raises(RuntimeError, match=f"^fused_moe: {name} must not require grad"):
        fused_moe(**arguments, backend="cublas")
    with torch.no_grad():
        fused_moe(**arguments, backend="cublas")
