"""`sm80moe accuracy`: what each scheme costs, on a model's own activations and on its text."""

from __future__ import annotations

import copy
import importlib
import inspect
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import track

from torch_sm80moe import reference, testing
from torch_sm80moe.demo import choose_device, find_model, load, silence_transformers
from torch_sm80moe.integrations.transformers import quantize_experts
from torch_sm80moe.integrations.transformers.quantized_experts import find_experts, fused_layer
from torch_sm80moe.quantization import state
from torch_sm80moe.quantization.module import QuantizedFusedExperts
from torch_sm80moe.quantization.scheme import QuantScheme
from torch_sm80moe.quantization.text import Windows, read_windows

# Of the running interpreter's library: text that no one has to ship.
_EVALUATION = ("argparse", "textwrap", "calendar", "csv", "configparser", "fractions")
_CALIBRATION = ("heapq", "statistics", "shlex", "string", "bisect", "colorsys")


class Call(NamedTuple):
    """What an experts module was called with, and what that is in fp32 with 16-bit weights."""

    arguments: tuple[torch.Tensor, ...]  # hidden states, ids, weights
    expected: torch.Tensor


class Row(NamedTuple):
    """What one scheme costs."""

    scheme: str
    bits_per_weight: float
    bits_per_byte: float
    errors: tuple[float, ...]  # of each layer's output, relative to fp32 with the weights as given


def run(
    model_path: Path | None,
    schemes: Sequence[str],
    method: str,
    num_windows: int,
    device_name: str | None,
    console: Console,
) -> str:
    """Measure a model in 16 bits and in every scheme; return a table in Markdown.

    Args:
        model_path: folder of a transformers checkpoint in 16 bits; None for that of a clone.
        schemes: by name.
        method: how scales of weights are chosen.
        num_windows: how many windows of 1024 tokens are evaluated.
        device_name: where the model runs: cpu or cuda; None for what there is.
        console: where progress is shown.
    """
    silence_transformers()
    device = choose_device(device_name)
    path = find_model(model_path)
    model = load(path, device)
    text = read_windows(_sources(_EVALUATION), path, model.config, num_windows)
    calibration = read_windows(_sources(_CALIBRATION), path, model.config, num_windows)
    windows = Windows(text.ids.to(device), text.num_bytes)
    with torch.no_grad():
        calls = record_calls(model, windows.ids[:1])
        rows = [measure(model, "bf16", 16.0, windows, calls)]
        for name in track(schemes, "schemes", console=console):
            quantized = copy.deepcopy(model)
            is_static = QuantScheme.parse(name).is_static
            batches = calibration.ids.to(device).split(1) if is_static else None
            quantize_experts(quantized, name, method=method, calibration=batches)
            rows.append(measure(quantized, name, bits_per_weight(quantized), windows, calls))
    return to_markdown(rows)


def _sources(modules: Sequence[str]) -> str:
    return "".join(inspect.getsource(importlib.import_module(name)) for name in modules)


def record_calls(model: Any, token_ids: torch.Tensor) -> list[Call]:
    """Run a model in 16 bits once; return the first call of each experts module, in order."""
    calls: list[Call] = []

    def keep(experts: Any, arguments: tuple[torch.Tensor, ...]) -> None:
        x, ids, weights = arguments
        layer = fused_layer(experts)
        options = layer.options(x.device)
        expected = reference.fused_moe(x, layer.w13, layer.w2, weights, ids, **options)
        calls.append(Call(arguments, expected))

    hooks = [module.register_forward_pre_hook(keep) for module in find_experts(model).values()]
    model(token_ids)
    for hook in hooks:
        hook.remove()
    return calls


def measure(model: Any, name: str, bits: float, windows: Windows, calls: Sequence[Call]) -> Row:
    """Return what a model's text and its layers cost."""
    errors = tuple(
        testing.measure_error(module(*call.arguments), call.expected).relative
        for module, call in zip(experts_of(model), calls, strict=True)
    )
    return Row(name, bits, bits_per_byte(model, windows), errors)


def experts_of(model: Any) -> list[Any]:
    """Return the modules of the experts, quantised or not, in order."""
    quantized = [m for m in model.modules() if isinstance(m, QuantizedFusedExperts)]
    return quantized or list(find_experts(model).values())


def bits_per_byte(model: Any, windows: Windows) -> float:
    """Return the average number of bits that a byte of the text takes."""
    nats = 0.0
    for window in windows.ids.split(1):
        logits = model(window).logits[0, :-1].float()
        nats += float(torch.nn.functional.cross_entropy(logits, window[0, 1:], reduction="sum"))
    return nats / math.log(2) / windows.num_bytes


def bits_per_weight(model: Any) -> float:
    """Return how many bits a weight of an expert takes, with what belongs to its scale."""
    bits, count = 0, 0
    for module in experts_of(model):
        experts = module.quantized()
        bits += sum(8 * t.nbytes for t in state.to_tensors(experts).values())
        count += experts.w13.values.numel() + experts.w2.values.numel()
    return bits / count


def to_markdown(rows: Sequence[Row]) -> str:
    """Return the table."""
    lines = [
        "| scheme | bits per weight | bits per byte | more than bf16 | error of a layer |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        more = row.bits_per_byte / rows[0].bits_per_byte - 1
        errors = f"{min(row.errors):.2%} to {max(row.errors):.2%}"
        lines.append(
            f"| {row.scheme} | {row.bits_per_weight:.2f} | {row.bits_per_byte:.4f} "
            f"| {more:+.2%} | {errors} |"
        )
    return "\n".join(lines) + "\n"
