"""The examples in the documentation run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.skipif(not DOCS.is_dir(), reason="the documentation is not here")
@pytest.mark.parametrize("page", ["interfaces", "options"])
def test_examples_of(page):
    """Blocks follow one another on the page, and share their names."""
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / f"{page}.md").read_text(), re.M | re.S)
    assert blocks
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, f"docs/{page}.md", "exec"), names)


@pytest.mark.skipif(not DOCS.is_dir(), reason="the documentation is not here")
def test_interfaces_name_tests_that_a_gpu_runs():
    page = (DOCS / "interfaces.md").read_text()
    named = re.findall(r"\]\((\.\./tests/\S+\.py)\) \|$", page, re.M)
    assert len(named) >= 5
    for name in named:
        # These fixtures have the mark "gpu".
        assert re.search(r"\(.*\b(device|cuda)\b.*\):$", (DOCS / name).read_text(), re.M), name
