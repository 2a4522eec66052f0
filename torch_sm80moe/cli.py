"""The command line: `sm80moe info`, `demo`, `bench`, `report`, `tune`, `quantize`, `accuracy`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from torch_sm80moe import info
from torch_sm80moe._version import __version__
from torch_sm80moe.bench import options as bench_options
from torch_sm80moe.quantization import options as quantization_options
from torch_sm80moe.tuning import options as tuning_options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except CommandError as error:
        print(f"sm80moe {options.command}: {error}", file=sys.stderr)
        return 1
    return 0


class CommandError(Exception):
    """Something that the user has to put right, said in one sentence."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sm80moe", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)

    describe = commands.add_parser("info", help="say what is installed, and what is missing")
    describe.set_defaults(run=_run_info)

    demo = commands.add_parser("demo", help="generate text with a small mixture-of-experts model")
    demo.add_argument("--model", type=Path, help="folder of a transformers checkpoint")
    demo.add_argument("--prompt", default="def main(", help="text to continue")
    demo.add_argument("--tokens", type=int, default=64, help="how many tokens to generate")
    demo.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda if it can be used")
    demo.set_defaults(run=_run_demo)

    bench = commands.add_parser("bench", help="measure the layer against the device's limits")
    bench_options.add_arguments(bench)
    bench.set_defaults(run=_run_bench)

    report = commands.add_parser("report", help="turn results of bench into a page with plots")
    report.add_argument("files", type=Path, nargs="+", metavar="FILE", help="results of one device")
    report.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write to")
    report.add_argument("--compare", type=Path, metavar="FILE", help="a result from before")
    report.add_argument("--targets", type=Path, metavar="FILE", help="default: those of a clone")
    report.set_defaults(run=_run_report)

    tune = commands.add_parser("tune", help="measure which tactics are the fastest on this GPU")
    tuning_options.add_arguments(tune)
    tune.set_defaults(run=_run_tune)

    quantize = commands.add_parser("quantize", help="quantise the experts of a checkpoint")
    quantization_options.add_quantize_arguments(quantize)
    quantize.set_defaults(run=_run_quantize)

    accuracy = commands.add_parser("accuracy", help="measure what each weight format costs")
    quantization_options.add_accuracy_arguments(accuracy)
    accuracy.set_defaults(run=_run_accuracy)
    return parser


def _run_info(options: argparse.Namespace) -> None:
    info.print_info()


def _run_demo(options: argparse.Namespace) -> None:
    try:
        from torch_sm80moe import demo
    except ModuleNotFoundError as error:
        raise CommandError(
            f"{error.name} must be installed: pip install torch_sm80moe[transformers]"
        ) from error
    try:
        demo.run(options.model, options.prompt, options.tokens, options.device)
    except (FileNotFoundError, ValueError) as error:
        raise CommandError(str(error)) from error


def _run_bench(options: argparse.Namespace) -> None:
    from torch_sm80moe.bench import run

    try:
        all_right = run.run(bench_options.make_plan(options))
    except run.BenchError as error:
        raise CommandError(str(error)) from error
    if not all_right:
        raise CommandError("every result must be right, got wrong ones (named above)")


def _run_report(options: argparse.Namespace) -> None:
    from torch_sm80moe.bench.results import ResultError

    try:
        from torch_sm80moe.bench.report import page
    except ModuleNotFoundError as error:
        raise CommandError(
            f"{error.name} must be installed: pip install torch_sm80moe[bench]"
        ) from error
    try:
        print(page.write(options.files, options.out, options.compare, options.targets))
    except ResultError as error:
        raise CommandError(str(error)) from error


def _run_tune(options: argparse.Namespace) -> None:
    from torch_sm80moe.bench.run import BenchError
    from torch_sm80moe.tuning.tuner import tune

    # Lines keep their columns, however narrow the terminal is.
    console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
    try:
        tune(tuning_options.make_plan(options), console)
    except (BenchError, ValueError) as error:
        raise CommandError(str(error)) from error
    except AssertionError as error:
        raise CommandError(f"every tactic must be right, got {error}") from error
    except torch.OutOfMemoryError as error:
        reason = str(error).partition("\n")[0]
        raise CommandError(f"the layer must fit the device's memory, got {reason}") from error


def _run_quantize(options: argparse.Namespace) -> None:
    try:
        from torch_sm80moe.quantization import command

        command.quantize(options, Console(highlight=False, soft_wrap=True))
    except ModuleNotFoundError as error:
        raise _missing(error) from error
    except (OSError, ValueError) as error:
        raise CommandError(str(error)) from error


def _run_accuracy(options: argparse.Namespace) -> None:
    try:
        from torch_sm80moe.quantization import accuracy

        table = accuracy.run(
            options.model,
            options.scheme,
            options.method,
            options.windows,
            options.device,
            Console(highlight=False, soft_wrap=True, stderr=True),
        )
    except ModuleNotFoundError as error:
        raise _missing(error) from error
    except (OSError, ValueError) as error:
        raise CommandError(str(error)) from error
    print(table, end="")
    if options.out is not None:
        options.out.write_text(table)


def _missing(error: ModuleNotFoundError) -> CommandError:
    return CommandError(f"{error.name} must be installed: pip install torch_sm80moe[transformers]")
