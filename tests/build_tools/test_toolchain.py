"""What a build says, and asks for, on machines that lack something."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from build_tools import backend, toolchain
from build_tools.environment import BuildError
from build_tools.native import ROOT
from build_tools.toolchain import CUDA_COMPILER


@pytest.fixture
def bare_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No program, no toolkit and no package from PyPI can be found; returns an empty folder."""
    for name in ("SM80MOE_CPU_ONLY", "CUDA_HOME", "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(toolchain, "USUAL_TOOLKIT", tmp_path)
    return tmp_path


def program(path: Path) -> Path:
    path.parent.mkdir(parents=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_without_a_compiler_the_error_says_what_to_do(bare_machine: Path) -> None:
    with pytest.raises(BuildError) as raised:
        toolchain.find_toolchain()
    message = str(raised.value)
    assert "\n" not in message
    for way_out in (
        "install a CUDA toolkit",
        f"pip install '{CUDA_COMPILER}'",
        "SM80MOE_CPU_ONLY=1",
    ):
        assert way_out in message


def test_the_compiler_is_asked_of_pypi_only_where_there_is_none(
    bare_machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert backend.isolated_requirements() == ["ninja", CUDA_COMPILER, backend.TORCH_HEADERS]
    monkeypatch.setattr(
        toolchain, "USUAL_TOOLKIT", program(bare_machine / "usual/bin/nvcc").parents[1]
    )
    assert backend.isolated_requirements() == ["ninja", backend.TORCH_HEADERS]


def test_a_cpu_only_build_asks_for_nothing(
    bare_machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SM80MOE_CPU_ONLY", "1")
    assert backend.isolated_requirements() == []


def test_the_search_goes_from_the_users_choice_to_pypis(
    bare_machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from_pip = program(bare_machine / "site" / "nvidia" / "cu13" / "bin" / "nvcc")
    monkeypatch.setattr(sys, "path", [str(bare_machine / "site")])
    assert toolchain.find_nvcc() == from_pip
    usual = program(bare_machine / "usual" / "bin" / "nvcc")
    monkeypatch.setattr(toolchain, "USUAL_TOOLKIT", bare_machine / "usual")
    assert toolchain.find_nvcc() == usual
    on_path = program(bare_machine / "path" / "nvcc")
    monkeypatch.setenv("PATH", str(on_path.parent))
    assert toolchain.find_nvcc() == on_path
    chosen = program(bare_machine / "home" / "bin" / "nvcc")
    monkeypatch.setenv("CUDA_HOME", str(bare_machine / "home"))
    assert toolchain.find_nvcc() == chosen


def test_a_toolkit_that_does_not_work_is_named(
    bare_machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvcc = program(bare_machine / "home" / "bin" / "nvcc")
    monkeypatch.setenv("CUDA_HOME", str(bare_machine / "home"))
    with pytest.raises(BuildError, match=f"{nvcc} must be a working nvcc, got"):
        toolchain.find_cuda_toolkit()


def test_an_old_torch_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain.importlib.metadata, "version", lambda name: "2.9.1+cpu")
    with pytest.raises(BuildError, match=r"torch must be at least 2\.10, got 2\.9\.1\+cpu"):
        toolchain.find_torch_include()


@pytest.mark.slow
def test_setup_py_ends_with_the_sentence_and_no_traceback(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--build-lib", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "CUDA_HOME": str(tmp_path), "SM80MOE_CPU_ONLY": "0"},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    last = done.stderr.splitlines()[-1]
    assert last == f"error: build: CUDA_HOME must be a folder with bin/nvcc, got '{tmp_path}'"
    assert "Traceback" not in done.stderr
