"""torch's own examination of an operator: schema, fake, functionalisation, dynamic shapes."""

from __future__ import annotations

import pytest
import torch

from torch_sm80moe import tactic_table
from torch_sm80moe.testing import Problem

OPERATORS = torch.ops.sm80moe


def check(operator, *args, **kwargs) -> None:
    torch.library.opcheck(operator.default, args, kwargs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("hazard", ["none", "int64_ids", "strided", "out_of_range"])
def test_fused_moe(hazard, dtype, device):
    inputs = Problem(5, 4, 2, dtype=dtype, hazard=hazard).make(device)
    check(OPERATORS.fused_moe, *inputs)
    check(OPERATORS.fused_moe_out, *inputs, torch.empty_like(inputs.hidden_states))


def test_expert_map(device):
    inputs = Problem(5, 4, 2).make(device)
    expert_map = torch.tensor([2, -1, 0], device=device).int()
    out = torch.empty_like(inputs.hidden_states)
    check(OPERATORS.fused_moe, *inputs, expert_map=expert_map)
    check(OPERATORS.fused_moe_out, *inputs, out, expert_map=expert_map)
    check(OPERATORS.sort_by_expert, inputs.topk_ids, 4, expert_map=expert_map)


@pytest.mark.parametrize("gated", [True, False])
def test_options(gated, device):
    inputs = Problem(5, 4, 2).make(device)
    w13 = inputs.w13 if gated else inputs.w13[:, :72]
    options = {
        "w13_bias": torch.randn(w13.shape[:2], device=device).bfloat16(),
        "w2_bias": torch.randn(4, 64, device=device).bfloat16(),
        "gated": gated,
        "activation": 0 if gated else 4,
        "gate_up_order": 2 if gated else 0,
        "swiglu_limit": torch.full((4,), 7.0, device=device) if gated else None,
        "apply_router_weight_on_input": True,
        "residual": torch.randn(5, 64, device=device).bfloat16(),
        "batch_invariant": True,
    }
    inputs = inputs._replace(w13=w13)
    check(OPERATORS.fused_moe, *inputs, **options)
    check(OPERATORS.fused_moe_out, *inputs, torch.empty_like(inputs.hidden_states), **options)


def test_fused_moe_without_tokens(device):
    inputs = Problem(0, 4, 2).make(device)
    check(OPERATORS.fused_moe, *inputs)
    check(OPERATORS.fused_moe_out, *inputs, torch.empty_like(inputs.hidden_states))


def test_topk_route(device):
    check(OPERATORS.topk_route, torch.randn(5, 16, device=device), 2)
    check(OPERATORS.topk_route, torch.randn(5, 16, device=device).half(), 2, False)
    check(
        OPERATORS.topk_route,
        torch.randn(5, 16, device=device),
        3,
        scoring=1,
        correction_bias=torch.randn(16, device=device),
        n_group=4,
        topk_group=2,
        group_score=0,
        routed_scaling_factor=2.5,
        expert_map=torch.arange(16, device=device).int(),
        return_tokens_per_expert=True,
    )


def test_sort_by_expert(device):
    check(OPERATORS.sort_by_expert, torch.randint(-1, 5, (7, 3), device=device), 4)
    check(OPERATORS.sort_by_expert, torch.zeros(7, 3, device=device).int(), 4)


@pytest.mark.parametrize("epilogue", [0, 1])
def test_grouped_gemm(epilogue, device):
    a = torch.randn(6, 64, device=device).half()
    w = torch.randn(2, 48, 64, device=device).half()
    offsets = torch.tensor([0, 2, 5], device=device).int()
    row_index = torch.arange(9, device=device).int()
    check(OPERATORS.grouped_gemm, a, w, offsets, epilogue=epilogue)
    check(OPERATORS.grouped_gemm, a, w, offsets, row_index, top_k=2, epilogue=epilogue)


@pytest.mark.parametrize("epilogue", [2, 3])
def test_grouped_gemm_with_options(epilogue, device):
    a = torch.randn(6, 64, device=device).half()
    w = torch.randn(2, 48, 64, device=device).half()
    offsets = torch.tensor([0, 2, 5], device=device).int()
    bias, scale = torch.randn(2, 48, device=device).half(), torch.rand(6, device=device)
    options = {"bias": bias, "row_scale": scale, "activation": 1, "epilogue": epilogue}
    check(OPERATORS.grouped_gemm, a, w, offsets, **options)


def test_grouped_mm(device):
    mat_a = torch.randn(6, 64, device=device).half()
    mat_b = torch.randn(2, 48, 64, device=device).half().mT
    check(OPERATORS.grouped_mm, mat_a, mat_b, offs=torch.tensor([2, 5], device=device).int())


def test_combine(device):
    rows = torch.randn(6, 64, device=device).half()
    position = torch.tensor([[0, 5], [-1, 2]], device=device).int()
    check(OPERATORS.combine, rows, torch.rand(2, 2, device=device), position)


def test_operators_without_tensors():
    check(OPERATORS.tactic_table)
    check(OPERATORS.configure)
    check(OPERATORS.configure, 0, 0)


@pytest.mark.skipif(not tactic_table(), reason="this installation has no CUDA kernels")
def test_host_operators():
    check(OPERATORS.set_tuning, torch.zeros(0, 7).int(), 0)
    check(OPERATORS.workspace_size, 5, 4, 2, 64, 72)


@pytest.mark.gpu
def test_select_tactic(cuda):
    check(OPERATORS.select_tactic, 8, 4, 64, 64, 0, 2, 0)


@pytest.mark.gpu
def test_decode_limit(cuda):
    check(OPERATORS.decode_limit, 8, 64, 64, 0)
