"""The modules: they only call functions, so what is tested is what they pass on."""

from __future__ import annotations

import pytest
import torch

from torch_sm80moe import FusedExperts, FusedMoE, fused_moe, topk_route
from torch_sm80moe.testing import Problem


def test_experts_call_fused_moe(device):
    inputs = Problem(6).make(device)
    experts = FusedExperts(inputs.w13, inputs.w2)
    assert torch.equal(experts(inputs.hidden_states, *inputs[3:]), fused_moe(*inputs))


def test_leading_dimensions_are_kept(device):
    inputs = Problem(6).make(device)
    experts = FusedExperts(inputs.w13, inputs.w2)
    in_batches = [t.reshape(2, 3, -1) for t in (inputs.hidden_states, *inputs[3:])]
    out = experts(*in_batches)
    assert out.shape == (2, 3, 64)
    assert torch.equal(out.reshape(6, 64), fused_moe(*inputs))


@pytest.mark.parametrize("renormalize", [True, False])
@pytest.mark.parametrize("shape", [(64,), (5, 64), (2, 3, 64), (0, 64), (2, 0, 64)], ids=str)
def test_layer_routes_and_runs(shape, renormalize, device):
    layer = FusedMoE(64, 40, num_experts=8, top_k=3, renormalize=renormalize, device=device)
    x = torch.randn(shape, device=device).bfloat16()
    flat = x.reshape(-1, 64)
    routing = topk_route(flat @ layer.router_weight.T, 3, renormalize=renormalize)
    expected = fused_moe(flat, layer.experts.w13, layer.experts.w2, *routing)
    assert torch.equal(layer(x), expected.reshape(shape))


def test_layer_of_a_checkpoint_shares_its_memory(device):
    inputs = Problem(6, dtype=torch.float16).make(device)
    router_weight = torch.randn(8, 64, device=device).half()
    layer = FusedMoE.from_weights(router_weight, inputs.w13, inputs.w2, top_k=2)
    assert layer.router_weight.data_ptr() == router_weight.data_ptr()
    assert layer.experts.w13.data_ptr() == inputs.w13.data_ptr()
    assert layer.experts.w2.data_ptr() == inputs.w2.data_ptr()
    routing = topk_route(inputs.hidden_states @ router_weight.T, 2)
    expected = fused_moe(*inputs[:3], *routing)
    assert torch.equal(layer(inputs.hidden_states), expected)


def test_options_are_passed_on(device):
    inputs = Problem(6).make(device)
    tensors = {
        "w13_bias": torch.randn(inputs.w13.shape[:2], device=device).bfloat16(),
        "w2_bias": torch.randn(inputs.w2.shape[:2], device=device).bfloat16(),
        "swiglu_limit": torch.rand(8, device=device),
        "expert_map": torch.arange(8, device=device).int().flip(0),
    }
    options = {**tensors, "gate_up_order": "interleaved", "apply_router_weight_on_input": True}
    experts = FusedExperts(inputs.w13, inputs.w2, **options)
    assert set(experts.state_dict()) == {"w13", "w2", *tensors}
    x, residual = inputs.hidden_states, torch.randn_like(inputs.hidden_states)
    expected = fused_moe(*inputs, **options, residual=residual)
    assert torch.equal(experts(x, *inputs[3:], residual), expected)

    router_weight = torch.randn(8, 64, device=device).bfloat16()
    layer = FusedMoE.from_weights(router_weight, inputs.w13, inputs.w2, top_k=2, **options)
    routing = topk_route(x @ router_weight.T, 2)
    expected = fused_moe(*inputs[:3], *routing, **options, residual=residual)
    assert torch.equal(layer(x[None], residual[None])[0], expected)


def test_layer_without_gates(device):
    layer = FusedMoE(64, 40, num_experts=8, top_k=3, gated=False, activation="relu2", device=device)
    assert layer.experts.w13.shape == (8, 40, 64)
    assert layer(torch.randn(5, 64, device=device).bfloat16()).any()


def test_unknown_option():
    with pytest.raises(TypeError, match=r"^FusedExperts: options must be .*, got"):
        FusedMoE(64, 40, num_experts=4, top_k=2, activations="relu2")


def test_state_round_trip():
    first = FusedMoE(64, 40, num_experts=4, top_k=2)
    second = FusedMoE(64, 40, num_experts=4, top_k=2)
    assert set(first.state_dict()) == {"router_weight", "experts.w13", "experts.w2"}
    second.load_state_dict(first.state_dict())
    x = torch.randn(3, 64).bfloat16()
    assert torch.equal(first(x), second(x))


def test_parameters_do_not_require_grad():
    layer = FusedMoE(64, 40, num_experts=4, top_k=2)
    assert not any(parameter.requires_grad for parameter in layer.parameters())
    with pytest.raises(RuntimeError, match="must not require grad"):
        layer(torch.randn(3, 64).bfloat16().requires_grad_())
