"""`sm80moe bench`: ceilings, then cell after cell, each printed and written as it is known."""

from __future__ import annotations

import importlib.util
import itertools
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from torch_sm80moe import _ops
from torch_sm80moe.bench import ceilings, formats, machine, rivals, table
from torch_sm80moe.bench import cell as cells
from torch_sm80moe.bench.budget import Budget
from torch_sm80moe.bench.plan import Cell, Plan
from torch_sm80moe.bench.results import Results


class BenchError(Exception):
    """Why nothing can be measured, in one sentence."""


def run(plan: Plan) -> bool:
    """Measure; return whether every cell was right.

    Raises:
        BenchError: there is nothing to measure, or nowhere to write.
    """
    require_device()
    require_surroundings(plan)
    bench = Bench(plan)
    with bench.progress, torch.no_grad():
        bench.measure_ceilings()
        if plan.decode:
            bench.measure_decode()
        for group in plan.groups():
            bench.measure_group(group)
        bench.measure_drift()
    bench.finish()
    return not bench.wrong


def require_device() -> None:
    """Refuse a machine on which nothing can be measured."""
    if not torch.cuda.is_available():
        raise BenchError("a CUDA device must be there to be measured, got none")
    if not _ops.HAS_KERNELS:
        raise BenchError("the installation must contain CUDA kernels, got a CPU-only one")


def require_surroundings(plan: Plan) -> None:
    """Refuse what would fail later, when time has been spent."""
    if plan.decode and importlib.util.find_spec("transformers") is None:
        raise BenchError(
            "transformers must be installed to decode: pip install torch_sm80moe[transformers]"
        )
    if plan.checkpoint and not (plan.checkpoint / "config.json").is_file():
        raise BenchError(f"--decode must be a folder with a config.json, got {plan.checkpoint}")
    if plan.json and not plan.json.parent.is_dir():
        raise BenchError(f"--json must be a file in a folder that exists, got {plan.json}")


class Bench:
    """One run under way."""

    def __init__(self, plan: Plan) -> None:
        """Describe the machine."""
        self.plan = plan
        self.budget = Budget(plan.time_budget_s)
        self.results = Results(plan.json, machine=machine.describe(), options=plan.describe())
        self.ceilings: dict[str, ceilings.Ceiling] = {}
        self.missing: list[str] = []
        self.wrong: list[str] = []
        # Lines keep their columns, however narrow the terminal is, and whatever it is.
        self.console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        )
        num_steps = len(ceilings.CEILINGS) + len(plan.cells())
        self._task = self.progress.add_task("", total=num_steps)

    def measure_ceilings(self) -> None:
        """Measure the limits by which every floor divides."""
        self.console.print(table.machine_line(self.results.content["machine"]))
        for name in ceilings.CEILINGS:
            self._begin(name)
            with self.budget.step("ceiling"):
                found = ceilings.measure(name, self.plan.loop)
            self.ceilings[name] = found
            self.results.add_ceiling(name, ceiling_row(found), when="before")
            self.console.print(table.ceiling_line(name, found))
            self.progress.advance(self._task)
        if self.plan.decode:
            return
        absent = [rival.name for rival in rivals.RIVALS if not rival.is_installed]
        if self.plan.rivals and absent:
            self.console.print(f"not installed: {', '.join(absent)}")
        self.console.print(f"\n{table.CELL_HEAD}")

    def measure_group(self, group: list[Cell]) -> None:
        """Measure the cells that share their weights."""
        layers = None
        for cell in group:
            self._begin(str(cell))
            reason = formats.unsuitable(cell.model, cell.format)
            if reason is not None:
                self.missing.append(str(cell))
                self._keep(cell, {**cells.identity(cell), "error": reason})
            elif not self.budget.allows("cell"):
                self.missing.append(str(cell))
            else:
                with self.budget.step("cell"):
                    layers = layers or cells.make_layers(cell)
                    self._keep(cell, self._try(cell, layers))
            self.progress.advance(self._task)
        del layers
        torch.cuda.empty_cache()

    def measure_decode(self) -> None:
        """Measure how fast a whole model decodes, by its weights and who runs its experts."""
        rows: list[dict[str, Any]] = []
        self.console.print(f"\n{table.DECODE_HEAD}")
        for weights in self.plan.formats:
            self._decode(weights, rows)

    def _decode(self, weights: str, rows: list[dict[str, Any]]) -> None:
        from torch_sm80moe.bench import decode

        try:
            model = decode.load_model(self.plan.checkpoint, weights)
        except ValueError as error:
            self.missing.append(f"decode {weights}")
            self.console.print(f"{weights} is not decoded: {error}")
            return
        found = decode.format_of(model)
        dram = self.ceilings["dram_read"].sustained.median
        floor_us = decode.bytes_per_token(model) / dram * 1e6
        session = decode.Session(model)
        for implementation in decode.implementations_for(model):
            name = f"decode {implementation.name} {found}"
            self._begin(name)
            if not self.budget.allows("decode"):
                self.missing.append(name)
                continue
            with self.budget.step("decode"):
                row = {"format": found, "floor_us": floor_us, **session.row(implementation)}
            rows.append(row)
            self.results.note(decode={"rows": rows})
            self.console.print(table.decode_line(row))
            if "error" in row and implementation is decode.OURS:
                self.wrong.append(name)
        del model, session
        torch.cuda.empty_cache()

    def measure_drift(self) -> None:
        """Measure the ceilings of the floors once more: a device that changed proves nothing."""
        pairs = itertools.product(self.plan.dtypes, self.plan.formats)
        used = dict.fromkeys(("dram_read", *(formats.mma_ceiling(*pair) for pair in pairs)))
        self.console.print("\nceilings after the last cell")
        for name in used:
            self._begin(f"{name} again")
            if self.budget.allows("ceiling"):
                found = ceilings.measure(name, self.plan.loop)
                self.results.add_ceiling(name, ceiling_row(found), when="after")
                self.console.print(table.ceiling_line(name, found))

    def _try(self, cell: Cell, layers: Any) -> dict[str, Any]:
        """Measure a cell, or say why that was not possible."""
        limits = cells.limits_for(cell, self.ceilings)
        try:
            return cells.measure(cell, layers, limits, self.plan)
        except AssertionError as error:
            self.wrong.append(str(cell))
            return {**cells.identity(cell), "error": str(error)}
        except torch.OutOfMemoryError as error:
            self.missing.append(str(cell))
            return {**cells.identity(cell), "error": str(error).partition("\n")[0]}

    def _keep(self, cell: Cell, row: dict[str, Any]) -> None:
        self.results.add_cell(row)
        for line in table.cell_lines(row):
            self.console.print(line)

    def finish(self) -> None:
        """Say what is missing, and what was wrong."""
        self.results.note(missing=self.missing, wrong=self.wrong, seconds=self.budget.spent)
        if not self.plan.decode:
            for line in table.summary_lines(self.results.content["cells"]):
                self.console.print(line)
        for what, names in (("not measured", self.missing), ("wrong results", self.wrong)):
            if names:
                self.console.print(f"{what}: {', '.join(names)}")

    def _begin(self, what: str) -> None:
        self.progress.update(self._task, description=what)


def ceiling_row(ceiling: ceilings.Ceiling) -> dict[str, Any]:
    """Return a ceiling as it is written."""
    return {
        "short": ceiling.short,
        "sustained": ceiling.sustained._asdict(),
        "clocks": ceiling.clocks._asdict(),
    }
