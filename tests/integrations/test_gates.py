"""What a module computes between its GEMMs is recognised, or left to the module; never guessed."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torch_sm80moe import reference, testing

pytest.importorskip("transformers")

from transformers.activations import ACT2FN
from transformers.integrations.moe import use_experts_implementation

from torch_sm80moe.integrations.transformers import gates, plans

NUM_EXPERTS, HIDDEN_SIZE, INTERMEDIATE_SIZE = 4, 32, 24
CONFIG = SimpleNamespace(_experts_implementation="sm80moe")


class Weights(nn.Module):
    """What an experts class of transformers holds; its decorator adds the rest."""

    def __init__(self, config, act_fn=F.silu):
        super().__init__()
        self.num_experts = NUM_EXPERTS
        self.act_fn = act_fn
        self.gate_up_proj = self.random(2 * INTERMEDIATE_SIZE, HIDDEN_SIZE)
        self.up_proj = self.random(INTERMEDIATE_SIZE, HIDDEN_SIZE)
        self.down_proj = self.random(HIDDEN_SIZE, INTERMEDIATE_SIZE)

    @staticmethod
    def random(*shape: int) -> nn.Parameter:
        weight = torch.randn(NUM_EXPERTS, *shape) / math.sqrt(shape[-1])
        return nn.Parameter(5 * weight.bfloat16(), requires_grad=False)

    def forward(self, hidden_states, top_k_index, top_k_weights):
        raise AssertionError("the operators must run these experts")


@use_experts_implementation
class Gated(Weights):
    pass


@use_experts_implementation(has_gate=False)
class NotGated(Weights):
    pass


def gated_by(gate, **attributes):
    """Return a module with `gate(module, gate, up)` between its GEMMs."""

    @use_experts_implementation
    class WithGate(Weights):
        def _apply_gate(self, columns):
            return gate(self, *columns.chunk(2, dim=-1))

    experts = WithGate(CONFIG)
    for name, value in attributes.items():
        setattr(experts, name, value)
    return experts


RECOGNISED = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
    "relu2": "relu2",
    "linear": "identity",
}


@pytest.mark.parametrize("experts_class", [Gated, NotGated])
@pytest.mark.parametrize("name", ACT2FN)
def test_activations_of_transformers(name, experts_class):
    gate = gates.recognise(experts_class(CONFIG, ACT2FN[name]))
    assert (gate and gate.activation) == RECOGNISED.get(name)
    assert gate is None or gate.gated == (experts_class is Gated)


def clamped(limit_of_up: float):
    def gate(experts, gate, up):
        gate = gate.clamp(max=experts.limit)
        return F.silu(gate) * up.clamp(-limit_of_up, limit_of_up)

    return gate


def with_module(experts: nn.Module) -> nn.Module:
    experts.scale = nn.Linear(1, 1)
    return experts


def refuses_fp32(experts, gate, up):
    assert gate.dtype == torch.bfloat16
    return F.silu(gate) * up


GATES = {
    "up first": (gated_by(lambda e, up, gate: F.silu(gate) * up), "silu, up_gate"),
    "rounded twice": (gated_by(lambda e, g, u: (F.silu(g.float()) * u).to(g.dtype)), "silu"),
    "another activation": (gated_by(lambda e, g, u: F.gelu(g) * u), "gelu"),
    "beta": (gated_by(lambda e, g, u: F.silu(g) * (u + 1)), "silu, beta 1"),
    "limit": (gated_by(clamped(7), limit=7.0), "silu, limit 7"),
    "limit that is an int": (gated_by(clamped(7), limit=7), "silu, limit 7"),
    "no limit after all": (gated_by(lambda e, g, u: F.silu(g) * u, limit=7.0), "silu"),
    "another limit for up": (gated_by(clamped(6), limit=7.0), None),
    "a limit that nobody names": (gated_by(lambda e, g, u: F.silu(g) * u.clamp(-9, 9)), None),
    "a limit beyond most numbers": (gated_by(lambda e, g, u: F.silu(g) * u.clamp(max=3e4)), None),
    "another sigmoid": (gated_by(lambda e, g, u: g * torch.sigmoid(1.702 * g) * u), None),
    "only small gates": (gated_by(lambda e, g, u: F.silu(g) * u * (g.abs() > 1e-2)), None),
    "rows of their own": (gated_by(lambda e, g, u: F.silu(g) * u * len(g)), None),
    "tensors of its own": (with_module(gated_by(lambda e, g, u: F.silu(g) * u)), None),
    "refuses fp32": (gated_by(refuses_fp32), None),
}


@pytest.mark.parametrize(("experts", "expected"), GATES.values(), ids=GATES.keys())
def test_gates(experts, expected):
    gate = gates.recognise(experts)
    assert (gate and str(gate)) == expected


def inputs(device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x = torch.randn(9, HIDDEN_SIZE, device=device).bfloat16()
    weights, ids = reference.topk_route(torch.randn(9, NUM_EXPERTS, device=device), 2)
    return x, ids, weights


def expected_of(experts, x, ids, weights) -> torch.Tensor:
    """Compute the layer in fp32 with the module's own gate."""
    out = torch.zeros(x.shape, device=x.device)
    for token, (chosen, scales) in enumerate(zip(ids.tolist(), weights, strict=True)):
        for expert, scale in zip(chosen, scales, strict=True):
            columns = experts.gate_up_proj[expert].float() @ x[token].float()
            intermediate = experts._apply_gate(columns[None].to(experts.gate_dtype)).float()[0]
            out[token] += scale * (experts.down_proj[expert].float() @ intermediate)
    return out


@pytest.mark.parametrize("name", ["beta", "limit", "another limit for up", "refuses fp32"])
def test_layer_with_a_gate(name, device):
    experts = GATES[name][0].to(device)
    experts.gate_dtype = torch.bfloat16 if name == "refuses fp32" else torch.float32
    x, ids, weights = inputs(device)
    out = experts(x, ids, weights)
    expected = expected_of(experts, x, ids, weights)
    # One rounding more than fused_moe where the module's gate takes rounded columns.
    testing.assert_close(out, expected, testing.ROUNDINGS_FUSED_MOE + 2, name)


def test_changes_are_noticed():
    experts = gated_by(clamped(7), limit=7.0)
    assert str(plans.plan_of(experts).gate).endswith("limit 7")
    assert plans.plan_of(experts) is plans.plan_of(experts)
    experts.limit = 5.0
    assert plans.plan_of(experts).gate is None
    experts = Gated(CONFIG)
    assert str(plans.plan_of(experts).gate) == "silu"
    experts.act_fn = nn.GELU()
    assert str(plans.plan_of(experts).gate) == "gelu"
    experts.act_fn = nn.ReLU()
    assert str(plans.plan_of(experts).gate) == "relu"
    experts.__class__ = type(gated_by(lambda e, g, u: F.silu(g) * (u + 1)))
    assert str(plans.plan_of(experts).gate) == "silu, beta 1"


def test_random_numbers_of_the_caller_stay():
    experts = Gated(CONFIG)
    before = torch.get_rng_state()
    gates.recognise(experts)
    assert torch.equal(torch.get_rng_state(), before)


def test_default_dtype_and_device_of_the_caller_do_not_matter():
    experts = gated_by(clamped(7), limit=7.0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            plan = plans.plan_of(experts)
    finally:
        torch.set_default_dtype(torch.float32)
    assert str(plan.gate).endswith("limit 7")
    assert plan.activation["swiglu_limit"].tolist() == [7] * NUM_EXPERTS
