"""The lines that a run prints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch_sm80moe.bench.ceilings import Ceiling
from torch_sm80moe.bench.clocks import ClockSummary
from torch_sm80moe.bench.summary import geometric_mean

CELL_HEAD = (
    f"{'model':<24}{'dtype':<10}{'format':<16}{'routing':<10}{'tokens':>6}"
    f"{'us':>10}{'p10':>10}{'p90':>10}{'floor':>10}{'x floor':>9}{'TFLOP/s':>9}{'GB/s':>7}{'MB':>7}"
    "  clock and power"
)

# The floor is the time in which one token's weights can be read.
DECODE_HEAD = (
    f"{'experts':<14}{'format':<16}{'tokens/s':>10}{'us':>10}{'p10':>10}{'p90':>10}{'floor':>10}"
    f"{'same text':>11}  as"
)

_INDENT = " " * 8


def machine_line(machine: dict[str, Any]) -> str:
    """Name what is measured."""
    device, versions = machine["device"], machine["versions"]
    return (
        f"{device['name']}, {device['sms']} SMs, driver {device['driver'] or 'unknown'}, "
        f"torch {versions['torch']}, torch_sm80moe {versions['torch_sm80moe']}"
    )


def ceiling_line(name: str, ceiling: Ceiling) -> str:
    """Print a rate in units of 10^12."""
    unit = {"dram_read": "TB/s", "mma_int8": "TOP/s"}.get(name, "TFLOP/s")
    short, sustained = (rate / 1e12 for rate in (ceiling.short, ceiling.sustained.median))
    return (
        f"{name:<14} {sustained:8.2f} {unit:<8} sustained   {short:8.2f} short   "
        f"{_clocks(ceiling.clocks)}"
    )


def cell_lines(row: dict[str, Any]) -> Iterator[str]:
    """Print a cell below `CELL_HEAD`, and below it what it was compared with."""
    yield _cell_line(row)
    if "stages_us" in row:
        yield _INDENT + ", ".join(f"{name} {us:.1f}" for name, us in row["stages_us"].items())
    for gemm, found in row.get("tactics", {}).items():
        yield (
            f"{_INDENT}{gemm}: tactic {found['selected']}, {found['over_best']:.3f} times the best "
            f"({found['best']})"
        )
    for name, rival in row.get("rivals", {}).items():
        yield f"{_INDENT}{name}: {_rival(rival, row['us']['median'])}"


def _rival(rival: dict[str, Any], our_us: float) -> str:
    if "error" in rival:
        return str(rival["error"])
    us = rival["us"]["median"]
    return f"{us:.1f} us, {us / our_us:.2f} times ours"


def _cell_line(row: dict[str, Any]) -> str:
    name = (
        f"{row['model']:<24}{row['dtype']:<10}{row['format']:<16}{row['routing']:<10}"
        f"{row['tokens']:>6}"
    )
    if "error" in row:
        return f"{name}  {row['error']}"
    us = row["us"]
    return (
        f"{name}{us['median']:>10.1f}{us['p10']:>10.1f}{us['p90']:>10.1f}{row['floor_us']:>10.1f}"
        f"{row['times_floor']:>9.3f}{row['tflops']:>9.1f}{row['gbps']:>7.0f}"
        f"{row['memory_bytes'] / 1e6:>7.0f}"
        f"  {_clocks(ClockSummary(**row['clocks']))}"
    )


def decode_line(row: dict[str, Any]) -> str:
    """Print an implementation of the experts, and how many tokens agree with ours."""
    name = f"{row['experts']:<14}{row['format']:<16}"
    if "error" in row:
        return f"{name}  {row['error']}"
    us = row["us_per_token"]
    how = "one graph" if row["in_graph"] else "compiled" if row["compiled"] else "eager"
    return (
        f"{name}{row['tokens_per_second']:>10.0f}{us['median']:>10.1f}{us['p10']:>10.1f}"
        f"{us['p90']:>10.1f}{row['floor_us']:>10.0f}{row.get('same_tokens', ''):>11}  {how}"
    )


def summary_lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Print the averages over the cells."""
    measured = [row for row in rows if "error" not in row]
    if not measured:
        yield "no cell was measured"
        return
    for name in dict.fromkeys(row["format"] for row in measured):
        times = [row["times_floor"] for row in measured if row["format"] == name]
        mean = geometric_mean(times)
        yield f"{name}: geometric mean of {len(times)} cells: {mean:.3f} times the floor"
    over_best = [gemm["over_best"] for row in rows for gemm in row.get("tactics", {}).values()]
    if over_best:
        mean = sum(over_best) / len(over_best)
        worst = max(over_best)
        yield f"selected tactics: {mean:.3f} times the best on average, {worst:.3f} at worst"


def _clocks(clocks: ClockSummary) -> str:
    mhz = "unknown" if clocks.sm_mhz is None else f"{clocks.sm_mhz:.0f} MHz"
    watts = "unknown" if clocks.power_w is None else f"{clocks.power_w:.0f} W"
    return f"{mhz}, {watts}"
