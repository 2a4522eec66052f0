"""How often values of each size occur, over any number of batches, in constant memory."""

from __future__ import annotations

import math

import torch

_NUM_BINS = 1 << 16
_LEAST_EXPONENT = -126


class Histogram:
    """Counts values in even bins of a range [-R, R), where R is a power of two.

    R doubles when a value lies outside, and then neighbours share a bin. What has been counted
    therefore does not depend on the order of the batches.
    """

    def __init__(self) -> None:
        """Start without values."""
        self.counts = torch.zeros(_NUM_BINS, dtype=torch.float64)
        self.least, self.most = math.inf, -math.inf
        self._exponent = _LEAST_EXPONENT

    def add(self, values: torch.Tensor) -> None:
        """Count values of any shape.

        Raises:
            ValueError: a value is NaN or infinite.
        """
        if values.numel() == 0:
            return
        values = values.detach().float().flatten()
        least, most = (float(extreme) for extreme in values.aminmax())
        if not (math.isfinite(least) and math.isfinite(most)):
            raise ValueError("calibration: activations must be finite, got NaN or infinity")
        self.least, self.most = min(self.least, least), max(self.most, most)
        while max(-least, most) >= 2.0**self._exponent:
            self._double_range()
        bins = ((values / self._bin_width()).floor() + _NUM_BINS // 2).long()
        self.counts += torch.bincount(bins, minlength=_NUM_BINS).cpu()

    def _bin_width(self) -> float:
        return 2.0**self._exponent / (_NUM_BINS // 2)

    def _double_range(self) -> None:
        quarter = _NUM_BINS // 4
        pairs = self.counts.reshape(-1, 2).sum(dim=1)
        self.counts = torch.nn.functional.pad(pairs, (quarter, quarter))
        self._exponent += 1

    def used_bins(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the middles of the bins that hold values, in order, and their counts; float64."""
        (used,) = self.counts.nonzero(as_tuple=True)
        middles = (used.double() - _NUM_BINS // 2 + 0.5) * self._bin_width()
        return middles, self.counts[used]
