"""The command line of `sm80moe tune`."""

from __future__ import annotations

import argparse
from pathlib import Path

from torch_sm80moe.bench.arguments import join, list_of, one_of, positive, readable
from torch_sm80moe.bench.models import parse_shape
from torch_sm80moe.bench.plan import DTYPES
from torch_sm80moe.tuning.checkpoint import read_model
from torch_sm80moe.tuning.tuner import TOKENS, Plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of a run."""
    add = parser.add_argument
    add(
        "--model",
        type=readable(read_model),
        action="append",
        default=[],
        metavar="DIR",
        help="folder of a transformers checkpoint; may be repeated",
    )
    add(
        "--shape",
        type=readable(parse_shape),
        action="append",
        default=[],
        metavar="E,k,H,I",
        help="a layer by its sizes; may be repeated",
    )
    add("--tokens", type=list_of(positive), default=TOKENS, help=f"default: {join(TOKENS)}")
    add("--dtype", type=list_of(one_of(DTYPES)), default=("bfloat16",))
    add("--out", type=Path, metavar="FILE", help="default: where this user's programs find it")


def make_plan(options: argparse.Namespace) -> Plan:
    """Return what the options ask for.

    Raises:
        ValueError: they name no layer.
    """
    models = (*options.model, *options.shape)
    if not models:
        raise ValueError("--model or --shape must be given, got neither")
    return Plan(models, options.tokens, options.dtype, options.out)
