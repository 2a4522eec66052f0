"""The command for GPU machines, as far as it goes without one."""

import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from build_tools.gpu_suite import COMPILER_TESTS, Suite, newest_wheel, run_all
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


def test_the_tests_of_the_compiler_are_found_one_by_one(suite: Suite) -> None:
    tests = suite.collect(COMPILER_TESTS)
    assert any("test_aot_inductor[cuda]" in test for test in tests)
    assert suite.count(COMPILER_TESTS, tests[0]) == Counter(skipped=1)


def test_a_crash_is_a_failure(suite: Suite, tmp_path: Path) -> None:
    crash = tmp_path / "test_crash.py"
    crash.write_text(
        "import os\n\ndef test_crash():\n    os.abort()\n\ndef test_fine():\n    pass\n"
    )
    tests = [f"{crash}::test_{name}" for name in ("crash", "fine")]
    assert suite.count("not gpu", *tests) == Counter(passed=1, failed=1)


def test_a_run_in_which_nothing_ran_is_no_proof(suite: Suite, monkeypatch) -> None:
    monkeypatch.setattr(Suite, "sanitizer_errors", lambda *_: 0)
    monkeypatch.setattr(Suite, "collect", lambda *_: [])
    with pytest.raises(SystemExit, match="tests marked gpu must run, got none"):
        run_all(suite)


def test_without_a_wheel_the_error_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="run `make wheel`"):
        newest_wheel(tmp_path)
