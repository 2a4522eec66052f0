"""`sm80moe tune`: times every tactic of both GEMMs at every size that is asked for.

A tactic is timed in the whole layer, where it will run: on rotating weights and routings, in a CUDA
graph, after its output was found right. The other GEMM keeps its tactic meanwhile.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.progress import Progress

from torch_sm80moe import _settings, functional, testing
from torch_sm80moe.bench import layer, timing
from torch_sm80moe.bench.models import Model
from torch_sm80moe.bench.run import require_device
from torch_sm80moe.bench.summary import geometric_mean
from torch_sm80moe.tuning import file
from torch_sm80moe.tuning.file import Device, Gemm, Times, Tuning, TuningError
from torch_sm80moe.tuning.loading import load_found, load_tuning, user_file

TOKENS = (32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
_LOOP = timing.Loop(warmup_s=0.05, timed_s=0.1)
_WHOLE_CALLS = 2**62  # bytes of workspace: no call is cut into chunks

HEAD = (
    f"{'model':<24}{'dtype':<10}{'tokens':>6}  {'weights':<8}{'tactic':>7}{'us':>10}"
    f"{'estimated':>11}{'us':>10}{'slower':>9}"
)


@dataclass(frozen=True)
class Plan:
    """What the command line asks for."""

    models: tuple[Model, ...]
    tokens: tuple[int, ...] = TOKENS
    dtypes: tuple[str, ...] = ("bfloat16",)
    out: Path | None = None  # None means the user's file for this device


class Size(NamedTuple):
    """A layer with a number of tokens."""

    model: Model
    dtype: str
    num_tokens: int

    def __str__(self) -> str:
        """Return a name that is unique within a run."""
        return f"{self.model.name} {self.dtype} T={self.num_tokens}"

    def gemms(self) -> dict[str, Gemm]:
        """Return both GEMMs, by the weights that they multiply with."""
        _, experts, top_k, hidden, intermediate = self.model
        rows = self.num_tokens * top_k
        return {
            "w13": Gemm(self.dtype, "swiglu", experts, 2 * intermediate, hidden, rows),
            "w2": Gemm(self.dtype, "none", experts, hidden, intermediate, rows),
        }


def tune(plan: Plan, console: Console) -> Path:
    """Measure, and write after every size; return the file.

    Raises:
        BenchError: there is no device, or no kernels to measure.
        TuningError: the file is there, and is no tuning file of this device.
        AssertionError: a tactic is wrong.
    """
    require_device()
    device = file.describe_device(torch.cuda.current_device())
    path = plan.out or user_file(device)
    tuning = begin(path, device)
    console.print(f"{device}\n{HEAD}")
    load_tuning()  # so that what is selected is what is estimated
    functional.configure(workspace_limit=_WHOLE_CALLS)
    try:
        losses = _measure_all(plan, tuning, path, console)
    finally:
        functional.configure(workspace_limit=_settings.WORKSPACE_LIMIT)
        load_found()
    loss = geometric_mean(losses) - 1
    console.print(f"the layer is {loss:.1%} slower by estimated tactics, on average\n{path}")
    return path


def _measure_all(plan: Plan, tuning: Tuning, path: Path, console: Console) -> list[float]:
    """Return how many times the best time each estimated tactic takes."""
    losses = []
    with Progress(console=console, transient=True) as progress:
        groups = list(itertools.product(plan.models, plan.dtypes))
        task = progress.add_task("tuning", total=len(groups) * len(plan.tokens))
        for model, dtype in groups:
            layers = layer.Layers(model, getattr(torch, dtype))
            for num_tokens in plan.tokens:
                size = Size(model, dtype, num_tokens)
                progress.update(task, description=str(size))
                measured = measure(size, layers)
                for weights, gemm in size.gemms().items():
                    times, estimated = measured[gemm], estimate(gemm)
                    losses.append(times[estimated] / min(times.values()))
                    console.print(line(size, weights, times, estimated))
                tuning.times.update(measured)
                tuning.write(path)
                progress.advance(task)
            del layers  # before the next ones are made
            torch.cuda.empty_cache()
    return losses


def begin(path: Path, device: Device) -> Tuning:
    """Return what the file holds and still holds true."""
    if not path.exists():
        return Tuning(device)
    try:
        tuning = file.read(path)
        if tuning.device == device and tuning.gemm_sha256 != file.gemm_sha256():
            return Tuning(device)  # Times of other kernels are of no use.
        tuning.check(device)
    except TuningError as error:
        raise TuningError(f"{path} {error}") from error
    return tuning


def measure(size: Size, layers: layer.Layers) -> dict[Gemm, Times]:
    """Return the times of every tactic, in each of the GEMMs."""
    case = layer.Case(layers, "balanced", size.num_tokens)
    gemms = size.gemms()
    chosen = {weights: estimate(gemm) for weights, gemm in gemms.items()}
    tactics = fitting_tactics(size.model.num_experts)
    num_calls = case.num_calls(math.inf)
    num_calls = case.num_calls(time_layer(case, num_calls, chosen, size))
    measured: dict[Gemm, Times] = {}
    for weights, gemm in gemms.items():
        times = {
            tactic: time_layer(case, num_calls, {**chosen, weights: tactic}, size)
            for tactic in tactics
        }
        chosen[weights] = min(times, key=times.__getitem__)
        measured[gemm] = times
    return measured


def time_layer(case: layer.Case, num_calls: int, tactics: dict[str, int], size: Size) -> float:
    """Return the microseconds of a call that is known to be right."""
    forced = {f"tactic_{weights}": tactic for weights, tactic in tactics.items()}
    experts = functools.partial(layer.fused_moe, **forced)
    what = f"{size} with {forced}"
    replay, _ = layer.checked_replay(case, experts, num_calls, testing.ROUNDINGS_FUSED_MOE, what)
    return timing.time_replays(replay, _LOOP).us.median / num_calls


def estimate(gemm: Gemm) -> int:
    """Return the tactic of a size of which nothing was measured."""
    return functional.select_tactic(
        gemm.num_rows,
        gemm.num_experts,
        gemm.n,
        gemm.k,
        epilogue=gemm.epilogue,
        dtype=getattr(torch, gemm.dtype),
    )


@functools.cache
def fitting_tactics(num_experts: int) -> tuple[int, ...]:
    """Return the tactics that the device can run, by running each."""
    a = torch.zeros((1, 8), dtype=torch.bfloat16, device=layer.DEVICE)
    w = torch.zeros((num_experts, 8, 8), dtype=torch.bfloat16, device=layer.DEVICE)
    offsets = torch.zeros(num_experts + 1, dtype=torch.int32, device=layer.DEVICE)

    def fits(tactic: int) -> bool:
        try:
            functional.grouped_gemm(a, w, offsets, tactic=tactic)
        except RuntimeError:
            return False
        return True

    return tuple(tactic.id for tactic in functional.tactic_table() if fits(tactic.id))


def line(size: Size, weights: str, times: Times, estimated: int) -> str:
    """Print a GEMM of a size below `HEAD`."""
    best = min(times, key=times.__getitem__)
    return (
        f"{size.model.name:<24}{size.dtype:<10}{size.num_tokens:>6}  {weights:<8}"
        f"{best:>7}{times[best]:>10.1f}{estimated:>11}{times[estimated]:>10.1f}"
        f"{times[estimated] / times[best] - 1:>9.1%}"
    )
