"""The steps of a release end with a sentence where one fails."""

import sys
from pathlib import Path

import pytest

from build_tools.release_build import call, check_compiler, check_same


def test_a_step_that_fails_ends_the_release() -> None:
    with pytest.raises(SystemExit, match="every step must succeed, got exit code 3"):
        call(sys.executable, "-c", "raise SystemExit(3)")


def test_a_step_finds_the_tools_beside_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    call(Path(sys.executable).name, "-c", "")


def test_a_compiler_of_another_cuda_ends_the_release() -> None:
    check_compiler("12.4.131")
    with pytest.raises(SystemExit, match=r"must name a toolkit of CUDA 12, got 13\.0\.88"):
        check_compiler("13.0.88")


def test_two_builds_that_differ_end_the_release(tmp_path: Path) -> None:
    first, second = tmp_path / "first.whl", tmp_path / "second.whl"
    first.write_bytes(b"one")
    second.write_bytes(b"one")
    check_same(first, second)
    second.write_bytes(b"another")
    with pytest.raises(SystemExit, match="must give the same bytes"):
        check_same(first, second)
