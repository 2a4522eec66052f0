"""topk_route against the routers of transformers: every row of the table in docs/routers.md."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import re
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from torch_sm80moe import testing, topk_route

transformers = pytest.importorskip("transformers")

DOCUMENT = Path(__file__).parents[2] / "docs" / "routers.md"
NUM_EXPERTS, TOP_K, HIDDEN_SIZE, NUM_TOKENS = 32, 4, 24, 64
# Routers moved into classes of one form over the releases; the document speaks of this one.
DOCUMENTED_TRANSFORMERS = (5, 23)
# Stands for the configuration of every model. Names differ, values do not.
CONFIG = SimpleNamespace(
    hidden_size=HIDDEN_SIZE,
    num_experts=NUM_EXPERTS,
    num_local_experts=NUM_EXPERTS,
    n_routed_experts=NUM_EXPERTS,
    moe_num_experts=NUM_EXPERTS,
    zero_expert_num=0,
    num_experts_per_tok=TOP_K,
    moe_topk=TOP_K,
    n_group=8,
    topk_group=3,
    topk_method="group_limited_greedy",
    routed_scaling_factor=2.5,
    route_scale=2.5,
    router_scaling_factor=2.5,
    moe_norm_min=1e-12,
    scoring_func="sqrtsoftplus",
    use_expert_bias=True,
)
CHOICES = {
    "renormalised": {"norm_topk_prob": True, "expert_selection_fn": "softmax"},
    "not-renormalised": {"norm_topk_prob": False, "expert_selection_fn": "sigmoid"},
}


def table() -> list[tuple[str, str]]:
    """Return each model of the document with its arguments, as they are written there."""
    _, _, text = DOCUMENT.read_text().partition("| models | arguments |\n|---|---|\n")
    models_and_arguments = []
    for row in takewhile(lambda line: line.startswith("|"), text.splitlines()):
        _, models, arguments, _ = row.split("|")
        for model in models.partition("(")[0].split(","):
            models_and_arguments.append((model.strip(), arguments.strip().strip("`")))
    return models_and_arguments


def module_of(model: str) -> ModuleType:
    return importlib.import_module(f"transformers.models.{model}.modeling_{model}")


@contextlib.contextmanager
def skipped_in_older_releases() -> Iterator[None]:
    """Skip what an older transformers does not have in this form; in newer ones it is an error."""
    try:
        yield
    except (ModuleNotFoundError, ValueError, AssertionError) as error:
        installed = tuple(int(part) for part in transformers.__version__.split(".")[:2])
        if installed >= DOCUMENTED_TRANSFORMERS:
            raise
        pytest.skip(f"transformers {transformers.__version__} has no such router ({error!r})")


def router_of(model: str, config: SimpleNamespace) -> nn.Module:
    """Make the router that the model's file defines, with random parameters and buffers."""
    module = module_of(model)
    (cls,) = (
        cls
        for name, cls in inspect.getmembers(module, inspect.isclass)
        if re.search(r"(TopKRouter|TopkRouter|TokenChoiceRouter|MoEV1Gate|Llama4Router)$", name)
        and cls.__module__ == module.__name__
    )
    router = cls(config)
    with torch.no_grad():
        for tensor in [*router.parameters(), *router.buffers()]:
            tensor.normal_(std=0.3)
    return router


def biases(router: nn.Module) -> tuple[torch.Tensor, tuple[Any, ...]]:
    """Return the correction bias, and the arguments of `forward` that it makes."""
    for name, buffer in [*router.named_buffers(), *router.named_parameters()]:
        if name.endswith("e_score_correction_bias"):
            return buffer.detach().float().flatten(), ()
    bias = 0.3 * torch.randn(NUM_EXPERTS)
    takes_bias = any("bias" in name for name in inspect.signature(router.forward).parameters)
    return bias, (bias,) if takes_bias else ()


def route_by_model(
    router: nn.Module, hidden_states: torch.Tensor, extra: tuple[Any, ...]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return logits, weights and ids."""
    results = router(hidden_states, *extra)
    if len(results) == 3:
        return results
    scores, logits = results  # of every expert: those not chosen have none
    weights, ids = scores.topk(TOP_K, dim=-1)
    return logits, weights, ids


@pytest.mark.parametrize("choices", CHOICES.values(), ids=CHOICES.keys())
@pytest.mark.parametrize(("model", "arguments"), table(), ids=[model for model, _ in table()])
@torch.no_grad()
def test_router(model, arguments, choices, device):
    config = SimpleNamespace(**vars(CONFIG), **choices)
    with skipped_in_older_releases():
        router = router_of(model, config)
        bias, extra = biases(router)
        shape = (1, NUM_TOKENS, HIDDEN_SIZE) if model == "afmoe" else (NUM_TOKENS, HIDDEN_SIZE)
        logits, weights, ids = route_by_model(router, torch.randn(shape), extra)
        assert logits.is_floating_point(), "the router must return logits first"

    ours = eval(f"dict({arguments})", {"c": config, "bias": bias.to(device)})
    our_weights, our_ids = topk_route(logits.to(device), TOP_K, **ours)

    # Routers may return their choice in any order.
    ids, order = ids.sort(dim=-1)
    our_ids, our_order = our_ids.cpu().sort(dim=-1)
    assert torch.equal(our_ids, ids.int())
    torch.testing.assert_close(
        our_weights.cpu().gather(-1, our_order),
        weights.gather(-1, order),
        **testing.ROUTER_TOLERANCE,
    )


def test_document_is_read():
    assert len(table()) > 30
