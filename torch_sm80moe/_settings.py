"""Every environment variable that is read at run time, read once, at import."""

from __future__ import annotations

import os
from pathlib import Path


def _read_bytes(name: str) -> int:
    text = os.environ.get(name, "0")
    if not text.isdecimal():
        raise ValueError(f"{name} must be a number of bytes, got {text!r}")
    return int(text)


def _read_flag(name: str) -> bool:
    text = os.environ.get(name, "0")
    if text not in ("0", "1"):
        raise ValueError(f"{name} must be 0 or 1, got {text!r}")
    return text == "1"


# Bytes of shared memory that a thread block may use; 0 means what the device has.
SHARED_MEMORY_LIMIT = _read_bytes("SM80MOE_SHARED_MEMORY_LIMIT")

# Bytes of workspace that a call of fused_moe may use; 0 means the default.
WORKSPACE_LIMIT = _read_bytes("SM80MOE_WORKSPACE_LIMIT")

# Tuning files, separated as in PATH; empty for none, None for the file in the user's folder.
TUNING = os.environ.get("SM80MOE_TUNING")

# The user's folder of settings, by the XDG specification.
CONFIG_HOME = Path(os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config"))

# Whether the Python functions refuse expert ids outside [0, E); the check synchronises the device.
CHECK_IDS = _read_flag("SM80MOE_CHECK_IDS")
