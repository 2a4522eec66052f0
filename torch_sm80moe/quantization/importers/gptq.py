"""GPTQ, as AutoGPTQ and GPTQModel store it.

`qweight [K * bits / 32, N]` holds the numbers of a column in words along K, `qzeros [G, N * bits /
32]` the zero points along N, less one unless the checkpoint's format is "gptq_v2", `scales [G, N]`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from torch_sm80moe.quantization.importers.linear import (
    Linear,
    Tensors,
    require,
    require_in_order,
    to_signed,
    unpack_int32,
)
from torch_sm80moe.quantization.scheme import QuantScheme
from torch_sm80moe.quantization.weights import QuantizedWeight

_FORMATS = ("gptq", "gptq_v2")
_ONES = {4: 0x11111111, 8: 0x01010101}


@dataclass(frozen=True)
class GptqReader:
    """Reads checkpoints of one bit width and group size."""

    scheme: QuantScheme
    is_v2: bool
    marker: str = "qweight"

    def read(self, tensors: Tensors, module: str) -> Linear:
        """Return one layer; `module` does not matter."""
        bits = self.scheme.bits
        qweight = require(tensors, "qweight", torch.int32)
        scales = require(tensors, "scales")
        numbers = unpack_int32(qweight, bits, 0).T
        qzeros = require(tensors, "qzeros", torch.int32)
        if not self.is_v2:  # one was subtracted from every number of the word, with borrows
            qzeros = qzeros + _ONES[bits]
        zeros = unpack_int32(qzeros, bits, 1).T
        group_size = self.scheme.group_size
        require_in_order(tensors.get("g_idx"), numbers.size(1) if group_size < 0 else group_size)
        middle = 2 ** (bits - 1)
        if self.scheme.symmetric and bool((zeros != middle).any()):
            raise ValueError(
                f"import: qzeros must be {middle} throughout with sym, got others in {module}"
            )
        weight = QuantizedWeight(
            to_signed(numbers, bits)[None].contiguous(),
            scales.T.float()[None].contiguous(),
            None if self.scheme.symmetric else to_signed(zeros, bits)[None].contiguous(),
            self.scheme,
        )
        return Linear(weight)


def reader(config: Mapping[str, Any]) -> GptqReader:
    """Return the reader of a checkpoint with this `quantization_config`."""
    bits = config.get("bits", 4)
    if bits not in (4, 8):
        raise ValueError(f"import: bits must be 4 or 8 with gptq, got {bits}")
    checkpoint_format = config.get("checkpoint_format", "gptq")
    if checkpoint_format not in _FORMATS:
        raise ValueError(
            f"import: checkpoint_format must be one of {_FORMATS}, got {checkpoint_format}"
        )
    scheme = QuantScheme(
        "int4" if bits == 4 else "int8",
        group_size=int(config.get("group_size", 128)),
        symmetric=bool(config.get("sym", True)),
    )
    return GptqReader(scheme, is_v2=checkpoint_format == "gptq_v2")
