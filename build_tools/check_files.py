"""Text files end with one newline and have no trailing blanks; nothing large enters the tree."""

import subprocess
import sys
from pathlib import Path

from build_tools.native import ROOT

MAX_BYTES = 1 << 20
# Trained models and their records, kept as they came.
DATA = "tests/data/"


def problems(path: Path, name: str) -> list[str]:
    """What is wrong with one file, in words that start with its name."""
    data = path.read_bytes()
    found = []
    if len(data) > MAX_BYTES:
        found.append(f"{name}: must be at most {MAX_BYTES} bytes, got {len(data)}")
    if b"\0" in data or not data:
        return found
    if not data.endswith(b"\n") or data.endswith(b"\n\n"):
        found.append(f"{name}: must end with one newline")
    for number, line in enumerate(data.splitlines(), start=1):
        if line != line.rstrip():
            found.append(f"{name}:{number}: must not end in blanks")
    return found


def all_problems(root: Path) -> list[str]:
    """Over the files that git has or would take; none in an unpacked sdist, which has no git."""
    command = ["git", "-C", str(root), "ls-files", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, capture_output=True, text=True).stdout
    files = [(root / name, name) for name in listing.splitlines() if not name.startswith(DATA)]
    return [line for path, name in files if path.is_file() for line in problems(path, name)]


if __name__ == "__main__":
    broken = all_problems(ROOT)
    print("\n".join(broken), end="\n" if broken else "")
    sys.exit(bool(broken))
