"""What a layer may be told: activations, orders, biases, where the router weighs, what is added."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from tests.python.option_tensors import option_tensors
from torch_sm80moe import (
    configure,
    decode_limit,
    fused_moe,
    fused_moe_out,
    reference,
    select_tactic,
    tactic_table,
    testing,
    workspace_size,
)
from torch_sm80moe._options import ACTIVATIONS, GATE_UP_ORDERS
from torch_sm80moe.testing import HAZARDS, Inputs, Problem

DTYPES = [torch.float16, torch.bfloat16]
# On a GPU the first two run the decode kernels: one pair a group, and several.
TOKENS = (1, 6, 40)
TACTICS = [pytest.param(tactic.id, id=f"tactic{tactic.id}") for tactic in tactic_table()]

Call = tuple[Inputs, dict[str, Any]]


def call(inputs: Inputs, *names: str, **options: Any) -> Call:
    """Make the arguments of a call with random tensors for the options of these names."""
    if not options.get("gated", True):
        inputs = inputs._replace(w13=inputs.w13[:, : inputs.w2.size(2)])
    tensors = option_tensors(inputs)
    return inputs, {**options, **{name: tensors[name] for name in names}}


SWIGLU = ("swiglu_alpha", "swiglu_beta", "swiglu_limit")
OPTIONS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    **{f"{name}-gated": ((), {"activation": name}) for name in ACTIVATIONS},
    **{f"{name}-ungated": ((), {"activation": name, "gated": False}) for name in ACTIVATIONS},
    **{order: ((), {"gate_up_order": order}) for order in GATE_UP_ORDERS[1:]},
    **{name: ((name,), {}) for name in ("w13_bias", "w2_bias", "residual", *SWIGLU)},
    "interleaved-bias": (("w13_bias",), {"gate_up_order": "interleaved"}),
    "up_gate-bias": (("w13_bias",), {"gate_up_order": "up_gate"}),
    "ungated-biases": (("w13_bias", "w2_bias"), {"gated": False, "activation": "relu2"}),
    "weight-on-input": ((), {"apply_router_weight_on_input": True}),
    "weight-on-input-biases": (
        ("w13_bias", "w2_bias", "residual"),
        {"apply_router_weight_on_input": True, "gated": False},
    ),
    "gpt-oss": (("w13_bias", "w2_bias", *SWIGLU), {"gate_up_order": "interleaved"}),
    "all": (
        ("w13_bias", "w2_bias", "residual", *SWIGLU),
        {"gate_up_order": "interleaved", "apply_router_weight_on_input": True},
    ),
    "batch-invariant": (("w13_bias", "w2_bias"), {"batch_invariant": True}),
}


def check(inputs: Inputs, what: object, **options: Any) -> torch.Tensor:
    out = fused_moe(*inputs, **options)
    for name in ("batch_invariant", "tactic_w13", "tactic_w2"):
        options.pop(name, None)
    expected = reference.fused_moe(*inputs, **options)
    testing.assert_close(out, expected, testing.ROUNDINGS_FUSED_MOE, what)
    testing.assert_rounds_as_documented(out, inputs, what, **options)
    return out


# The sanitizers look at addresses and barriers, which do not know the dtype.
@pytest.mark.parametrize(
    "dtype",
    [torch.float16, pytest.param(torch.bfloat16, marks=pytest.mark.sanitizer)],
    ids=str,
)
@pytest.mark.parametrize("name", OPTIONS)
def test_option(name, dtype, device):
    names, options = OPTIONS[name]
    for num_tokens in TOKENS:
        problem = Problem(num_tokens, 8, 4, 136, 72, dtype)
        inputs, chosen = call(problem.make(device), *names, **options)
        check(inputs, f"{problem} {name}", **chosen)


@pytest.mark.parametrize("hazard", HAZARDS)
@pytest.mark.parametrize("name", ["all", "ungated-biases"])
def test_hazard(name, hazard, device):
    names, options = OPTIONS[name]
    for num_tokens in TOKENS:
        problem = Problem(num_tokens, 8, 4, 72, 104, hazard=hazard)
        inputs, chosen = call(problem.make(device), *names, **options)
        out = check(inputs, problem, **chosen)
        assert torch.equal(fused_moe(*inputs, **chosen), out)


@pytest.mark.parametrize("num_tokens", TOKENS)
def test_strided_options(num_tokens, device):
    """Rows of biases and residual within larger tensors, scalars for all experts."""
    problem = Problem(num_tokens, 4, 2, 72, 40)
    inputs, chosen = call(problem.make(device), *OPTIONS["all"][0])
    for name in ("w13_bias", "w2_bias", "residual"):
        chosen[name] = testing.embed(chosen[name])
    for name, value in zip(SWIGLU, (1.702, 1.0, 0.7), strict=True):
        chosen[name] = torch.tensor(value, device=device).expand(4)
    check(inputs, problem, **chosen)


@pytest.mark.parametrize("order", GATE_UP_ORDERS)
@pytest.mark.parametrize("num_tokens", TOKENS)
def test_orders_are_permutations(num_tokens, order, device):
    """The same weights in another order give the same bits."""
    inputs = Problem(num_tokens, 8, 4, 72, 104).make(device)
    gate, up = inputs.w13.chunk(2, dim=1)
    orders = {
        "gate_up": inputs.w13,
        "up_gate": torch.cat([up, gate], dim=1),
        "interleaved": torch.stack([gate, up], dim=2).flatten(1, 2),
    }
    moved = inputs._replace(w13=orders[order])
    assert torch.equal(fused_moe(*moved, gate_up_order=order), fused_moe(*inputs))


@pytest.mark.parametrize("num_tokens", TOKENS)
def test_general_kernels_agree_with_the_plain_ones(num_tokens, device):
    """SwiGLU with the constants of SwiGLU, a bias of zeros, no residual: hardly a bit differs."""
    inputs = Problem(num_tokens, 8, 4, 72, 104).make(device)
    options = {
        "w13_bias": torch.zeros(inputs.w13.shape[:2], dtype=torch.bfloat16, device=device),
        "w2_bias": torch.zeros(inputs.w2.shape[:2], dtype=torch.bfloat16, device=device),
        "residual": torch.zeros_like(inputs.hidden_states),
        "swiglu_alpha": torch.ones(8, device=device),
        "swiglu_limit": torch.full((8,), math.inf, device=device),
    }
    testing.assert_close(
        fused_moe(*inputs, **options), fused_moe(*inputs).float(), testing.ROUNDINGS_GEMM, "both"
    )


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation_where_it_saturates(activation, gated, device):
    """Neither overflow nor NaN, as long as the result fits in 16 bits."""
    values = torch.tensor([-6e4, -90.0, -20, -1, -0.0, 0.5, 20, 200], device=device)
    x = torch.eye(1, 8, device=device).half()
    w13 = torch.zeros(1, 16 if gated else 8, 8, device=device).half()
    w13[0, :8, 0], w13[0, 8:, 0] = values, 1
    w2 = torch.eye(8, device=device).half()[None] / 128
    weights, ids = torch.ones(1, 1, device=device), torch.zeros(1, 1, device=device).int()
    for rows in (1, 40):
        many = (x.expand(rows, -1).contiguous(), w13, w2)
        routing = (weights.expand(rows, -1), ids.expand(rows, -1))
        out = fused_moe(*many, *routing, activation=activation, gated=gated)
        expected = reference.fused_moe(*many, *routing, activation=activation, gated=gated)
        torch.testing.assert_close(out.float(), expected, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("name", OPTIONS)
def test_nan_of_one_token_stays_there_and_is_seen(name, device):
    names, options = OPTIONS[name]
    for num_tokens in TOKENS[1:]:
        inputs, chosen = call(Problem(num_tokens, 4, 2).make(device), *names, **options)
        clean = fused_moe(*inputs, **chosen)
        inputs.hidden_states[5] = math.nan
        out = fused_moe(*inputs, **chosen)
        assert out[5].isnan().all()
        others = torch.arange(num_tokens, device=device) != 5
        assert torch.equal(out[others], clean[others])


@pytest.mark.parametrize("num_tokens", TOKENS)
def test_what_no_token_chose_is_not_used(num_tokens, device):
    inputs = Problem(num_tokens, 8, 4, hazard="out_of_range").make(device)
    inputs, chosen = call(inputs, *OPTIONS["all"][0], apply_router_weight_on_input=True)
    clean = fused_moe(*inputs, **chosen)
    valid = (inputs.topk_ids >= 0) & (inputs.topk_ids < 8)
    inputs.topk_weights[~valid] = math.nan
    for expert in set(range(8)) - set(inputs.topk_ids.flatten().tolist()):
        for name in ("w13_bias", "w2_bias", *SWIGLU):
            chosen[name][expert] = math.nan
    assert torch.equal(fused_moe(*inputs, **chosen), clean)


@pytest.mark.parametrize("num_tokens", [0, *TOKENS])
def test_out_is_the_residual(num_tokens, device):
    problem = Problem(num_tokens, 8, 4, 72, 104)
    inputs, chosen = call(problem.make(device), "residual", "w2_bias")
    expected = fused_moe(*inputs, **chosen)
    out = chosen["residual"]
    assert fused_moe_out(*inputs, out, **chosen) is out
    assert torch.equal(out, expected)


def test_residual_of_tokens_without_experts(device):
    for num_tokens in TOKENS:
        inputs = Problem(num_tokens, hazard="none_in_range").make(device)
        inputs, chosen = call(inputs, "residual", "w2_bias")
        assert torch.equal(fused_moe(*inputs, **chosen), chosen["residual"])


@pytest.mark.parametrize("name", ["batch-invariant", "all", "gelu-ungated"])
def test_batch_invariance(name, device):
    """Every token alone, slices, and another order, from few rows to many: the same bits."""
    names, options = OPTIONS[name]
    inputs, chosen = call(Problem(150, 8, 4, 200, 136).make(device), *names, **options)
    chosen["batch_invariant"] = True

    def run(tokens: torch.Tensor) -> torch.Tensor:
        x, w13, w2, weights, ids = inputs
        own = dict(chosen)
        if "residual" in own:
            own["residual"] = own["residual"][tokens]
        return fused_moe(x[tokens], w13, w2, weights[tokens], ids[tokens], **own)

    whole = run(torch.arange(150, device=device))
    order = torch.randperm(150, device=device)
    parts = [order[:1], order[1:3], order[3:8], order[8:41], order[41:], order]
    for tokens in parts:
        assert torch.equal(run(tokens), whole[tokens]), len(tokens)


def has_general_kernels(tactic: int) -> bool:
    """Return whether all options can be had with the tactic."""
    return tactic_table()[tactic].cta_m <= 128


@pytest.mark.gpu
@pytest.mark.sanitizer
@pytest.mark.parametrize("tactic", filter(has_general_kernels, range(len(tactic_table()))))
@pytest.mark.parametrize("gated", [True, False])
def test_every_tactic(gated, tactic, cuda):
    names = OPTIONS["all"][0] if gated else OPTIONS["ungated-biases"][0]
    for dtype in DTYPES:
        for num_tokens, hidden_size, intermediate_size in ((1, 64, 72), (90, 264, 136)):
            problem = Problem(num_tokens, 4, 2, hidden_size, intermediate_size, dtype)
            inputs, chosen = call(problem.make(cuda), *names, gated=gated)
            check(inputs, problem, **chosen, tactic_w13=tactic, tactic_w2=tactic)


@pytest.mark.gpu
def test_tiles_that_leave_no_registers(cuda):
    """They are refused, and never selected."""
    inputs, chosen = call(Problem(40).make(cuda), "w13_bias")
    tallest = max(tactic_table(), key=lambda tactic: tactic.cta_m).id
    check(inputs, "the second GEMM has no options", **chosen, tactic_w2=tallest)
    with pytest.raises(RuntimeError, match=r"^fused_moe: tactic_w13 must have tiles of.*"):
        fused_moe(*inputs, **chosen, tactic_w13=tallest)
    for rows in (64, 1280, 100_000):
        selected = select_tactic(rows, 8, 4096, 2048, epilogue="gated")
        assert has_general_kernels(selected)


@pytest.mark.gpu
@pytest.mark.parametrize("order", GATE_UP_ORDERS)
@pytest.mark.parametrize("tactic", TACTICS)
def test_every_tactic_takes_every_order(tactic, order, cuda):
    for names in ((), ("w13_bias",))[: 1 + has_general_kernels(tactic)]:
        problem = Problem(21, 4, 2, 72, 104)
        inputs, chosen = call(problem.make(cuda), *names, gate_up_order=order)
        check(inputs, problem, **chosen, tactic_w13=tactic)


@pytest.mark.gpu
def test_batch_invariance_among_tactics(cuda):
    """Those that add up in one order agree to the bit; the others are refused."""
    inputs = Problem(60, 8, 4, 520, 136).make(cuda)
    expected = fused_moe(*inputs, batch_invariant=True)
    for tactic in tactic_table():
        chosen = {"batch_invariant": True, "tactic_w13": tactic.id, "tactic_w2": tactic.id}
        if tactic.warps_k == 1:
            assert torch.equal(fused_moe(*inputs, **chosen), expected), tactic
        else:
            with pytest.raises(RuntimeError, match="fused_moe: tactic_w13 must have warps_k 1"):
                fused_moe(*inputs, **chosen)
    for rows in (1, 8, 64, 4096):
        chosen = select_tactic(rows, 8, 2048, 2048, batch_invariant=True)
        assert tactic_table()[chosen].warps_k == 1


@pytest.mark.gpu
def test_chunks_of_tokens(cuda):
    inputs, chosen = call(Problem(450, 8, 4, 72, 40).make(cuda), *OPTIONS["all"][0])
    chosen["batch_invariant"] = True
    expected = fused_moe(*inputs, **chosen)
    configure(workspace_limit=workspace_size(100, 8, 4, 72, 40))
    try:
        assert torch.equal(fused_moe(*inputs, **chosen), expected)
    finally:
        configure(workspace_limit=0)


@pytest.mark.gpu
@pytest.mark.parametrize("num_tokens", TOKENS)
def test_graph_replay(num_tokens, cuda):
    assert decode_limit(8, 128, 72) == 32
    static, chosen = call(Problem(num_tokens, 8, 4, 128, 72).make(cuda), *OPTIONS["all"][0])
    fused_moe(*static, **chosen)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = fused_moe(*static, **chosen)
    for hazard in ("none", "one_expert", "out_of_range"):
        fresh = Problem(num_tokens, 8, 4, 128, 72, hazard=hazard).make(cuda)
        for kept, new in zip(static, fresh, strict=True):
            kept.copy_(new)
        graph.replay()
        assert torch.equal(out, fused_moe(*fresh, **chosen)), hazard


@pytest.mark.compile
def test_compiled(device):
    torch._dynamo.reset()
    compiled = torch.compile(fused_moe, fullgraph=True, dynamic=True)
    names, options = OPTIONS["all"]
    for num_tokens in (17, 3, 64):
        inputs, chosen = call(Problem(num_tokens, 8, 4).make(device), *names, **options)
        assert torch.equal(compiled(*inputs, **chosen), fused_moe(*inputs, **chosen))
    torch._dynamo.reset()
