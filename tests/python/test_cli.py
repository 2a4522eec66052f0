"""The command line, as a user calls it."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
import torch

import torch_sm80moe

pytest.importorskip("rich")

from torch_sm80moe import cli, info


def sm80moe(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "torch_sm80moe", *arguments],
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


def test_info():
    process = sm80moe("info")
    assert process.returncode == 0, process.stderr
    assert torch_sm80moe.__version__ in process.stdout
    assert torch.__version__ in process.stdout
    for operator in ("fused_moe", "topk_route", "sort_by_expert", "grouped_gemm", "combine"):
        assert re.search(rf"sm80moe::{operator} +yes +(yes|no)", process.stdout)


def test_info_lists_operators_of_the_gpu_only_with_kernels(capsys):
    cli.main(["info"])
    runs_on_gpu = re.search(r"sm80moe::fused_moe +yes +yes", capsys.readouterr().out)
    assert bool(runs_on_gpu) == bool(torch_sm80moe.tactic_table())


def test_info_cuts_no_path(capsys, monkeypatch):
    path = "/" + "/".join(["a_folder"] * 20) + "/device.json"
    monkeypatch.setattr(info.loading, "in_use", {0: (path,)})
    cli.main(["info"])
    assert path in "".join(capsys.readouterr().out.split())


def test_missing_kernels_are_named(monkeypatch):
    monkeypatch.setattr(info._ops, "HAS_KERNELS", False)
    assert info.missing({})[0].startswith("the CUDA kernels: operators run for tensors on the CPU")


def test_missing_cuda_torch_is_named(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    assert any("a torch that is built for CUDA" in sentence for sentence in info.missing({}))


def test_old_driver_is_named(monkeypatch):
    monkeypatch.setattr(info, "driver_cuda_version", lambda: (12, 4))
    sentences = info.missing({"nvcc": "13.0.88"})
    assert any("a driver for CUDA 13" in s and "supports CUDA 12.4" in s for s in sentences)
    assert any("(R580 or newer)" in sentence for sentence in sentences)
    assert not any("a driver for" in sentence for sentence in info.missing({"nvcc": "12.4.131"}))


@pytest.mark.parametrize(
    ("nvcc", "line"),
    [
        ("12.4.131", "supports CUDA 12.2; the kernels need R525 or newer"),
        ("13.0.88", "supports CUDA 12.2; the kernels need R580 or newer"),
        (None, "supports CUDA 12.2"),
    ],
)
def test_the_driver_that_the_kernels_need(nvcc, line, monkeypatch):
    monkeypatch.setattr(info, "driver_cuda_version", lambda: (12, 2))
    assert info._driver({"nvcc": nvcc}) == line


def test_old_device_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert any("its compute capability is 7.5" in sentence for sentence in info.missing({}))


@pytest.mark.parametrize(
    ("capability", "code"),
    [
        ((7, 5), "not supported"),
        ((8, 0), "runs sm_80 code"),
        ((8, 6), "runs sm_86 code"),
        ((8, 9), "runs sm_86 code"),
        ((9, 0), "compiles compute_80 PTX at first use"),
        ((12, 0), "compiles compute_80 PTX at first use"),
    ],
)
def test_code_that_a_device_runs(capability, code, monkeypatch):
    monkeypatch.setattr(info._ops, "HAS_KERNELS", True)
    build = {"architectures": ["sm_80", "sm_86"], "ptx": "compute_80"}
    assert info._code_for(*capability, build) == code


def test_demo_needs_a_model(tmp_path):
    pytest.importorskip("transformers")
    process = sm80moe("demo", "--model", str(tmp_path))
    assert process.returncode == 1
    assert process.stderr == (
        f"sm80moe demo: --model must be a folder with a config.json, got {tmp_path}\n"
    )


@pytest.mark.slow
@pytest.mark.compile
def test_demo(device, tiny_moe):
    pytest.importorskip("transformers")
    options = ("--model", str(tiny_moe), "--tokens", "12", "--device", device.type)
    process = sm80moe("demo", *options, env=os.environ)
    assert process.returncode == 0, process.stderr
    path = "CUDA kernels on" if device.type == "cuda" else "the CPU implementation"
    assert f"path: {path}" in process.stdout
    assert "def main(" in process.stdout
    errors = re.findall(r"relative error (\S+) from the fp32", process.stdout)
    assert len(errors) == 3
    assert all(float(error) < 5e-3 for error in errors)
    assert re.search(r"sm80moe +one graph +\d+", process.stdout)
    assert re.search(r"eager +cannot be +\d+", process.stdout)
    assert re.search(r"grouped_mm +one graph +\d+", process.stdout)


def test_unknown_command():
    process = sm80moe("fly")
    assert process.returncode == 2
    assert "invalid choice: 'fly'" in process.stderr
