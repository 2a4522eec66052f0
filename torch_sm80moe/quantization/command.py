"""`sm80moe quantize`: calibrates if the scheme asks for it, then converts a checkpoint."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

import torch
from rich.console import Console

from torch_sm80moe.quantization.calibration import Calibration
from torch_sm80moe.quantization.checkpoint import Checkpoint
from torch_sm80moe.quantization.convert import convert
from torch_sm80moe.quantization.scheme import QuantScheme
from torch_sm80moe.quantization.source import Inputs


def quantize(options: argparse.Namespace, console: Console) -> None:
    """Convert a checkpoint.

    Raises:
        OSError: a file cannot be read or written.
        ValueError: the checkpoint cannot be used, or the options do not suit it.
    """
    scheme = None if options.scheme is None else QuantScheme.parse(options.scheme)
    inputs: Mapping[str, Inputs] = {}
    if scheme is not None and scheme.needs_calibration(options.calibration):
        inputs = _calibrate(options, console)
    convert(
        options.model,
        options.out,
        scheme,
        method=options.method,
        inputs=inputs,
        device=options.device or ("cuda" if torch.cuda.is_available() else "cpu"),
        console=console,
    )
    console.print(f"{options.out} is complete")


def _calibrate(options: argparse.Namespace, console: Console) -> Mapping[str, Inputs]:
    """Run the whole model, in 16 bits, on the text."""
    from torch_sm80moe.demo import choose_device, load, silence_transformers
    from torch_sm80moe.integrations.transformers.quantization import calibrate_experts
    from torch_sm80moe.quantization.text import read_windows

    layers = Checkpoint(options.model).expert_layers()
    silence_transformers()
    model = load(options.model, choose_device(options.device))
    text = options.calibration.read_text()
    windows = read_windows(text, options.model, model.config, options.windows)
    batches: list[torch.Tensor] = list(windows.ids.to(model.device).split(1))
    settings = Calibration(options.range, options.percentile, not options.zero_points)
    found = calibrate_experts(model, batches, settings, console=console)
    # Modules may be called otherwise than in the checkpoint, but are in the same order.
    return dict(zip((layer.name for layer in layers), found.values(), strict=True))
