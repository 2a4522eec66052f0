"""A device of made-up limits, so that a whole run needs no GPU: only its times mean nothing."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from torch_sm80moe.bench import ceilings, layer, timing
from torch_sm80moe.bench.clocks import ClockSummary
from torch_sm80moe.bench.summary import Summary, summarize

RATE = 1e12
REPLAY_US = (90.0, 100.0, 110.0)

PROPERTIES = SimpleNamespace(
    name="imaginary",
    major=8,
    minor=0,
    multi_processor_count=108,
    total_memory=1 << 34,
    L2_cache_size=1 << 20,
    uuid="0",
)


class FakeGraph:
    """Calls again what was captured."""

    def __init__(self, calls, outputs):
        self.calls, self.outputs = calls, outputs

    def replay(self):
        for call, output in zip(self.calls, self.outputs, strict=True):
            output.copy_(call())


def capture(calls):
    outputs = [call() for call in calls]
    return timing.Captured(FakeGraph(calls, outputs), outputs)


def time_replays(replay, loop):
    replay()
    return timing.Timing(summarize(REPLAY_US), ClockSummary(1410.0, 250.0))


def measure_ceiling(name, loop):
    rate = Summary(RATE, RATE, RATE, 5)
    return ceilings.Ceiling(2 * RATE, rate, ClockSummary(1410.0, 250.0))


@pytest.fixture
def imaginary_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda *device: PROPERTIES)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (1 << 34, 1 << 34))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr("torch_sm80moe._ops.HAS_KERNELS", True)
    monkeypatch.setattr(timing, "capture", capture)
    monkeypatch.setattr(timing, "time_replays", time_replays)
    monkeypatch.setattr(ceilings, "measure", measure_ceiling)
    monkeypatch.setattr(layer, "DEVICE", torch.device("cpu"))
