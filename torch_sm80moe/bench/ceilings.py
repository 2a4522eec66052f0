"""The device's limits for this instruction set, measured: what the floor of a cell divides by."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from torch_sm80moe import _ops
from torch_sm80moe.bench import timing
from torch_sm80moe.bench.clocks import ClockSummary
from torch_sm80moe.bench.summary import Summary

# What kernels/ceilings/ceilings.h promises.
_READ_GRANULARITY = 8192
_NUM_CHECKSUMS = 1 << 15
_TILE_ROWS, _TILE_ROW_BYTES = 128, 128
_OPERANDS = ("float16", "bfloat16", "int8")  # in the order of MmaOperand

_L2_SIZES_READ = 64  # so that what a pass leaves in L2 does not count
_ROUNDS = 2048  # about two milliseconds on an H100
_REST_S, _SHORT_S = 0.5, 0.02


class _ReadCeiling(ctypes.Structure):
    _fields_ = (
        ("src", ctypes.c_void_p),
        ("num_bytes", ctypes.c_int64),
        ("checksums", ctypes.c_void_p),
        ("num_checksums", ctypes.c_int64),
    )


class _MmaCeiling(ctypes.Structure):
    _fields_ = (
        ("tiles", ctypes.c_void_p),
        ("sums", ctypes.c_void_p),
        ("operand", ctypes.c_int),
        ("rounds", ctypes.c_int),
    )


class Ceiling(NamedTuple):
    """A rate a second: bytes, or multiplications and additions."""

    short: float  # of the fastest launch just after a rest
    sustained: Summary  # in the loop that times the layers
    clocks: ClockSummary  # in that loop


def read(src: torch.Tensor, checksums: torch.Tensor) -> torch.Tensor:
    """Launch the reading kernel; the XOR of int32 `checksums` becomes that of `src`.

    Raises:
        RuntimeError: the arguments are not what ceilings.h asks for, or the launch failed.
    """
    arguments = _ReadCeiling(src.data_ptr(), src.nbytes, checksums.data_ptr(), checksums.numel())
    _check("read", _library().sm80moe_read_ceiling(ctypes.byref(arguments), _stream()))
    return checksums


def multiply(tiles: torch.Tensor, sums: torch.Tensor, rounds: int) -> int:
    """Launch the multiplying kernel and return how many operations that is.

    Args:
        tiles: two tiles of 128 rows of 128 bytes, float16, bfloat16 or int8.
        sums: `[128, 128]`, float32 or, for int8, int32; receives `rounds * tiles[0] @ tiles[1].T`.
        rounds: how often every CTA multiplies the tiles.

    Raises:
        RuntimeError: the arguments are not what ceilings.h asks for, or the launch failed.
    """
    operand = _OPERANDS.index(str(tiles.dtype).removeprefix("torch."))
    arguments = _MmaCeiling(tiles.data_ptr(), sums.data_ptr(), operand, rounds)
    operations = ctypes.c_int64()
    _check(
        "mma",
        _library().sm80moe_mma_ceiling(
            ctypes.byref(arguments), _stream(), ctypes.byref(operations)
        ),
    )
    return operations.value


def measure(name: str, loop: timing.Loop) -> Ceiling:
    """Measure the ceiling of this name, one of `CEILINGS`."""
    launch, work = CEILINGS[name]()
    captured = timing.capture([launch])
    short_us = timing.fastest_after_rest(captured.graph.replay, _REST_S, _SHORT_S)
    us, clocks = timing.time_replays(captured.graph.replay, loop)
    return Ceiling(work / short_us * 1e6, us.as_rate(work), clocks)


def _make_read() -> tuple[timing.Call, int]:
    free, _ = torch.cuda.mem_get_info()
    l2_bytes = torch.cuda.get_device_properties().L2_cache_size
    num_bytes = min(_L2_SIZES_READ * l2_bytes, free // 2)
    num_bytes -= num_bytes % _READ_GRANULARITY
    src = torch.empty(num_bytes // 4, dtype=torch.int32, device="cuda").random_()
    checksums = torch.zeros(_NUM_CHECKSUMS, dtype=torch.int32, device="cuda")
    return functools.partial(read, src, checksums), num_bytes


def _make_mma(dtype: torch.dtype) -> tuple[timing.Call, int]:
    tiles = random_tiles(dtype)
    sum_dtype = torch.int32 if dtype == torch.int8 else torch.float32
    sums = torch.empty(_TILE_ROWS, _TILE_ROWS, dtype=sum_dtype, device="cuda")
    operations = multiply(tiles, sums, _ROUNDS)

    def launch() -> torch.Tensor:
        multiply(tiles, sums, _ROUNDS)
        return sums

    return launch, operations


def random_tiles(dtype: torch.dtype) -> torch.Tensor:
    """Make tiles of random values whose product is zero.

    The power that an mma draws depends on its operands. Random ones toggle as a layer's do, and
    because the second half of the reduction takes back the first, accumulators stay as small as in
    a layer however often the tiles are multiplied.
    """
    half = (2, _TILE_ROWS, _TILE_ROW_BYTES // dtype.itemsize // 2)
    if dtype == torch.int8:
        first = torch.randint(-127, 128, half, device="cuda", dtype=torch.int8)
    else:
        first = torch.randn(half, device="cuda").to(dtype)
    signs = torch.tensor([-1, 1], device="cuda", dtype=dtype).view(2, 1, 1)
    return torch.cat((first, signs * first), dim=-1)


# Name -> what makes its launch, and the work of one launch.
CEILINGS: dict[str, Callable[[], tuple[timing.Call, int]]] = {
    "dram_read": _make_read,
    "mma_float16": functools.partial(_make_mma, torch.float16),
    "mma_bfloat16": functools.partial(_make_mma, torch.bfloat16),
    "mma_int8": functools.partial(_make_mma, torch.int8),
}


@functools.cache
def _library() -> Any:
    # Loaded already, by torch: this is another handle.
    library = ctypes.CDLL(str(_ops.EXTENSION))
    pointer = ctypes.c_void_p
    library.sm80moe_read_ceiling.argtypes = (pointer, pointer)
    library.sm80moe_mma_ceiling.argtypes = (pointer, pointer, pointer)
    return library


def _stream() -> int:
    stream: int = torch.cuda.current_stream().cuda_stream
    return stream


def _check(name: str, status: int) -> None:
    if status != 0:
        raise RuntimeError(f"{name} ceiling: the CUDA call must succeed, got error {status}")
