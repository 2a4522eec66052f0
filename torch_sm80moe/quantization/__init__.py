"""Quantised weights: what they are, how they are made, where they come from."""

from torch_sm80moe.quantization.calibration import Calibration
from torch_sm80moe.quantization.experts import QuantizedExperts, StaticActivation
from torch_sm80moe.quantization.packing import PackedWeight, pack, unpack
from torch_sm80moe.quantization.quantizers import quantize
from torch_sm80moe.quantization.scheme import SCHEMES, QuantScheme
from torch_sm80moe.quantization.weights import QuantizedWeight

__all__ = [
    "SCHEMES",
    "Calibration",
    "PackedWeight",
    "QuantScheme",
    "QuantizedExperts",
    "QuantizedWeight",
    "StaticActivation",
    "pack",
    "quantize",
    "unpack",
]
