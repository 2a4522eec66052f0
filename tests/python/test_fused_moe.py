"""The layer: over its grid of sizes, and by hazard."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from torch_sm80moe import (
    configure,
    decode_limit,
    fused_moe,
    fused_moe_out,
    reference,
    select_tactic,
    tactic_table,
    testing,
)
from torch_sm80moe.testing import HAZARDS, Inputs, Problem

DTYPES = [torch.float16, torch.bfloat16]
TOP_K = (1, 2, 4, 8)
TACTICS = [pytest.param(tactic.id, id=f"tactic{tactic.id}") for tactic in tactic_table()]

GPU_TOKENS = (0, 1, 3, 16, 17, 128, 1024)
GPU_EXPERTS = (1, 4, 8, 16, 64, 128)
GPU_SIZES = [
    (64, 64),
    (72, 104),
    (264, 136),
    (512, 1000),
    (1032, 520),
    (2048, 768),
    (4096, 64),
    (64, 4096),
    (4096, 4096),
]
GPU_MAX_WEIGHT_ELEMENTS = 2**30  # keeps the largest layers to 2 GB

CPU_TOKENS = (0, 1, 3, 17, 128)
CPU_EXPERTS = (1, 4, 16)
CPU_SIZES = [(64, 64), (72, 104), (264, 136)]


def check(inputs: Inputs, what: object, **tactics: int) -> torch.Tensor:
    out = fused_moe(*inputs, **tactics)
    assert out.dtype == inputs.hidden_states.dtype
    assert out.is_contiguous()
    expected = reference.fused_moe(*inputs)
    testing.assert_close(out, expected, testing.ROUNDINGS_FUSED_MOE, f"{what} {tactics}")
    if out.dtype == torch.float16:
        assert testing.measure_error(out, expected).relative < testing.FP16_RELATIVE_LIMIT
    return out


def check_layer(problem: Problem, tokens: tuple[int, ...], device: torch.device) -> None:
    """Try one layer with every number of tokens and every k."""
    layer = problem.make(device)
    for num_tokens in tokens:
        for top_k in (k for k in TOP_K if k <= problem.num_experts):
            logits = torch.randn(num_tokens, problem.num_experts, device=device)
            topk_weights, topk_ids = reference.topk_route(logits, top_k)
            x = layer.hidden_states[:num_tokens]
            inputs = layer._replace(hidden_states=x, topk_weights=topk_weights, topk_ids=topk_ids)
            check(inputs, f"{problem} with T {num_tokens}, k {top_k}")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("num_experts", CPU_EXPERTS)
@pytest.mark.parametrize(("hidden_size", "intermediate_size"), CPU_SIZES)
def test_grid_on_cpu(hidden_size, intermediate_size, num_experts, dtype):
    problem = Problem(max(CPU_TOKENS), num_experts, 1, hidden_size, intermediate_size, dtype)
    check_layer(problem, CPU_TOKENS, torch.device("cpu"))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("num_experts", GPU_EXPERTS)
@pytest.mark.parametrize(("hidden_size", "intermediate_size"), GPU_SIZES)
def test_grid_on_gpu(hidden_size, intermediate_size, num_experts, dtype, cuda):
    if 3 * num_experts * hidden_size * intermediate_size > GPU_MAX_WEIGHT_ELEMENTS:
        pytest.skip("the weights would not fit in 2 GB")
    problem = Problem(max(GPU_TOKENS), num_experts, 1, hidden_size, intermediate_size, dtype)
    check_layer(problem, GPU_TOKENS, cuda)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_wide_layer(dtype, device):
    """Many experts, many choices, a thousand tokens: rows are scattered over everything."""
    problem = Problem(1024, 64, 8, 128, 64, dtype)
    check(problem.make(device), problem)


@pytest.mark.parametrize("num_experts", [512, 1024])
def test_hundreds_of_experts(num_experts, device):
    problem = Problem(33, num_experts, 8, 64, 16)
    check(problem.make(device), problem)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "num_tokens",
    [1, 17, *(pytest.param(tokens, marks=pytest.mark.sanitizer) for tokens in (8, 150))],
)
@pytest.mark.parametrize("hazard", HAZARDS)
def test_hazard(hazard, num_tokens, dtype, device):
    problem = Problem(num_tokens, 8, 4, 72, 104, dtype, hazard)
    inputs = problem.make(device)
    out = check(inputs, problem)
    testing.assert_rounds_as_documented(out, inputs, problem)


# Up to 32 pairs the decode kernels run on a GPU, beyond them the others.
AROUND_THE_LIMIT = [(1, 1), (1, 16), (4, 8), (32, 1), (1, 32), (33, 1), (3, 11)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("hazard", HAZARDS)
@pytest.mark.parametrize(("num_tokens", "top_k"), AROUND_THE_LIMIT)
def test_hazard_around_the_limit_of_decode(num_tokens, top_k, hazard, dtype, device):
    problem = Problem(num_tokens, 33, top_k, 264, 136, dtype, hazard)
    inputs = problem.make(device)
    out = check(inputs, problem)
    testing.assert_rounds_as_documented(out, inputs, problem)
    assert torch.equal(fused_moe(*inputs), out)


@pytest.mark.parametrize(
    ("hidden_size", "intermediate_size"), [(8, 8), (8, 2056), (2056, 8), (72, 1408), (1032, 776)]
)
@pytest.mark.parametrize("num_experts", [1, 3, 16])
@pytest.mark.parametrize("num_tokens", [1, 4, 7])
def test_few_rows_of_any_size(num_tokens, num_experts, hidden_size, intermediate_size, device):
    top_k = min(num_experts, 4)
    problem = Problem(num_tokens, num_experts, top_k, hidden_size, intermediate_size)
    check(problem.make(device), problem)


def test_few_rows_of_more_columns_than_an_sm_has_room_for(device):
    """The products of a column and all pairs wait in shared memory: columns have turns."""
    problem = Problem(8, 5, 4, 16384, 40)
    check(problem.make(device), problem)


def test_every_expert_is_chosen(device):
    problem = Problem(9, 8, 8)
    check(problem.make(device), problem)


def test_more_choices_than_experts_on_this_device(device):
    """With expert parallelism k counts experts of other devices, too."""
    inputs = Problem(9, 8, 8).make(device)
    check(inputs._replace(w13=inputs.w13[:2], w2=inputs.w2[:2]), "two of eight experts")


def test_no_tokens(device):
    out = fused_moe(*Problem(0).make(device))
    assert out.shape == (0, 64)


def test_nan_of_one_token_stays_there(device):
    inputs = Problem(40, 4, 2).make(device)
    clean = fused_moe(*inputs)
    inputs.hidden_states[7] = math.nan
    out = fused_moe(*inputs)
    assert out[7].isnan().all()
    others = torch.arange(40, device=device) != 7
    assert torch.equal(out[others], clean[others])


def test_what_no_token_chose_is_not_used(device):
    """Weights of idle experts, and router weights of ids that are out of range, may hold NaN."""
    inputs = Problem(20, 8, 2, hazard="out_of_range").make(device)
    clean = fused_moe(*inputs)
    valid = (inputs.topk_ids >= 0) & (inputs.topk_ids < 8)
    inputs.topk_weights[~valid] = math.nan
    for expert in set(range(8)) - set(inputs.topk_ids.flatten().tolist()):
        inputs.w13[expert] = math.nan
        inputs.w2[expert] = math.nan
    assert torch.equal(fused_moe(*inputs), clean)


def test_negative_and_zero_router_weights(device):
    inputs = Problem(20, 8, 4).make(device)
    weights = torch.randn_like(inputs.topk_weights)
    weights[::3] = 0
    check(inputs._replace(topk_weights=weights), "signed weights")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("hazard", ["none", "none_in_range", "strided"])
def test_out_is_overwritten(hazard, dtype, device):
    inputs = Problem(37, 8, 2, 72, 104, dtype, hazard).make(device)
    out = torch.full((37, 72), math.nan, dtype=dtype, device=device)
    assert fused_moe_out(*inputs, out) is out
    assert torch.equal(out, fused_moe(*inputs))


def test_strided_out_writes_only_its_rows(device):
    inputs = Problem(5).make(device)
    frame = torch.full((7, 96), math.nan, dtype=torch.bfloat16, device=device)
    out = frame[1:6, 16:80]
    fused_moe_out(*inputs, out)
    assert torch.equal(out, fused_moe(*inputs))
    out.zero_()
    assert frame.isnan().sum() == frame.numel() - out.numel()


@pytest.mark.parametrize("num_tokens", [1, 8, 200])
def test_same_bits_every_time(num_tokens, device):
    inputs = Problem(num_tokens, 16, 4, 136, 72).make(device)
    first = fused_moe(*inputs)
    assert all(torch.equal(fused_moe(*inputs), first) for _ in range(20))


def test_inputs_are_left_alone(device):
    inputs = Problem(20).make(device)
    copies = [tensor.clone() for tensor in inputs]
    fused_moe(*inputs)
    assert all(torch.equal(a, b) for a, b in zip(inputs, copies, strict=True))


def test_two_threads(device):
    problems = [Problem(50, 8, 2, 128, 64), Problem(3, 4, 4, 64, 128)]
    inputs = [problem.make(device) for problem in problems]
    expected = [fused_moe(*each) for each in inputs]

    def repeat(index: int) -> bool:
        return all(torch.equal(fused_moe(*inputs[index]), expected[index]) for _ in range(50))

    with ThreadPoolExecutor(2) as pool:
        assert all(pool.map(repeat, range(2)))


def test_inference_mode(device):
    inputs = Problem().make(device)
    expected = fused_moe(*inputs)
    with torch.inference_mode():
        assert torch.equal(fused_moe(*inputs), expected)


@pytest.mark.gpu
@pytest.mark.sanitizer
@pytest.mark.parametrize("tactic", TACTICS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_tactic_in_both_gemms(dtype, tactic, cuda):
    for num_tokens, hidden_size, intermediate_size in ((1, 64, 72), (37, 72, 104), (300, 264, 136)):
        problem = Problem(num_tokens, 4, 2, hidden_size, intermediate_size, dtype)
        inputs = problem.make(cuda)
        out = check(inputs, problem, tactic_w13=tactic, tactic_w2=tactic)
        testing.assert_rounds_as_documented(out, inputs, problem)


@pytest.mark.gpu
@pytest.mark.parametrize("hazard", HAZARDS)
@pytest.mark.parametrize("tactic", TACTICS)
def test_every_tactic_meets_every_hazard(tactic, hazard, cuda):
    problem = Problem(21, 8, 4, 72, 104, hazard=hazard)
    check(problem.make(cuda), problem, tactic_w13=tactic, tactic_w2=tactic)


@pytest.mark.gpu
def test_tactics_differ_between_the_gemms(cuda):
    problem = Problem(37, 4, 2, 72, 104)
    inputs = problem.make(cuda)
    last = len(tactic_table()) - 1
    check(inputs, problem, tactic_w13=0, tactic_w2=last)
    check(inputs, problem, tactic_w13=last, tactic_w2=0)


@pytest.mark.gpu
@pytest.mark.parametrize("num_tokens", [1, 16, 128, 1024])
def test_tactics_of_sm86(num_tokens, cuda, shared_memory_of_sm86):
    table = tactic_table()
    for n, k, epilogue in ((2 * 768, 2048, "swiglu"), (2048, 768, "none")):
        chosen = select_tactic(num_tokens * 8, 128, n, k, epilogue=epilogue)
        assert table[chosen].smem_bytes <= shared_memory_of_sm86
    problem = Problem(num_tokens, 16, 8, 512, 136)
    check(problem.make(cuda), problem)


@pytest.mark.gpu
def test_limit_of_decode(cuda):
    """Forcing a tactic keeps the kernels that have tactics, and so does too little memory."""
    limit = decode_limit(8, 128, 72)
    assert limit == 32
    assert 8 <= decode_limit(8, 16384, 65536) < 16, "several rows stream better through tiles"
    for num_tokens in (limit, limit + 1):
        inputs = Problem(num_tokens, 8, 1, 128, 72).make(cuda)
        assert runs_decode(inputs) == (num_tokens == limit)
        assert not runs_decode(inputs, tactic_w13=0)
        assert not runs_decode(inputs, tactic_w2=0)
    configure(shared_memory_limit=80 * 1024)
    try:
        assert decode_limit(8, 128, 72) == 0
        assert not runs_decode(Problem(1, 8, 1, 128, 72).make(cuda))
    finally:
        configure(shared_memory_limit=0)


def runs_decode(inputs: Inputs, **tactics: int) -> bool:
    """Ask the profiler which kernels a call runs."""
    fused_moe(*inputs, **tactics)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        fused_moe(*inputs, **tactics)
        torch.cuda.synchronize()
    names = [event.name for event in profile.events() if "sm80moe" in event.name]
    if not names:
        pytest.skip("the profiler sees no kernels on this machine")
    return any("sm80moe::decode" in name for name in names)


@pytest.mark.gpu
def test_tactic_that_does_not_fit_is_refused(cuda):
    inputs = Problem().make(cuda)
    too_large = max(tactic_table(), key=lambda tactic: tactic.smem_bytes)
    configure(shared_memory_limit=too_large.smem_bytes - 1)
    try:
        with pytest.raises(RuntimeError, match="fused_moe: tactic_w13 must"):
            fused_moe(*inputs, tactic_w13=too_large.id)
    finally:
        configure(shared_memory_limit=0)
    check(inputs, "after the refusal", tactic_w13=too_large.id)


@pytest.mark.gpu
@pytest.mark.parametrize("num_tokens", [1, 8, 40, 600])
def test_graph_replay_with_other_routings(num_tokens, cuda):
    static = Problem(num_tokens, 8, 4, 128, 72).make(cuda)
    fused_moe(*static)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = fused_moe(*static)
    for hazard in ("none", "one_expert", "out_of_range", "none_in_range", "repeated_ids"):
        fresh = Problem(num_tokens, 8, 4, 128, 72, hazard=hazard).make(cuda)
        for kept, new in zip(static, fresh, strict=True):
            kept.copy_(new)
        graph.replay()
        assert torch.equal(out, fused_moe(*fresh)), hazard


@pytest.mark.gpu
def test_several_streams_at_once(cuda):
    """Two of them run launches in which all CTAs wait for each other."""
    inputs = [Problem(n, 16, 4, 1024, 512).make(cuda) for n in (700, 5, 3)]
    expected = [fused_moe(*each) for each in inputs]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in inputs]
    results: list[list[torch.Tensor]] = [[] for _ in inputs]
    for _ in range(20):
        for stream, each, outs in zip(streams, inputs, results, strict=True):
            with torch.cuda.stream(stream):
                outs.append(fused_moe(*each))
    torch.cuda.synchronize()
    for outs, right in zip(results, expected, strict=True):
        assert all(torch.equal(out, right) for out in outs)


@pytest.mark.gpu
def test_nothing_synchronises(cuda):
    inputs = Problem(40).make(cuda)
    fused_moe(*inputs)
    torch.cuda.set_sync_debug_mode("error")
    try:
        fused_moe(*inputs)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_tensors_on_another_device_than_the_current(cuda):
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one CUDA device")
    inputs = Problem(40).make("cuda:1")
    with torch.cuda.device(0):
        out = check(inputs, "cuda:1 from cuda:0")
        assert torch.cuda.current_device() == 0
    assert out.device == torch.device("cuda:1")


@pytest.mark.gpu
def test_longest_batch(cuda):
    problem = Problem(131072, 8, 2, 256, 64)
    check(problem.make(cuda), problem)


@pytest.mark.gpu
def test_weights_beyond_two_to_the_31_elements(cuda):
    """Offsets into the weights need 64 bits: only the last expert of many is used, and known."""
    few = Problem(4, 2, 1, 4096, 1024, hazard="one_expert").make(cuda)
    many = 300
    w13 = torch.empty(many, 2048, 4096, dtype=torch.bfloat16, device=cuda)
    w2 = torch.empty(many, 4096, 1024, dtype=torch.bfloat16, device=cuda)
    assert w13.numel() > 2**31
    w13[-1], w2[-1] = few.w13[-1], few.w2[-1]
    last = torch.full_like(few.topk_ids, many - 1)
    out = fused_moe(few.hidden_states, w13, w2, few.topk_weights, last)
    testing.assert_close(out, reference.fused_moe(*few), testing.ROUNDINGS_FUSED_MOE, many)


@pytest.mark.gpu
def test_experts_further_apart_than_few_rows_can_address(cuda):
    """The kernel for few rows counts chunks in 32 bits: the others run instead."""
    apart = 2**34  # elements of two bytes
    if torch.cuda.mem_get_info()[0] < 36 * 2**30:
        pytest.skip("two experts 32 GB apart do not fit the device")
    inputs = Problem(3, 2, 2, 128, 64).make(cuda)
    memory = torch.empty(apart + inputs.w13[0].numel(), dtype=inputs.w13.dtype, device=cuda)
    w13 = memory.as_strided(inputs.w13.shape, (apart, *inputs.w13.stride()[1:]))
    w13.copy_(inputs.w13)
    far = inputs._replace(w13=w13)
    assert runs_decode(inputs)
    assert not runs_decode(far)
    check(far, "32 GB apart")
