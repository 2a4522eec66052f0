"""What a quantised weight is, in one word: its format, its scales, and what it meets.

The word is made of the weight's bits and the activation's (`w8a16`, `w8a8`, `w4a16`, `fp8`,
`mxfp4`), how many weights share a scale (`tensor`, `g128`, `channel`, `block`), `static` where the
scale of the activations is known beforehand, `asym` where weights have zero points. What an int
format leaves out is per channel, dynamic and symmetric.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch_sm80moe._formats import GROUP_SIZES

WEIGHT_FORMATS = ("int8", "int4", "fp8", "mxfp4")
ACTIVATIONS = ("16bit", "int8_dynamic", "int8_static")
PER_CHANNEL = -1
PER_TENSOR = 0
MXFP4_GROUP_SIZE = max(GROUP_SIZES["mxfp4"])
FP8_BLOCK = (max(GROUP_SIZES["fp8"]),) * 2

_NAME = re.compile(
    r"(?P<base>w8a16|w8a8|w4a16|fp8|mxfp4)"
    r"(-(?P<shared>tensor|channel|block|g\d+))?(?P<static>-static)?(?P<asym>-asym)?"
)
_WEIGHT_OF_BASE = {"w8a16": "int8", "w8a8": "int8", "w4a16": "int4", "fp8": "fp8", "mxfp4": "mxfp4"}
_BASE_OF_WEIGHT = {"int8": "w8a16", "int4": "w4a16", "fp8": "fp8", "mxfp4": "mxfp4"}


@dataclass(frozen=True)
class QuantScheme:
    """How a weight `[E, N, K]` is stored, and what its GEMM does with activations.

    Args:
        weight_format: "int8", "int4", "fp8" (e4m3) or "mxfp4" (e2m1, e8m0 scales).
        activation: "16bit", or for int8 weights "int8_dynamic" (a scale per token, found in the
            call) and "int8_static" (a scale per tensor, from calibration).
        group_size: how many neighbours along K share a scale; -1 a whole row (per channel), 0 the
            whole matrix of an expert (per tensor).
        block: rows and columns that share a scale; (128, 128) or None, for fp8 alone, and then
            `group_size` has no say.
        symmetric: False if each scale has a zero point beside it.

    Raises:
        ValueError: no kernel is meant for the combination.

    Example:
        >>> QuantScheme.parse("w4a16-g32-asym").group_size
        32
        >>> str(QuantScheme("int8", "int8_static"))
        'w8a8-static'
    """

    weight_format: str
    activation: str = "16bit"
    group_size: int = PER_CHANNEL
    block: tuple[int, int] | None = None
    symmetric: bool = True

    def __post_init__(self) -> None:
        """Refuse what is not one of `SCHEMES`."""
        if self.weight_format not in WEIGHT_FORMATS:
            self._refuse("weight_format", f"be one of {WEIGHT_FORMATS}", self.weight_format)
        if self.activation not in ACTIVATIONS:
            self._refuse("activation", f"be one of {ACTIVATIONS}", self.activation)
        if self.activation != "16bit" and self.weight_format != "int8":
            self._refuse("activation", f"be 16bit with {self.weight_format}", self.activation)
        if self.block is not None and (self.weight_format, self.block) != ("fp8", FP8_BLOCK):
            self._refuse("block", "be (128, 128) with fp8, or None", self.block)
        if self.block is not None and self.group_size != PER_CHANNEL:
            self._refuse("group_size", "be -1 beside a block", self.group_size)
        kind = self.weight_format if self.activation == "16bit" else self.activation
        sizes = _group_sizes(self.packed_format)
        if self.group_size not in sizes:
            self._refuse("group_size", f"be one of {sizes} with {kind}", self.group_size)
        if not self.symmetric and kind not in ("int8", "int4"):
            self._refuse("symmetric", f"be True with {kind}", self.symmetric)

    def _refuse(self, field: str, requirement: str, value: object) -> None:
        raise ValueError(f"QuantScheme: {field} must {requirement}, got {value}")

    @classmethod
    def parse(cls, name: str) -> QuantScheme:
        """Return the scheme of a name, the inverse of `str`.

        Raises:
            ValueError: the name is not one of `SCHEMES`.
        """
        match = _NAME.fullmatch(name)
        try:
            scheme = cls._of_match(match) if match else None
        except ValueError:
            scheme = None
        if scheme is None or str(scheme) != name:
            raise ValueError(f"QuantScheme: name must be one of {', '.join(SCHEMES)}, got {name}")
        return scheme

    @classmethod
    def _of_match(cls, match: re.Match[str]) -> QuantScheme:
        base, shared = match["base"], match["shared"]
        group_size = {"tensor": PER_TENSOR}.get(shared, PER_CHANNEL)
        if shared and shared[0] == "g":
            group_size = int(shared[1:])
        if base == "mxfp4":
            group_size = MXFP4_GROUP_SIZE
        activation = "16bit"
        if base == "w8a8":
            activation = "int8_static" if match["static"] else "int8_dynamic"
        return cls(
            weight_format=_WEIGHT_OF_BASE[base],
            activation=activation,
            group_size=group_size,
            block=FP8_BLOCK if shared == "block" else None,
            symmetric=match["asym"] is None,
        )

    def __str__(self) -> str:
        """Return the name that `parse` understands."""
        base = "w8a8" if self.activation != "16bit" else _BASE_OF_WEIGHT[self.weight_format]
        parts = [base, self._shared_name()]
        parts += ["static"] if self.activation == "int8_static" else []
        parts += [] if self.symmetric else ["asym"]
        return "-".join(part for part in parts if part)

    def _shared_name(self) -> str:
        if self.block is not None:
            return "block"
        if self.weight_format == "mxfp4":
            return ""
        if self.group_size == PER_TENSOR:
            return "tensor"
        if self.group_size == PER_CHANNEL:
            return "channel" if self.weight_format == "fp8" else ""
        return f"g{self.group_size}"

    def needs_calibration(self, batches: object | None) -> bool:
        """Return whether activations are static; batches must be given exactly then.

        Raises:
            ValueError: there are batches and nothing to calibrate, or the reverse.
        """
        if self.is_static != (batches is not None):
            requirement, got = ("be given", "None") if self.is_static else ("be None", "batches")
            raise ValueError(f"{self}: calibration must {requirement}, got {got}")
        return self.is_static

    def scale_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return the shape of the scales of a weight `[E, N, K]`.

        Raises:
            ValueError: the group size does not divide K, or two int4 values do not fill a byte.
        """
        num_experts, n, k = shape
        multiple = self.k_multiple
        if k % multiple != 0:
            raise ValueError(f"{self}: K must be a multiple of {multiple}, got {k}")
        if self.block is not None:
            rows, columns = self.block
            return num_experts, -(-n // rows), -(-k // columns)
        if self.group_size == PER_TENSOR:
            return num_experts, 1, 1
        if self.group_size == PER_CHANNEL:
            return num_experts, n, 1
        return num_experts, n, k // self.group_size

    @property
    def k_multiple(self) -> int:
        """What K must be a multiple of."""
        return max(self.group_size, 2 if self.bits == 4 else 1)

    @property
    def packed_format(self) -> str:
        """What operators call the format: int8 that meets int8 is one of its own."""
        return self.weight_format if self.activation == "16bit" else "w8a8"

    @property
    def is_static(self) -> bool:
        """Whether activations are int8 of a range that is known beforehand."""
        return self.activation == "int8_static"

    @property
    def bits(self) -> int:
        """How many bits a stored value has."""
        return 4 if self.weight_format in ("int4", "mxfp4") else 8


def _group_sizes(packed_format: str) -> tuple[int, ...]:
    """Return those of schemes; kernels do not tell a row's scale from that of a whole matrix."""
    packed = GROUP_SIZES[packed_format]
    whole = (PER_CHANNEL,) if packed_format == "int4" else (PER_CHANNEL, PER_TENSOR)
    groups = () if packed_format == "fp8" else tuple(size for size in packed if size)  # blocks
    return (*whole, *groups) if 0 in packed else groups


def _all_schemes() -> list[QuantScheme]:
    int8, int4, w8a8 = map(_group_sizes, ("int8", "int4", "w8a8"))
    return [
        *(QuantScheme("int8", group_size=size) for size in int8),
        *(QuantScheme("int8", group_size=size, symmetric=False) for size in int8),
        *(QuantScheme("int8", "int8_dynamic", group_size=size) for size in w8a8),
        *(QuantScheme("int8", "int8_static", group_size=size) for size in w8a8),
        *(QuantScheme("int4", group_size=size) for size in int4),
        *(QuantScheme("int4", group_size=size, symmetric=False) for size in int4),
        *(QuantScheme("fp8", group_size=size) for size in (PER_TENSOR, PER_CHANNEL)),
        QuantScheme("fp8", block=FP8_BLOCK),
        QuantScheme("mxfp4", group_size=MXFP4_GROUP_SIZE),
    ]


SCHEMES: tuple[str, ...] = tuple(map(str, _all_schemes()))
