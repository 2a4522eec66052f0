"""The weight formats that are measured: their bytes, their ceilings, random weights of them."""

from __future__ import annotations

import math
from typing import Any

import torch

from torch_sm80moe import functional, functional_quantized
from torch_sm80moe.bench.models import Model
from torch_sm80moe.quantization import SCHEMES, PackedWeight, QuantScheme, pack, quantize
from torch_sm80moe.quantization.packing import dequantize_rows

DENSE = "16bit"  # weights of the activations' type
SPOKEN = {"bf16": DENSE}  # as many call it
# Static activations would need ranges, and cost what dynamic ones do, less a look at each token.
FORMATS = (DENSE, *(name for name in SCHEMES if not QuantScheme.parse(name).is_static))

Weight = torch.Tensor | PackedWeight


def find_format(name: str) -> str:
    """Return the format of a name."""
    found = SPOKEN.get(name, name)
    if found not in FORMATS:
        raise ValueError(f"must be among {', '.join((*SPOKEN, *FORMATS))}, got {name!r}")
    return found


def scheme_of(name: str) -> QuantScheme | None:
    """Return the scheme of a format; None for 16 bits."""
    return None if name == DENSE else QuantScheme.parse(name)


def mma_ceiling(dtype: str, name: str) -> str:
    """Return the name of the ceiling that bounds the format's multiplications."""
    return "mma_int8" if multiplies_int8(name) else f"mma_{dtype}"


def multiplies_int8(name: str) -> bool:
    """Return whether a format's activations become int8, too."""
    scheme = scheme_of(name)
    return scheme is not None and scheme.activation != "16bit"


def kernel_weights(name: str) -> str:
    """Return what `tactic_table` calls a format's weights."""
    scheme = scheme_of(name)
    return DENSE if scheme is None else scheme.packed_format


def unsuitable(model: Model, name: str) -> str | None:
    """Return why a model's sizes do not suit a format, or None if they do."""
    try:
        expert_bytes(model, name)
    except ValueError as error:
        return str(error)
    return None


def expert_bytes(model: Model, name: str) -> int:
    """Return the bytes of an expert that a call must read, whatever the kernels' layout adds.

    Values have the format's bits, scales two bytes, or one in mxfp4, and zero points as many bits
    as values: so checkpoints hold them.

    Raises:
        ValueError: the sizes do not suit the format.
    """
    scheme = scheme_of(name)
    if scheme is None:
        return model.expert_bytes
    bits = 0
    for n, k in model.matrices:
        num_scales = math.prod(scheme.scale_shape((1, n, k)))
        scale_bits = 8 if scheme.weight_format == "mxfp4" else 16
        bits += n * k * scheme.bits + num_scales * scale_bits
        bits += 0 if scheme.symmetric else num_scales * scheme.bits
    return -(-bits // 8)


def random_weight(
    shape: tuple[int, int, int], dtype: torch.dtype, name: str, device: torch.device
) -> Weight:
    """Return random `[E, N, K]` whose products keep the size of what they multiply.

    Packed weights are made on the device, an expert at a time, of normal numbers: so their bits
    toggle as a model's do.
    """
    std, scheme = shape[-1] ** -0.5, scheme_of(name)
    if scheme is None:
        return torch.empty(shape, dtype=dtype, device=device).normal_(std=std)
    experts = [
        pack(quantize(torch.randn(1, *shape[1:], device=device).mul_(std), scheme))
        for _ in range(shape[0])
    ]
    codes = [expert.codes for expert in experts if expert.codes is not None]
    return PackedWeight(
        torch.cat([expert.values for expert in experts]),
        torch.cat([expert.scale for expert in experts]),
        torch.cat(codes) if codes else None,
        shape,
        scheme,
    )


def copy(weight: Weight) -> Weight:
    """Return the same weight in other memory."""
    if isinstance(weight, torch.Tensor):
        return weight.clone()
    codes = None if weight.codes is None else weight.codes.clone()
    values, scale = weight.values.clone(), weight.scale.clone()
    return PackedWeight(values, scale, codes, weight.shape, weight.scheme)


def num_bytes(weight: Weight) -> int:
    """Return the memory that a weight takes."""
    return weight.nbytes if isinstance(weight, torch.Tensor) else weight.num_bytes


class Meaning:
    """What a weight means, as `reference.fused_moe` takes it, an expert at a time."""

    def __init__(self, weight: Weight) -> None:
        """Keep the weight; nothing is dequantised yet."""
        self._weight = weight

    def size(self, dim: int) -> int:
        """Return a size of the weight."""
        return self._weight.shape[dim]

    def __getitem__(self, expert: int) -> torch.Tensor:
        """Return `[N, K]` of an expert; float32 of one that is packed."""
        weight = self._weight
        if isinstance(weight, torch.Tensor):
            return weight[expert]
        packed = weight.tensors()
        codes = None if packed.codes is None else packed.codes[expert]
        return dequantize_rows(
            packed.values[expert],
            packed.scale[expert],
            codes,
            packed.format_name,
            packed.group_size,
            weight.shape[-1],
        )


def fused_moe(
    hidden_states: torch.Tensor,
    w13: Weight,
    w2: Weight,
    topk_weights: torch.Tensor,
    topk_ids: torch.Tensor,
    **options: Any,
) -> torch.Tensor:
    """Run the layer's operator for these weights."""
    is_packed = isinstance(w13, PackedWeight)
    run: Any = functional_quantized.fused_moe_quantized if is_packed else functional.fused_moe
    out: torch.Tensor = run(hidden_states, w13, w2, topk_weights, topk_ids, **options)
    return out
