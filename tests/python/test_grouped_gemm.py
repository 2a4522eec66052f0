"""The ragged GEMM: gathered rows or not, both epilogues, and by hazard."""

from __future__ import annotations

import math

import pytest
import torch

from torch_sm80moe import grouped_gemm, reference, tactic_table, testing
from torch_sm80moe._options import ACTIVATIONS, GATE_UP_ORDERS

DTYPES = [torch.float16, torch.bfloat16]
EPILOGUES = ["none", "swiglu"]
TACTICS = [pytest.param(tactic.id, id=f"tactic{tactic.id}") for tactic in tactic_table()]


def random(device: torch.device, dtype: torch.dtype, *shape: int) -> torch.Tensor:
    return (torch.randn(shape, device=device) / math.sqrt(shape[-1])).to(dtype)


def offsets_of(device: torch.device, *counts: int) -> torch.Tensor:
    return torch.tensor([0, *counts], device=device).cumsum(0).int()


def check(a, w, offsets, row_index=None, **options) -> torch.Tensor:
    out = grouped_gemm(a, w, offsets, row_index, **options)
    options.pop("tactic", None)
    expected = reference.grouped_gemm(a, w, offsets, row_index, **options)
    assert out.dtype == a.dtype
    assert out.is_contiguous()
    testing.assert_close(out, expected, testing.ROUNDINGS_GEMM, (list(a.shape), options))
    assert not out[int(offsets[-1]) :].any()
    return out


@pytest.mark.sanitizer
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("epilogue", EPILOGUES)
@pytest.mark.parametrize("counts", [(1,), (0, 0), (5, 0, 17, 1), (0, 64, 3), (129, 0, 0, 31)])
def test_ragged_rows(counts, epilogue, dtype, device):
    a = random(device, dtype, sum(counts) + 6, 72)
    w = random(device, dtype, len(counts), 208, 72)
    check(a, w, offsets_of(device, *counts), epilogue=epilogue)


@pytest.mark.parametrize("n", [16, 48, 144, 272, 1008])
@pytest.mark.parametrize("k", [8, 16, 24, 64, 136, 520])
@pytest.mark.parametrize("epilogue", EPILOGUES)
def test_awkward_sizes(epilogue, k, n, device):
    a, w = random(device, torch.bfloat16, 40, k), random(device, torch.bfloat16, 3, n, k)
    check(a, w, offsets_of(device, 20, 0, 19), epilogue=epilogue)


def test_columns_in_odd_eights(device):
    a, w = random(device, torch.float16, 40, 64), random(device, torch.float16, 2, 56, 64)
    check(a, w, offsets_of(device, 20, 20))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("epilogue", EPILOGUES)
@pytest.mark.parametrize("top_k", [1, 3, 8])
def test_gathered_rows(top_k, epilogue, dtype, device):
    num_tokens = 30
    a, w = random(device, dtype, num_tokens, 136), random(device, dtype, 4, 80, 136)
    row_index = torch.randperm(num_tokens * top_k, device=device).int()
    offsets = offsets_of(device, 11, 0, 9, 5)
    row_index[offsets[-1] :] = -1
    check(a, w, offsets, row_index, top_k=top_k, epilogue=epilogue)


def test_a_row_read_many_times(device):
    a, w = random(device, torch.bfloat16, 1, 64), random(device, torch.bfloat16, 2, 64, 64)
    row_index = torch.zeros(100, dtype=torch.int32, device=device)
    check(a, w, offsets_of(device, 60, 40), row_index)


def test_strided_operands(device):
    a = random(device, torch.bfloat16, 40, 128)[::2, 16:80]
    w = random(device, torch.bfloat16, 6, 96, 128)[::2, 8:72, 24:88]
    check(a, w, offsets_of(device, 3, 10, 7))


def test_uncovered_rows_are_zero(device):
    a = torch.full((50, 64), math.nan, dtype=torch.float16, device=device)
    w = random(device, torch.float16, 2, 64, 64)
    assert not grouped_gemm(a, w, offsets_of(device, 0, 0)).any()


def test_no_rows(device):
    a, w = random(device, torch.float16, 0, 64), random(device, torch.float16, 2, 48, 64)
    assert grouped_gemm(a, w, offsets_of(device, 0, 0)).shape == (0, 48)
    assert grouped_gemm(a, w, offsets_of(device, 0, 0), epilogue="swiglu").shape == (0, 24)


def test_swiglu_where_it_saturates(device):
    """exp overflows for a gate below -88; the product must come out as zero, not NaN."""
    a = torch.eye(8, dtype=torch.bfloat16, device=device)
    gates = torch.tensor([-300.0, -90, -20, 0, 20, 90, 300, 1], device=device).to(torch.bfloat16)
    w = torch.zeros(1, 16, 8, dtype=torch.bfloat16, device=device)
    w[0, 0], w[0, 8] = gates, 1
    out = check(a, w, offsets_of(device, 8), epilogue="swiglu")
    assert out[0, 0] == 0
    assert out[6, 0] == gates[6]


@pytest.mark.sanitizer
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("epilogue", ["gated", "ungated"])
def test_epilogues_with_options(epilogue, activation, dtype, device):
    """Rows in order, and gathered with a scale for each pair; a bias for each expert."""
    a, w = random(device, dtype, 30, 136), random(device, dtype, 4, 144, 136)
    options = {
        "epilogue": epilogue,
        "activation": activation,
        "bias": torch.randn(4, 144, device=device).to(dtype),
        "gate_up_order": "interleaved" if epilogue == "gated" else "gate_up",
    }
    offsets = offsets_of(device, 11, 0, 9, 5)
    check(a, w, offsets, row_scale=torch.randn(30, device=device), **options)
    row_index = torch.randperm(90, device=device).int()
    scale = torch.randn(90, device=device)
    check(a, w, offsets, row_index, top_k=3, row_scale=scale, **options)
    check(a, w, offsets, row_index, top_k=3, **options)


@pytest.mark.parametrize("gate_up_order", GATE_UP_ORDERS)
@pytest.mark.parametrize("n", [16, 48, 144, 272, 1008])
def test_orders(n, gate_up_order, device):
    a, w = random(device, torch.bfloat16, 40, 72), random(device, torch.bfloat16, 3, n, 72)
    options = {"gate_up_order": gate_up_order, "bias": random(device, torch.bfloat16, 3, n)}
    constants = {
        name: torch.rand(3, device=device) + 0.5
        for name in ("swiglu_alpha", "swiglu_beta", "swiglu_limit")
    }
    check(a, w, offsets_of(device, 20, 0, 19), epilogue="gated", **options, **constants)
    check(a, w, offsets_of(device, 20, 0, 19), epilogue="swiglu", gate_up_order=gate_up_order)


def test_options_of_uncovered_rows_are_not_seen(device):
    a, w = random(device, torch.float16, 50, 64), random(device, torch.float16, 2, 64, 64)
    bias = torch.ones(2, 64, device=device).half()
    out = grouped_gemm(a, w, offsets_of(device, 3, 0), epilogue="ungated", bias=bias)
    assert out[:3].any(dim=1).all()
    assert not out[3:].any()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("epilogue", EPILOGUES)
@pytest.mark.parametrize("tactic", TACTICS)
def test_every_tactic(tactic, epilogue, dtype, cuda):
    for num_tokens, n, k in ((3, 16, 8), (50, 208, 72), (200, 272, 520)):
        a, w = random(cuda, dtype, num_tokens, k), random(cuda, dtype, 4, n, k)
        counts = (num_tokens // 2, 0, num_tokens - num_tokens // 2 - 1, 0)
        check(a, w, offsets_of(cuda, *counts), epilogue=epilogue, tactic=tactic)


@pytest.mark.gpu
def test_hundreds_of_experts(cuda):
    a, w = random(cuda, torch.bfloat16, 3000, 64), random(cuda, torch.bfloat16, 1024, 64, 64)
    counts = torch.randint(0, 6, (1024,)).tolist()
    check(a[: sum(counts)], w, offsets_of(cuda, *counts))


@pytest.mark.gpu
def test_out_beyond_two_to_the_31_elements(cuda):
    """Offsets into the result need 64 bits; its first and last rows are looked at."""
    num_rows, n = 300_000, 8192
    a, w = random(cuda, torch.bfloat16, num_rows, 8), random(cuda, torch.bfloat16, 1, n, 8)
    out = grouped_gemm(a, w, offsets_of(cuda, num_rows))
    assert out.numel() > 2**31
    for rows in (slice(0, 300), slice(num_rows - 300, num_rows)):
        expected = a[rows].float() @ w[0].float().T
        testing.assert_close(out[rows], expected, testing.ROUNDINGS_GEMM, rows)
