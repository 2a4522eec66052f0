"""Hugging Face models: the same logits and text as with their own experts, or a warning."""

from __future__ import annotations

import argparse
import inspect
import warnings
from collections.abc import Iterator
from types import SimpleNamespace
from unittest import mock

import pytest
import torch

from torch_sm80moe import functional, testing

transformers = pytest.importorskip("transformers")

from torch.testing._internal.two_tensor import TwoTensor  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402
from transformers.integrations.finegrained_fp8 import (  # noqa: E402
    ALL_FP8_EXPERTS_FUNCTIONS,
    FP8Experts,
)
from transformers.integrations.moe import use_experts_implementation  # noqa: E402

from torch_sm80moe.integrations.transformers import experts as experts_file  # noqa: E402
from torch_sm80moe.integrations.transformers.limits import unsupported_reason  # noqa: E402

SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "num_experts_per_tok": 2,
}
CONFIGS = {
    "qwen3_moe": {
        **SIZES,
        "moe_intermediate_size": 40,
        "num_experts": 8,
        "head_dim": 16,
        "norm_topk_prob": True,
    },
    "mixtral": {**SIZES, "intermediate_size": 72, "num_local_experts": 4},
    "olmoe": {**SIZES, "intermediate_size": 48, "num_experts": 8},
}

# transformers' eager experts round each product with the router's weight, and their sum, to the
# dtype; bf16 models differ by a few of its roundings a layer.
LOGITS_TOLERANCE = 2e-2


@pytest.fixture(autouse=True)
def fresh_state() -> Iterator[None]:
    torch._dynamo.reset()
    experts_file._warned.clear()
    yield
    torch._dynamo.reset()


def random_model(name: str, dtype: torch.dtype = torch.bfloat16, **changes):
    config = transformers.AutoConfig.for_model(name, **{**CONFIGS[name], **changes})
    return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def trained_model(path):
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).eval()


def random_prompt(device) -> torch.Tensor:
    return torch.randint(0, 128, (2, 19), device=device)


def source_prompt(device) -> torch.Tensor:
    """Text like the text that the trained model was trained on."""
    text = inspect.getsource(argparse)[2000:2200]
    return torch.tensor([list(text.encode())], device=device)


@torch.no_grad()
def logits_of(model, prompt, experts: str, compiled: bool = False) -> torch.Tensor:
    model.set_experts_implementation(experts)
    if compiled:
        model(prompt)  # transformers installs its hooks in the first call
        model = torch.compile(model, fullgraph=True)
    return model(prompt).logits.float()


def assert_same_logits(model, prompt, compiled: bool) -> None:
    """Compare with eager experts, and make sure that fused_moe was what ran."""
    expected = logits_of(model, prompt, "eager")
    with mock.patch.object(functional, "fused_moe", wraps=functional.fused_moe) as spy:
        out = logits_of(model, prompt, "sm80moe")
    assert spy.call_count == model.config.num_hidden_layers
    assert testing.measure_error(out, expected).relative < LOGITS_TOLERANCE
    if compiled:
        out = logits_of(model, prompt, "sm80moe", compiled=True)
        assert testing.measure_error(out, expected).relative < LOGITS_TOLERANCE


@pytest.mark.parametrize(
    "compiled", [False, pytest.param(True, marks=pytest.mark.compile)], ids=["eager", "compiled"]
)
@pytest.mark.parametrize("name", CONFIGS)
def test_logits(name, compiled, device):
    assert_same_logits(random_model(name).to(device), random_prompt(device), compiled)


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_in_fp16(name, device):
    assert_same_logits(random_model(name, torch.float16).to(device), random_prompt(device), False)


@pytest.mark.parametrize(
    "compiled", [False, pytest.param(True, marks=pytest.mark.compile)], ids=["eager", "compiled"]
)
def test_logits_of_a_trained_model(compiled, device, tiny_moe):
    assert_same_logits(trained_model(tiny_moe).to(device), source_prompt(device), compiled)


def test_trained_model_is_as_near_to_fp32_as_its_own_experts(device, tiny_moe):
    model, prompt = trained_model(tiny_moe).to(device), source_prompt(device)
    errors = {}
    exact = logits_of(trained_model(tiny_moe).to(device).float(), prompt, "eager")
    for experts in ("eager", "sm80moe"):
        errors[experts] = testing.measure_error(logits_of(model, prompt, experts), exact).relative
    assert errors["sm80moe"] < 1.2 * errors["eager"]


@torch.no_grad()
def text_of(model, prompt, experts: str) -> list[int]:
    model.set_experts_implementation(experts)
    return model.generate(prompt, max_new_tokens=60, do_sample=False)[0].tolist()


def test_generated_text_is_the_same(device, tiny_moe):
    model, prompt = trained_model(tiny_moe).to(device), source_prompt(device)
    assert text_of(model, prompt, "sm80moe") == text_of(model, prompt, "eager")


@pytest.mark.compile
def test_compiled_model_generates_the_same_text(device, tiny_moe):
    model, prompt = trained_model(tiny_moe).to(device), source_prompt(device)
    expected = text_of(model, prompt, "eager")
    model.set_experts_implementation("sm80moe")
    model.forward = torch.compile(model.forward, fullgraph=True)
    ids = model.generate(
        prompt,
        max_new_tokens=60,
        do_sample=False,
        cache_implementation="static",
        disable_compile=True,
    )
    assert ids[0].tolist() == expected


def test_implementation_is_chosen_while_loading(tiny_moe):
    model = AutoModelForCausalLM.from_pretrained(
        tiny_moe, dtype=torch.bfloat16, experts_implementation="sm80moe"
    )
    assert model.config._experts_implementation == "sm80moe"


FALLBACKS = {
    "fp32": (
        lambda: random_model("qwen3_moe", torch.float32),
        "its tensors are not all float16 or all bfloat16 but float32",
    ),
    "odd sizes": (
        lambda: random_model("qwen3_moe", moe_intermediate_size=36),
        "the sizes 64 and 36 are not both multiples of 8",
    ),
}


@pytest.mark.parametrize(("make", "reason"), FALLBACKS.values(), ids=FALLBACKS.keys())
def test_unsupported_experts_warn_once_and_run_their_own_code(make, reason, device):
    model, prompt = make().to(device), random_prompt(device)
    expected = logits_of(model, prompt, "eager")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        out = logits_of(model, prompt, "sm80moe")
        logits_of(model, prompt, "sm80moe")
    texts = [str(w.message) for w in caught if str(w.message).startswith("sm80moe:")]
    assert len(texts) == 1
    assert reason in texts[0]
    assert torch.equal(out, expected)


def experts_of_a_model() -> torch.nn.Module:
    return random_model("qwen3_moe").model.layers[0].mlp.experts


def in_fp32(experts, name: str) -> None:
    getattr(experts, name).data = getattr(experts, name).data.float()


def of_a_class_of_its_own(experts) -> None:
    weight = experts.down_proj.detach()
    experts.down_proj = torch.nn.Parameter(TwoTensor(weight, weight))


def with_biases(experts, dtype: torch.dtype) -> None:
    experts.has_bias = True
    experts.gate_up_proj_bias = torch.nn.Parameter(torch.zeros(8, 80, dtype=dtype))
    experts.down_proj_bias = torch.nn.Parameter(torch.zeros(8, 64, dtype=dtype))


REASONS = {
    "one weight in fp32": (
        lambda experts: in_fp32(experts, "down_proj"),
        "its tensors are not all float16 or all bfloat16 but bfloat16, float32",
    ),
    "biases in fp32": (
        lambda experts: with_biases(experts, torch.float32),
        "its tensors are not all float16 or all bfloat16 but bfloat16, float32",
    ),
    "biases": (lambda experts: with_biases(experts, torch.bfloat16), None),
    "tensor class": (of_a_class_of_its_own, "its tensors are of the class TwoTensor"),
    "other experts": (
        lambda experts: setattr(experts, "num_experts", 4),
        "there are 4 experts, but weights of 8",
    ),
}


@pytest.mark.parametrize(("change", "reason"), REASONS.values(), ids=REASONS.keys())
def test_reasons(change, reason):
    experts = experts_of_a_model()
    hidden_states = torch.empty(1, 64).bfloat16()
    assert unsupported_reason(experts, hidden_states) is None
    change(experts)
    assert unsupported_reason(experts, hidden_states) == reason


def test_activations_of_another_dtype_are_a_reason():
    """As autocast makes them."""
    assert "but bfloat16, float32" in unsupported_reason(experts_of_a_model(), torch.empty(1, 64))


def test_experts_in_fp8_run_their_own_code():
    config = SimpleNamespace(
        hidden_size=128,
        moe_intermediate_size=128,
        num_experts=4,
        hidden_act="silu",
        _experts_implementation="sm80moe",
    )
    decorated = use_experts_implementation(
        type("Experts", (FP8Experts,), {"forward": lambda experts, *inputs: inputs[0]}),
        experts_interface=ALL_FP8_EXPERTS_FUNCTIONS,
    )
    x = torch.randn(3, 128).bfloat16()
    with pytest.warns(UserWarning, match="float8_e4m3fn"):
        out = decorated(config, block_size=(128, 128))(x, torch.zeros(3, 2), torch.ones(3, 2))
    assert out is x


def test_gradients_are_refused(device):
    model, prompt = random_model("qwen3_moe").to(device), random_prompt(device)
    model.set_experts_implementation("sm80moe")
    with pytest.raises(RuntimeError, match="fused_moe: hidden_states must not require grad"):
        model(prompt)
    model.requires_grad_(False)
    model(prompt)
