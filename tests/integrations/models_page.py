"""Writes the table of docs/models.md, one row for each family that the tests run:

python -m tests.integrations.models_page
"""

from __future__ import annotations

from pathlib import Path

from tests.integrations.families import WHAT_RUNS

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
TRANSFORMERS = (5, 23)  # the version whose families the table lists
_HEAD = "| model type | runs as | with |\n|---|---|---|\n"


def table() -> str:
    """Return the table in Markdown."""
    rows = []
    for family, what_runs in sorted(WHAT_RUNS.items()):
        way, _, details = what_runs.partition(": ")
        rows.append(f"| {family} | {f'`{way}`' if way == 'fused_moe' else way} | {details} |\n")
    return _HEAD + "".join(rows)


def write() -> None:
    """Replace the table that is in the page."""
    before, _, rest = PAGE.read_text().partition(_HEAD)
    lines = rest.splitlines(keepends=True)
    after = "".join(lines[len([line for line in lines if line.startswith("|")]) :])
    PAGE.write_text(before + table() + after)


if __name__ == "__main__":
    write()
