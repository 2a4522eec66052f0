"""Expert parallelism: ids of all experts, of which this device has some."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from torch_sm80moe import (
    configure,
    fused_moe,
    fused_moe_out,
    reference,
    sort_by_expert,
    testing,
    topk_route,
    workspace_size,
)
from torch_sm80moe.testing import Inputs, Problem

NUM_LOCAL, NUM_GLOBAL, TOP_K = 4, 12, 4
# With 4 choices each: few rows, many, and what one CTA no longer sorts.
TOKENS = [1, 5, 40, 1100]


def problem(num_tokens: int, device: torch.device) -> Inputs:
    """Make the layer of this device, with ids of all experts."""
    inputs = Problem(num_tokens, NUM_LOCAL, TOP_K).make(device)
    logits = torch.randn(num_tokens, NUM_GLOBAL, device=device)
    weights, ids = reference.topk_route(logits, TOP_K)
    return inputs._replace(topk_weights=weights, topk_ids=ids)


def scattered_map(device: torch.device) -> torch.Tensor:
    """Have every third expert, in falling order."""
    expert_map = torch.full((NUM_GLOBAL,), -1, dtype=torch.int32)
    expert_map[1::3] = torch.arange(NUM_LOCAL - 1, -1, -1).int()
    return expert_map.to(device)


def with_local_ids(inputs: Inputs, expert_map: torch.Tensor) -> Inputs:
    return inputs._replace(topk_ids=reference.local_ids(inputs.topk_ids, expert_map))


def wrong_ids(ids: torch.Tensor) -> torch.Tensor:
    """Put ids outside of all experts among the others, also in int32's lower half of int64."""
    limits = torch.iinfo(ids.dtype)
    wrong = [-1, NUM_GLOBAL, limits.min, limits.max]
    if ids.dtype == torch.int64:
        wrong.append(2**32 + 1)
    flat = ids.clone().view(-1)
    for i, value in enumerate(wrong):
        flat[2 * i :: 2 * len(wrong)] = value
    return flat.view(ids.shape)


HAZARDS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "none": lambda ids: ids,
    "int64": torch.Tensor.long,
    "wrong": wrong_ids,
    "wrong-int64": lambda ids: wrong_ids(ids.long()),
    "none-here": lambda ids: torch.zeros_like(ids),
    "columns": lambda ids: torch.cat([ids, ids], dim=1)[:, :TOP_K],
}


@pytest.mark.sanitizer
@pytest.mark.parametrize("num_tokens", TOKENS)
@pytest.mark.parametrize("hazard", HAZARDS)
def test_map_is_that_of_the_ids(hazard, num_tokens, device):
    inputs, expert_map = problem(num_tokens, device), scattered_map(device)
    inputs = inputs._replace(topk_ids=HAZARDS[hazard](inputs.topk_ids))
    out = fused_moe(*inputs, expert_map=expert_map)
    assert torch.equal(out, fused_moe(*with_local_ids(inputs, expert_map)))
    expected = reference.fused_moe(*inputs, expert_map=expert_map)
    testing.assert_close(out, expected, testing.ROUNDINGS_FUSED_MOE, hazard)
    into = torch.full_like(out, torch.nan)
    assert torch.equal(fused_moe_out(*inputs, into, expert_map=expert_map), out)

    sorted_rows = sort_by_expert(inputs.topk_ids, NUM_LOCAL, expert_map=expert_map)
    right = reference.sort_by_expert(inputs.topk_ids, NUM_LOCAL, expert_map=expert_map)
    assert all(torch.equal(a, b) for a, b in zip(sorted_rows, right, strict=True))


def test_map_to_nowhere(device):
    """What a map says is believed no more than an id."""
    inputs = problem(50, device)
    expert_map = scattered_map(device)
    limits = torch.iinfo(torch.int32)
    for i, value in enumerate([limits.min, limits.max, NUM_LOCAL, -2]):
        expert_map[3 * i] = value
    out = fused_moe(*inputs, expert_map=expert_map)
    assert torch.equal(out, fused_moe(*inputs, expert_map=scattered_map(device)))


def test_map_of_a_single_expert(device):
    inputs = problem(9, device)
    inputs = inputs._replace(topk_ids=inputs.topk_ids % 2)
    expert_map = torch.full((1,), 2, dtype=torch.int32, device=device)
    expected = fused_moe(*inputs._replace(topk_ids=torch.where(inputs.topk_ids == 0, 2, -1)))
    assert torch.equal(fused_moe(*inputs, expert_map=expert_map), expected)


@pytest.mark.parametrize("num_tokens", TOKENS)
def test_devices_add_up_to_the_layer(num_tokens, device):
    """Three devices route alike and run their experts; ids become local here or in the router."""
    whole = Problem(num_tokens, NUM_GLOBAL, TOP_K).make(device)
    logits = torch.randn(num_tokens, NUM_GLOBAL, device=device)
    total = torch.zeros(whole.hidden_states.shape, dtype=torch.float32, device=device)
    loads = []
    for begin in range(0, NUM_GLOBAL, NUM_LOCAL):
        mine = slice(begin, begin + NUM_LOCAL)
        expert_map = torch.full((NUM_GLOBAL,), -1, dtype=torch.int32, device=device)
        expert_map[mine] = torch.arange(NUM_LOCAL, device=device).int()
        weights, ids = topk_route(logits, TOP_K)
        part = fused_moe(
            whole.hidden_states,
            whole.w13[mine],
            whole.w2[mine],
            weights,
            ids,
            expert_map=expert_map,
        )
        weights, ids, load = topk_route(
            logits, TOP_K, expert_map=expert_map, return_tokens_per_expert=True
        )
        again = fused_moe(whole.hidden_states, whole.w13[mine], whole.w2[mine], weights, ids)
        assert torch.equal(again, part)
        total += part.float()
        loads.append(load)
    expected = reference.fused_moe(*whole[:3], *topk_route(logits, TOP_K))
    # Each device rounds its part, where one device would round the sum once.
    roundings = testing.ROUNDINGS_FUSED_MOE + NUM_GLOBAL // NUM_LOCAL
    testing.assert_close(total.to(whole.w2.dtype), expected, roundings, "three devices")
    assert all(torch.equal(load, loads[0]) for load in loads)


@pytest.mark.compile
def test_compiled(device):
    torch._dynamo.reset()
    compiled = torch.compile(fused_moe, fullgraph=True, dynamic=True)
    expert_map = scattered_map(device)
    for num_tokens in (17, 3, 64):
        inputs = problem(num_tokens, device)
        out = compiled(*inputs, expert_map=expert_map)
        assert torch.equal(out, fused_moe(*inputs, expert_map=expert_map))
    torch._dynamo.reset()


@pytest.fixture
def few_tokens_at_once() -> Iterator[None]:
    configure(workspace_limit=workspace_size(100, NUM_LOCAL, TOP_K, 64, 72))
    yield
    configure(workspace_limit=0)


@pytest.mark.gpu
def test_chunks_of_tokens(cuda, few_tokens_at_once):
    inputs, expert_map = problem(450, cuda), scattered_map(cuda)
    out = fused_moe(*inputs, expert_map=expert_map)
    assert torch.equal(out, fused_moe(*with_local_ids(inputs, expert_map)))


@pytest.mark.gpu
@pytest.mark.parametrize("num_tokens", TOKENS)
def test_graph_replay_with_another_map(num_tokens, cuda):
    inputs, expert_map = problem(num_tokens, cuda), scattered_map(cuda)
    fused_moe(*inputs, expert_map=expert_map)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = fused_moe(*inputs, expert_map=expert_map)
    for shift in range(3):
        expert_map.copy_(scattered_map(cuda).roll(shift))
        graph.replay()
        assert torch.equal(out, fused_moe(*inputs, expert_map=expert_map))
