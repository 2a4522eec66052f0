"""The examples, and the examples in docstrings, run."""

from __future__ import annotations

import doctest
import os
import subprocess
import sys
from pathlib import Path

import pytest

from torch_sm80moe import functional, functional_quantized, layers
from torch_sm80moe.compat.flashinfer import layer, runner
from torch_sm80moe.compat.vllm import experts, routers
from torch_sm80moe.quantization import packing

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        ("basic", "[16, 256] on"),
        pytest.param("compiled_layer", "100 tokens: output [100, 256]", marks=pytest.mark.compile),
        ("hugging_face", "def main():\n    "),
        ("quantized", "experts: 9.44 MB before, 3.10 MB now"),
    ],
)
def test_example(name, printed, device):
    if name in ("hugging_face", "quantized"):
        pytest.importorskip("transformers")
    # An example takes the GPU if there is one; the CPU's turn is with the GPU hidden.
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if device.type == "cpu" else {}
    process = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py"],
        env={**os.environ, **hidden},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert printed in process.stdout


MODULES = [functional, functional_quantized, layers, layer, runner, experts, routers, packing]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_docstrings(module):
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0
