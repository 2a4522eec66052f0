"""The least time that a call can take on a device of measured limits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Limits(NamedTuple):
    """What a device sustains, a second."""

    dram_bytes: float
    mma_flops: float


class Work(NamedTuple):
    """What one call must do: read its active experts' weights, and multiply."""

    weight_bytes: int
    flops: int

    def floor_us(self, limits: Limits) -> float:
        """Return the larger of reading time and multiplying time."""
        return 1e6 * max(self.weight_bytes / limits.dram_bytes, self.flops / limits.mma_flops)


def mean_floor_us(works: Sequence[Work], limits: Limits) -> float:
    """Average over calls that are timed together."""
    return sum(work.floor_us(limits) for work in works) / len(works)
