"""Importing: cheap, without GPU work, and honest about wrong settings."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys

import pytest

import torch_sm80moe


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def result_of(code: str, **environment: str) -> str:
    process = run(code, **environment)
    assert process.returncode == 0, process.stderr
    return process.stdout.strip()


def test_no_device_is_touched():
    code = "import torch, torch_sm80moe; print(torch.cuda.is_initialized())"
    assert result_of(code) == "False"
    code = "import torch, torch_sm80moe as m; m.tactic_table(); print(torch.cuda.is_initialized())"
    assert result_of(code) == "False"


def test_quantization_is_imported_by_who_uses_it():
    code = "import sys, torch_sm80moe; print('torch_sm80moe.quantization' in sys.modules)"
    assert result_of(code) == "False"


def test_costs_little_beyond_torch():
    code = (
        "import time, torch; start = time.perf_counter(); import torch_sm80moe;"
        "print(time.perf_counter() - start)"
    )
    assert min(float(result_of(code)) for _ in range(3)) < 0.25


def test_nothing_heavy_is_imported():
    code = "import sys, torch; before = set(sys.modules); import torch_sm80moe;"
    code += "print(sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    heavy = {"transformers", "rich", "sympy", "triton", "safetensors", "matplotlib"}
    assert not heavy & set(eval(result_of(code)))
    code = "import sys, torch_sm80moe; print('torch._inductor' in sys.modules)"
    assert result_of(code) == "False"


def test_version_is_the_distribution_s():
    try:
        installed = importlib.metadata.version("torch_sm80moe")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the package runs from its sources, without an installation")
    assert torch_sm80moe.__version__ == installed


def test_public_names_exist():
    assert all(hasattr(torch_sm80moe, name) for name in torch_sm80moe.__all__)
    assert list(torch_sm80moe.__all__) == sorted(torch_sm80moe.__all__)


@pytest.mark.parametrize(
    ("name", "value", "requirement"),
    [
        ("SM80MOE_SHARED_MEMORY_LIMIT", "99KB", "a number of bytes"),
        ("SM80MOE_SHARED_MEMORY_LIMIT", "-1", "a number of bytes"),
        ("SM80MOE_WORKSPACE_LIMIT", "1GB", "a number of bytes"),
        ("SM80MOE_CHECK_IDS", "yes", "0 or 1"),
    ],
)
def test_wrong_setting_is_refused(name, value, requirement):
    process = run("import torch_sm80moe", **{name: value})
    assert process.returncode != 0
    assert f"ValueError: {name} must be {requirement}, got '{value}'" in process.stderr


def test_ids_are_checked_on_request():
    code = """
import torch, torch_sm80moe as m
x, w13, w2 = torch.ones(2, 8).half(), torch.ones(3, 16, 8).half(), torch.ones(3, 8, 8).half()
weights = torch.ones(2, 1)
for ids in ([[0], [2]], [[0], [3]], [[-1], [0]]):
    for call in (
        lambda i: m.fused_moe(x, w13, w2, weights, i),
        lambda i: m.sort_by_expert(i, 3),
        lambda i: m.fused_moe(x, w13, w2, weights, i, expert_map=torch.arange(4).int()),
    ):
        try:
            call(torch.tensor(ids))
            print("fine")
        except ValueError as error:
            print(error)
"""
    assert result_of(code).splitlines() == ["fine"] * 9
    assert result_of(code, SM80MOE_CHECK_IDS="1").splitlines() == [
        "fine",
        "fine",
        "fine",
        "fused_moe: topk_ids must be in [0, 3), got 3",
        "sort_by_expert: topk_ids must be in [0, 3), got 3",
        "fine",
        "fused_moe: topk_ids must be in [0, 3), got -1",
        "sort_by_expert: topk_ids must be in [0, 3), got -1",
        "fused_moe: topk_ids must be in [0, 4), got -1",
    ]


@pytest.mark.gpu
def test_shared_memory_limit_of_the_environment():
    code = (
        "import torch_sm80moe as m; t = m.tactic_table();"
        "print(max(t[m.select_tactic(2**s, 8, 4096, 4096)].smem_bytes for s in range(16)))"
    )
    limited = int(result_of(code, SM80MOE_SHARED_MEMORY_LIMIT=str(99 * 1024)))
    assert limited <= 99 * 1024 < int(result_of(code))


@pytest.mark.skipif(not torch_sm80moe.tactic_table(), reason="there are no CUDA kernels")
def test_workspace_limit_of_the_environment():
    code = "import torch_sm80moe as m; print(m.workspace_size(4096, 64, 8, 2048, 1024))"
    assert int(result_of(code, SM80MOE_WORKSPACE_LIMIT="1000000")) <= 1000000 < int(result_of(code))
