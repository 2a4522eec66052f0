"""What a run measures: its options, and the cells that they span."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch_sm80moe.bench.formats import DENSE
from torch_sm80moe.bench.models import MODELS, Model
from torch_sm80moe.bench.timing import Loop

TOKENS = (1, 4, 16, 64, 256, 1024, 4096)
QUICK_TOKENS = (1, 64, 1024)
DTYPES = ("bfloat16", "float16")

LOOP = Loop(warmup_s=0.2, timed_s=0.4)
SHORT_LOOP = Loop(warmup_s=0.05, timed_s=0.1)  # of each tactic
QUICK_LOOP = Loop(warmup_s=0.02, timed_s=0.05)


@dataclass(frozen=True)
class Cell:
    """One line of the result."""

    model: Model
    dtype: str
    routing: str
    num_tokens: int
    format: str = DENSE

    def __str__(self) -> str:
        """Return a name that is unique within a run."""
        weights = "" if self.format == DENSE else f" {self.format}"
        return f"{self.model.name} {self.dtype}{weights} {self.routing} T={self.num_tokens}"


@dataclass(frozen=True)
class Plan:
    """What the command line asks for."""

    models: tuple[Model, ...] = MODELS
    tokens: tuple[int, ...] = TOKENS
    dtypes: tuple[str, ...] = ("bfloat16",)
    formats: tuple[str, ...] = (DENSE,)
    routings: tuple[str, ...] = ("balanced",)
    loop: Loop = LOOP
    short_loop: Loop = SHORT_LOOP
    stages: bool = False
    tactics: bool = False
    rivals: bool = False
    decode: bool = False  # a whole model instead of the cells
    checkpoint: Path | None = None
    json: Path | None = None
    time_budget_s: float | None = None

    def describe(self) -> dict[str, Any]:
        """Return the options as they are written."""
        return {
            "models": [model.name for model in self.models],
            "tokens": list(self.tokens),
            "dtypes": list(self.dtypes),
            "formats": list(self.formats),
            "routings": list(self.routings),
            "warmup_s": self.loop.warmup_s,
            "timed_s": self.loop.timed_s,
            "stages": self.stages,
            "tactics": self.tactics,
            "rivals": self.rivals,
            "decode": self.decode,
            "time_budget_s": self.time_budget_s,
        }

    def groups(self) -> Iterator[list[Cell]]:
        """Return the cells of each set of weights, so that each set is made once."""
        if self.decode:
            return
        for model, dtype, weights in itertools.product(self.models, self.dtypes, self.formats):
            yield [
                Cell(model, dtype, routing, num_tokens, weights)
                for routing, num_tokens in itertools.product(self.routings, self.tokens)
            ]

    def cells(self) -> list[Cell]:
        """Return every cell, in the order of measuring."""
        return [cell for cells in self.groups() for cell in cells]
