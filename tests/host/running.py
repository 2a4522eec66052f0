"""Runs the host program: one process a case, ended by the first check that fails."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.host.build import ROOT

TIMEOUT_S = 120


@dataclass(frozen=True)
class Outcome:
    """What one run said."""

    command: str
    returncode: int
    output: str

    @property
    def failed_check(self) -> str | None:
        """The check that ended the run, None if all passed."""
        found = re.search(r"^host check failed: (.+)$", self.output, re.MULTILINE)
        return found[1] if found else None

    def bank_conflicts(self) -> dict[str, int]:
        """Extra passes over the banks, by kind of access."""
        return self._counts("bank_conflicts")

    def copied_bytes(self) -> dict[str, int]:
        """What copies of words and of chunks wanted of device memory, and the sectors' bytes."""
        return self._counts("copied_bytes")

    def _counts(self, name: str) -> dict[str, int]:
        line = re.search(rf"^{name} (.+)$", self.output, re.MULTILINE)
        assert line is not None, str(self)
        return {key: int(count) for key, count in re.findall(r"(\S+)=(\d+)", line[1])}

    def kernels(self) -> set[int]:
        """The addresses of the kernels that ran."""
        found = re.findall(r"^kernel (0x[0-9a-f]+)$", self.output, re.MULTILINE)
        return {int(address, 16) for address in found}

    def __str__(self) -> str:
        return f"{self.command}\n{self.output}"


def run(program: Path, command: str, **options: object) -> Outcome:
    """Run one command; `str(outcome)` begins with the line that repeats it."""
    words = [f"{name}={_text(value)}" for name, value in options.items()]
    result = subprocess.run(
        [str(program.relative_to(ROOT)), command, *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_S,
    )
    line = " ".join([str(program.relative_to(ROOT)), command, *words])
    return Outcome(line, result.returncode, result.stdout)


def run_ok(program: Path, command: str, **options: object) -> Outcome:
    """Run one command that every check must let pass."""
    outcome = run(program, command, **options)
    assert outcome.returncode == 0, str(outcome)
    return outcome


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(int(value))
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def instances(program: Path) -> dict[tuple[str, int], dict[str, int]]:
    """The columns of each (launch table, tactic) that the program was compiled with."""
    listed = {}
    for line in run_ok(program, "list").output.splitlines():
        if line.startswith("instance "):
            columns = dict(word.split("=") for word in line.split()[1:])
            table = columns.pop("table")
            numbers = {name: int(value) for name, value in columns.items()}
            listed[table, numbers["tactic"]] = numbers
    return listed
