"""What the options of `fused_moe` cost, against the plain call of the same size.

    python benchmarks/options.py [--models qwen3,gpt-oss] [--tokens 1,4,16,64,1024]

Timed like the cells of `sm80moe bench`: in CUDA graphs, on rotating weights and routings. Each line
is a size; each column the microseconds of a call with one option, and how much that is of the plain
call's.
"""

import argparse
import functools
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from torch_sm80moe import functional
from torch_sm80moe.bench import layer, timing
from torch_sm80moe.bench.arguments import list_of, positive
from torch_sm80moe.bench.models import Model, find_model
from torch_sm80moe.bench.plan import LOOP

NUM_CALLS = 16


def make_options(model: Model, num_tokens: int) -> dict[str, dict[str, Any]]:
    """Name -> the arguments of an option, or of several that models have together."""
    experts, hidden, intermediate = model.num_experts, *model[3:]
    randn = functools.partial(torch.randn, device=layer.DEVICE, dtype=torch.bfloat16)
    biases = {"w13_bias": randn(experts, 2 * intermediate), "w2_bias": randn(experts, hidden)}
    constants = {
        f"swiglu_{name}": torch.tensor(value, device=layer.DEVICE).expand(experts)
        for name, value in (("alpha", 1.702), ("beta", 1.0), ("limit", 7.0))
    }
    return {
        "plain": {},
        "batch_invariant": {"batch_invariant": True},
        "interleaved": {"gate_up_order": "interleaved"},
        "gelu": {"activation": "gelu"},
        "weight on input": {"apply_router_weight_on_input": True},
        "residual": {"residual": randn(num_tokens, hidden)},
        "as gpt-oss": {**biases, **constants, "gate_up_order": "interleaved"},
    }


def measure(case: layer.Case, options: dict[str, Any]) -> float:
    """Median microseconds of a call."""
    experts = functools.partial(functional.fused_moe, **options)
    num_calls = NUM_CALLS if case.x.size(0) <= 64 else len(case.routings)
    captured = timing.capture(case.calls(experts, num_calls))
    return timing.time_replays(captured.graph.replay, LOOP).us.median / num_calls


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    models, tokens = list_of(find_model), list_of(positive)
    parser.add_argument("--models", type=models, default=models("qwen3,gpt-oss"))
    parser.add_argument("--tokens", type=tokens, default=(1, 4, 16, 64, 1024))
    arguments = parser.parse_args()

    console, table = Console(), None
    for model in arguments.models:
        layers = layer.Layers(model, torch.bfloat16)
        for num_tokens in arguments.tokens:
            case = layer.Case(layers, "balanced", num_tokens)
            options = make_options(model, num_tokens)
            us = {name: measure(case, values) for name, values in options.items()}
            if table is None:
                table = Table("model", "T", *us, box=None)
            ratios = (f"{value:.1f} ({value / us['plain']:.2f})" for value in us.values())
            table.add_row(model.name, str(num_tokens), *ratios)
        del layers
        torch.cuda.empty_cache()
    if table is not None:
        console.print(table)


if __name__ == "__main__":
    main()
