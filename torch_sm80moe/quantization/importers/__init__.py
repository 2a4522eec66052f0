"""Reads the layouts in which the community stores quantised weights, without loss.

A checkpoint's `quantization_config` chooses the reader. A reader turns the tensors of one linear
layer, by the last part of their names, into a `QuantizedWeight` of one expert; `join` makes the
stack of a layer from them. Reading never rounds: what `dequantize` returns is what the tensors say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch_sm80moe.quantization.importers import awq, compressed_tensors, fp8, gptq
from torch_sm80moe.quantization.importers.linear import Linear, Reader
from torch_sm80moe.quantization.importers.mxfp4 import read_mxfp4

__all__ = ["STACKED_METHODS", "Linear", "Reader", "read_mxfp4", "reader_for"]

# Here experts alone are quantised, and one tensor holds all of a layer: no reader is needed.
STACKED_METHODS = ("mxfp4",)

_READERS: dict[str, Callable[[Mapping[str, Any]], Reader]] = {
    "awq": awq.reader,
    "compressed-tensors": compressed_tensors.reader,
    "fp8": fp8.reader,
    "gptq": gptq.reader,
}


def reader_for(config: Mapping[str, Any]) -> Reader:
    """Return what reads the linear layers of a checkpoint with this `quantization_config`.

    Raises:
        ValueError: the method is another one, or one of its settings is.
    """
    method = str(config.get("quant_method"))
    if method not in _READERS:
        names = ", ".join(sorted((*_READERS, *STACKED_METHODS)))
        raise ValueError(f"import: quant_method must be one of {names}, got {method}")
    return _READERS[method](config)
