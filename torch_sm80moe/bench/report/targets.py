"""What the project wants to reach, from a data file, and whether a result does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from torch_sm80moe.bench.report.measured import Measured, Place, Row, Setting
from torch_sm80moe.bench.results import ResultError
from torch_sm80moe.bench.summary import geometric_mean

# Of a clone; an installation has none unless it is named.
DEFAULT_PATH = Path("benchmarks", "targets.json")
_MANY_TOKENS = 1024


class Verdict(NamedTuple):
    """One target, and how a result stands."""

    target: str
    found: str
    met: bool


class Targets:
    """The content of targets.json; benchmarks/README.md documents it."""

    def __init__(self, content: dict[str, Any]) -> None:
        """Keep what was read."""
        self.content = content
        self.setting = Setting(content["dtype"], content["routing"])
        self.rivals: dict[str, dict[str, Any]] = content["rivals"]["by_name"]

    def times_floor(self, place: Place, shared_memory_limit: int) -> float | None:
        """Return how many times the floor a cell may take."""
        wanted = self.entry(self.content["times_floor"], place)
        small = self.content["small_shared_memory"]
        if wanted is None or not 0 < shared_memory_limit <= small["bytes"]:
            return wanted
        many = place.tokens >= _MANY_TOKENS
        return wanted * float(small["factor_from_1024_tokens" if many else "factor"])

    def rival_times_floor(self, rival: str, place: Place) -> float | None:
        """Return a published rival's time over the floor of the device that it was measured on."""
        us = self.entry(self.rivals[rival]["us"], place)
        floor_us = self.entry(self.content["rivals"]["floor_us"], place)
        return None if us is None or floor_us is None else us / floor_us

    def least_speedup(self, rival: str, tokens: int) -> float:
        """Return how many times as fast as the rival a cell must be."""
        speedups = self.rivals[rival]["least_speedup"]
        return float(speedups[self.content["tokens"].index(tokens)])

    def speedups(self, rival: str, rows: dict[Place, Row]) -> dict[Place, float]:
        """Return how many times as fast as the rival each cell is, by the floors of both runs.

        The rivals' floors are by limits of short launches, so these are, too.
        """
        return {
            place: rival_times * row["short_floor_us"] / row["us"]["median"]
            for place, row in rows.items()
            if (rival_times := self.rival_times_floor(rival, place)) is not None
        }

    def entry(self, table: dict[str, list[float]], place: Place) -> float | None:
        """Return the number of a place in a table that has one for each of `tokens`."""
        tokens = self.content["tokens"]
        if place.model not in table or place.tokens not in tokens:
            return None
        return float(table[place.model][tokens.index(place.tokens)])


def load(path: Path | None) -> Targets | None:
    """Read the targets; without a path those of a clone, if there is one."""
    if path is None and not DEFAULT_PATH.exists():
        return None
    chosen = path or DEFAULT_PATH
    try:
        return Targets(json.loads(chosen.read_text()))
    except (OSError, ValueError, KeyError) as error:
        raise ResultError(f"{chosen} must be a file of targets, got {error!r}") from error


def shared_memory_limit(measured: Measured) -> int:
    """Return the limit under which the cells were measured; 0 is what the device has."""
    return int(measured.contents[0]["machine"]["shared_memory_limit"])


def verdicts(targets: Targets, measured: Measured) -> Iterator[Verdict]:
    """Judge everything that was measured."""
    rows = measured.rows(targets.setting)
    if rows:
        yield from _against_floor(targets, rows, shared_memory_limit(measured))
        for rival in targets.rivals:
            yield from _against_rival(targets, rival, rows)
    for other, name in _other_settings(targets, measured):
        yield from _against_setting(targets, name, measured.rows(other), rows)
    selected = [g["over_best"] for r in measured.all_rows() for g in r.get("tactics", {}).values()]
    if selected:
        yield at_most(
            "selected tactics over the best, on average",
            targets.content["selected_over_best"],
            sum(selected) / len(selected),
        )


def _against_floor(targets: Targets, rows: dict[Place, Row], limit: int) -> Iterator[Verdict]:
    wanted = {place: targets.times_floor(place, limit) for place in rows}
    judged = {place: most for place, most in wanted.items() if most is not None}
    if not judged:
        return
    within = sum(rows[place]["times_floor"] <= most for place, most in judged.items())
    yield Verdict(
        "times the floor, cell by cell",
        f"{within} of {len(judged)} cells within their targets",
        within == len(judged),
    )
    mean = geometric_mean(rows[place]["times_floor"] for place in judged)
    name = f"geometric mean of {len(judged)} cells, times the floor"
    yield at_most(name, targets.content["geometric_mean"], mean)


def _against_rival(targets: Targets, rival: str, rows: dict[Place, Row]) -> Iterator[Verdict]:
    speedups = targets.speedups(rival, rows)
    if not speedups:
        return
    least = {place: targets.least_speedup(rival, place.tokens) for place in speedups}
    fast = sum(speedup >= least[place] for place, speedup in speedups.items())
    slowest = min(speedups, key=lambda place: speedups[place] / least[place])
    yield Verdict(
        f"as fast as the {rival} rival, or as much faster as is wanted",
        f"{fast} of {len(speedups)} cells; the last is {slowest.model} at T={slowest.tokens}, "
        f"{speedups[slowest]:.2f} of {least[slowest]:.2f}",
        fast == len(speedups),
    )


def _other_settings(targets: Targets, measured: Measured) -> Iterator[tuple[Setting, str]]:
    for setting in measured.settings:
        if setting == targets.setting._replace(dtype=setting.dtype) != targets.setting:
            yield setting, "float16_over_bfloat16"
        if setting == targets.setting._replace(routing=setting.routing) != targets.setting:
            yield setting, "skewed_over_balanced"


def _against_setting(
    targets: Targets, name: str, rows: dict[Place, Row], base: dict[Place, Row]
) -> Iterator[Verdict]:
    ratios = [
        row["times_floor"] / base[place]["times_floor"]
        for place, row in rows.items()
        if place in base
    ]
    if ratios:
        setting = next(iter(rows.values()))
        what = f"{setting['dtype']}, {setting['routing']}: times the floor over that of "
        yield at_most(f"{what}{targets.setting}, worst cell", targets.content[name], max(ratios))


def at_most(what: str, most: float, found: float) -> Verdict:
    """Judge a number that must not be larger."""
    return Verdict(f"{what}: at most {most:g}", f"{found:.3f}", found <= most)
