"""Transposed weights are packed once, and nobody who holds the model's tensors is surprised."""

from __future__ import annotations

import copy
from unittest import mock

import pytest
import torch
from torch import nn

from torch_sm80moe import functional, testing

transformers = pytest.importorskip("transformers")

from tests.integrations import families  # noqa: E402
from torch_sm80moe.integrations import transformers as integration  # noqa: E402
from torch_sm80moe.integrations.transformers import layouts  # noqa: E402

LAYOUTS = ["gpt_oss", "inkling2", "muse_spark", "nemotron_h"]  # one of each way through the layer


@pytest.fixture
def model(device) -> nn.Module:
    return families.random_model("gpt_oss").to(device).requires_grad_(False)


@pytest.fixture
def prompt(device) -> torch.Tensor:
    return torch.randint(3, families.VOCABULARY, (2, 19), device=device)


def logits_of(model: nn.Module, prompt: torch.Tensor, experts: str = "sm80moe") -> torch.Tensor:
    model.set_experts_implementation(experts)
    return model(input_ids=prompt, use_cache=False).logits


def weights_of(model: nn.Module) -> list[torch.Tensor]:
    return [w for experts in families.experts_of(model) for w in layouts.weights_of(experts)]


def pointers(model: nn.Module) -> list[int]:
    return [weight.data_ptr() for weight in weights_of(model)]


def values_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same_values(state: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert state.keys() == expected.keys()
    for name, tensor in state.items():
        assert torch.equal(tensor, expected[name]), name


def test_weights_keep_shape_and_values(model, prompt):
    expected, held = values_of(model), model.state_dict()
    logits_of(model, prompt)
    assert all(weight.stride(1) == 1 for weight in weights_of(model))
    assert_same_values(model.state_dict(), expected)
    assert_same_values(held, expected)  # taken before, over the same memory


def test_fused_moe_reads_the_weights_where_they_are(model, prompt):
    with mock.patch.object(functional, "fused_moe", wraps=functional.fused_moe) as spy:
        logits_of(model, prompt)
    read = [tensor.data_ptr() for call in spy.call_args_list for tensor in call.args[1:3]]
    assert read == pointers(model)


def test_weights_are_packed_once(model, prompt):
    integration.use_sm80moe(model)
    packed = pointers(model)
    with mock.patch.object(layouts, "pack") as spy:
        logits_of(model, prompt)
        logits_of(model, prompt, "eager")
        logits_of(model, prompt)
    spy.assert_not_called()
    assert pointers(model) == packed


@pytest.mark.parametrize("experts", ["eager", "grouped_mm", "batched_mm"])
def test_other_implementations_read_packed_weights(experts, model, prompt):
    expected = logits_of(model, prompt, experts)
    integration.use_sm80moe(model)
    error = testing.measure_error(logits_of(model, prompt, experts), expected)
    assert error.relative < 1e-2  # torch may add up another way for other strides


def test_saved_model_is_the_same(model, prompt, tmp_path):
    expected, logits = values_of(model), logits_of(model, prompt)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(
        tmp_path, dtype=torch.bfloat16, experts_implementation="sm80moe"
    )
    assert_same_values(loaded.to(prompt.device).state_dict(), expected)
    assert torch.equal(logits_of(loaded.requires_grad_(False), prompt), logits)


def cast_and_back(model: nn.Module) -> nn.Module:
    for experts in families.experts_of(model):
        experts.float().bfloat16()
    return model


def loaded_in_usual_order(model: nn.Module) -> nn.Module:
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    model.load_state_dict(state, assign=True)
    assert not any(layouts.are_packed(experts) for experts in families.experts_of(model))
    return model


@pytest.mark.parametrize("change", [cast_and_back, copy.deepcopy, loaded_in_usual_order])
def test_changes_after_the_first_call(change, model, prompt):
    logits = logits_of(model, prompt)
    changed = change(model)
    assert torch.equal(logits_of(changed, prompt), logits)
    assert all(weight.stride(1) == 1 for weight in weights_of(changed))


@pytest.mark.gpu
def test_packed_weights_stay_packed_on_their_way_to_the_gpu(cuda, prompt):
    model = integration.use_sm80moe(families.random_model("gpt_oss").requires_grad_(False))
    model.to(cuda)
    packed = pointers(model)
    logits_of(model, prompt.to(cuda))
    assert pointers(model) == packed


def test_loaded_values_are_used(model, prompt):
    other = families.random_model("gpt_oss").to(prompt.device).requires_grad_(False)
    logits_of(model, prompt)
    model.load_state_dict(other.state_dict())
    assert torch.equal(logits_of(model, prompt), logits_of(other, prompt))


def test_first_call_in_inference_mode(model, prompt):
    with torch.inference_mode():
        expected = logits_of(model, prompt)
    assert torch.equal(logits_of(model, prompt), expected)
    assert not any(weight.is_inference() for weight in weights_of(model))


def experts_of(family: str, device: torch.device) -> tuple[nn.Module, torch.Tensor]:
    """Return experts of a model, and activations for them."""
    if family not in families.families_of_transformers():
        pytest.skip(f"transformers {transformers.__version__} has no such experts")
    model = families.random_model(family).to(device).requires_grad_(False)
    experts = families.experts_of(integration.use_sm80moe(model))[0]
    hidden_size = layouts.rows_of(experts)[0].size(2)
    return experts, torch.randn(5, hidden_size, device=device).bfloat16()


@pytest.mark.parametrize("family", LAYOUTS)
def test_ids_of_other_devices_contribute_nothing(family, device):
    """Expert parallelism marks experts that live elsewhere by ids that are not below E."""
    experts, x = experts_of(family, device)
    experts._is_expert_parallel = True
    ids = torch.tensor([[0, 8]], device=device).expand(5, 2)
    weights = torch.tensor([[0.5, 0.0]], device=device).expand(5, 2)
    out = experts(x, ids, weights)
    assert torch.equal(out, experts(x, ids[:, :1], weights[:, :1]))
    assert not experts(x, torch.full_like(ids, 8), weights).any()


@pytest.mark.compile
@pytest.mark.parametrize("family", LAYOUTS)
def test_prepared_experts_compile_without_graph_breaks(family, device):
    torch._dynamo.reset()
    experts, x = experts_of(family, device)
    ids = torch.randint(0, 8, (5, 2), device=device)
    weights = torch.rand(5, 2, device=device)
    expected = experts(x, ids, weights)
    compiled = torch.compile(experts, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x, ids, weights), expected)


@pytest.mark.compile
@pytest.mark.parametrize("strict", [False, True], ids=["traced", "strict"])
def test_export(strict, device):
    experts, x = experts_of("gpt_oss", device)
    call = (x, torch.randint(0, 8, (5, 2), device=device), torch.rand(5, 2, device=device))
    expected = experts(*call)
    program = torch.export.export(experts, call, strict=strict)
    assert torch.equal(program.module()(*call), expected)

    changed = copy.deepcopy(experts)
    changed.limit = 5.0
    with pytest.raises(Exception, match=r"use_sm80moe\(model\)"):
        torch.export.export(changed, call, strict=strict)


@pytest.mark.compile
def test_compiling_before_the_first_call(model, prompt):
    torch._dynamo.reset()
    model.set_experts_implementation("sm80moe")
    experts = families.experts_of(model)[0]
    x = torch.randn(5, 64, device=prompt.device).bfloat16()
    call = (x, torch.tensor([[0, 1]], device=x.device).expand(5, 2), torch.ones(5, 2).to(x.device))
    strict = torch.compile(experts, fullgraph=True, backend="aot_eager")
    with pytest.raises(Exception, match=r"use_sm80moe\(model\)"):
        strict(*call)
    torch._dynamo.reset()
    out = torch.compile(experts, backend="aot_eager")(*call)
    assert layouts.are_packed(experts)
    assert torch.equal(out, experts(*call))
    torch._dynamo.reset()
    assert torch.equal(strict(*call), out)
