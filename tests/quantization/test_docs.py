"""Docstrings run, and the documentation names what there is."""

import doctest
import sys
from pathlib import Path

import pytest

from torch_sm80moe.quantization import SCHEMES

PAGE = Path(__file__).parents[2] / "docs" / "quantization.md"


@pytest.mark.parametrize("name", ["quantizers", "scheme", "weights"])
def test_docstrings(name):
    results = doctest.testmod(sys.modules[f"torch_sm80moe.quantization.{name}"])
    assert results.attempted > 0
    assert results.failed == 0


def test_the_table_of_costs_has_every_scheme():
    rows = [
        line.split("|")[1].strip() for line in PAGE.read_text().splitlines() if line[:2] == "| "
    ]
    assert [row for row in rows if row in SCHEMES] == list(SCHEMES)
