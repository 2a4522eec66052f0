"""torch's grouped_mm for experts, without the host: groups told by their ends, by hazard."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from torch_sm80moe import grouped_gemm, grouped_mm, reference, tactic_table, testing

DTYPES = [torch.float16, torch.bfloat16]
TACTICS = [pytest.param(tactic.id, id=f"tactic{tactic.id}") for tactic in tactic_table()]


def random(device: torch.device, dtype: torch.dtype, *shape: int) -> torch.Tensor:
    return (torch.randn(shape, device=device) / math.sqrt(shape[-1])).to(dtype)


def ends_of(device: torch.device, *counts: int) -> torch.Tensor:
    return torch.tensor(counts, device=device).cumsum(0).int()


def check(mat_a: torch.Tensor, weight: torch.Tensor, offs: torch.Tensor, **options) -> torch.Tensor:
    out = grouped_mm(mat_a, weight.mT, offs=offs, **options)
    expected = reference.grouped_mm(mat_a, weight.mT, offs=offs)
    assert out.dtype == mat_a.dtype
    assert out.is_contiguous()
    testing.assert_close(out, expected, testing.ROUNDINGS_GEMM, list(mat_a.shape))
    assert not out[int(offs[-1]) :].any()
    return out


@pytest.mark.sanitizer
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("tail", [0, 7])
@pytest.mark.parametrize("counts", [(1,), (0, 0), (5, 0, 17, 1), (0, 64, 3), (129, 0, 0, 31)])
def test_ragged_groups(counts, tail, dtype, device):
    mat_a = random(device, dtype, sum(counts) + tail, 72)
    weight = random(device, dtype, len(counts), 104, 72)
    out = check(mat_a, weight, ends_of(device, *counts))
    offsets = functional.pad(ends_of(device, *counts), (1, 0))
    assert torch.equal(out, grouped_gemm(mat_a, weight, offsets))


@pytest.mark.parametrize("n", [8, 56, 144])
@pytest.mark.parametrize("k", [8, 24, 136])
def test_awkward_sizes(k, n, device):
    mat_a, weight = random(device, torch.bfloat16, 40, k), random(device, torch.bfloat16, 3, n, k)
    check(mat_a, weight, ends_of(device, 20, 0, 19))


@pytest.mark.skipif(not hasattr(functional, "grouped_mm"), reason="torch has no grouped_mm")
def test_torch_says_the_same(device):
    """The same arguments, by the same names, give torch's result."""
    mat_a, weight = (
        random(device, torch.bfloat16, 50, 64),
        random(device, torch.bfloat16, 4, 32, 64),
    )
    arguments = {"offs": ends_of(device, 11, 0, 30, 9), "bias": None, "out_dtype": torch.bfloat16}
    theirs = functional.grouped_mm(mat_a=mat_a, mat_b=weight.mT, **arguments)
    out = grouped_mm(mat_a=mat_a, mat_b=weight.mT, **arguments)
    # Both are the exact product, rounded once.
    testing.assert_close(out, theirs.double(), 2 * testing.ROUNDINGS_GEMM, "torch")


def test_strided_operands(device):
    mat_a = random(device, torch.bfloat16, 40, 128)[::2, 16:80]
    weight = random(device, torch.bfloat16, 6, 96, 128)[::2, 8:72, 24:88]
    check(mat_a, weight, ends_of(device, 3, 10, 7))


def test_rows_without_a_group_are_not_read(device):
    mat_a = torch.full((50, 64), math.nan, dtype=torch.float16, device=device)
    weight = random(device, torch.float16, 2, 64, 64)
    assert not grouped_mm(mat_a, weight.mT, offs=ends_of(device, 0, 0)).any()


def test_no_rows(device):
    mat_a, weight = random(device, torch.float16, 0, 64), random(device, torch.float16, 2, 48, 64)
    assert grouped_mm(mat_a, weight.mT, offs=ends_of(device, 0, 0)).shape == (0, 48)


def test_one_expert_of_weights_with_any_stride(device):
    """The stride of a dimension with one element leads nowhere."""
    mat_a, weight = random(device, torch.float16, 9, 64), random(device, torch.float16, 1, 48, 64)
    check(mat_a, weight.as_strided(weight.shape, (3, 64, 1)), ends_of(device, 9))


@pytest.mark.gpu
@pytest.mark.parametrize("tactic", TACTICS)
def test_every_tactic(tactic, cuda):
    mat_a, weight = (
        random(cuda, torch.bfloat16, 200, 136),
        random(cuda, torch.bfloat16, 4, 272, 136),
    )
    check(mat_a, weight, ends_of(cuda, 100, 0, 90, 0), tactic=tactic)


@pytest.mark.gpu
@pytest.mark.parametrize("garbage", [-(2**31), -5, 60, 2**31 - 1])
def test_garbage_in_offs_stays_inside_the_tensors(garbage, cuda):
    mat_a, weight = random(cuda, torch.bfloat16, 50, 64), random(cuda, torch.bfloat16, 3, 32, 64)
    for group in range(3):
        offs = ends_of(cuda, 20, 5, 9)
        offs[group] = garbage
        assert grouped_mm(mat_a, weight.mT, offs=offs).shape == (50, 32)
    torch.cuda.synchronize()


@pytest.mark.gpu
def test_graph_replay_with_other_groups(cuda):
    """The host learns nothing of the groups, so that a graph holds for all of them."""
    mat_a, weight = random(cuda, torch.bfloat16, 90, 64), random(cuda, torch.bfloat16, 3, 32, 64)
    offs = ends_of(cuda, 30, 30, 30)
    grouped_mm(mat_a, weight.mT, offs=offs)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = grouped_mm(mat_a, weight.mT, offs=offs)
    for counts in ((0, 90, 0), (1, 2, 3), (0, 0, 0), (40, 0, 50)):
        offs.copy_(ends_of(cuda, *counts))
        graph.replay()
        assert torch.equal(out, grouped_mm(mat_a, weight.mT, offs=offs))


@pytest.mark.gpu
def test_weights_are_not_copied(cuda):
    mat_a, weight = random(cuda, torch.float16, 8, 512), random(cuda, torch.float16, 64, 512, 512)
    offs = ends_of(cuda, *[0] * 63, 8)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    grouped_mm(mat_a, weight.mT, offs=offs)
    assert torch.cuda.max_memory_allocated() - before < weight[0].nbytes
