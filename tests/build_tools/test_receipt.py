"""The receipt speaks for exactly the sources that were proven."""

import json
from pathlib import Path

import pytest

from build_tools.gpu_suite import (
    TESTS_A_SANITIZER,
    count_errors,
    count_tests,
    parts_of_functions,
)
from build_tools.receipt import sources_sha256, staleness


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("kernels/a.cu", "torch_sm80moe/__init__.py", "build_tools/flags.py", "setup.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    return tmp_path


@pytest.mark.parametrize(
    "name",
    [
        "torch_sm80moe/_C.so",
        "torch_sm80moe/_build_info.json",
        "torch_sm80moe/__pycache__/a.pyc",
        "tests/a.py",
        "README.md",
    ],
)
def test_what_is_built_or_only_read_does_not_count(name: str, tree: Path) -> None:
    before = sources_sha256(tree)
    (tree / name).parent.mkdir(exist_ok=True)
    (tree / name).write_text("anything")
    assert sources_sha256(tree) == before


@pytest.mark.parametrize("name", ["kernels/a.cu", "setup.py", "torch_sm80moe/new.py"])
def test_every_source_counts(name: str, tree: Path) -> None:
    before = sources_sha256(tree)
    (tree / name).write_text("changed")
    assert sources_sha256(tree) != before


def test_the_name_of_a_source_counts(tree: Path) -> None:
    before = sources_sha256(tree)
    (tree / "kernels/a.cu").rename(tree / "kernels/b.cu")
    assert sources_sha256(tree) != before


def write_receipt(tree: Path, **changes: object) -> Path:
    facts = {"sources_sha256": sources_sha256(tree), "failed": 0, "sanitizer_errors": 0}
    path = tree / "gpu_receipt.json"
    path.write_text(json.dumps({**facts, "date": "2026-01-01T00:00:00Z", **changes}))
    return path


def test_a_receipt_of_this_tree_is_up_to_date(tree: Path) -> None:
    assert staleness(write_receipt(tree), tree) is None


def test_a_stale_failed_or_missing_receipt_says_so(tree: Path) -> None:
    assert "does not exist" in staleness(tree / "gpu_receipt.json", tree)
    assert "records failures" in staleness(write_receipt(tree, failed=1), tree)
    assert "records failures" in staleness(write_receipt(tree, sanitizer_errors=1), tree)
    receipt = write_receipt(tree)
    (tree / "kernels/a.cu").write_text("changed")
    assert "is stale" in staleness(receipt, tree)


def test_tests_are_counted_from_junit(tmp_path: Path) -> None:
    junit = tmp_path / "junit.xml"
    junit.write_text(
        '<testsuites><testsuite tests="10" failures="1" errors="2" skipped="3"/></testsuites>'
    )
    assert count_tests(junit) == {"passed": 4, "failed": 3, "skipped": 3}


@pytest.mark.parametrize(
    ("output", "exit_code", "expected"),
    [
        ("========= ERROR SUMMARY: 0 errors\n", 0, 0),
        ("========= ERROR SUMMARY: 3 errors\n", 1, 3),
        ("========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n", 0, 0),
        ("========= RACECHECK SUMMARY: 2 hazards displayed (1 errors, 1 warnings)\n", 0, 2),
        # A test failed although the tool found nothing; the tool did not get to its summary.
        ("========= ERROR SUMMARY: 0 errors\n", 1, 1),
        ("", 0, 1),
    ],
)
def test_a_sanitizer_run_counts_as_clean_only_with_a_clean_summary(
    output: str, exit_code: int, expected: int
) -> None:
    assert count_errors(output, exit_code) == expected


def test_sanitizers_share_out_the_cases_of_a_function() -> None:
    many = [f"tests/test_a.py::test_many[{i}]" for i in range(2 * TESTS_A_SANITIZER + 1)]
    few = ["tests/test_a.py::test_few[0]", "tests/test_b.py::test_few"]
    parts = parts_of_functions([*many, *few])
    assert sorted(test for part in parts for test in part) == sorted([*many, *few])
    assert max(map(len, parts)) <= TESTS_A_SANITIZER
    assert sorted(map(len, parts))[:2] == [1, 1] and len(parts) == 2 + 3
