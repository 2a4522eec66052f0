"""The steps of a release end with a sentence where one fails."""

import sys
import zipfile
from pathlib import Path

import pytest

from build_tools.release_build import (
    call,
    check_compiler,
    check_same,
)


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
    wheels = [tmp_path / "first.whl", tmp_path / "second.whl"]
    for wheel in wheels:
        with zipfile.ZipFile(wheel, "w") as opened:
            opened.writestr(zipfile.ZipInfo("same"), "same")
            opened.writestr(zipfile.ZipInfo("other"), "same")
    check_same(*wheels)
    with zipfile.ZipFile(wheels[1], "w") as opened:
        opened.writestr(zipfile.ZipInfo("same"), "same")
        opened.writestr(zipfile.ZipInfo("other"), "other")
    with pytest.raises(SystemExit, match=r"must give the same bytes, got others in \['other'\]"):
        check_same(*wheels)
