"""FlashInfer's layer: its arguments, in its order, as its callers write them."""

from __future__ import annotations

import inspect
import re
from enum import IntEnum
from typing import Any

import pytest
import torch

from torch_sm80moe import fused_moe, reference, tactic_table, testing, workspace_size
from torch_sm80moe.compat.flashinfer import (
    ActivationType,
    FusedMoeRunner,
    cutlass_fused_moe,
    cutlass_fused_moe_workspace_size,
)
from torch_sm80moe.testing import Inputs, Problem

# What is decided in Python is the same everywhere: such tests leave the GPU alone.
CPU = torch.device("cpu")
DTYPES = [torch.float16, torch.bfloat16]
NUM_TACTICS = len(tactic_table())

# FlashInfer's positional arguments, in order.
POSITIONAL = (
    "input token_selected_experts token_final_scales fc1_expert_weights fc2_expert_weights "
    "output_dtype quant_scales fc1_expert_biases fc2_expert_biases input_sf swiglu_alpha "
    "swiglu_beta swiglu_limit tp_size tp_rank ep_size ep_rank cluster_size cluster_rank output "
    "enable_alltoall use_deepseek_fp8_block_scale use_w4_group_scaling use_mxfp8_act_scaling "
    "min_latency_mode use_packed_weights use_wfp4afp8_humming tune_max_num_tokens enable_pdl "
    "activation_type swizzled_input_sf use_fused_finalize profile_ids workspace_buffer"
)


def problem(device: torch.device = CPU, num_tokens: int = 20, **sizes: Any) -> Inputs:
    """Make a layer; its `w13` is read as FlashInfer reads it: ups, then gates."""
    return Problem(num_tokens, 8, 4, 72, 40, **sizes).make(device)


def arguments(inputs: Inputs) -> dict[str, Any]:
    return {
        "input": inputs.hidden_states,
        "token_selected_experts": inputs.topk_ids,
        "token_final_scales": inputs.topk_weights,
        "fc1_expert_weights": inputs.w13,
        "fc2_expert_weights": inputs.w2,
        "output_dtype": inputs.hidden_states.dtype,
        "quant_scales": [],
    }


def run(inputs: Inputs, **options: Any) -> torch.Tensor:
    result = cutlass_fused_moe(**{**arguments(inputs), **options})
    assert isinstance(result, list)
    assert len(result) == 1
    return result[0]


def check(out: torch.Tensor, inputs: Inputs, **options: Any) -> None:
    expected = reference.fused_moe(*inputs, **{"gate_up_order": "up_gate", **options})
    testing.assert_close(out, expected, testing.ROUNDINGS_FUSED_MOE, options)


def random(like: torch.Tensor, *shape: int) -> torch.Tensor:
    return torch.randn(shape, device=like.device).to(like.dtype)


def test_order_of_arguments():
    parameters = inspect.signature(cutlass_fused_moe).parameters.values()
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert " ".join(positional) == POSITIONAL


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("hazard", ["none", "int64_ids", "repeated_ids", "strided", "wide_ids"])
def test_ups_before_gates(hazard, dtype, device):
    for num_tokens in (1, 20):
        inputs = problem(device, num_tokens, dtype=dtype, hazard=hazard)
        check(run(inputs), inputs)


def test_hunyuan_image_calls_it_like_this(device):
    """The call of a model that was blocked on A100, argument for argument."""
    inputs = problem(device)
    x, moe_weight, moe_weight_2, topk_weight, topk_index = inputs
    combined_output = torch.empty_like(x)
    _ = cutlass_fused_moe(
        x.contiguous(),
        topk_index.to(int),
        topk_weight.to(float),
        moe_weight,
        moe_weight_2,
        torch.bfloat16,
        output=combined_output,
        quant_scales=None,
    )
    check(combined_output, inputs)


def test_output_is_written_and_returned(device):
    inputs = problem(device)
    output = torch.full_like(inputs.hidden_states, torch.nan)
    assert run(inputs, output=output) is output
    assert torch.equal(output, run(inputs))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_scales_of_other_types(dtype, device):
    inputs = problem(device)
    inputs = inputs._replace(topk_weights=inputs.topk_weights.to(dtype).float())
    out = run(inputs, token_final_scales=inputs.topk_weights.to(dtype))
    assert torch.equal(out, run(inputs))


def test_no_scales_mean_one(device):
    inputs = problem(device)
    inputs = inputs._replace(topk_weights=torch.ones_like(inputs.topk_weights))
    out = run(inputs, token_final_scales=None)
    assert torch.equal(out, run(inputs))


@pytest.mark.parametrize("order", ["gate_up", "interleaved"])
def test_other_orders_by_a_keyword(order, device):
    inputs = problem(device)
    check(run(inputs, gate_up_order=order), inputs, gate_up_order=order)


NAMES = {
    "Gelu": ("gelu", False),
    "Relu": ("relu", False),
    "Silu": ("silu", False),
    "Swiglu": ("silu", True),
    "Geglu": ("gelu", True),
    "SwigluBias": ("silu", True),
    "Relu2": ("relu2", False),
    "GegluTanh": ("gelu_tanh", True),
    "Identity": ("identity", False),
}


@pytest.mark.parametrize("name", NAMES)
def test_activation(name, device):
    activation, gated = NAMES[name]
    inputs = problem(device, dtype=torch.float16)
    if not gated:
        inputs = inputs._replace(w13=inputs.w13[:, :40])
    out = run(inputs, activation_type=ActivationType[name])
    check(out, inputs, activation=activation, gated=gated)
    # Tolerances do not tell the two GELUs apart, bits do.
    order = {"gate_up_order": "up_gate"} if gated else {}
    assert torch.equal(out, fused_moe(*inputs, activation=activation, gated=gated, **order))
    assert torch.equal(run(inputs, activation_type=int(ActivationType[name])), out)


def test_numbers_of_activations():
    """A caller may pass FlashInfer's own enumeration."""
    theirs = IntEnum(
        "ActivationType",
        "Gelu Relu Silu Swiglu Geglu SwigluBias Relu2 SwigluStep GegluTanh Identity Situ",
        start=0,
    )
    assert {m.name: m.value for m in ActivationType} == {m.name: m.value for m in theirs}


@pytest.mark.parametrize("name", ["SwigluStep", "Situ"])
def test_activation_that_is_not_here(name):
    sentence = f"^cutlass_fused_moe: activation_type must be one of Gelu, .*, got {name}$"
    with pytest.raises(ValueError, match=sentence):
        run(problem(), activation_type=ActivationType[name])
    with pytest.raises(ValueError, match=r"activation_type must be one of .*, got 99"):
        run(problem(), activation_type=99)


@pytest.mark.parametrize("given", [("alpha",), ("limit",), ("alpha", "beta", "limit")], ids=str)
def test_swiglu_of_gpt_oss(given, device):
    inputs = problem(device)
    values = {"alpha": 1.702, "beta": 1.0, "limit": 0.7}
    constants = {f"swiglu_{n}": torch.full((8,), values[n], device=device) for n in given}
    for number in (ActivationType.Swiglu, ActivationType.SwigluBias):
        check(run(inputs, activation_type=number, **constants), inputs, **constants)


def test_biases(device):
    inputs = problem(device)
    fc1, fc2 = random(inputs.w13, 8, 80), random(inputs.w2, 8, 72)
    out = run(inputs, fc1_expert_biases=fc1, fc2_expert_biases=fc2)
    check(out, inputs, w13_bias=fc1, w2_bias=fc2)


def test_tensor_parallel_devices_add_up(device):
    """Each has some of I; one of them adds the bias of the second GEMM."""
    whole = problem(device)
    fc1, fc2 = random(whole.w13, 8, 80), random(whole.w2, 8, 72)
    up, gate = whole.w13.chunk(2, dim=1)
    up_bias, gate_bias = fc1.chunk(2, dim=1)
    total = torch.zeros(whole.hidden_states.shape, device=device)
    for rank, mine in enumerate((slice(0, 16), slice(16, 40))):
        part = whole._replace(
            w13=torch.cat([up[:, mine], gate[:, mine]], dim=1),
            w2=whole.w2[:, :, mine].contiguous(),
        )
        total += run(
            part,
            fc1_expert_biases=torch.cat([up_bias[:, mine], gate_bias[:, mine]], dim=1),
            fc2_expert_biases=fc2,
            tp_size=2,
            tp_rank=rank,
        )
    expected = reference.fused_moe(*whole, w13_bias=fc1, w2_bias=fc2, gate_up_order="up_gate")
    roundings = testing.ROUNDINGS_FUSED_MOE + 2
    testing.assert_close(total.to(fc2.dtype), expected, roundings, "two devices")


@pytest.mark.parametrize("ids", [torch.int32, torch.int64], ids=str)
def test_expert_parallel_devices_add_up(ids, device):
    whole = problem(device, hazard="out_of_range")
    whole = whole._replace(topk_ids=whole.topk_ids.to(ids))
    fc2 = random(whole.w2, 8, 72)
    total = torch.zeros(whole.hidden_states.shape, device=device)
    for rank in range(4):
        mine = slice(2 * rank, 2 * rank + 2)
        part = whole._replace(w13=whole.w13[mine], w2=whole.w2[mine])
        total += run(part, fc2_expert_biases=fc2[mine], ep_size=4, ep_rank=rank)
    expected = reference.fused_moe(*whole, w2_bias=fc2, gate_up_order="up_gate")
    roundings = testing.ROUNDINGS_FUSED_MOE + 4
    testing.assert_close(total.to(fc2.dtype), expected, roundings, "four devices")


SENTENCES = {
    "quant_scales": ([torch.ones(1)], "None or empty for 16-bit weights, got 1 of them"),
    "input_sf": (torch.ones(1), "None, got Tensor"),
    "situ_beta": (torch.ones(8), "None, got Tensor"),
    "situ_linear_beta": (torch.ones(8), "None, got Tensor"),
    "cluster_size": (2, "1, got 2"),
    "cluster_rank": (1, "0, got 1"),
    "enable_alltoall": (True, "False, got True"),
    "use_deepseek_fp8_block_scale": (True, "False, got True"),
    "use_w4_group_scaling": (True, "False, got True"),
    "use_mxfp8_act_scaling": (True, "False, got True"),
    "min_latency_mode": (True, "False, got True"),
    "use_packed_weights": (True, "False, got True"),
    "use_wfp4afp8_humming": (True, "False, got True"),
    "enable_pdl": (True, "False, got True"),
    "tp_size": (0, "at least 1, got 0"),
    "tp_rank": (1, "between 0 and 0, got 1"),
    "ep_size": (-1, "at least 1, got -1"),
    "ep_rank": (-1, "between 0 and 0, got -1"),
    "profile_ids": ([0], "name a tactic for each of 2 GEMMs, got 1"),
    "gate_up_order": ("gate_first", '"gate_up" or "up_gate" or "interleaved", got .gate_first.'),
    "input": (torch.zeros(20, 64).bfloat16(), r"\[E, 2I, 64\], got \[8, 80, 72\]"),
}
NAMED_OTHERWISE = {"input": "fc1_expert_weights must have shape"}


@pytest.mark.parametrize("name", SENTENCES)
def test_what_is_refused(name):
    value, sentence = SENTENCES[name]
    start = NAMED_OTHERWISE.get(name, f"{name} must (be|name)").replace(" (be|name)", "")
    inputs = problem()
    output = torch.full_like(inputs.hidden_states, torch.nan)
    with pytest.raises(ValueError, match=f"^cutlass_fused_moe: {start} (be )?{sentence}"):
        run(inputs, output=output, **{name: value})
    assert output.isnan().all()


def test_hints_change_nothing():
    inputs = problem()
    hints = {
        "tune_max_num_tokens": 1,
        "enable_pdl": False,
        "swizzled_input_sf": False,
        "use_fused_finalize": False,
        "profile_ids": [-1, -1],
    }
    assert torch.equal(run(inputs, **hints), run(inputs))


def test_wrong_dtypes():
    inputs = problem()
    for name, value, sentence in (
        ("output_dtype", torch.float16, "output_dtype must be bfloat16 like input, got float16"),
        ("fc1_expert_weights", inputs.w13.char(), "fc1_expert_weights must be float16 or bfloat16"),
        ("fc2_expert_weights", inputs.w2.half(), "fc2_expert_weights must be bfloat16, got"),
        ("token_selected_experts", inputs.topk_weights, "token_selected_experts must be int32 or"),
        ("token_final_scales", inputs.topk_ids, "token_final_scales must be float32, got int32"),
        ("output", torch.empty(20, 72), "output must be bfloat16, got float32"),
    ):
        with pytest.raises(TypeError, match=f"^cutlass_fused_moe: {sentence}"):
            run(inputs, **{name: value})


def test_input_that_requires_grad():
    inputs = problem()
    inputs.w13.requires_grad_()
    sentence = "^cutlass_fused_moe: fc1_expert_weights must not require grad"
    with pytest.raises(RuntimeError, match=sentence):
        run(inputs)


class TestWorkspace:
    def test_a_buffer_stays_as_it_is(self, device):
        inputs = problem(device)
        buffer = torch.full((1 << 20,), 7, dtype=torch.uint8, device=device)
        assert torch.equal(run(inputs, workspace_buffer=buffer), run(inputs))
        assert (buffer == 7).all()

    @pytest.mark.parametrize(
        ("make", "sentence"),
        [
            (lambda: torch.zeros(4, 4).char(), r"one dimension of uint8 or int8, got \[4, 4\] of"),
            (lambda: torch.zeros(1 << 20), r"one dimension of uint8 or int8, got \[1048576\] of f"),
            (lambda: torch.zeros(64, device="meta").byte(), "on cpu like input, got meta"),
        ],
    )
    def test_buffer_that_is_none(self, make, sentence):
        with pytest.raises(
            ValueError, match=f"^cutlass_fused_moe: workspace_buffer must be {sentence}"
        ):
            run(problem(), workspace_buffer=make())

    @pytest.mark.gpu
    def test_size(self, cuda):
        inputs = problem(cuda)
        dtypes = {"x_dtype": torch.bfloat16, "weight_dtype": torch.bfloat16}
        num_bytes = cutlass_fused_moe_workspace_size(20, 72, 40, 8, 4, **dtypes)
        run(inputs, workspace_buffer=torch.zeros(num_bytes, dtype=torch.int8, device=cuda))
        with pytest.raises(ValueError, match=rf"at least {num_bytes} bytes, got {num_bytes - 1}$"):
            buffer = torch.zeros(num_bytes - 1, dtype=torch.int8, device=cuda)
            run(inputs, workspace_buffer=buffer)

    @pytest.mark.skipif(not tactic_table(), reason="this installation has no CUDA kernels")
    def test_size_is_that_of_one_device(self):
        dtypes = {"x_dtype": torch.float16, "weight_dtype": torch.float16}
        one = cutlass_fused_moe_workspace_size(
            100, 64, 32, 16, 2, **dtypes, output_dtype=torch.float16, ep_size=4, ep_rank=3
        )
        assert one == workspace_size(100, 4, 2, 64, 32)

    @pytest.mark.parametrize(
        ("change", "sentence"),
        [
            ({"ep_size": 3}, "num_experts_total must be a multiple of ep_size, 3, got 8"),
            ({"use_packed_weights": True}, "use_packed_weights must be False, got True"),
            ({"activation_type": 7}, "activation_type must be one of .*, got SwigluStep"),
        ],
    )
    def test_size_of_what_is_not_here(self, change, sentence):
        dtypes = {"x_dtype": torch.bfloat16, "weight_dtype": torch.bfloat16}
        with pytest.raises(ValueError, match=f"^cutlass_fused_moe_workspace_size: {sentence}"):
            cutlass_fused_moe_workspace_size(100, 64, 32, 8, 2, **dtypes, **change)


@pytest.mark.compile
class TestCompiled:
    @pytest.fixture(autouse=True)
    def fresh_compiler(self):
        torch._dynamo.reset()
        yield
        torch._dynamo.reset()

    def test_in_one_graph(self, device):
        """With everything that computes something around the operator."""

        def layer(output: torch.Tensor, scales: torch.Tensor | None, *inputs: torch.Tensor):
            x, w13, w2, _, ids = inputs
            return cutlass_fused_moe(
                x + 1,
                ids,
                scales,
                w13,
                w2,
                x.dtype,
                None,
                ep_size=2,
                ep_rank=1,
                output=output,
                activation_type=ActivationType.Geglu,
                workspace_buffer=torch.empty(1 << 20, dtype=torch.uint8, device=x.device),
            )[0]

        compiled = torch.compile(layer, fullgraph=True, dynamic=True)
        for num_tokens in (17, 3):
            inputs = problem(device, num_tokens, hazard="int64_ids")
            for scales in (None, inputs.topk_weights.double()):
                output = torch.full_like(inputs.hidden_states, torch.nan)
                out = compiled(output, scales, *inputs)
                torch.testing.assert_close(out, layer(torch.empty_like(output), scales, *inputs))
                assert torch.equal(out, output)


class TestRunner:
    def runner(self, dtype: torch.dtype = torch.bfloat16, **options: Any) -> FusedMoeRunner:
        return FusedMoeRunner(dtype, dtype, dtype, **options)

    def test_tactics_are_those_of_both_gemms(self):
        runner = self.runner()
        assert runner.get_tactic_num() == 2 * NUM_TACTICS
        assert runner.get_tactic_num(1) == runner.get_gemm1_tactic_count() == NUM_TACTICS
        assert runner.get_tactic_num(2) == runner.get_gemm2_tactic_count() == NUM_TACTICS
        with pytest.raises(ValueError, match=r"^FusedMoeRunner: gemm_idx must be 1 or 2"):
            runner.get_tactic_num(3)

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_run_moe(self, dtype, device):
        inputs = problem(device, dtype=dtype)
        x, w13, w2, weights, ids = inputs
        output = torch.full_like(x, torch.nan)
        result = self.runner(dtype).run_moe(output, x, ids, weights, w13, None, w2, None, [])
        assert result is output
        assert torch.equal(output, run(inputs))

    def test_run_moe_with_gates_first(self, device):
        inputs = problem(device)
        x, w13, w2, weights, ids = inputs
        runner = self.runner(gate_up_order="gate_up")
        out = runner.run_moe(torch.empty_like(x), x, ids, weights, w13, None, w2, None)
        check(out, inputs, gate_up_order="gate_up")

    @pytest.mark.gpu
    @pytest.mark.parametrize("tactic", range(NUM_TACTICS))
    def test_every_tactic(self, tactic, cuda):
        inputs = problem(cuda, 50)
        x, w13, w2, weights, ids = inputs
        for profile_ids in ([tactic, -1], [-1, NUM_TACTICS + tactic]):
            out = self.runner().run_moe(
                torch.empty_like(x), x, ids, weights, w13, None, w2, None, profile_ids=profile_ids
            )
            check(out, inputs)

    @pytest.mark.parametrize("profile_ids", [[0, 0], [-2, -1], [-1, 2 * NUM_TACTICS]], ids=str)
    def test_tactic_of_the_other_gemm(self, profile_ids):
        x, w13, w2, weights, ids = problem()
        with pytest.raises(ValueError, match=r"the tactic of GEMM [12] must be -1 or in \["):
            self.runner().run_moe(
                torch.empty_like(x), x, ids, weights, w13, None, w2, None, profile_ids=profile_ids
            )

    def profile(self, inputs: Inputs, runner: FusedMoeRunner, **options: Any) -> None:
        chosen = {"top_k": 4, "do_preparation": True, **options}
        biases = options.pop("fc1_expert_biases", None)
        chosen.pop("fc1_expert_biases", None)
        runner.run_gemm_profile(inputs.hidden_states, inputs.w13, biases, inputs.w2, None, **chosen)

    @pytest.mark.parametrize("gemm_idx", [1, 2])
    @pytest.mark.parametrize("ep_size", [1, 4])
    def test_profile_of_a_gemm(self, ep_size, gemm_idx, device):
        runner, inputs = self.runner(), problem(device)
        options = {"ep_size": ep_size, "gemm_idx": gemm_idx}
        self.profile(inputs, runner, **options)
        self.profile(inputs, runner, **options, do_preparation=False)

    @pytest.mark.parametrize("activation", [ActivationType.Relu2, ActivationType.GegluTanh])
    def test_profile_of_other_activations(self, activation, device):
        inputs = problem(device)
        if activation == ActivationType.Relu2:
            inputs = inputs._replace(w13=inputs.w13[:, :40])
        for biases in (None, random(inputs.w13, *inputs.w13.shape[:2])):
            for gemm_idx in (1, 2):
                self.profile(
                    inputs,
                    self.runner(),
                    gemm_idx=gemm_idx,
                    activation_type=activation,
                    fc1_expert_biases=biases,
                )

    @pytest.mark.gpu
    @pytest.mark.parametrize("gemm_idx", [1, 2])
    def test_profile_of_every_tactic(self, gemm_idx, cuda):
        runner, inputs = self.runner(), problem(cuda)
        self.profile(inputs, runner, gemm_idx=gemm_idx)
        for tactic in range(NUM_TACTICS):
            profile_id = (gemm_idx - 1) * NUM_TACTICS + tactic
            options = {"gemm_idx": gemm_idx, "profile_id": profile_id}
            self.profile(inputs, runner, **options, do_preparation=False)
        torch.cuda.synchronize()

    def test_profile_without_preparation(self):
        runner, inputs = self.runner(), problem()
        sentence = "^FusedMoeRunner.run_gemm_profile: do_preparation must be True for new sizes"
        with pytest.raises(ValueError, match=sentence):
            self.profile(inputs, runner, do_preparation=False)
        self.profile(inputs, runner, gemm_idx=1)
        with pytest.raises(ValueError, match=sentence):
            self.profile(inputs, runner, gemm_idx=2, do_preparation=False)

    @pytest.mark.parametrize(
        ("dtypes", "sentence"),
        [
            ((torch.int8,) * 3, "weight_dtype must be float16 or bfloat16, got int8"),
            ((torch.float16, torch.bfloat16, torch.bfloat16), "x_dtype must be bfloat16 like"),
            ((torch.float16, torch.float16, torch.float32), "output_dtype must be float16 like"),
        ],
        ids=str,
    )
    def test_wrong_dtypes(self, dtypes, sentence):
        with pytest.raises(TypeError, match=f"^FusedMoeRunner: {re.escape(sentence)}"):
            FusedMoeRunner(*dtypes)

    def test_what_is_refused(self):
        with pytest.raises(ValueError, match="use_w4_group_scaling must be False, got True"):
            self.runner(use_w4_group_scaling=True)
        with pytest.raises(ValueError, match="min_latency_mode must be False, got True"):
            self.profile(problem(), self.runner(), min_latency_mode=True)
