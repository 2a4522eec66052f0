"""The steps of a release end with a sentence where one fails."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from build_tools.release_build import (
    call,
    check_compiler,
    check_same,
    make_as_old_as_the_commit,
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


def test_the_sources_become_as_old_as_the_commit(tmp_path: Path) -> None:
    (tmp_path / "kernels" / "gemm").mkdir(parents=True)
    sources = [tmp_path / "kernels" / name for name in ("a.cuh", "gemm/b.cu")]
    for source in sources:
        source.touch()
    date = {"GIT_AUTHOR_DATE": "1700000000 +0000", "GIT_COMMITTER_DATE": "1700000000 +0000"}
    author = ("-c", "user.name=a", "-c", "user.email=a")
    for command in (("init", "-q"), ("add", "."), (*author, "commit", "-qm", "a")):
        subprocess.run(["git", *command], cwd=tmp_path, env={**os.environ, **date}, check=True)
    make_as_old_as_the_commit(tmp_path)
    assert [source.stat().st_mtime for source in sources] == [1_700_000_000] * 2


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
