"""compressed-tensors: int8, fp8, mxfp4, and int4 and int8 packed into words.

The settings of a layer are those of the group in `config_groups` whose targets match it best.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from torch_sm80moe.quantization import state
from torch_sm80moe.quantization.experts import StaticActivation
from torch_sm80moe.quantization.importers.linear import (
    Linear,
    Tensors,
    require,
    require_in_order,
    to_signed,
    unpack_int32,
)
from torch_sm80moe.quantization.scheme import (
    MXFP4_GROUP_SIZE,
    PER_CHANNEL,
    PER_TENSOR,
    QuantScheme,
)
from torch_sm80moe.quantization.weights import QuantizedWeight

_SUPPORTED = "int8, int4, fp8 or mxfp4"


@dataclass(frozen=True)
class CompressedTensorsReader:
    """Reads checkpoints with these groups of layers."""

    groups: tuple[Mapping[str, Any], ...]
    marker: str = "weight_scale"

    def read(self, tensors: Tensors, module: str) -> Linear:
        """Return one layer, by the settings that its module's name selects."""
        group = _group_of(self.groups, module)
        scheme = _scheme(group)
        require_in_order(tensors.get("weight_g_idx"), scheme.group_size)
        values = _values(tensors, scheme)
        scale = _per_unit(require(tensors, "weight_scale"), values.shape, scheme)
        scale = scale if scheme.weight_format == "mxfp4" else scale.float()
        zero_point = None
        if not scheme.symmetric:
            zero_point = _zero_point(tensors, tuple(values.shape), scheme)
        weight = QuantizedWeight(
            values[None].contiguous(), scale[None].contiguous(), zero_point, scheme
        )
        return Linear(weight, _input(tensors, scheme))


def reader(config: Mapping[str, Any]) -> CompressedTensorsReader:
    """Return the reader of a checkpoint with this `quantization_config`."""
    groups = config.get("config_groups")
    if not groups:
        raise ValueError(f"import: config_groups must describe the layers, got {groups}")
    return CompressedTensorsReader(tuple(groups.values()))


def _group_of(groups: tuple[Mapping[str, Any], ...], module: str) -> Mapping[str, Any]:
    """Return the group that names the module, or else the one for all linear layers."""
    for group in groups:
        if any(_names(target, module) for target in group.get("targets", ())):
            return group
    for group in groups:
        if "Linear" in group.get("targets", ()):
            return group
    raise ValueError(f"import: targets of config_groups must name {module}, got others")


def _names(target: str, module: str) -> bool:
    if target.startswith("re:"):
        return re.match(target.removeprefix("re:"), module) is not None
    return module == target or module.endswith(f".{target}")


def _scheme(group: Mapping[str, Any]) -> QuantScheme:
    weights = group["weights"]
    kind = (weights.get("type", "int"), weights.get("num_bits"))
    formats = {("int", 8): "int8", ("int", 4): "int4", ("float", 8): "fp8", ("float", 4): "mxfp4"}
    weight_format = formats.get(kind)
    strategy, group_size = weights.get("strategy"), weights.get("group_size")
    if weight_format is None or (weight_format == "mxfp4" and group_size != MXFP4_GROUP_SIZE):
        raise ValueError(f"import: weights must be {_SUPPORTED}, got {dict(weights)}")
    block = None
    if strategy == "block":
        rows, columns = weights["block_structure"]
        block = int(rows), int(columns)
    sizes = {
        "tensor": PER_TENSOR,
        "channel": PER_CHANNEL,
        "group": group_size,
        "block": PER_CHANNEL,
    }
    if strategy not in sizes:
        raise ValueError(f"import: strategy must be one of {', '.join(sizes)}, got {strategy}")
    return QuantScheme(
        weight_format,
        _activation(group.get("input_activations"), weight_format),
        group_size=sizes[strategy],
        block=block,
        symmetric=weights.get("symmetric", True),
    )


def _activation(settings: Mapping[str, Any] | None, weight_format: str) -> str:
    # Activations in 16 bits are nearer to what was meant than any in 8 or 4 bits of a float.
    if settings is None or settings.get("type") == "float":
        return "16bit"
    if settings.get("num_bits") != 8 or weight_format != "int8":
        raise ValueError(
            f"import: activations must be int8 beside int8 weights, got {dict(settings)}"
        )
    return "int8_dynamic" if settings.get("dynamic") else "int8_static"


def _values(tensors: Tensors, scheme: QuantScheme) -> torch.Tensor:
    """Return `[N, K]`."""
    if scheme.weight_format == "mxfp4":
        return state.from_nibbles(require(tensors, "weight_packed", torch.uint8), torch.uint8)
    if "weight_packed" not in tensors:
        is_fp8 = scheme.weight_format == "fp8"
        return require(tensors, "weight", torch.float8_e4m3fn if is_fp8 else torch.int8)
    _, k = require(tensors, "weight_shape").tolist()
    packed = require(tensors, "weight_packed", torch.int32)
    return to_signed(unpack_int32(packed, scheme.bits, 1)[:, :k], scheme.bits)


def _zero_point(tensors: Tensors, shape: tuple[int, ...], scheme: QuantScheme) -> torch.Tensor:
    stored = require(tensors, "weight_zero_point")
    if stored.dtype == torch.int32:  # packed along N
        stored = to_signed(unpack_int32(stored, scheme.bits, 0)[: shape[0]], scheme.bits)
    return _per_unit(stored, shape, scheme).to(torch.int8)[None].contiguous()


def _per_unit(tensor: torch.Tensor, shape: tuple[int, ...], scheme: QuantScheme) -> torch.Tensor:
    """Give scales per tensor, which have few or no dimensions, the two that all others have."""
    if scheme.group_size == PER_TENSOR and tensor.numel() == 1:
        return tensor.reshape(1, 1)
    return tensor


def _input(tensors: Tensors, scheme: QuantScheme) -> StaticActivation | None:
    if scheme.activation != "int8_static":
        return None
    zero_point = tensors.get("input_zero_point")
    return StaticActivation(
        float(require(tensors, "input_scale")), 0 if zero_point is None else int(zero_point)
    )
