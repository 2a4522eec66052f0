"""Hugging Face models: the same logits and text as with their own experts, or a warning."""

from __future__ import annotations

import argparse
import inspect
import warnings
from collections.abc import Iterator
from unittest import mock

import pytest
import torch

from torch_sm80moe import functional, testing

transformers = pytest.importorskip("transformers")

from transformers import AutoModelForCausalLM  # noqa: E402

from torch_sm80moe.integrations import transformers as integration  # noqa: E402

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
GPT_OSS = {**SIZES, "intermediate_size": 64, "num_local_experts": 4, "head_dim": 16}

# transformers' eager experts round each product with the router's weight, and their sum, to the
# dtype; bf16 models differ by a few of its roundings a layer.
LOGITS_TOLERANCE = 2e-2


@pytest.fixture(autouse=True)
def fresh_state() -> Iterator[None]:
    torch._dynamo.reset()
    integration._warned.clear()
    yield
    torch._dynamo.reset()


def random_model(name: str, dtype: torch.dtype = torch.bfloat16, **changes):
    config = transformers.AutoConfig.for_model(name, **{**CONFIGS.get(name, GPT_OSS), **changes})
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


def without_silu(model) -> None:
    for layer in model.model.layers:
        layer.mlp.experts.act_fn = torch.nn.GELU()


def with_own_gate(model) -> None:
    experts = type(model.model.layers[0].mlp.experts)

    class WithOwnGate(experts):
        def _apply_gate(self, gate_up: torch.Tensor) -> torch.Tensor:
            gate, up = gate_up.chunk(2, dim=-1)
            return self.act_fn(gate) * (up + 1)

    for layer in model.model.layers:
        layer.mlp.experts.__class__ = WithOwnGate


def with_flag(name: str, value: bool):
    def change(model) -> None:
        for layer in model.model.layers:
            setattr(layer.mlp.experts, name, value)

    return change


FALLBACKS = {
    "gpt_oss": (lambda: random_model("gpt_oss"), "the experts have biases"),
    "fp32": (
        lambda: random_model("qwen3_moe", torch.float32),
        "activations and weights are not all float16 or all bfloat16 but float32",
    ),
    "odd sizes": (
        lambda: random_model("qwen3_moe", moe_intermediate_size=36),
        "the sizes 64 and 36 are not both multiples of 8",
    ),
    "gelu": (
        lambda: changed(random_model("qwen3_moe"), without_silu),
        "the activation is GELU, not SiLU",
    ),
    "own gate": (
        lambda: changed(random_model("qwen3_moe"), with_own_gate),
        "the module has a gate function of its own",
    ),
}


def changed(model, change):
    change(model)
    return model


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


@pytest.mark.parametrize(
    ("flag", "value", "reason"),
    [
        ("has_gate", False, "the experts have no gate"),
        ("is_transposed", True, "the weights are transposed"),
        ("is_concatenated", False, "gate and up are interleaved"),
        ("has_post_expert_norm", True, "a norm follows the experts"),
    ],
)
def test_every_flag_of_a_layout_is_recognised(flag, value, reason):
    model = changed(random_model("qwen3_moe"), with_flag(flag, value))
    experts = model.model.layers[0].mlp.experts
    assert integration.unsupported_reason(experts, torch.empty(1, 64).bfloat16()) == reason


def test_ids_of_other_devices_contribute_nothing(device):
    """Expert parallelism marks experts that live elsewhere by ids that are not below E."""
    experts = random_model("qwen3_moe").to(device).model.layers[0].mlp.experts
    x = torch.randn(5, 64, device=device).bfloat16()
    ids = torch.tensor([[0, 8]], device=device).expand(5, 2)
    weights = torch.tensor([[0.5, 0.0]], device=device).expand(5, 2)
    with torch.no_grad():
        out = integration.experts_forward(experts, x, ids, weights)
        alone = integration.experts_forward(experts, x, ids[:, :1], weights[:, :1])
    assert torch.equal(out, alone)


def test_gradients_are_refused(device):
    model, prompt = random_model("qwen3_moe").to(device), random_prompt(device)
    model.set_experts_implementation("sm80moe")
    with pytest.raises(RuntimeError, match="fused_moe: hidden_states must not require grad"):
        model(prompt)
    model.requires_grad_(False)
    model(prompt)
