"""The operators inside torch.compile, torch.export and AOTInductor."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from torch_sm80moe import (
    FusedMoE,
    combine,
    fused_moe,
    fused_moe_out,
    grouped_gemm,
    grouped_mm,
    sort_by_expert,
    topk_route,
)
from torch_sm80moe.testing import Inputs, Problem

pytestmark = pytest.mark.compile

# The first size equals no other size of the problem: the compiler would tie the two together.
TOKENS = (17, 3, 2, 64)


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def layer_on(device: torch.device) -> FusedMoE:
    return FusedMoE(64, 72, num_experts=8, top_k=2, device=device)


def tokens_on(device: torch.device, num_tokens: int) -> torch.Tensor:
    return torch.randn(num_tokens, 64, device=device).bfloat16()


def first_tokens(inputs: Inputs, num_tokens: int) -> Inputs:
    return inputs._replace(
        hidden_states=inputs.hidden_states[:num_tokens],
        topk_weights=inputs.topk_weights[:num_tokens],
        topk_ids=inputs.topk_ids[:num_tokens],
    )


def by_parts(x, w13, w2, topk_weights, topk_ids) -> torch.Tensor:
    """Compose the layer of its parts, with arithmetic between them for the compiler to fuse."""
    offsets, row_index, row_position = sort_by_expert(topk_ids, w13.size(0))
    top_k = topk_ids.size(1)
    rows = grouped_gemm(x + 0.5, w13, offsets, row_index, top_k=top_k, epilogue="swiglu")
    rows = grouped_gemm(rows * 2, w2, offsets)
    return combine(rows, topk_weights / 2, row_position)


def by_grouped_mm(x, w13, w2, topk_weights, topk_ids) -> torch.Tensor:
    """Compose the experts as users of torch's grouped_mm do, on rows sorted by expert."""
    offsets, row_index, row_position = sort_by_expert(topk_ids, w13.size(0))
    rows = x[(row_index // topk_ids.size(1)).clamp(min=0)]
    gate, up = grouped_mm(rows, w13.mT, offs=offsets[1:]).chunk(2, dim=-1)
    intermediate = torch.nn.functional.silu(gate) * up
    return combine(grouped_mm(intermediate, w2.mT, offs=offsets[1:]), topk_weights, row_position)


def test_router_with_all_arguments(device):
    """Names and numbers are constants of the graph; it has one for all numbers of tokens."""
    bias = torch.randn(32, device=device)
    expert_map = torch.arange(32, device=device).int() - 16

    def route(logits: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return topk_route(
            logits * 2,
            4,
            scoring="sigmoid",
            correction_bias=bias,
            n_group=8,
            topk_group=3,
            routed_scaling_factor=2.5,
            expert_map=expert_map,
            return_tokens_per_expert=True,
        )

    counter = CompileCounterWithBackend("inductor")
    compiled = torch.compile(route, fullgraph=True, dynamic=True, backend=counter)
    for num_tokens in TOKENS:
        logits = torch.randn(num_tokens, 32, device=device)
        for result, expected in zip(compiled(logits), route(logits), strict=True):
            torch.testing.assert_close(result, expected)
    assert counter.frame_count == 1


@pytest.mark.parametrize("function", [fused_moe, by_parts], ids=lambda f: f.__name__)
def test_fullgraph(function, device):
    inputs = Problem(17).make(device)
    compiled = torch.compile(function, fullgraph=True)
    torch.testing.assert_close(compiled(*inputs), function(*inputs))


def test_grouped_mm_in_one_graph_for_all_sizes(device):
    inputs = Problem(max(TOKENS)).make(device)
    counter = CompileCounterWithBackend("inductor")
    compiled = torch.compile(by_grouped_mm, fullgraph=True, dynamic=True, backend=counter)
    for num_tokens in TOKENS:
        fewer = first_tokens(inputs, num_tokens)
        # Compiled, silu(gate) is not rounded before it is multiplied.
        torch.testing.assert_close(compiled(*fewer), fused_moe(*fewer), rtol=2e-2, atol=2e-2)
    assert counter.frame_count == 1


def test_out_is_written(device):
    inputs = Problem(17).make(device)

    def into(out: torch.Tensor, *args: torch.Tensor) -> torch.Tensor:
        fused_moe_out(*args, out)
        return out + 1

    out = torch.full_like(inputs.hidden_states, torch.nan)
    plus_one = torch.compile(into, fullgraph=True)(out, *inputs)
    assert torch.equal(out, fused_moe(*inputs))
    torch.testing.assert_close(plus_one, out + 1)


def test_dynamic_tokens_compile_once(device):
    inputs = Problem(max(TOKENS)).make(device)
    counter = CompileCounterWithBackend("inductor")
    compiled = torch.compile(fused_moe, fullgraph=True, dynamic=True, backend=counter)
    for num_tokens in TOKENS:
        fewer = first_tokens(inputs, num_tokens)
        assert torch.equal(compiled(*fewer), fused_moe(*fewer))
    assert counter.frame_count == 1
    # The compiler treats the sizes 0 and 1 as constants: one more graph each, not one a call.
    for num_tokens in (1, 0, 1, 0):
        fewer = first_tokens(inputs, num_tokens)
        assert torch.equal(compiled(*fewer), fused_moe(*fewer))
    assert counter.frame_count <= 3


def test_changing_tokens_compile_twice(device):
    """By default the first size is taken as a constant, and all others share one graph."""
    layer = layer_on(device)
    counter = CompileCounterWithBackend("inductor")
    compiled = torch.compile(layer, fullgraph=True, backend=counter)
    for num_tokens in (5, 8, 17, 64, 9):
        x = tokens_on(device, num_tokens)
        torch.testing.assert_close(compiled(x), layer(x), rtol=2e-2, atol=2e-2)
    assert counter.frame_count == 2


def test_wrong_shape_is_reported_while_compiling(device):
    inputs = Problem(17).make(device)
    compiled = torch.compile(fused_moe, fullgraph=True)
    with pytest.raises(Exception, match=r"fused_moe: w2 must have shape"):
        compiled(*inputs._replace(w2=inputs.w2[:3]))


def exported(device: torch.device) -> tuple[FusedMoE, torch.export.ExportedProgram]:
    layer = layer_on(device)
    shapes = {"hidden_states": {0: torch.export.Dim("T")}}
    return layer, torch.export.export(layer, (tokens_on(device, 7),), dynamic_shapes=shapes)


def check_tokens(run: Callable[..., torch.Tensor], layer: FusedMoE, device: torch.device) -> None:
    for num_tokens in (2, 7, 30, 500):
        x = tokens_on(device, num_tokens)
        # Compiled, the router's GEMM may round otherwise than in eager mode.
        torch.testing.assert_close(run(x), layer(x), rtol=2e-2, atol=2e-2)


def test_export(device):
    layer, program = exported(device)
    names = {str(node.target) for node in program.graph.nodes}
    assert {"sm80moe.fused_moe.default", "sm80moe.topk_route.default"} <= names
    check_tokens(program.module(), layer, device)


def test_exported_program_is_saved_and_loaded(device, tmp_path):
    layer, program = exported(device)
    torch.export.save(program, tmp_path / "layer.pt2")
    check_tokens(torch.export.load(tmp_path / "layer.pt2").module(), layer, device)


# The C++ around the operators is compiled once: no headers ahead of it, no optimisation.
QUICKLY = {
    "cpp_cache_precompile_headers": False,
    "aot_inductor.compile_wrapper_opt_level": "O0",
}
RUN_PACKAGE = """
import sys
import torch
import torch._inductor.codecache  # torch 2.10 uses it without importing it
import torch_sm80moe  # the package calls its operators

package, inputs, outputs = sys.argv[1:]
run = torch._inductor.aoti_load_package(package)
torch.save([run(x) for x in torch.load(inputs)], outputs)
"""


def run_package(program, inputs, folder):
    """A process that never saw the model loads it as a package and runs it; returns its outputs."""
    folder.mkdir()
    package = torch._inductor.aoti_compile_and_package(
        program, package_path=str(folder / "model.pt2"), inductor_configs=QUICKLY
    )
    torch.save(inputs, folder / "inputs.pt")
    files = [package, str(folder / "inputs.pt"), str(folder / "outputs.pt")]
    command = [sys.executable, "-X", "faulthandler", "-c", RUN_PACKAGE, *files]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode < 0:
        raise Crash(done.stderr)
    assert done.returncode == 0, done.stderr
    return torch.load(folder / "outputs.pt")


class Crash(Exception):
    """A signal ended the process that loaded a package."""


def need_aot_inductor(device, folder):
    """Skip where torch cannot load a package of its own."""
    linear = torch.nn.Linear(64, 64, device=device, dtype=torch.bfloat16).eval()
    x = torch.randn(2, 64, device=device, dtype=torch.bfloat16)
    try:
        run_package(torch.export.export(linear, (x,)), [x], folder)
    except Crash:
        pytest.skip(f"torch {torch.__version__} crashes when it loads nn.Linear on {device}")


def test_aot_inductor(device, tmp_path):
    if device.type == "cuda":
        need_aot_inductor(device, tmp_path / "control")
    layer, program = exported(device)
    inputs = [tokens_on(device, num_tokens) for num_tokens in (2, 7, 30, 500)]
    outputs = run_package(program, inputs, tmp_path / "layer")
    for x, out in zip(inputs, outputs, strict=True):
        torch.testing.assert_close(out, layer(x), rtol=2e-2, atol=2e-2)


@pytest.mark.gpu
def test_reduce_overhead(cuda):
    """The mode records CUDA graphs: their replays must follow other routings."""
    layer = layer_on(cuda)
    compiled = torch.compile(layer, fullgraph=True, mode="reduce-overhead")
    for _ in range(6):
        x = tokens_on(cuda, 33)
        torch.testing.assert_close(compiled(x).clone(), layer(x), rtol=2e-2, atol=2e-2)


@pytest.mark.gpu
def test_reduce_overhead_with_other_routings(cuda):
    compiled = torch.compile(fused_moe, fullgraph=True, mode="reduce-overhead")
    for hazard in ("none", "one_expert", "none_in_range", "repeated_ids", "out_of_range", "none"):
        inputs = Problem(33, hazard=hazard).make(cuda)
        assert torch.equal(compiled(*inputs).clone(), fused_moe(*inputs)), hazard
