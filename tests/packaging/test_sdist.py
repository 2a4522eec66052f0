"""The source distribution builds what the tree builds."""

import subprocess
import sys
from pathlib import Path

import pytest

from build_tools.native import BUILD, ROOT
from build_tools.receipt import sources_sha256
from tests.packaging.helpers import run

pytestmark = pytest.mark.slow

# What serves only those who work in a clone.
CLONE_ONLY = (".ci/", ".github/", ".gitignore", ".gitattributes")


def test_it_holds_every_file_of_the_tree(sdist: Path) -> None:
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode != 0:
        pytest.skip("this tree is not a clone: nothing says what belongs to it")
    tracked = [name for name in listing.stdout.splitlines() if not name.startswith(CLONE_ONLY)]
    present = [name for name in tracked if (ROOT / name).exists()]
    assert present
    assert [name for name in present if not (sdist / name).exists()] == []


def test_it_holds_nothing_that_was_built(sdist: Path) -> None:
    assert [path.name for path in sdist.rglob("*.so")] == []
    assert list(sdist.rglob("_build_info.json")) == []
    assert sources_sha256(sdist) == sources_sha256(ROOT)


def test_it_compiles_the_same_library(sdist: Path, library: Path) -> None:
    """By the same commands on the same files, so that compiling it again would show nothing new."""
    code = "from build_tools.native import ninja_command; ninja_command()"
    run(sys.executable, "-c", code, cwd=sdist)
    commands = (sdist / BUILD.relative_to(ROOT) / "build.ninja").read_text()
    assert commands == (BUILD / "build.ninja").read_text()
