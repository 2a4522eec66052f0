"""What the packaging tests look at, each built once a session."""

import json
import sys
import tarfile
from pathlib import Path

import pytest

from build_tools import environment
from build_tools.native import PACKAGE
from tests.packaging.helpers import build_wheel, run


@pytest.fixture(scope="session")
def library() -> Path:
    """The library that was built into the tree."""
    path = PACKAGE / "_C.so"
    if environment.cpu_only() or not path.exists():
        pytest.skip("no _C.so in this tree: a CPU-only environment")
    return path


@pytest.fixture(scope="session")
def build_info(library: Path) -> dict[str, object]:
    """What the build of `library` wrote beside it."""
    return json.loads(library.with_name("_build_info.json").read_text())


@pytest.fixture(scope="session")
def wheel(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel with kernels."""
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def cpu_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel without kernels, built where PATH leads to no program at all."""
    nothing = tmp_path_factory.mktemp("nothing")
    folder = tmp_path_factory.mktemp("cpu_wheel")
    return build_wheel(folder, SM80MOE_CPU_ONLY="1", PATH=str(nothing), CXX="", CUDA_HOME="")


@pytest.fixture(scope="session")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked source distribution."""
    folder = tmp_path_factory.mktemp("sdist")
    run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(folder))
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        # The archive is ours and was made a moment ago.
        opened.extractall(folder)
    (tree,) = (path for path in folder.iterdir() if path.is_dir())
    return tree
