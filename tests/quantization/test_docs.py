"""Docstrings run, the page's examples and commands run, and it names what there is."""

import doctest
import re
import sys
from pathlib import Path

import pytest

from torch_sm80moe import cli
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


def test_examples_and_commands_follow_one_another(tmp_path, tiny_moe):
    """Blocks share their names; capital ones are folders and files of the reader."""
    pytest.importorskip("transformers")
    from tests.integrations.test_quantized_models import write_fp8

    places = {name: str(tmp_path / name) for name in ("OUT_DIR", "STATIC_DIR", "IMPORTED_DIR")}
    places |= {"MODEL_DIR": str(tiny_moe), "FP8_DIR": str(tmp_path / "FP8_DIR")}
    write_fp8(tmp_path / "FP8_DIR", tiny_moe)
    (tmp_path / "TEXT_FILE").write_text("import this\n" * 200)
    places["TEXT_FILE"] = str(tmp_path / "TEXT_FILE")

    names: dict[str, object] = dict(places)
    num_commands = 0
    blocks = re.findall(r"^```(python)?\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    for language, block in blocks:
        if language == "python":
            exec(compile(block, PAGE.name, "exec"), names)
            continue
        for line in block.splitlines():
            program, *words = line.partition(" #")[0].split()
            assert program == "sm80moe"
            if words[0] == "quantize":  # `accuracy` takes minutes, and has a test of its own
                assert cli.main([places.get(word, word) for word in words]) == 0
                num_commands += 1
    assert num_commands == 3
