"""Stops a run in time: nothing is begun that would, by what came before, end too late."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Budget:
    """Seconds to spend; None is without end."""

    def __init__(self, seconds: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        """Start the clock."""
        self._seconds, self._clock = seconds, clock
        self._start = clock()
        self._longest: dict[str, float] = {}

    @property
    def spent(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._start

    def allows(self, kind: str) -> bool:
        """Return whether one more step of this kind fits, if it takes as long as the longest."""
        return self._seconds is None or self.spent + self._longest.get(kind, 0) < self._seconds

    @contextmanager
    def step(self, kind: str) -> Iterator[None]:
        """Note how long a step of this kind takes."""
        start = self._clock()
        yield
        self._longest[kind] = max(self._longest.get(kind, 0), self._clock() - start)
