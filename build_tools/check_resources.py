"""What the compiler made of every kernel: registers, spills, tensor-core and copy instructions.

The truth is in the library's machine code, read by cuobjdump; ptxas's log adds what it warned of.
"""

import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from build_tools import environment
from build_tools.environment import BuildError
from build_tools.native import BUILD, LIBRARY

# Limits of every architecture since sm_80.
MAX_REGISTERS_PER_THREAD = 255
REGISTERS_PER_SM = 65536
_REGISTER_GRANULARITY = 8

# By namespace: without these a kernel would be right and slow.
_REQUIRED_INSTRUCTIONS = {"gemm": ("MMA", "LDGSTS", "LDSM"), "decode": ("MMA", "LDGSTS")}
# Of 16-bit numbers and of int8.
_MMA_INSTRUCTIONS = ("HMMA", "IMMA")
_LOCAL_MEMORY_INSTRUCTIONS = ("LDL", "STL")


@dataclass(frozen=True)
class Kernel:
    """One kernel on one architecture."""

    name: str  # mangled
    architecture: str  # sm_80
    threads: int | None  # the launch bound; None if the source declares none
    registers: int
    local_bytes: int  # stack and local memory
    instructions: Counter[str]  # opcode without its modifiers -> count

    def is_in(self, namespace: str) -> bool:
        """Whether it lives in sm80moe::`namespace`."""
        return self.name.startswith(f"_ZN7sm80moe{len(namespace)}{namespace}")

    def count(self, opcode: str) -> int:
        """How many there are; "MMA" is any that tensor cores execute."""
        opcodes = _MMA_INSTRUCTIONS if opcode == "MMA" else (opcode,)
        return sum(self.instructions[one] for one in opcodes)

    def problems(self) -> list[str]:
        """What would make it slower than its source promises, or fail at launch."""
        found = []
        if self.local_bytes or any(self.instructions[op] for op in _LOCAL_MEMORY_INSTRUCTIONS):
            found.append(f"must not use local memory, got {self.local_bytes} bytes")
        if self.registers > MAX_REGISTERS_PER_THREAD:
            found.append(f"must use at most 255 registers, got {self.registers}")
        if self.threads is None:
            found.append("must declare its __launch_bounds__, got none")
        elif self.threads * _rounded(self.registers) > REGISTERS_PER_SM:
            found.append(f"must fit an SM, got {self.threads} threads x {self.registers} registers")
        for namespace, required in _REQUIRED_INSTRUCTIONS.items():
            missing = [op for op in required if self.is_in(namespace) and not self.count(op)]
            if missing:
                found.append(f"must contain {', '.join(required)}, got no {', '.join(missing)}")
        return [f"{self.name} ({self.architecture}): {what}" for what in found]


def _rounded(registers: int) -> int:
    return -(-registers // _REGISTER_GRANULARITY) * _REGISTER_GRANULARITY


def cuobjdump(library: Path, *options: str) -> str:
    """What cuobjdump prints; raises BuildError if neither a toolkit nor PyPI's package is there."""
    tool = _find_cuobjdump()
    # It calls nvdisasm, which lies beside it.
    path = f"{tool.parent}{os.pathsep}{os.environ['PATH']}"
    command = [str(tool), *options, str(library)]
    done = subprocess.run(command, env={**os.environ, "PATH": path}, capture_output=True, text=True)
    if done.returncode != 0:
        raise BuildError(f"check_resources: cuobjdump must run, got {done.stderr.strip()!r}")
    return done.stdout


def _find_cuobjdump() -> Path:
    home = environment.cuda_home()
    folders = [Path(home, "bin")] if home else []
    folders += [Path(entry, "nvidia", "cu13", "bin") for entry in sys.path]
    folders += [Path(entry) for entry in os.environ["PATH"].split(os.pathsep)]
    folders.append(Path("/usr/local/cuda/bin"))
    for folder in folders:
        if (folder / "cuobjdump").is_file() and (folder / "nvdisasm").is_file():
            return folder / "cuobjdump"
    raise BuildError(
        "check_resources: cuobjdump and nvdisasm must be installed, got none; "
        "`pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm`"
    )


def kernels_of(library: Path) -> list[Kernel]:
    """Every kernel of every architecture in the library."""
    instructions = _instructions(cuobjdump(library, "--dump-sass"))
    bounds = _launch_bounds(cuobjdump(library, "--dump-ptx"))
    usage = _usage(cuobjdump(library, "--dump-resource-usage"))
    return [
        Kernel(
            name=name,
            architecture=architecture,
            threads=bounds.get(name),
            registers=numbers["REG"],
            local_bytes=numbers["STACK"] + numbers["LOCAL"],
            instructions=instructions[architecture, name],
        )
        for (architecture, name), numbers in usage.items()
    ]


def _usage(text: str) -> dict[tuple[str, str], dict[str, int]]:
    found = {}
    architecture = name = ""
    for line in text.splitlines():
        if line.startswith("arch = "):
            architecture = line.removeprefix("arch = ")
        elif line.startswith(" Function "):
            name = line.removeprefix(" Function ").rstrip(":")
        elif line.startswith("  REG:"):
            numbers = re.findall(r"(\w+):(\d+)", line)
            found[architecture, name] = {key: int(value) for key, value in numbers}
    return found


def _instructions(text: str) -> dict[tuple[str, str], Counter[str]]:
    found: dict[tuple[str, str], Counter[str]] = {}
    opcode = re.compile(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9]*)")
    architecture = ""
    opcodes: Counter[str] = Counter()
    for line in text.splitlines():
        if line.startswith("\tcode for "):
            architecture = line.removeprefix("\tcode for ").strip()
        elif line.startswith("\t\tFunction : "):
            opcodes = Counter()
            found[architecture, line.removeprefix("\t\tFunction : ").strip()] = opcodes
        elif match := opcode.match(line):
            opcodes[match[1]] += 1
    return found


def _launch_bounds(text: str) -> dict[str, int]:
    entries = re.findall(r"\.entry\s+(\w+)\s*\([^)]*\)\s*\.maxntid\s+(\d+)", text)
    return {name: int(threads) for name, threads in entries}


def log_warnings(build: Path) -> list[str]:
    """What nvcc and ptxas complained of, spills above all, with the source it comes from."""
    complaint = re.compile(r"\bwarning\b|[1-9]\d* bytes spill")
    return [
        f"{log.relative_to(build)}: {line.strip()}"
        for log in sorted(build.rglob("*.cu.o.log"))
        for line in log.read_text().splitlines()
        if complaint.search(line)
    ]


def report(kernels: list[Kernel]) -> str:
    """A line a kernel, for whoever tunes one."""
    mangled = "\n".join(kernel.name for kernel in kernels)
    demangled = subprocess.run(["c++filt"], input=mangled, capture_output=True, text=True).stdout
    # Without namespaces, result type and parameters.
    noise = re.compile(r"\(anonymous namespace\)::|\w+::|^void |\([^a].*")
    names = [noise.sub("", name) for name in demangled.splitlines()]
    return "\n".join(
        f"{kernel.architecture} {kernel.registers:3} registers {kernel.threads or '-':>4} threads "
        f"{kernel.count('MMA'):5} MMA {kernel.instructions.total():6} instructions  {name}"
        for kernel, name in zip(kernels, names, strict=True)
    )


def main(library: Path) -> None:
    """Print the table, then every problem; exits with 1 if there is one."""
    kernels = kernels_of(library)
    print(report(kernels))
    found = [line for kernel in kernels for line in kernel.problems()] + log_warnings(BUILD)
    print("\n".join([*found, f"{len(kernels)} kernels, {len(found)} problems"]))
    sys.exit(bool(found) or not kernels)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else LIBRARY)
