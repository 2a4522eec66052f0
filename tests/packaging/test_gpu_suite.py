"""The command for GPU machines, as far as it goes without one."""

import sys
from pathlib import Path

import pytest
import torch

from build_tools.gpu_suite import PARTS, Suite, newest_wheel
from build_tools.receipt import sources_sha256

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(torch.cuda.is_available(), reason="here the command itself can run"),
]


@pytest.fixture(scope="module")
def suite(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Suite:
    return Suite.install(wheel, tmp_path_factory.mktemp("suite"))


def test_the_tests_import_the_wheel_and_not_the_tree(suite: Suite) -> None:
    site = str(suite.folder / "site")
    code = f"import torch_sm80moe; assert torch_sm80moe.__file__.startswith({site!r})"
    log = suite.folder / "import.log"
    assert suite.run(log, sys.executable, "-c", code) == 0, log.read_text()
    collect = (sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "gpu or sanitizer")
    assert suite.run(log, *collect, "tests") == 0, log.read_text()


def test_the_wheel_names_the_sources_it_was_built_from(suite: Suite) -> None:
    assert suite.build_info()["sources_sha256"] == sources_sha256()


@pytest.mark.parametrize("part", PARTS)
def test_a_run_in_which_nothing_ran_is_no_proof(suite: Suite, part: str) -> None:
    with pytest.raises(SystemExit, match="tests marked gpu must run, got none"):
        suite.gpu_tests(part)


def test_without_a_wheel_the_error_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="run `make wheel`"):
        newest_wheel(tmp_path)
