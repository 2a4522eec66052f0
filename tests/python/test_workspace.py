"""Temporary memory: stated before the call, bounded by chunks, and never more than was stated."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from torch_sm80moe import (
    configure,
    fused_moe,
    fused_moe_out,
    reference,
    tactic_table,
    testing,
    workspace_size,
)
from torch_sm80moe.testing import HAZARDS, Inputs, Problem

needs_kernels = pytest.mark.skipif(
    not tactic_table(), reason="this installation has no CUDA kernels"
)
MIB = 2**20

SetLimit = Callable[[int], None]


@pytest.fixture
def set_limit() -> Iterator[SetLimit]:
    yield lambda limit: configure(workspace_limit=limit)
    configure(workspace_limit=0)


def size_of(problem: Problem, num_tokens: int | None = None) -> int:
    return workspace_size(
        problem.num_tokens if num_tokens is None else num_tokens,
        problem.num_experts,
        problem.top_k,
        problem.hidden_size,
        problem.intermediate_size,
    )


@needs_kernels
def test_size_is_two_matrices_and_lists():
    assert workspace_size(0, 8, 2, 4096, 14336) == 0
    for num_tokens in (1, 40, 4096):
        rows = 2 * num_tokens
        matrices, lists = 2 * rows * (4096 + 14336), 4 * (3 * rows + 9)
        size = workspace_size(num_tokens, 8, 2, 4096, 14336)
        assert matrices < size < matrices + lists + 2048


@needs_kernels
def test_limit_bounds_the_size(set_limit):
    free = workspace_size(4096, 64, 8, 2048, 1024)
    for limit in (MIB, 10 * MIB, free - 1):
        set_limit(limit)
        assert limit / 2 < workspace_size(4096, 64, 8, 2048, 1024) <= limit
    set_limit(free)
    assert workspace_size(4096, 64, 8, 2048, 1024) == free


@needs_kernels
def test_limit_below_one_token_is_refused(set_limit):
    set_limit(1000)
    with pytest.raises(RuntimeError, match=r"^workspace_size: workspace_limit must .* got 1000"):
        workspace_size(1, 8, 2, 4096, 14336)


@needs_kernels
def test_limits_are_set_apart(set_limit):
    set_limit(MIB)
    limited = workspace_size(4096, 64, 8, 2048, 1024)
    configure(shared_memory_limit=0)
    assert workspace_size(4096, 64, 8, 2048, 1024) == limited


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        ((-1, 8, 2, 64, 64), "num_tokens must be between 0 and 2147483647, got -1"),
        ((1, 1025, 2, 64, 64), "num_experts must be between 1 and 1024, got 1025"),
        ((1, 8, 0, 64, 64), "top_k must be between 1 and 2147483647, got 0"),
        ((1, 8, 2, 0, 64), "hidden_size must be between 1 and 2147483647, got 0"),
        ((1, 8, 2, 64, -8), "intermediate_size must be between 1 and 2147483647, got -8"),
        ((2**30, 8, 2, 64, 64), "num_tokens must make at most 2147483647 rows, got 2147483648"),
    ],
)
def test_wrong_sizes(sizes, sentence):
    with pytest.raises(ValueError, match=f"^workspace_size: {sentence}"):
        workspace_size(*sizes)
    if tactic_table():
        with pytest.raises(RuntimeError, match=f"workspace_size: {sentence}"):
            torch.ops.sm80moe.workspace_size(*sizes)


@pytest.mark.skipif(bool(tactic_table()), reason="this installation has CUDA kernels")
def test_without_kernels_there_is_no_size():
    with pytest.raises(RuntimeError, match="must contain CUDA kernels, got a CPU-only one"):
        workspace_size(1, 8, 2, 64, 64)


@pytest.mark.parametrize("limit", [-1, 2**63])
def test_wrong_limit(limit):
    with pytest.raises(ValueError, match=f"^configure: workspace_limit must be .*, got {limit}"):
        configure(workspace_limit=limit)


def test_cpu_tensors_know_no_limit(set_limit):
    set_limit(1)
    problem = Problem()
    inputs = problem.make()
    expected = reference.fused_moe(*inputs)
    testing.assert_close(fused_moe(*inputs), expected, testing.ROUNDINGS_FUSED_MOE, problem)


@pytest.mark.gpu
@pytest.mark.parametrize("num_tokens", [1, 4, 33, 700, 5000])
@pytest.mark.parametrize("limited", [False, True])
def test_no_more_is_allocated_than_was_stated(limited, num_tokens, cuda, set_limit):
    problem = Problem(num_tokens, 16, 4, 256, 128)
    inputs = problem.make(cuda)
    if limited:
        set_limit(size_of(problem, (num_tokens + 2) // 3))
    out = torch.empty_like(inputs.hidden_states)
    fused_moe_out(*inputs, out)  # what is loaded at first use is not the call's

    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_stats()
    fused_moe_out(*inputs, out)
    after = torch.cuda.memory_stats()
    requested = "requested_bytes.all"
    peak = after[f"{requested}.peak"] - before[f"{requested}.current"]
    assert peak == size_of(problem)
    assert after["allocation.all.allocated"] - before["allocation.all.allocated"] == 1

    result = fused_moe(*inputs)
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == (
        after["allocation.all.allocated"] + 2
    )
    assert torch.equal(result, out)


def in_chunks(
    inputs: Inputs, limit: int, set_limit: SetLimit, **tactics: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the result of one chunk, and of as many as the limit asks for."""
    whole = fused_moe(*inputs, **tactics)
    set_limit(limit)
    return whole, fused_moe(*inputs, **tactics)


@pytest.mark.gpu
@pytest.mark.parametrize("hazard", HAZARDS)
# One chunk size is enough for the sanitizers, to which each launch is dear.
@pytest.mark.parametrize("chunk", [1, 2, 50, pytest.param(75, marks=pytest.mark.sanitizer), 150])
def test_chunks_change_no_bit(chunk, hazard, cuda, set_limit):
    """With the same tactics a token does not notice who shares its chunk; 151 is a prime."""
    problem = Problem(151, 8, 4, 72, 104, hazard=hazard)
    inputs = problem.make(cuda)
    limit = size_of(problem, chunk)
    whole, parts = in_chunks(inputs, limit, set_limit, tactic_w13=2, tactic_w2=3)
    assert torch.equal(whole, parts), f"{problem} in chunks of {chunk}"


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("top_k", [1, 2, 8])
@pytest.mark.parametrize("chunk", [1, 7, 100, 511, 512])
def test_chunks_with_selected_tactics(chunk, top_k, dtype, cuda, set_limit):
    problem = Problem(1023, 16, top_k, 136, 72, dtype)
    inputs = problem.make(cuda)
    expected = reference.fused_moe(*inputs)
    for out in in_chunks(inputs, size_of(problem, chunk), set_limit):
        what = f"{problem} in chunks of {chunk}"
        testing.assert_close(out, expected, testing.ROUNDINGS_FUSED_MOE, what)


@pytest.mark.gpu
def test_chunks_write_into_strided_rows(cuda, set_limit):
    problem = Problem(37, 8, 2, 72, 104, hazard="strided")
    inputs = problem.make(cuda)
    whole = fused_moe(*inputs, tactic_w13=1, tactic_w2=1)
    frame = torch.full((39, 96), torch.nan, dtype=torch.bfloat16, device=cuda)
    set_limit(size_of(problem, 10))
    fused_moe_out(*inputs, frame[1:-1, 8:80], tactic_w13=1, tactic_w2=1)
    assert torch.equal(frame[1:-1, 8:80], whole)
    assert frame.isnan().sum() == frame.numel() - whole.numel()


@pytest.mark.gpu
def test_chunks_in_a_graph(cuda, set_limit):
    problem = Problem(100, 8, 4, 128, 72)
    static = problem.make(cuda)
    set_limit(size_of(problem, 30))
    fused_moe(*static)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = fused_moe(*static)
    fresh = problem.make(cuda)
    for kept, new in zip(static, fresh, strict=True):
        kept.copy_(new)
    graph.replay()
    assert torch.equal(out, fused_moe(*fresh))


@pytest.mark.gpu
def test_call_beyond_the_limit_writes_nothing(cuda, set_limit):
    inputs = Problem().make(cuda)
    out = torch.full_like(inputs.hidden_states, 7)
    set_limit(100)
    with pytest.raises(RuntimeError, match="fused_moe_out: workspace_limit must hold the rows"):
        fused_moe_out(*inputs, out)
    assert (out == 7).all()


@pytest.mark.gpu
def test_long_call_is_cut_by_default(cuda):
    """More rows than the default limit holds: the workspace is less than all of them take."""
    problem = Problem(300_000, 4, 2, 512, 512)
    all_rows = 2 * problem.num_tokens * problem.top_k * 1024
    assert size_of(problem) <= 2**30 < all_rows
    inputs = problem.make(cuda)
    out = fused_moe(*inputs)
    for tokens in (slice(0, 500), slice(149_700, 150_300), slice(-500, None)):
        part = inputs._replace(
            hidden_states=inputs.hidden_states[tokens],
            topk_weights=inputs.topk_weights[tokens],
            topk_ids=inputs.topk_ids[tokens],
        )
        expected = reference.fused_moe(*part)
        testing.assert_close(out[tokens], expected, testing.ROUNDINGS_FUSED_MOE, problem)
