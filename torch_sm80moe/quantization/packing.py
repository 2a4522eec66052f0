"""Weights as the kernels read them, and back: nothing is lost on the way.

A row is cut into chunks of 16 bytes along K, of 16 weights (8 bits each) or 32 (4 bits). A lane of
four takes 4 bytes of each: just the weights that its mma fragments hold, and in the order in which
a word becomes pairs of 16-bit numbers (`docs/layouts.md`). Weights that meet int8 keep their order.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from torch_sm80moe._formats import WEIGHT_BITS, WEIGHT_FORMATS
from torch_sm80moe._options import PackedTensors
from torch_sm80moe.quantization.scheme import MXFP4_GROUP_SIZE, PER_TENSOR, QuantScheme
from torch_sm80moe.quantization.weights import (
    E8M0_BIAS,
    QuantizedWeight,
    e2m1_to_float,
)

# For each number of a half word, where each of its bits goes.
Places = tuple[tuple[int, ...], ...]

CHUNK_BYTES = 16
_CODES_OF_WORD = 4  # kernels copy those of four groups at a time
_ROWS_SIDE_BY_SIDE = 8  # whose scales, and words of codes, fill what memory is read by, 32 bytes
_STORED_ZERO = {"int4": 8, "int8": 128}  # these are stored as 0 to 15 and 0 to 255
# Where in a half of a word lie the bits, the lowest first, of the small floats that share it: where
# a 16-bit number wants them, or a shift away from there. 16 and more are in the word's other half.
_FLOAT_BITS = {
    "fp8": ((4, 5, 6, 7, 8, 9, 10, 15), (0, 1, 2, 3, 12, 13, 14, 11)),
    "mxfp4": ((6, 7, 8, 15), (10, 11, 12, 19), (0, 1, 2, 9), (4, 13, 14, 21)),
}
_LARGEST_POWER = 254  # an exponent's code in the row that has the largest
# A kernel's e2m1 number is 2 ** (code - 253) times the value: twice what the code stands for.
_MXFP4_POWER = 253


@dataclass(frozen=True, eq=False)
class PackedWeight:
    """One weight of all experts, `[E, N, K]`, in the layout of the kernels.

    Args:
        values: `[E, N, B]`, uint8: rows of whole chunks.
        scale: `[E, ceil(N / 8), G, 8]`, float32: of eight rows a scale for each group, of which
            there is one unless the scheme has groups or blocks. For mxfp4 a power of two a row.
        codes: `[E, ceil(N / 8), ceil(G / 4), 8, 4]`, uint8: of eight rows the bytes of four groups
            at a time, zero points, or for mxfp4 the groups' exponents, as steps below the row's
            largest from 254 down. For static int8 activations, G = 1, the four bytes of each row's
            sum, an int32.
        shape: E, N, K.
        scheme: what all this means.

    Example:
        >>> values = torch.arange(16, dtype=torch.int8).reshape(1, 1, 16)
        >>> scale = torch.ones(1, 1, 1)
        >>> weight = QuantizedWeight(values, scale, None, QuantScheme.parse("w8a16"))
        >>> pack(weight).values.flatten().tolist()
        [128, 136, 129, 137, 130, 138, 131, 139, 132, 140, 133, 141, 134, 142, 135, 143]
        >>> unpack(pack(weight)).values.equal(values)
        True
    """

    values: torch.Tensor
    scale: torch.Tensor
    codes: torch.Tensor | None
    shape: tuple[int, int, int]
    scheme: QuantScheme

    @property
    def weight_format(self) -> int:
        """The number that the operators take."""
        return WEIGHT_FORMATS.index(self.scheme.packed_format)

    @property
    def group_size(self) -> int:
        """How many weights of a row share a scale, as the operators take it: 0 for all."""
        if self.scheme.block is not None:
            return self.scheme.block[1]
        return max(self.scheme.group_size, 0)

    def tensors(self, input_range: torch.Tensor | None = None) -> PackedTensors:
        """Return what the operators take; a static scheme has a range of its activations."""
        return PackedTensors(
            self.values, self.scale, self.codes, self.weight_format, self.group_size, input_range
        )

    @property
    def num_bytes(self) -> int:
        """The memory of all tensors."""
        tensors = [self.values, self.scale, *([] if self.codes is None else [self.codes])]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.values.device

    def to(self, device: torch.device | str) -> PackedWeight:
        """Return the weight on a device; the same tensors if they are there."""
        codes = None if self.codes is None else self.codes.to(device)
        return replace(
            self, values=self.values.to(device), scale=self.scale.to(device), codes=codes
        )


def pack(weight: QuantizedWeight) -> PackedWeight:
    """Return the weight as kernels read it; `unpack` is the exact inverse."""
    num_experts, n, k = weight.shape
    name = weight.scheme.packed_format
    row_bytes = -(-k * WEIGHT_BITS[name] // (8 * CHUNK_BYTES)) * CHUNK_BYTES
    values = torch.empty((num_experts, n, row_bytes), dtype=torch.uint8, device=weight.device)
    for expert in range(num_experts):  # copies of one expert at a time
        values[expert] = _pack_rows(_stored_from_values(weight.values[expert], name), name)
    scale, codes = _pack_scales(weight)
    return PackedWeight(values, scale, codes, weight.shape, weight.scheme)


def unpack(packed: PackedWeight) -> QuantizedWeight:
    """Return the canonical form of a packed weight."""
    num_experts, _, k = packed.shape
    name = packed.scheme.packed_format
    values = torch.stack(
        [
            _values_from_stored(_unpack_rows(packed.values[expert], name, k), name)
            for expert in range(num_experts)
        ]
    )
    scale, zero_point = _unpack_scales(packed)
    return QuantizedWeight(values, scale, zero_point, packed.scheme)


def dequantize_rows(
    values: torch.Tensor,
    scale: torch.Tensor,
    codes: torch.Tensor | None,
    weight_format: str,
    group_size: int,
    k: int,
) -> torch.Tensor:
    """Return float32 `[..., K]` of packed rows, as a kernel reads them.

    Args:
        values: `[..., N, B]`, as in `PackedWeight`.
        scale: `[..., ceil(N / 8), G, 8]`.
        codes: `[..., ceil(N / 8), C, 8, 4]` or None.
        weight_format: one of `WEIGHT_FORMATS`.
        group_size: weights of a row that share a scale; 0 for all.
        k: K.
    """
    stored, n = _unpack_rows(values, weight_format, k), values.size(-2)
    group = torch.arange(k, device=values.device) // (group_size or k)
    numbers, row_scale = _numbers(stored, weight_format), _of_rows(scale, n)
    if weight_format == "mxfp4":
        assert codes is not None
        power = _codes_of_rows(codes, n)[..., group].to(torch.int32) - _MXFP4_POWER
        return torch.ldexp(numbers.double(), power).mul(row_scale.double()).float()
    if codes is not None and weight_format != "w8a8":
        numbers = numbers - _numbers(_codes_of_rows(codes, n)[..., group], weight_format)
    return numbers * row_scale[..., group]


def _numbers(stored: torch.Tensor, weight_format: str) -> torch.Tensor:
    values = _values_from_stored(stored, weight_format)
    return e2m1_to_float(values) if weight_format == "mxfp4" else values.float()


def _stored_from_values(values: torch.Tensor, weight_format: str) -> torch.Tensor:
    """Return the bits that a row keeps of each value, as uint8."""
    if weight_format in _STORED_ZERO:
        return (values.short() + _STORED_ZERO[weight_format]).to(torch.uint8)
    return values.view(torch.uint8)


def _values_from_stored(stored: torch.Tensor, weight_format: str) -> torch.Tensor:
    if weight_format in _STORED_ZERO:
        return (stored.short() - _STORED_ZERO[weight_format]).to(torch.int8)
    if weight_format == "w8a8":
        return stored.view(torch.int8)
    return stored.view(torch.float8_e4m3fn) if weight_format == "fp8" else stored


def _pack_rows(stored: torch.Tensor, weight_format: str) -> torch.Tensor:
    """Put `[..., K]` where kernels look for it; the last chunk ends in zeros.

    What int8 activations meet keeps its order: mma of int8 takes 32 neighbours.
    """
    steps = 8 // WEIGHT_BITS[weight_format]  # 16-deep steps of mma that a chunk lasts
    rows = stored.shape[:-1]
    chunks = torch.nn.functional.pad(stored, (0, -stored.size(-1) % (steps * 16)))
    if weight_format == "w8a8":
        return chunks
    fields = chunks.reshape(*rows, -1, steps, 2, 4, 2)  # step, high, lane, half
    fields = fields.permute(*_leading(rows), -2, -1, -4, -3).flatten(-2)  # lane, half, number
    return _join(fields, _places(weight_format)).reshape(*rows, -1)


def _unpack_rows(packed: torch.Tensor, weight_format: str, k: int) -> torch.Tensor:
    rows, bits = packed.shape[:-1], WEIGHT_BITS[weight_format]
    if weight_format == "w8a8":
        stored = packed
    else:
        halves = packed.reshape(*rows, -1, 4, 2, 2)  # lane, half, byte
        fields = _split(halves, _places(weight_format)).unflatten(-1, (8 // bits, 2))
        stored = fields.permute(*_leading(rows), -2, -1, -4, -3)  # step, high, lane, half
    return stored.reshape(*rows, -1)[..., :k].contiguous()


def _places(weight_format: str) -> Places:
    """Return where the bits of the numbers of a half word go."""
    bits = WEIGHT_BITS[weight_format]
    in_order = tuple(tuple(range(at, at + bits)) for at in range(0, 16, bits))
    return _FLOAT_BITS.get(weight_format, in_order)


def _join(numbers: torch.Tensor, places: Places) -> torch.Tensor:
    """Put the bits of `[..., half, number]` where they go: `[..., half, byte]`."""
    halves = [numbers.new_zeros(numbers.shape[:-1], dtype=torch.int32) for _ in range(2)]
    for number, bits in enumerate(places):
        for mask, up, other in _runs(bits):
            halves[other] |= _shifted(numbers[..., number].int() & mask, up)
    words = halves[0] | halves[1].flip(-1)
    return torch.stack([words & 0xFF, words >> 8], dim=-1).to(torch.uint8)


def _split(halves: torch.Tensor, places: Places) -> torch.Tensor:
    """The inverse of `_join`."""
    words = halves[..., 0].int() | halves[..., 1].int() << 8
    numbers = torch.zeros((*words.shape, len(places)), dtype=torch.uint8, device=words.device)
    for number, bits in enumerate(places):
        for mask, up, other in _runs(bits):
            source = words.flip(-1) if other else words
            numbers[..., number] |= (_shifted(source, -up) & mask).to(torch.uint8)
    return numbers


def _runs(bits: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """Bits that go the same way: a mask of them, how far up they go, if into the other half."""
    masks: dict[tuple[int, int], int] = {}
    for bit, place in enumerate(bits):
        way = (place % 16 - bit, place // 16)
        masks[way] = masks.get(way, 0) | 1 << bit
    return [(mask, up, other) for (up, other), mask in masks.items()]


def _shifted(words: torch.Tensor, up: int) -> torch.Tensor:
    return words << up if up >= 0 else words >> -up


def _leading(rows: torch.Size) -> range:
    """The dimensions before those of a chunk: rows, and the chunks of one."""
    return range(len(rows) + 1)


def _pack_scales(weight: QuantizedWeight) -> tuple[torch.Tensor, torch.Tensor | None]:
    num_experts, n, _ = weight.shape
    if weight.scheme.weight_format == "mxfp4":
        largest = weight.scale.amax(dim=-1, keepdim=True)
        scale = _power_of_two(largest.int() - E8M0_BIAS - 1)
        return _side_by_side(scale), _pack_codes(weight.scale + (_LARGEST_POWER - largest))
    scale, zero_point = weight.scale, weight.zero_point
    if weight.scheme.block is not None:
        scale = scale.repeat_interleave(weight.scheme.block[0], dim=1)[:, :n]
    scale = _side_by_side(scale.expand(num_experts, n, -1))
    if weight.scheme.activation == "int8_static":
        sums = weight.values.sum(dim=-1, keepdim=True, dtype=torch.int32)
        return scale, _pack_codes(sums.view(torch.uint8))
    if zero_point is None:
        return scale, None
    stored = _stored_from_values(zero_point, weight.scheme.weight_format)
    return scale, _pack_codes(stored.expand(num_experts, n, -1))


def _unpack_scales(packed: PackedWeight) -> tuple[torch.Tensor, torch.Tensor | None]:
    scheme, (_, n, k) = packed.scheme, packed.shape
    row_scale = _of_rows(packed.scale, n)
    if scheme.weight_format == "mxfp4":
        assert packed.codes is not None
        largest = torch.frexp(row_scale.double()).exponent + E8M0_BIAS
        codes = _codes_of_rows(packed.codes, n)[..., : k // MXFP4_GROUP_SIZE].int()
        return (codes + largest - _LARGEST_POWER).to(torch.uint8), None
    rows = scheme.block[0] if scheme.block is not None else 1
    if scheme.group_size == PER_TENSOR:
        rows = n
    scale = row_scale[:, ::rows].contiguous()
    if packed.codes is None or scheme.symmetric:
        return scale, None
    stored = _codes_of_rows(packed.codes, n)[:, ::rows, : scale.size(-1)].contiguous()
    return scale, _values_from_stored(stored, scheme.weight_format)


def _power_of_two(exponent: torch.Tensor) -> torch.Tensor:
    return torch.ldexp(torch.ones_like(exponent, dtype=torch.float64), exponent).float()


def _side_by_side(words: torch.Tensor) -> torch.Tensor:
    """Return `[..., ceil(N / 8), W, 8]` of `[..., N, W]`; what no row has is zero."""
    padding = (0, 0, 0, -words.size(-2) % _ROWS_SIDE_BY_SIDE)
    rows = torch.nn.functional.pad(words, padding)
    octets = rows.reshape(*rows.shape[:-2], -1, _ROWS_SIDE_BY_SIDE, rows.size(-1))
    return octets.transpose(-1, -2).contiguous()


def _of_rows(words: torch.Tensor, n: int) -> torch.Tensor:
    """Return `[..., N, W]`: the inverse of `_side_by_side`."""
    return words.transpose(-1, -2).flatten(-3, -2)[..., :n, :]


def _pack_codes(codes: torch.Tensor) -> torch.Tensor:
    """Return `[..., ceil(N / 8), C, 8, 4]` of the bytes `[..., N, G]`."""
    padded = torch.nn.functional.pad(codes, (0, -codes.size(-1) % _CODES_OF_WORD)).contiguous()
    return _side_by_side(padded.view(torch.int32)).unsqueeze(-1).view(torch.uint8)


def _codes_of_rows(codes: torch.Tensor, n: int) -> torch.Tensor:
    """Return `[..., N, 4 * C]`, the codes of each row and zeros: the inverse of `_pack_codes`."""
    return codes.transpose(-2, -3).flatten(-2).flatten(-3, -2)[..., :n, :]
