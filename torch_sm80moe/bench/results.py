"""The result of a run as JSON; benchmarks/README.md documents every field."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

SCHEMA = 1

Row = dict[str, Any]


class ResultError(Exception):
    """A file is no result that this version can read."""


class Results:
    """One run, written to its file whenever something was added."""

    def __init__(self, path: Path | None, **head: Any) -> None:
        """Begin with the machine and the options."""
        self._path = path
        ceilings: dict[str, Row] = {"before": {}, "after": {}}
        self.content: dict[str, Any] = {"schema": SCHEMA, **head, "ceilings": ceilings, "cells": []}
        self.write()

    def add_ceiling(self, name: str, row: Row, when: str) -> None:
        """Keep a ceiling measured before or after the cells."""
        self.content["ceilings"][when][name] = row
        self.write()

    def add_cell(self, row: Row) -> None:
        """Keep a cell."""
        self.content["cells"].append(row)
        self.write()

    def note(self, **facts: Any) -> None:
        """Keep a fact about the whole run."""
        self.content.update(facts)
        self.write()

    def write(self) -> None:
        """Replace the file at once, so that a killed run leaves a whole one."""
        if self._path is None:
            return
        partial = self._path.with_name(f"{self._path.name}.partial")
        partial.write_text(json.dumps(self.content, indent=1) + "\n")
        os.replace(partial, self._path)


def load(path: Path) -> dict[str, Any]:
    """Read a result.

    Raises:
        ResultError: the file cannot be read, or is something else.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ResultError(f"{path} must be a JSON file, got {error}") from error
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != SCHEMA:
        raise ResultError(f"{path} must be a result of schema {SCHEMA}, got schema {schema}")
    return dict(content)
