"""How everything is timed, ceilings and layers alike: replays that wait in line on the stream.

Every replay is enqueued before the first has ended, with an event between each two, so that neither
launch latency nor a host synchronisation is part of a sample. A replay holds enough calls that
what lies between two replays does not matter.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from torch_sm80moe.bench.clocks import Clocks, ClockSummary
from torch_sm80moe.bench.summary import Summary, summarize

Call = Callable[[], torch.Tensor]


class Loop(NamedTuple):
    """For how long something is warmed up, and then timed."""

    warmup_s: float
    timed_s: float
    min_samples: int = 5
    max_samples: int = 1000

    def num_replays(self, replay_s: float) -> tuple[int, int]:
        """Return how many replays to warm up with, and how many to time."""
        timed = math.ceil(self.timed_s / replay_s)
        return (
            math.ceil(self.warmup_s / replay_s),
            min(max(timed, self.min_samples), self.max_samples),
        )


class Timing(NamedTuple):
    """Microseconds of one replay, and the device's state meanwhile."""

    us: Summary
    clocks: ClockSummary


class Captured(NamedTuple):
    """A graph of calls, and where each of them leaves its output."""

    graph: torch.cuda.CUDAGraph
    outputs: list[torch.Tensor]


def capture(calls: Sequence[Call]) -> Captured:
    """Run the calls once, to load what they need, and capture them in one graph."""
    for call in calls:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = [call() for call in calls]
    return Captured(graph, outputs)


def time_replays(replay: Callable[[], object], loop: Loop) -> Timing:
    """Time a replay, which may also be a function that launches work one by one."""
    replay()
    replay_s = max(_samples_us(replay, 2)) / 1e6
    num_warmups, num_timed = loop.num_replays(replay_s)
    with Clocks() as clocks:
        for _ in range(num_warmups):
            replay()
        clocks.start_over()
        samples = _samples_us(replay, num_timed)
    return Timing(summarize(samples), clocks.summary())


def fastest_after_rest(replay: Callable[[], object], rest_s: float, busy_s: float) -> float:
    """Return the microseconds of the fastest replay in the first moments after a rest."""
    replay()
    replay_s = max(_samples_us(replay, 2)) / 1e6
    time.sleep(rest_s)
    return min(_samples_us(replay, max(3, math.ceil(busy_s / replay_s))))


def elapsed_us(work: Callable[[], object]) -> float:
    """Time work once, from an idle device on."""
    torch.cuda.synchronize()
    return _samples_us(work, 1)[0]


def _samples_us(replay: Callable[[], object], num_samples: int) -> list[float]:
    events = [torch.cuda.Event(enable_timing=True) for _ in range(num_samples + 1)]
    events[0].record()
    for event in events[1:]:
        replay()
        event.record()
    events[-1].synchronize()
    us_per_ms = 1e3
    return [a.elapsed_time(b) * us_per_ms for a, b in itertools.pairwise(events)]
