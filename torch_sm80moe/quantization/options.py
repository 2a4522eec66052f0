"""The options of `sm80moe quantize` and `sm80moe accuracy`, and what they start."""

from __future__ import annotations

import argparse
from pathlib import Path

from torch_sm80moe.quantization import calibration, quantizers
from torch_sm80moe.quantization.scheme import SCHEMES


def add_quantize_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `sm80moe quantize`."""
    parser.add_argument("model", type=Path, metavar="MODEL_DIR", help="a transformers checkpoint")
    parser.add_argument("out", type=Path, metavar="OUT_DIR", help="new, or of an unfinished run")
    parser.add_argument(
        "--scheme",
        choices=SCHEMES,
        metavar="SCHEME",
        help="what the experts become, such as w4a16-g128 (docs/quantization.md has all); default: "
        "a quantised checkpoint keeps its numbers",
    )
    _add_method(parser)
    parser.add_argument(
        "--calibration", type=Path, metavar="FILE", help="text to run, for static schemes"
    )
    parser.add_argument(
        "--range",
        choices=calibration.METHODS,
        default=calibration.Calibration.method,
        help="how ranges of activations are chosen (default: %(default)s)",
    )
    parser.add_argument(
        "--percentile",
        type=float,
        default=calibration.Calibration.percentile,
        help="what --range percentile keeps (default: %(default)s)",
    )
    parser.add_argument(
        "--zero-points", action="store_true", help="static activations have zero points"
    )
    _add_windows(parser, "calibration text that are run")
    _add_device(parser)


def add_accuracy_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `sm80moe accuracy`."""
    parser.add_argument("--model", type=Path, help="folder of a transformers checkpoint")
    parser.add_argument(
        "--scheme",
        choices=SCHEMES,
        nargs="+",
        default=SCHEMES,
        metavar="SCHEME",
        help="default: all",
    )
    _add_method(parser)
    _add_windows(parser, "the standard library's sources that are evaluated")
    _add_device(parser)
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table there, too")


def _add_method(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--method",
        choices=quantizers.METHODS,
        default="mse",
        help="how scales of weights are chosen (default: %(default)s)",
    )


def _add_windows(parser: argparse.ArgumentParser, of_what: str) -> None:
    parser.add_argument(
        "--windows",
        type=int,
        default=12,
        metavar="N",
        help=f"windows of 1024 tokens of {of_what} (default: %(default)s)",
    )


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda if it can be used")
