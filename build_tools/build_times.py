"""Prints how long each file of the last builds took, slowest first, from ninja's own log.

    python -m build_tools.build_times

An object that was not compiled again keeps the time of its last compilation.
"""

import sys
from pathlib import Path

from build_tools.native import BUILD

LOG = BUILD / ".ninja_log"


def build_times(log: str) -> dict[str, float]:
    """Output -> seconds of its last build; the log's lines are in the order of their ends."""
    times = {}
    for line in log.splitlines():
        if not line.startswith("#"):
            start, end, _, output, _ = line.split("\t")
            times[output] = (int(end) - int(start)) / 1000
    return times


def report(times: dict[str, float]) -> str:
    """A line a file, slowest first, then their sum."""
    slowest = sorted(times.items(), key=lambda item: -item[1])
    lines = [f"{seconds:8.1f} s  {Path(output).name}" for output, seconds in slowest]
    return "\n".join([*lines, f"{sum(times.values()):8.1f} s  in all"])


if __name__ == "__main__":
    if not LOG.is_file():
        sys.exit("build_times: a build must have written its log, got none; run `make build`")
    print(report(build_times(LOG.read_text())))
