"""Quantises the experts of Hugging Face models in place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import nn

from torch_sm80moe.integrations.transformers.quantized_experts import (
    QuantizedModelExperts,
    find_experts,
    fused_layer,
    require_layer,
)
from torch_sm80moe.integrations.transformers.quantizer import mark_as_quantized
from torch_sm80moe.quantization.calibration import Calibration, LayerActivations
from torch_sm80moe.quantization.quantizers import quantize_experts as quantize_layer
from torch_sm80moe.quantization.scheme import QuantScheme
from torch_sm80moe.quantization.source import Inputs


def quantize_experts(
    model: Any,
    scheme: QuantScheme | str,
    *,
    method: str = "mse",
    calibration: Iterable[Any] | None = None,
    settings: Calibration | None = None,
    console: Console | None = None,
) -> Any:
    """Quantise the experts of a transformers model in place, layer by layer.

    Beside the model, one layer of quantised experts and float32 copies of one expert are in
    memory.

    Args:
        model: whose experts are what `fused_moe` runs, in 16 bits: gated or not, with or without
            biases, transposed or not.
        scheme: what they become, or its name.
        method: how scales of weights are chosen: "absmax" or "mse".
        calibration: for static schemes batches to run the model on: token ids `[B, T]`, or
            mappings of the model's arguments. None for all other schemes.
        settings: how ranges of activations are chosen; by least squared error if None.
        console: where to show progress; None for silence.

    Returns:
        The model.

    Raises:
        ValueError: the model has no experts, or others; the scheme does not suit them; or there
            are batches and no static scheme, or the reverse.

    Example:
        >>> quantize_experts(model, "w4a16-g128")  # doctest: +SKIP
    """
    scheme = QuantScheme.parse(scheme) if isinstance(scheme, str) else scheme
    layers = find_experts(model)
    for name, experts in layers.items():
        require_layer(name, experts)
    inputs: Mapping[str, Inputs] = {}
    if scheme.needs_calibration(calibration):
        inputs = calibrate_experts(model, calibration or (), settings, console=console)
    for name in _show(list(layers), f"quantise to {scheme}", console):
        layer = fused_layer(layers.pop(name))
        quantized = quantize_layer(
            layer.w13, layer.w2, scheme, method=method, inputs=inputs.get(name)
        )
        options = layer.options(layer.w2.device)
        model.set_submodule(name, QuantizedModelExperts.from_experts(quantized, **options))
    return mark_as_quantized(model, scheme)


@torch.no_grad()
def calibrate_experts(
    model: Any,
    batches: Iterable[Any],
    settings: Calibration | None = None,
    *,
    console: Console | None = None,
) -> dict[str, Inputs]:
    """Run a model on batches; return how each layer of experts stores its activations.

    Args:
        model: with experts in 16 bits.
        batches: token ids `[B, T]`, or mappings of the model's arguments.
        settings: how ranges are chosen; by least squared error if None.
        console: where to show progress; None for silence.

    Returns:
        The inputs of w13 and w2, by the name of the experts' module.

    Raises:
        ValueError: there are no batches, or an activation is NaN or infinite.
    """
    seen = {name: LayerActivations() for name in find_experts(model)}
    hooks = [
        model.get_submodule(name).register_forward_pre_hook(_Counter(layer))
        for name, layer in seen.items()
    ]
    try:
        for batch in _show(batches, "calibrate", console):
            if isinstance(batch, Mapping):
                model(**batch)
            else:
                model(batch)
    finally:
        for hook in hooks:
            hook.remove()
    chosen = settings or Calibration()
    return {name: layer.choose(chosen) for name, layer in seen.items()}


class _Counter:
    """Counts what an experts module multiplies, before each of its calls."""

    def __init__(self, seen: LayerActivations) -> None:
        self._seen = seen

    def __call__(self, experts: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        hidden_states, topk_ids, topk_weights = arguments
        layer = fused_layer(experts)
        options = layer.options(layer.w2.device)
        self._seen.add(hidden_states, layer.w13, topk_weights, topk_ids, **options)


def _show(steps: Iterable[Any], what: str, console: Console | None) -> Iterator[Any]:
    return iter(steps) if console is None else iter(track(steps, what, console=console))
