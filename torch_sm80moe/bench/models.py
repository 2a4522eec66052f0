"""The layers that are measured: their sizes, and what one call must read and compute."""

from __future__ import annotations

from typing import NamedTuple

import torch

from torch_sm80moe import _shapes

ELEMENT_BYTES = 2
_PROJECTIONS = 3  # gate, up, down


class Model(NamedTuple):
    """The sizes of one mixture-of-experts layer."""

    name: str
    num_experts: int
    top_k: int
    hidden_size: int
    intermediate_size: int

    @property
    def matrices(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """N and K of both GEMMs."""
        return (
            (2 * self.intermediate_size, self.hidden_size),
            (self.hidden_size, self.intermediate_size),
        )

    @property
    def expert_bytes(self) -> int:
        """The weights of one expert in 16 bits."""
        return _PROJECTIONS * self.hidden_size * self.intermediate_size * ELEMENT_BYTES

    def flops(self, num_tokens: int) -> int:
        """Multiplications and additions of both GEMMs."""
        rows = num_tokens * self.top_k
        return 2 * rows * _PROJECTIONS * self.hidden_size * self.intermediate_size


def num_active(topk_ids: torch.Tensor) -> int:
    """Return how many experts a routing chose."""
    return int(topk_ids.unique().numel())


MODELS = (
    Model("mixtral-8x7b", 8, 2, 4096, 14336),
    Model("qwen3-30b-a3b", 128, 8, 2048, 768),
    Model("deepseek-v2-lite", 64, 6, 2048, 1408),
    Model("gpt-oss-20b", 32, 4, 2880, 2880),
    Model("olmoe-1b-7b", 64, 8, 2048, 1024),
    Model("phi-3.5-moe", 16, 2, 4096, 6400),
)


def find_model(name: str) -> Model:
    """Return the model whose name begins with `name`."""
    found = [model for model in MODELS if model.name.startswith(name)]
    if len(found) != 1:
        names = ", ".join(model.name for model in MODELS)
        raise ValueError(f"must be among {names}, got {name!r}")
    return found[0]


def parse_shape(text: str) -> Model:
    """Read `E,k,H,I`."""
    words = text.split(",")
    if len(words) != 4 or not all(word.isdecimal() and int(word) > 0 for word in words):
        raise ValueError(f"must be four positive numbers E,k,H,I, got {text!r}")
    num_experts, top_k, hidden_size, intermediate_size = map(int, words)
    if not top_k <= num_experts <= _shapes.MAX_EXPERTS:
        raise ValueError(
            f"must have k <= E <= {_shapes.MAX_EXPERTS}, got {top_k} and {num_experts}"
        )
    if hidden_size % 8 or intermediate_size % 8:
        raise ValueError(f"must have H and I that are multiples of 8, got {text!r}")
    name = f"E{num_experts}-k{top_k}-H{hidden_size}-I{intermediate_size}"
    return Model(name, num_experts, top_k, hidden_size, intermediate_size)
