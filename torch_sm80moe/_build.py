"""What the build wrote beside this file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_BUILD_INFO = Path(__file__).with_name("_build_info.json")


def build_info() -> dict[str, Any]:
    """Return what was built, from what and how; nothing when run from a clone."""
    if not _BUILD_INFO.exists():
        return {}
    content: dict[str, Any] = json.loads(_BUILD_INFO.read_text())
    return content
