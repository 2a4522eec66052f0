"""Nothing has a derivative: every operator says so instead of giving gradients of zero."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.autograd import forward_ad

import torch_sm80moe
from tests.quantization.random_weights import random_packed
from torch_sm80moe import _ops
from torch_sm80moe._formats import WEIGHT_FORMATS
from torch_sm80moe.quantization import PackedWeight, QuantScheme
from torch_sm80moe.testing import Problem

Arguments = dict[str, Any]


def fused_moe(device: torch.device) -> Arguments:
    inputs = Problem(5, 4, 2).make(device)
    options = {
        "w13_bias": torch.randn(inputs.w13.shape[:2], device=device).bfloat16(),
        "w2_bias": torch.randn(inputs.w2.shape[:2], device=device).bfloat16(),
        "swiglu_alpha": torch.rand(4, device=device),
        "swiglu_beta": torch.rand(4, device=device),
        "swiglu_limit": torch.rand(4, device=device),
        "residual": torch.randn(inputs.hidden_states.shape, device=device).bfloat16(),
    }
    return {**inputs._asdict(), **options}


def fused_moe_out(device: torch.device) -> Arguments:
    arguments = fused_moe(device)
    return {**arguments, "out": torch.empty_like(arguments["hidden_states"])}


def topk_route(device: torch.device) -> Arguments:
    logits, bias = torch.randn(3, 4, device=device), torch.randn(4, device=device)
    return {"router_logits": logits, "top_k": 2, "correction_bias": bias}


def sort_by_expert(device: torch.device) -> Arguments:
    return {"topk_ids": torch.randint(0, 4, (3, 2), device=device), "num_experts": 4}


def grouped_gemm(device: torch.device) -> Arguments:
    return {
        "a": torch.randn(6, 64, device=device).half(),
        "w": torch.randn(2, 16, 64, device=device).half(),
        "expert_offsets": torch.tensor([0, 2, 6], device=device).int(),
    }


def grouped_mm(device: torch.device) -> Arguments:
    return {
        "mat_a": torch.randn(6, 64, device=device).half(),
        "mat_b": torch.randn(2, 16, 64, device=device).half().mT,
        "offs": torch.tensor([2, 6], device=device).int(),
    }


def packed(name: str, device: torch.device, *shape: int) -> Arguments:
    tensors = random_packed("fp8-channel", *shape, device)[0].tensors()
    return {name: tensors.values, f"{name}_scale": tensors.scale, f"{name}_codes": None}


FP8_ROWS = {"weight_format": WEIGHT_FORMATS.index("fp8"), "group_size": 0}


def fused_moe_quantized(device: torch.device) -> Arguments:
    arguments = fused_moe(device)
    intermediate_size, hidden_size = arguments["w2"].size(2), arguments["w2"].size(1)
    w13 = packed("w13", device, 4, 2 * intermediate_size, hidden_size)
    w2 = packed("w2", device, 4, hidden_size, intermediate_size)
    return {**arguments, **w13, **w2, **FP8_ROWS}


def fused_moe_quantized_out(device: torch.device) -> Arguments:
    arguments = fused_moe_quantized(device)
    return {**arguments, "out": torch.empty_like(arguments["hidden_states"])}


def grouped_gemm_quantized(device: torch.device) -> Arguments:
    arguments = {**grouped_gemm(device), **packed("w", device, 2, 16, 64), **FP8_ROWS}
    return {**arguments, "row_index": None}


def quantize_activations(device: torch.device) -> Arguments:
    return {
        "a": torch.randn(6, 64, device=device).half(),
        "input_range": torch.tensor([0.5, 3.0], device=device),
    }


def combine(device: torch.device) -> Arguments:
    return {
        "rows": torch.randn(6, 64, device=device).half(),
        "topk_weights": torch.rand(3, 2, device=device),
        "row_position": torch.arange(6, device=device).int().reshape(3, 2),
    }


CALLS: dict[str, Callable[[torch.device], Arguments]] = {
    f.__name__: f
    for f in (
        fused_moe,
        fused_moe_out,
        topk_route,
        sort_by_expert,
        fused_moe_quantized,
        fused_moe_quantized_out,
        grouped_gemm,
        grouped_gemm_quantized,
        grouped_mm,
        quantize_activations,
        combine,
    )
}


def is_differentiable(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


OPERATORS_AND_INPUTS = [
    (operator, name)
    for operator, make in CALLS.items()
    for name, value in make(torch.device("cpu")).items()
    if is_differentiable(value)
]
each_input = pytest.mark.parametrize(("operator", "name"), OPERATORS_AND_INPUTS)


def ways_to_call(operator: str) -> list[Callable[..., Any]]:
    function = getattr(torch_sm80moe, operator)
    if "_quantized" in operator:
        return [_ops.overload(operator), lambda **arguments: function(**with_packed(arguments))]
    return [_ops.overload(operator), function]


def with_packed(arguments: Arguments) -> Arguments:
    """Return what the public function takes in place of an operator's tensors."""
    rest = {k: v for k, v in arguments.items() if k not in FP8_ROWS}
    for name in ("w", "w13", "w2"):
        if name in rest:
            parts = [rest.pop(key) for key in (name, f"{name}_scale", f"{name}_codes")]
            rest[name] = PackedWeight(*parts, (0, 0, 0), QuantScheme.parse("fp8-channel"))
    return rest


def test_every_operator_is_here():
    takes_tensors = {
        operator
        for operator in _ops.OPERATOR_NAMES
        if any("Tensor" in str(a.type) for a in _ops.overload(operator)._schema.arguments)
    }
    assert takes_tensors == {*CALLS, "set_tuning"}  # which takes a table of integers


@each_input
def test_input_that_requires_grad(operator, name, device):
    arguments = CALLS[operator](device)
    arguments[name].requires_grad_()
    for call in ways_to_call(operator):
        with pytest.raises(RuntimeError, match=f"^{operator}: {name} must not require grad"):
            call(**arguments)
        for without_grad in (torch.no_grad(), torch.inference_mode()):
            with without_grad:
                call(**arguments)


@each_input
def test_input_with_a_tangent(operator, name, device):
    arguments = CALLS[operator](device)
    with forward_ad.dual_level():
        value = arguments[name]
        arguments[name] = forward_ad.make_dual(value, torch.ones_like(value))
        for call in ways_to_call(operator):
            with pytest.raises(RuntimeError, match=f"^{operator}: {name} must not have a tangent"):
                call(**arguments)


@pytest.mark.parametrize("operator", CALLS)
def test_results_do_not_require_grad(operator, device):
    for call in ways_to_call(operator):
        results = call(**CALLS[operator](device))
        for result in results if isinstance(results, tuple) else (results,):
            assert result is None or not result.requires_grad


def test_transforms_of_functions(device):
    logits = torch.randn(3, 4, device=device)

    def loss(logits: torch.Tensor) -> torch.Tensor:
        return torch.ops.sm80moe.topk_route(logits, 2)[0].square().sum()

    with pytest.raises(RuntimeError, match="router_logits must not require grad"):
        torch.func.grad(loss)(logits)
    with pytest.raises(RuntimeError, match="router_logits must not have a tangent"):
        torch.func.jvp(loss, (logits,), (logits,))


def test_out_is_not_written_by_a_refused_call(device):
    arguments = fused_moe_out(device)
    arguments["out"].fill_(torch.nan)
    arguments["w2"].requires_grad_()
    with pytest.raises(RuntimeError, match="w2 must not require grad"):
        torch.ops.sm80moe.fused_moe_out(**arguments)
    assert arguments["out"].isnan().all()


@pytest.mark.compile
class TestCompiled:
    @pytest.fixture(autouse=True)
    def fresh_compiler(self):
        torch._dynamo.reset()
        yield
        torch._dynamo.reset()

    @pytest.mark.parametrize("operator", ["fused_moe", "fused_moe_out", "topk_route", "combine"])
    def test_input_that_requires_grad(self, operator, device):
        arguments = CALLS[operator](device)
        name = next(name for name, value in arguments.items() if is_differentiable(value))
        arguments[name].requires_grad_()
        for call in ways_to_call(operator):
            compiled = torch.compile(call, fullgraph=True)
            with pytest.raises(Exception, match=f"{name} must not require grad"):
                compiled(**arguments)
            with torch.no_grad():
                compiled(**arguments)

    def test_parameters_in_a_function_that_turns_gradients_off(self, device):
        """The graph has no gradient to compute, though its inputs ask for one."""
        arguments = fused_moe(device)
        expected = torch_sm80moe.fused_moe(**arguments)
        arguments["w2"].requires_grad_()

        def layer(scale: torch.Tensor, **inputs: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                out = torch.ops.sm80moe.fused_moe(**inputs)
            return out * scale

        scale = torch.ones((), device=device, requires_grad=True)
        out = torch.compile(layer, fullgraph=True)(scale, **arguments)
        assert torch.equal(out, expected)
        out.float().sum().backward()
        torch.testing.assert_close(scale.grad, expected.float().sum(), rtol=1e-2, atol=1e-2)

    def test_export(self, device):
        class Layer(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                arguments = fused_moe(device)
                self.x = arguments.pop("hidden_states")
                self.w2 = torch.nn.Parameter(arguments.pop("w2"))
                self.others = arguments

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return torch.ops.sm80moe.fused_moe(x, w2=self.w2, **self.others)

        layer = Layer()
        with pytest.raises(Exception, match="w2 must not require grad"):
            torch.export.export(layer, (layer.x,)).module()(layer.x)
        with torch.no_grad():
            program = torch.export.export(layer, (layer.x,)).module()
            assert torch.equal(program(layer.x), layer(layer.x))
