"""How commands read their arguments; what is wrong with one is said by argparse."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def readable(read: Callable[[str], object]) -> Callable[[str], object]:
    """Let argparse print what a reader objects to."""

    def convert(text: str) -> object:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return convert


def list_of(read: Callable[[str], object]) -> Callable[[str], tuple[object, ...]]:
    """Read words between commas."""

    def convert(text: str) -> tuple[object, ...]:
        return tuple(readable(read)(word) for word in text.split(","))

    return convert


def positive(text: str) -> int:
    """Read a number that is at least 1."""
    if not text.isdecimal() or int(text) == 0:
        raise ValueError(f"must be a positive number, got {text!r}")
    return int(text)


def one_of(choices: tuple[str, ...]) -> Callable[[str], str]:
    """Read one of these words."""

    def read(text: str) -> str:
        if text not in choices:
            raise ValueError(f"must be among {join(choices)}, got {text!r}")
        return text

    return read


def join(choices: tuple[object, ...]) -> str:
    """Write words with commas between them."""
    return ",".join(map(str, choices))
