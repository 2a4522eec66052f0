"""Quantised weights on the page: against 16 bits, in memory, and by their own targets."""

from __future__ import annotations

from collections.abc import Iterator

from torch_sm80moe.bench.formats import DENSE
from torch_sm80moe.bench.report.measured import (
    Measured,
    Place,
    Row,
    Setting,
    grid,
    mean_line,
    models_of,
)
from torch_sm80moe.bench.report.targets import Targets, Verdict, at_most
from torch_sm80moe.bench.summary import geometric_mean

_MB = 1e6


def sections(measured: Measured) -> Iterator[str]:
    """Compare what differs by the format alone; nothing if there are 16 bits alone."""
    for setting in measured.settings:
        dense = setting._replace(format=DENSE)
        if setting == _first_of(dense, measured):
            yield from _compare(dense, measured)


def _first_of(dense: Setting, measured: Measured) -> Setting | None:
    """Return the first of the settings with packed weights that share all but the format."""
    return next(
        (s for s in measured.settings if s.format != DENSE and s._replace(format=DENSE) == dense),
        None,
    )


def _compare(dense: Setting, measured: Measured) -> Iterator[str]:
    by_format = {
        setting.format: measured.rows(setting)
        for setting in measured.settings
        if setting._replace(format=DENSE) == dense
    }
    yield f"## Formats, {dense}"
    yield ""
    yield "| weights | cells | times the floor, geometric mean | megabytes of a layer |"
    yield "|---|---:|---:|---|"
    for name, rows in by_format.items():
        mean = geometric_mean(row["times_floor"] for row in rows.values())
        yield f"| {name} | {len(rows)} | {mean:.3f} | {_memory(rows)} |"
    yield ""
    for name, rows in by_format.items():
        if name != DENSE and DENSE in by_format:
            yield from _against(name, _times(by_format[DENSE], rows))


def _against(name: str, speedups: dict[Place, float]) -> Iterator[str]:
    if not speedups:
        return
    yield f"### Time of 16-bit weights over that of {name}"
    yield ""
    yield from grid(speedups, lambda p: f"{speedups[p]:.2f}" if p in speedups else None)
    yield ""
    yield mean_line(speedups.values())
    yield ""


def _memory(rows: dict[Place, Row]) -> str:
    """Name the models with their megabytes; results of before there were formats have none."""
    found = {p.model: row["memory_bytes"] for p, row in rows.items() if "memory_bytes" in row}
    known = (name for name in models_of(rows) if name in found)
    return ", ".join(f"{name} {found[name] / _MB:.0f}" for name in known)


def _times(rows: dict[Place, Row], others: dict[Place, Row]) -> dict[Place, float]:
    """Return the time of one over that of the other, where both were measured."""
    return {
        place: rows[place]["us"]["median"] / other["us"]["median"]
        for place, other in others.items()
        if place in rows
    }


def verdicts(targets: Targets, measured: Measured) -> Iterator[Verdict]:
    """Judge the formats that have targets."""
    for name, wanted in targets.content["formats"].items():
        judged = _Judged(name, targets, measured)
        if not judged.rows:
            continue
        if "geometric_mean" in wanted:
            yield judged.mean(wanted["geometric_mean"])
        for speedup in wanted.get("over_16bit", ()):
            yield from judged.speedup(**speedup)
        if "rival" in wanted:
            yield from judged.rival(**wanted["rival"])
        if "most_over" in wanted:
            yield from judged.most_over(**wanted["most_over"])


class _Judged:
    """The cells of one format, in the setting of the targets."""

    def __init__(self, name: str, targets: Targets, measured: Measured) -> None:
        self.name, self.targets, self.measured = name, targets, measured
        self.rows = self._rows(name)

    def _rows(self, name: str) -> dict[Place, Row]:
        return self.measured.rows(self.targets.setting._replace(format=name))

    def mean(self, most: float) -> Verdict:
        mean = geometric_mean(row["times_floor"] for row in self.rows.values())
        what = f"{self.name}: geometric mean of {len(self.rows)} cells, times the floor"
        return at_most(what, most, mean)

    def speedup(self, tokens: int, models: list[str], least: float) -> Iterator[Verdict]:
        speedups = _times(self._rows(DENSE), self.rows)
        places = [Place(model, tokens) for model in models]
        found = {place: speedups[place] for place in places if place in speedups}
        if found:
            slowest = min(found, key=found.__getitem__)
            what = f"{self.name}: speed at T={tokens} over that of 16 bits: at least {least:g}"
            text = f"{found[slowest]:.2f} ({slowest.model})"
            yield Verdict(what, text, found[slowest] >= least)

    def rival(self, about: str, times_floor: dict[str, list[float]]) -> Iterator[Verdict]:
        """Scale the rival as those of 16 bits: by the floors of short launches."""
        speedups = {
            place: theirs * row["short_floor_us"] / row["us"]["median"]
            for place, row in self.rows.items()
            if (theirs := self.targets.entry(times_floor, place)) is not None
        }
        if speedups:
            fast = sum(speedup >= 1 for speedup in speedups.values())
            last = min(speedups, key=speedups.__getitem__)
            text = f"{fast} of {len(speedups)} cells; the last is {last.model} at T={last.tokens}"
            whole = fast == len(speedups)
            yield Verdict(
                f"{self.name}: as fast as {about}", f"{text}, {speedups[last]:.2f}", whole
            )

    def most_over(self, format: str, times: float) -> Iterator[Verdict]:
        ratios = _times(self.rows, self._rows(format))
        if ratios:
            what = f"{self.name}: time over that of {format}, geometric mean"
            yield at_most(what, times, geometric_mean(ratios.values()))
