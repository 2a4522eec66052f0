"""The cells of one or several result files, by what they measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from torch_sm80moe.bench import results
from torch_sm80moe.bench.formats import DENSE
from torch_sm80moe.bench.models import MODELS
from torch_sm80moe.bench.summary import geometric_mean

Row = dict[str, Any]


class Setting(NamedTuple):
    """What all cells of one table have in common."""

    dtype: str
    routing: str
    format: str = DENSE

    def __str__(self) -> str:
        """Return a name for titles."""
        weights = "" if self.format == DENSE else f" with {self.format} weights"
        return f"{self.dtype}{weights}, {self.routing} routing"

    @property
    def file_name(self) -> str:
        """Return what tells its files from those of others."""
        weights = "" if self.format == DENSE else f"-{self.format}"
        return f"{self.dtype}{weights}-{self.routing}"


class Place(NamedTuple):
    """Where a cell is in a table."""

    model: str
    tokens: int


class Measured:
    """Every cell that has a time; where files share one, the last file's."""

    def __init__(self, contents: list[dict[str, Any]]) -> None:
        """Join results of one device.

        Raises:
            results.ResultError: they are of several devices, or hold no cell.
        """
        devices = {content["machine"]["device"]["name"] for content in contents}
        if len(devices) != 1:
            raise results.ResultError(
                f"results must be of one device, got {', '.join(sorted(devices))}"
            )
        self.contents = contents
        self._rows = {
            (setting_of(row), Place(row["model"], row["tokens"])): row
            for content in contents
            for row in content["cells"]
            if "error" not in row
        }
        if not self._rows:
            raise results.ResultError("results must hold a cell that was measured, got none")

    @property
    def settings(self) -> list[Setting]:
        """Every setting, in the order of measuring."""
        return list(dict.fromkeys(setting for setting, _ in self._rows))

    def rows(self, setting: Setting) -> dict[Place, Row]:
        """Return the cells of a setting."""
        return {place: row for (found, place), row in self._rows.items() if found == setting}

    def all_rows(self) -> list[Row]:
        """Return every cell."""
        return list(self._rows.values())


def setting_of(row: Row) -> Setting:
    """Return the setting of a cell; results of before there were formats name none."""
    return Setting(row["dtype"], row["routing"], row.get("format", DENSE))


def load(paths: Iterable[Path]) -> Measured:
    """Read and join result files."""
    return Measured([results.load(path) for path in paths])


def models_of(places: Iterable[Place]) -> list[str]:
    """Return the models, known ones in their usual order, then others by name."""
    known = [model.name for model in MODELS]
    names = {place.model for place in places}
    return [name for name in known if name in names] + sorted(names - set(known))


def tokens_of(places: Iterable[Place]) -> list[int]:
    """Return the numbers of tokens, in rising order."""
    return sorted({place.tokens for place in places})


def grid(places: Iterable[Place], text: Callable[[Place], str | None]) -> list[str]:
    """Return a Markdown table, a row a model and a column a number of tokens."""
    kept = list(places)
    tokens = tokens_of(kept)
    lines = [
        "| model | " + " | ".join(f"T={count}" for count in tokens) + " |",
        "|---|" + "---:|" * len(tokens),
    ]
    for model in models_of(kept):
        cells = [text(Place(model, count)) or "" for count in tokens]
        lines.append(f"| {model} | " + " | ".join(cells) + " |")
    return lines


def mean_line(values: Iterable[float]) -> str:
    """Return the geometric mean in words."""
    kept = list(values)
    return f"Geometric mean of {len(kept)} cells: {geometric_mean(kept):.3f}."
