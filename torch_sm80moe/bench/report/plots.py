"""The plots of a page, as SVG that is the same for the same results."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from torch_sm80moe.bench.formats import mma_ceiling
from torch_sm80moe.bench.report.measured import Measured, Place, Row, Setting, models_of, tokens_of
from torch_sm80moe.bench.report.targets import Targets

# Names of shapes in an SVG are random without a salt.
_STYLE: Any = {"svg.hashsalt": "sm80moe", "axes.grid": True, "grid.alpha": 0.3, "font.size": 9}
_COLUMNS = 3
_COLORS = ("C0", "C1", "C2", "C4", "C5", "C6", "C8", "C9")  # of rivals; ours is C3


def time_name(setting: Setting) -> str:
    """Return the file of a setting's times."""
    return f"time-{setting.file_name}.svg"


def roofline_name(setting: Setting) -> str:
    """Return the file of a setting's roofline."""
    return f"roofline-{setting.file_name}.svg"


def write(measured: Measured, targets: Targets | None, out: Path) -> None:
    """Write both plots of every setting."""
    for setting in measured.settings:
        rows = measured.rows(setting)
        ceilings = measured.contents[0]["ceilings"]["before"]
        shown = targets if targets and setting == targets.setting else None
        with matplotlib.rc_context(_STYLE):
            _save(_time_figure(rows, shown, str(setting)), out / time_name(setting))
            _save(_roofline_figure(rows, ceilings, setting), out / roofline_name(setting))


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None, "Creator": None})


def _time_figure(rows: dict[Place, Row], targets: Targets | None, title: str) -> Figure:
    models = models_of(rows)
    num_lines = -(-len(models) // _COLUMNS)
    figure = Figure(figsize=(4 * _COLUMNS, 3.2 * num_lines), layout="constrained")
    figure.suptitle(f"time of a layer, {title}")
    axes = figure.subplots(num_lines, _COLUMNS, squeeze=False).flatten()
    rivals = list(dict.fromkeys(name for row in rows.values() for name in row.get("rivals", {})))
    handles: dict[str, Any] = {}
    for model, axis in zip(models, axes, strict=False):
        one = {place: row for place, row in rows.items() if place.model == model}
        tokens = tokens_of(one)
        for label, style, points in _lines([one[Place(model, t)] for t in tokens], rivals, targets):
            if points:
                (handles[label],) = axis.plot(*zip(*points, strict=True), style, label=label)
        axis.set(title=model, xscale="log", yscale="log", xlabel="tokens", ylabel="microseconds")
        axis.set_xticks(tokens, [str(count) for count in tokens])
        axis.minorticks_off()
    for axis in axes[len(models) :]:
        axis.set_axis_off()
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=4)
    return figure


def _lines(
    rows: list[Row], rivals: list[str], targets: Targets | None
) -> Iterator[tuple[str, str, list[tuple[float, float]]]]:
    """Return label, style and points of each line; a rival has its colour in every model."""
    yield "floor (sustained)", "k--", [(row["tokens"], row["floor_us"]) for row in rows]
    yield "sm80moe", "C3o-", [(row["tokens"], row["us"]["median"]) for row in rows]
    for color, name in zip(_COLORS, rivals, strict=False):
        measured = [(row["tokens"], row.get("rivals", {}).get(name, {})) for row in rows]
        points = [(tokens, found["us"]["median"]) for tokens, found in measured if "us" in found]
        yield name, f"{color}.-", points
    if targets:
        for style, name in zip((":", "-."), targets.rivals, strict=False):
            yield f"{name} rival, by the floors", f"k{style}", _published(targets, name, rows)


def _published(targets: Targets, rival: str, rows: list[Row]) -> list[tuple[float, float]]:
    """Return the rival's times as they would be on this device, by the floors of both."""
    times = [
        (row, targets.rival_times_floor(rival, Place(row["model"], row["tokens"]))) for row in rows
    ]
    return [(row["tokens"], found * row["short_floor_us"]) for row, found in times if found]


def _roofline_figure(rows: dict[Place, Row], ceilings: dict[str, Any], setting: Setting) -> Figure:
    dram = ceilings["dram_read"]["sustained"]["median"]
    mma = ceilings[mma_ceiling(setting.dtype, setting.format)]["sustained"]["median"]
    figure = Figure(figsize=(8, 5), layout="constrained")
    axis = figure.subplots()
    intensities = [_intensity(row) for row in rows.values()]
    low, high = min(intensities) / 2, max(*intensities, mma / dram) * 2
    axis.plot(
        [low, mma / dram, high],
        [low * dram / 1e12, mma / 1e12, mma / 1e12],
        "k--",
        label=f"{dram / 1e12:.2f} TB/s, {mma / 1e12:.0f} TFLOP/s",
    )
    for model in models_of(rows):
        points = sorted((_intensity(r), r["tflops"]) for p, r in rows.items() if p.model == model)
        axis.plot(*zip(*points, strict=True), "o-", linewidth=0.8, label=model)
    axis.set(xscale="log", yscale="log", title=f"roofline, {setting}")
    axis.set(xlabel="flops a byte of the active experts' weights", ylabel="TFLOP/s")
    axis.legend()
    return figure


def _intensity(row: Row) -> float:
    flops = row["tflops"] * 1e6 * row["us"]["median"]
    return float(flops / row["weight_bytes"])
