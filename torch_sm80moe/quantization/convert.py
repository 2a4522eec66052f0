"""Checkpoint to checkpoint: the experts of a transformers model, quantised or imported.

A layer at a time, each into a file of its own: a run that was interrupted goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from rich.console import Console
from rich.progress import track

from torch_sm80moe.quantization import state
from torch_sm80moe.quantization.checkpoint import Checkpoint, CheckpointError, ExpertLayer
from torch_sm80moe.quantization.output import OutputFolder
from torch_sm80moe.quantization.scheme import QuantScheme
from torch_sm80moe.quantization.source import Inputs, Source

QUANT_METHOD = "sm80moe"
VERSION = 1

_Step = TypeVar("_Step")


def convert(
    source: str | Path,
    target: str | Path,
    scheme: QuantScheme | None = None,
    *,
    method: str = "mse",
    inputs: Mapping[str, Inputs] | None = None,
    device: torch.device | str = "cpu",
    console: Console | None = None,
) -> None:
    """Write a checkpoint whose experts are quantised and whose other weights are 16-bit.

    It holds one layer of experts in memory, and writes nothing in `source`.

    Args:
        source: folder of a transformers checkpoint, 16-bit or in a layout that `importers` reads.
        target: folder to write to; empty, not there, or left by the same call when it was
            interrupted.
        scheme: what the experts become; None keeps the numbers of a quantised checkpoint.
        method: how `quantize` chooses scales.
        inputs: for static schemes, the inputs of w13 and w2 by the name of the experts' module.
        device: where weights are quantised.
        console: where to show progress; None for silence.

    Raises:
        CheckpointError: the source cannot be used, or the target holds something else.
        ValueError: the scheme does not suit the weights, or inputs are missing.
    """
    checkpoint = Checkpoint(source)
    layers = checkpoint.expert_layers()
    weights = Source(checkpoint)
    if scheme is None and checkpoint.quantization_config is None:
        raise CheckpointError(f"{source}: must be quantised if no scheme is given, got 16 bits")
    inputs = inputs or {}
    found = scheme or weights.imported_scheme(layers[0])
    if scheme is not None and scheme.activation == "int8_static":
        _require_inputs(layers, inputs)
    request = {
        "source": {name: (checkpoint.folder / name).stat().st_size for name in checkpoint.files},
        "scheme": str(scheme),
        "method": method,
        "inputs": {name: list(map(asdict, pair)) for name, pair in inputs.items()},
    }

    def experts_of(layer: ExpertLayer) -> dict[str, torch.Tensor]:
        if scheme is None:
            experts = weights.imported(layer)
        else:
            experts = weights.quantized(
                layer,
                scheme,
                method=method,
                inputs=inputs.get(layer.name),
                device=torch.device(device),
            )
        if experts.scheme != found:
            raise CheckpointError(
                f"{layer.name}: must be {found} like others, got {experts.scheme}"
            )
        tensors = {**state.to_tensors(experts), **weights.biases(layer)}
        return {f"{layer.name}.{part}": tensor for part, tensor in tensors.items()}

    output = OutputFolder(Path(target), request)
    for layer in _show(layers, "experts", console):
        output.write(f"{layer.name}.safetensors", partial(experts_of, layer))
    for name in _show(checkpoint.files, "other weights", console):
        output.write(f"other-{name}", partial(weights.others, name))
    settings = {"quant_method": QUANT_METHOD, "version": VERSION, "scheme": str(found)}
    output.finish({**checkpoint.config, "quantization_config": settings}, checkpoint.folder)


def _require_inputs(layers: Iterable[ExpertLayer], inputs: Mapping[str, Inputs]) -> None:
    for layer in layers:
        if layer.name not in inputs:
            raise ValueError(f"convert: inputs must be calibrated for {layer.name}, got none")


def _show(steps: Iterable[_Step], name: str, console: Console | None) -> Iterable[_Step]:
    return steps if console is None else track(list(steps), name, console=console)
