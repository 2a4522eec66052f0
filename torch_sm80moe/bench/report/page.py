"""The page: Markdown with plots beside it. The same results always make the same bytes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch_sm80moe.bench.formats import DENSE
from torch_sm80moe.bench.report import formats, plots
from torch_sm80moe.bench.report.measured import (
    Measured,
    Place,
    Row,
    Setting,
    grid,
    load,
    mean_line,
)
from torch_sm80moe.bench.report.targets import Targets, shared_memory_limit, verdicts
from torch_sm80moe.bench.report.targets import load as load_targets

PAGE, README_TABLE = "report.md", "table.md"


def write(paths: list[Path], out: Path, compare: Path | None, targets_path: Path | None) -> Path:
    """Write the page, its plots and the README's table into a folder; return the page's path.

    Raises:
        ResultError: a file is no result, or the results are of several devices.
    """
    measured, targets = load(paths), load_targets(targets_path)
    before = load([compare]) if compare else None
    out.mkdir(parents=True, exist_ok=True)
    plots.write(measured, targets, out)
    (out / README_TABLE).write_text("\n".join(readme_table(measured)) + "\n")
    page = out / PAGE
    page.write_text("\n".join(_page(measured, targets, before)) + "\n")
    return page


def readme_table(measured: Measured) -> Iterator[str]:
    """Return microseconds and times the floor of the first setting, with the device named."""
    setting = measured.settings[0]
    rows = measured.rows(setting)
    machine = measured.contents[0]["machine"]
    yield (
        f"{machine['device']['name']}, {setting}, {machine['date'][:10]}: microseconds of a layer "
        "(times the floor)"
    )
    yield ""
    yield from grid(
        rows,
        lambda place: _text(rows, place, lambda r: f"{_us(r)} ({r['times_floor']:.2f})"),
    )


def _page(measured: Measured, targets: Targets | None, before: Measured | None) -> Iterator[str]:
    yield "# sm80moe: benchmark"
    yield ""
    for content in measured.contents:
        yield from _machine(content)
    if targets:
        yield from _verdicts(targets, measured)
    yield from formats.sections(measured)
    for setting in measured.settings:
        yield from _setting(setting, measured, targets)
    if before:
        yield from _comparison(before, measured)
    yield from _decode(measured)
    yield from _missing(measured)


def _machine(content: dict[str, Any]) -> Iterator[str]:
    machine = content["machine"]
    device, versions, build = machine["device"], machine["versions"], machine["build"]
    yield (
        f"{machine['date']}: {device['name']} ({device['sms']} SMs, driver {device['driver']}), "
        f"torch {versions['torch']}, torch_sm80moe {versions['torch_sm80moe']} "
        f"(commit {str(build.get('commit'))[:12]})."
    )
    yield ""
    yield "| limit, 10^12 a second | sustained | after the last cell | short | SM clock |"
    yield "|---|---:|---:|---:|---:|"
    after = content["ceilings"]["after"]
    for name, row in content["ceilings"]["before"].items():
        again = f"{after[name]['sustained']['median'] / 1e12:.2f}" if name in after else ""
        clock = row["clocks"]["sm_mhz"]
        yield (
            f"| {name} | {row['sustained']['median'] / 1e12:.2f} | {again} | "
            f"{row['short'] / 1e12:.2f} | {'unknown' if clock is None else f'{clock:.0f} MHz'} |"
        )
    yield ""


def _verdicts(targets: Targets, measured: Measured) -> Iterator[str]:
    found = [*verdicts(targets, measured), *formats.verdicts(targets, measured)]
    if not found:
        return
    yield "## Targets"
    yield ""
    yield "| target | found | met |"
    yield "|---|---|---|"
    for verdict in found:
        yield f"| {verdict.target} | {verdict.found} | {'yes' if verdict.met else '**no**'} |"
    yield ""


def _setting(setting: Setting, measured: Measured, targets: Targets | None) -> Iterator[str]:
    rows = measured.rows(setting)
    limit = shared_memory_limit(measured)
    judged = targets if setting.format == DENSE else None  # formats have targets of their own

    def times_floor(place: Place) -> str | None:
        if place not in rows:
            return None
        found = rows[place]["times_floor"]
        most = judged.times_floor(place, limit) if judged else None
        return f"{found:.2f}" if most is None or found <= most else f"**{found:.2f}** ({most:.2f})"

    yield f"## {setting}"
    yield ""
    yield f"![time against tokens]({plots.time_name(setting)})"
    yield ""
    yield f"![roofline]({plots.roofline_name(setting)})"
    yield ""
    yield "### Times the floor" + (" (bold: over the target, which follows)" if judged else "")
    yield ""
    yield from grid(rows, times_floor)
    yield ""
    yield mean_line(row["times_floor"] for row in rows.values())
    yield ""
    yield "### Times the floor by the short limits"
    yield ""
    short = {place: row["us"]["median"] / row["short_floor_us"] for place, row in rows.items()}
    yield from grid(short, lambda place: f"{short[place]:.2f}" if place in short else None)
    yield ""
    yield mean_line(short.values())
    yield ""
    yield "### Microseconds (10th to 90th percentile)"
    yield ""
    yield from grid(rows, lambda place: _text(rows, place, _us_with_spread))
    yield ""
    yield from _rivals(rows)
    if targets and setting == targets.setting:
        yield from _published(targets, rows)
    yield from _stages(rows)


def _rivals(rows: dict[Place, Row]) -> Iterator[str]:
    names = dict.fromkeys(name for row in rows.values() for name in row.get("rivals", {}))
    for name in names:
        ratios = {
            place: row["rivals"][name]["us"]["median"] / row["us"]["median"]
            for place, row in rows.items()
            if "us" in row.get("rivals", {}).get(name, {})
        }
        yield from _ratios(f"Time of {name} over ours", ratios)


def _published(targets: Targets, rows: dict[Place, Row]) -> Iterator[str]:
    for name, rival in targets.rivals.items():
        title = f"Time of the {name} rival over ours, scaled by the short limits"
        speedups = targets.speedups(name, rows)
        yield from _ratios(title, speedups)
        if speedups:
            yield f"It is {rival['about']} ({targets.content['rivals']['measured']})."
            yield ""


def _ratios(title: str, ratios: dict[Place, float]) -> Iterator[str]:
    if not ratios:
        return
    yield f"### {title}"
    yield ""
    yield from grid(ratios, lambda place: f"{ratios[place]:.2f}" if place in ratios else None)
    yield ""
    yield mean_line(ratios.values())
    yield ""


def _stages(rows: dict[Place, Row]) -> Iterator[str]:
    staged = {place: row["stages_us"] for place, row in rows.items() if "stages_us" in row}
    if not staged:
        return
    names = list(dict.fromkeys(name for stages in staged.values() for name in stages))
    yield "### Stages, microseconds"
    yield ""
    yield "| model | tokens | " + " | ".join(names) + " |"
    yield "|---|---:|" + "---:|" * len(names)
    for place, stages in staged.items():
        cells = (f"{stages[name]:.1f}" if name in stages else "" for name in names)
        yield f"| {place.model} | {place.tokens} | " + " | ".join(cells) + " |"
    yield ""


def _comparison(before: Measured, after: Measured) -> Iterator[str]:
    yield f"## Against {before.contents[0]['machine']['date']}"
    yield ""
    for setting in after.settings:
        old, new = before.rows(setting), after.rows(setting)
        ratios = {
            place: old[place]["times_floor"] / row["times_floor"]
            for place, row in new.items()
            if place in old
        }
        title = f"{setting}: times the floor before over after (above 1 is faster now)"
        yield from _ratios(title, ratios)


def _decode(measured: Measured) -> Iterator[str]:
    for content in measured.contents:
        if "decode" not in content:
            continue
        decoded = content["decode"]
        yield "## Decoding with a whole model"
        yield ""
        yield "The floor is the time in which one token's weights can be read."
        yield ""
        yield (
            "| experts | weights | tokens a second | microseconds | floor | times the floor "
            "| same tokens as ours |"
        )
        yield "|---|---|---:|---:|---:|---:|---:|"
        for row in decoded["rows"]:
            if "error" in row:
                continue
            us = row["us_per_token"]["median"]
            # Results of before there were formats have one floor for all rows.
            floor_us = row.get("floor_us") or decoded["floor_us"]
            speed, same = row["tokens_per_second"], row.get("same_tokens", "")
            yield (
                f"| {row['experts']} | {row.get('format', DENSE)} | {speed:.0f} | {us:.0f} "
                f"| {floor_us:.0f} | {us / floor_us:.2f} | {same} |"
            )
        yield ""


def _missing(measured: Measured) -> Iterator[str]:
    for what in ("missing", "wrong"):
        names = [name for content in measured.contents for name in content.get(what, [])]
        if names:
            yield f"{what.capitalize()}: {', '.join(names)}."


def _text(rows: dict[Place, Row], place: Place, text: Any) -> str | None:
    return str(text(rows[place])) if place in rows else None


def _us(row: Row) -> str:
    return _digits(row["us"]["median"])


def _us_with_spread(row: Row) -> str:
    us = row["us"]
    return f"{_us(row)} ({_digits(us['p10'])}-{_digits(us['p90'])})"


def _digits(us: float) -> str:
    """Return three digits or more."""
    return f"{us:.0f}" if us >= 100 else f"{us:.1f}"
