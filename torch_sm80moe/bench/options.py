"""The command line of `sm80moe bench`."""

from __future__ import annotations

import argparse
from pathlib import Path

from torch_sm80moe.bench import plan
from torch_sm80moe.bench.arguments import join, list_of, one_of, positive, readable
from torch_sm80moe.bench.formats import DENSE, find_format
from torch_sm80moe.bench.models import MODELS, Model, find_model, parse_shape
from torch_sm80moe.bench.plan import Plan
from torch_sm80moe.bench.routings import ROUTINGS

_RANDOM_MODEL = ""  # of --decode without a folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of a run."""
    add = parser.add_argument
    models = ", ".join(model.name for model in MODELS)
    add("--models", type=list_of(find_model), help=f"some of {models} (beginnings will do)")
    add(
        "--shape",
        type=readable(parse_shape),
        action="append",
        metavar="E,k,H,I",
        help="another layer; alone it replaces the models",
    )
    add("--tokens", type=list_of(positive), help=f"default: {join(plan.TOKENS)}")
    add("--dtype", type=list_of(one_of(plan.DTYPES)), default=("bfloat16",))
    add(
        "--formats",
        type=list_of(find_format),
        default=(DENSE,),
        help="of the weights: bf16 (16 bits of --dtype) and schemes such as w8a16,w4a16-g128",
    )
    add("--routing", type=list_of(one_of(ROUTINGS)), default=("balanced",))
    add("--stages", action="store_true", help="also the time of each stage, by the profiler")
    add("--tactics", action="store_true", help="also every tactic, against the selected ones")
    add("--rivals", action="store_true", help="also what else is installed, on the same calls")
    add(
        "--decode",
        nargs="?",
        const=_RANDOM_MODEL,
        metavar="CHECKPOINT",
        help="instead, tokens a second of a transformers model: random weights, or a folder's",
    )
    add("--quick", action="store_true", help="fewer tokens and short loops, to try it out")
    add("--json", type=Path, metavar="FILE", help="write the result, after every cell")
    add("--time-budget", type=float, metavar="SECONDS", help="begin nothing that ends later")


def make_plan(options: argparse.Namespace) -> Plan:
    """Return what the options ask for."""
    shapes: tuple[Model, ...] = tuple(options.shape or ())
    named = options.models or (() if shapes else MODELS)
    return Plan(
        models=(*named, *shapes),
        tokens=options.tokens or (plan.QUICK_TOKENS if options.quick else plan.TOKENS),
        dtypes=options.dtype,
        formats=tuple(dict.fromkeys(options.formats)),
        routings=options.routing,
        loop=plan.QUICK_LOOP if options.quick else plan.LOOP,
        short_loop=plan.QUICK_LOOP if options.quick else plan.SHORT_LOOP,
        stages=options.stages,
        tactics=options.tactics,
        rivals=options.rivals,
        decode=options.decode is not None,
        checkpoint=Path(options.decode) if options.decode else None,
        json=options.json,
        time_budget_s=options.time_budget,
    )
