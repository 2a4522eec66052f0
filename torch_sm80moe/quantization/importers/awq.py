"""AWQ int4 of version "gemm", as AutoAWQ stores it.

`qweight [K, N / 8]` and `qzeros [G, N / 8]` hold eight neighbours along N in a word, the even ones
first; `scales [G, N]`.
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
    to_signed,
    unpack_int32,
)
from torch_sm80moe.quantization.scheme import QuantScheme
from torch_sm80moe.quantization.weights import QuantizedWeight

_BITS = 4
# Where the neighbours 0 to 7 are in a word.
_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)


@dataclass(frozen=True)
class AwqReader:
    """Reads checkpoints of one group size."""

    scheme: QuantScheme
    marker: str = "qweight"

    def read(self, tensors: Tensors, module: str) -> Linear:
        """Return one layer; `module` does not matter."""
        values = _unpack(require(tensors, "qweight", torch.int32))
        zero_point = None
        if not self.scheme.symmetric:
            zero_point = _unpack(require(tensors, "qzeros", torch.int32))
        scale = require(tensors, "scales").T.float()[None].contiguous()
        return Linear(QuantizedWeight(values, scale, zero_point, self.scheme))


def _unpack(packed: torch.Tensor) -> torch.Tensor:
    """Return `[1, N, rows]` of words `[rows, N / 8]`."""
    places = torch.tensor(_PLACES, device=packed.device)
    words = unpack_int32(packed, _BITS, 1).reshape(packed.size(0), -1, len(_PLACES))
    return to_signed(words[..., places].flatten(1).T[None], _BITS).contiguous()


def reader(config: Mapping[str, Any]) -> AwqReader:
    """Return the reader of a checkpoint with this `quantization_config`."""
    for setting, wanted in (("bits", _BITS), ("version", "gemm")):
        value = config.get(setting, wanted)
        if str(value).lower() != str(wanted):
            raise ValueError(f"import: {setting} must be {wanted} with awq, got {value}")
    scheme = QuantScheme(
        "int4",
        group_size=int(config.get("group_size", 128)),
        symmetric=not config.get("zero_point", True),
    )
    return AwqReader(scheme)
