"""One small model of every family: the same logits as with its own experts, and what ran."""

from __future__ import annotations

import contextlib
import warnings
from collections import Counter
from collections.abc import Iterator
from unittest import mock

import pytest
import torch
from torch import nn

from torch_sm80moe import functional, testing

transformers = pytest.importorskip("transformers")

from tests.integrations import families, models_page  # noqa: E402
from torch_sm80moe.integrations import transformers as integration  # noqa: E402

# The last operator of each way through the layer.
OPERATORS = {"fused_moe": "fused_moe", "in parts": "combine"}
# How much farther from the logits in fp32 the model may be than with its own experts. The experts
# of openai_privacy_filter compute in fp32 within a model in bf16, and are exceeded by the most.
FARTHER = 1.25
# Experts must matter: without them the logits are this many times farther off than with them.
SHARE = 10


@contextlib.contextmanager
def same_routing(model: nn.Module) -> Iterator[dict[nn.Module, tuple[torch.Tensor, ...]]]:
    """Give experts the choices of their first call again: a near tie may break either way."""
    first: dict[nn.Module, tuple[torch.Tensor, ...]] = {}

    def replace(experts: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        hidden_states, *routing = inputs
        return (hidden_states, *first.setdefault(experts, tuple(routing)))

    hooks = [experts.register_forward_pre_hook(replace) for experts in families.experts_of(model)]
    yield first
    for hook in hooks:
        hook.remove()


@contextlib.contextmanager
def without_experts(model: nn.Module) -> Iterator[None]:
    hooks = [
        experts.register_forward_hook(lambda _, __, out: torch.zeros_like(out))
        for experts in families.experts_of(model)
    ]
    yield
    for hook in hooks:
        hook.remove()


@contextlib.contextmanager
def counted_calls() -> Iterator[Counter[str]]:
    """Count calls of the operators."""
    calls: Counter[str] = Counter()
    with contextlib.ExitStack() as stack:
        for way, operator in OPERATORS.items():
            spy = mock.Mock(wraps=getattr(functional, operator))
            stack.enter_context(mock.patch.object(functional, operator, spy))
            stack.callback(lambda way=way, spy=spy: calls.update({way: spy.call_count}))
        yield calls


def logits_of(model: nn.Module, prompt: torch.Tensor, experts: str) -> torch.Tensor:
    model.set_experts_implementation(experts)
    return model(input_ids=prompt, use_cache=False)[0].float()


def assert_same_logits(family: str, dtype: torch.dtype, device: torch.device) -> None:
    if family not in families.families_of_transformers():
        pytest.skip(f"transformers {transformers.__version__} has no such experts")
    model = families.random_model(family, dtype).to(device)
    prompt = torch.randint(3, families.VOCABULARY, (2, 19), device=device)

    with torch.no_grad(), same_routing(model) as called:
        theirs = logits_of(model, prompt, "eager")
        with counted_calls() as calls, warnings.catch_warnings():
            warnings.filterwarnings("error", message="sm80moe:")
            ours = logits_of(model, prompt, "sm80moe")
        with without_experts(model):
            nothing = logits_of(model, prompt, "sm80moe")
        (what_runs,) = set(integration.describe(model).values())
        exact = logits_of(model.float(), prompt, "eager")

    assert what_runs == families.WHAT_RUNS[family]
    assert calls == {way: len(called) * what_runs.startswith(way) for way in OPERATORS}
    errors = [testing.measure_error(logits, exact) for logits in (theirs, ours, nothing)]
    assert errors[1].relative < FARTHER * errors[0].relative, [str(error) for error in errors]
    assert errors[2].relative > SHARE * errors[0].relative, [str(error) for error in errors]


@pytest.mark.parametrize("family", sorted(families.WHAT_RUNS))
def test_family(family, device):
    assert_same_logits(family, torch.bfloat16, device)


@pytest.mark.parametrize("what_runs", families.FAMILIES)
def test_every_way_in_fp16(what_runs, device):
    assert_same_logits(next(iter(families.FAMILIES[what_runs])), torch.float16, device)


def test_every_family_is_here():
    installed = families.families_of_transformers()
    version = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    if version > models_page.TRANSFORMERS:
        pytest.skip(f"transformers {transformers.__version__} may have more families")
    assert installed <= families.WHAT_RUNS.keys()
    if version == models_page.TRANSFORMERS:
        assert installed == families.WHAT_RUNS.keys()


def test_document_is_up_to_date():
    assert models_page.table() in models_page.PAGE.read_text(), (
        "python -m tests.integrations.models_page"
    )
