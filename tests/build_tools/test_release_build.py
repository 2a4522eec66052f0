"""The steps of a release end with a sentence where one fails."""

import sys
from pathlib import Path

import pytest

from build_tools.release_build import call, check_same


def test_a_step_that_fails_ends_the_release() -> None:
    with pytest.raises(SystemExit, match="every step must succeed, got exit code 3"):
        call(sys.executable, "-c", "raise SystemExit(3)")


def test_two_builds_that_differ_end_the_release(tmp_path: Path) -> None:
    first, second = tmp_path / "first.whl", tmp_path / "second.whl"
    first.write_bytes(b"one")
    second.write_bytes(b"one")
    check_same(first, second)
    second.write_bytes(b"another")
    with pytest.raises(SystemExit, match="must give the same bytes"):
        check_same(first, second)
