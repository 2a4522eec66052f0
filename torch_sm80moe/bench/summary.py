"""What is kept of many samples, and how cells are averaged."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple


class Summary(NamedTuple):
    """Median and spread of samples."""

    median: float
    p10: float
    p90: float
    num_samples: int

    def scaled(self, factor: float) -> Summary:
        """The summary of samples that are `factor` times as large."""
        return self._map(lambda value: value * factor)

    def as_rate(self, work: float) -> Summary:
        """The rates a second at which so much work was done, if these are its microseconds."""
        return self._map(lambda us: work / us * 1e6)

    def _map(self, function: Callable[[float], float]) -> Summary:
        low, high = sorted((function(self.p10), function(self.p90)))
        return Summary(function(self.median), low, high, self.num_samples)


def summarize(samples: Sequence[float]) -> Summary:
    """Return the median and the 10th and 90th percentile."""
    ordered = sorted(samples)
    median, p10, p90 = (_quantile(ordered, q) for q in (0.5, 0.1, 0.9))
    return Summary(median, p10, p90, len(ordered))


def _quantile(ordered: Sequence[float], q: float) -> float:
    """Interpolate between the two nearest ranks."""
    position = q * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


def geometric_mean(values: Iterable[float]) -> float:
    """Return the n-th root of the product of n positive numbers."""
    logarithms = [math.log(value) for value in values]
    return math.exp(sum(logarithms) / len(logarithms))
